"""What padding, positions and the choice of layer do to the text states."""

import jax
import numpy as np
import pytest

from spresso_jax.clap.text_tower import ClapTextTower, token_positions

TINY = {"vocabulary": 20, "width": 16, "layers": 3, "heads": 2, "mlp_width": 32, "positions": 12}
TOKENS = np.array([[0, 5, 6, 2, 1, 1], [0, 7, 8, 9, 10, 2]], np.int32)


@pytest.fixture(scope="module")
def variables():
    return jax.jit(ClapTextTower(**TINY).init)(jax.random.key(0), TOKENS, TOKENS != 1)


def test_positions_count_real_tokens_from_two_and_padding_keeps_one():
    np.testing.assert_array_equal(token_positions(TOKENS != 1), [[2, 3, 4, 5, 1, 1], [2, 3, 4, 5, 6, 7]])


def test_padding_does_not_change_real_tokens(variables):
    module = ClapTextTower(**TINY)
    states, pooled = module.apply(variables, TOKENS[:1], TOKENS[:1] != 1)
    short_states, short_pooled = module.apply(variables, TOKENS[:1, :4], np.ones((1, 4), bool))
    np.testing.assert_allclose(states[:, :4], short_states, atol=1e-6)
    np.testing.assert_allclose(pooled, short_pooled, atol=1e-6)


def test_states_of_the_layer_before_the_last_can_be_had(variables):
    _, inside = ClapTextTower(**TINY).apply(
        variables, TOKENS, TOKENS != 1, capture_intermediates=True, mutable=["intermediates"]
    )
    states, pooled = ClapTextTower(**TINY, states_layer=-2).apply(variables, TOKENS, TOKENS != 1)
    np.testing.assert_array_equal(states, inside["intermediates"]["block_1"]["__call__"][0])
    np.testing.assert_array_equal(pooled, inside["intermediates"]["__call__"][0][1])


def test_without_pooler_the_first_token_is_the_pooled_vector(variables):
    states, pooled = ClapTextTower(**TINY, pooling="first").apply(variables, TOKENS, TOKENS != 1)
    np.testing.assert_array_equal(pooled, states[:, 0])


def test_errors_name_the_limit():
    with pytest.raises(ValueError, match="11 tokens need 13 positions"):
        ClapTextTower(**TINY).init(jax.random.key(0), np.zeros((1, 11), np.int32), np.ones((1, 11), bool))
    with pytest.raises(ValueError, match="states_layer"):
        ClapTextTower(**TINY, states_layer=0).init(jax.random.key(0), TOKENS, TOKENS != 1)
