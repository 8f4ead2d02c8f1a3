"""Rotary tables, their decimation for pooled sequences, and the windows of the paper's frame rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.nn.magnitude import attention_operands
from spresso_jax.nn.rope import decimate, rope_table, rotate
from spresso_jax.shapes import pooled_length, pooled_positions

# Windows of 5 s at 25, 11, 5 and 1 Hz; 500 and 501 frames give the same (S-PRESSO 4.2.2).
WINDOWS = {4: (125, 2, 498), 9: (55, 4, 490), 20: (25, 10, 490), 100: (5, 50, 450)}


@pytest.mark.parametrize("frames", [500, 501])
@pytest.mark.parametrize("downsample", WINDOWS)
def test_rows_gathered_from_the_full_table_equal_rows_computed_at_the_centres(frames, downsample):
    count, first, last = WINDOWS[downsample]
    positions = pooled_positions(frames, downsample)
    assert (len(positions), positions[0], positions[-1]) == (count, first, last)
    assert pooled_length(frames, downsample) == count
    gathered = decimate(rope_table(range(frames), 64), frames, downsample)
    np.testing.assert_array_equal(gathered, rope_table(positions, 64))


def test_fewer_frames_than_a_window_are_refused():
    with pytest.raises(ValueError, match="fewer than one pooling window"):
        decimate(rope_table(range(99), 8), 99, 100)


def test_products_of_rotated_vectors_depend_on_the_distance_only():
    q, k = (jax.random.normal(jax.random.key(seed), (1, 1, 1, 16)) for seed in (0, 1))
    starts = np.asarray([0, 3, 100, 257, 400])

    def products(distance):
        pairs = ((q, starts + distance), (k, starts))
        turned = (rotate(jnp.tile(x, (1, 5, 1, 1)), rope_table(at, 16)) for x, at in pairs)
        return np.asarray(jnp.einsum("blhd,blhd->l", *turned))

    values = [products(distance) for distance in (0, 1, 7, 90)]
    for value in values:
        np.testing.assert_allclose(value, value[0], atol=1e-4)
    assert np.ptp([value[0] for value in values]) > 0.1


@pytest.mark.parametrize("rotated", [None, 8])
def test_a_rotation_keeps_the_norms_that_cosine_attention_has_set(rotated):
    (q,) = attention_operands(5.0 * jax.random.normal(jax.random.key(2), (2, 30, 3, 16)))
    turned = rotate(q, rope_table(range(470, 500), 16, rotated=rotated))
    assert float(jnp.abs(turned - q).max()) > 0.5
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(turned**2, axis=-1)), 1.0, atol=3e-4)
