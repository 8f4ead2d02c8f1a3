"""What attention, rotary positions and adapters promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.nn import attention as attention_module
from spresso_jax.nn.attention import attention, choose_form
from spresso_jax.nn.lora import LoraDense, merge, overlay, scaling, unmerge
from spresso_jax.nn.rope import rope_table, rotate
from spresso_jax.nn.transformer import gelu


def heads(seed, length):
    return jax.random.normal(jax.random.key(seed), (2, length, 2, 8))


def test_cpu_form_equals_xla_form_with_and_without_bias():
    q, k, v = heads(0, 5), heads(1, 7), heads(2, 7)
    for bias in (None, jax.random.normal(jax.random.key(3), (2, 7))):
        ours = attention(q, k, v, logit_bias=bias, form="cpu_einsum")
        np.testing.assert_allclose(ours, attention(q, k, v, logit_bias=bias, form="xla"), atol=1e-5)


@pytest.mark.parametrize("biased", [False, True])
def test_head_by_head_and_all_heads_at_once_have_the_values_and_gradients_of_the_xla_form(biased, monkeypatch):
    operands = [heads(0, 5), heads(1, 7), heads(2, 7), *([jax.random.normal(jax.random.key(3), (2, 7))] if biased else [])]

    def loss(form, q, k, v, bias=None):
        return jnp.sum(jnp.sin(attention(q, k, v, logit_bias=bias, form=form)))

    def both(form):
        return jax.value_and_grad(lambda parts: loss(form, *parts))(operands)

    expected = both("xla")
    for limit in (0, 2**30):
        monkeypatch.setattr(attention_module, "HEAD_BY_HEAD_BYTES", limit)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), both("cpu_einsum"), expected)


def test_gelu_and_its_gradient_are_those_of_the_tanh_form():
    x = jnp.linspace(-12.0, 12.0, 481)
    np.testing.assert_allclose(gelu(x), jax.nn.gelu(x, approximate=True), atol=1e-6)
    ours, reference = jax.grad(lambda x: jnp.sum(gelu(x))), jax.grad(lambda x: jnp.sum(jax.nn.gelu(x, approximate=True)))
    np.testing.assert_allclose(ours(x), reference(x), atol=1e-5)


def test_unknown_forms_are_refused_and_the_cpu_backend_has_its_own():
    with pytest.raises(ValueError, match="attention form 'flash' is unknown"):
        attention(heads(0, 3), heads(0, 3), heads(0, 3), form="flash")
    assert choose_form(jnp.float32, 64) == "cpu_einsum"


def test_rotated_products_depend_on_the_distance_only():
    q, k = heads(0, 1), heads(1, 1)

    def logit(m, n):
        return jnp.sum(rotate(q, rope_table([m], 8)) * rotate(k, rope_table([n], 8)))

    np.testing.assert_allclose(logit(12, 5), logit(407, 400), rtol=1e-4)


def test_a_fresh_adapter_changes_nothing_and_merging_a_stack_keeps_the_output():
    x, layer = jax.random.normal(jax.random.key(0), (3, 5)), LoraDense(4, rank=2, alpha=6)
    params = layer.init(jax.random.key(1), x)["params"]
    plain = LoraDense(4).apply({"params": {n: params[n] for n in ("kernel", "bias")}}, x)
    np.testing.assert_array_equal(layer.apply({"params": params}, x), plain)
    params = {**params, "lora_b": jax.random.normal(jax.random.key(2), (2, 4))}
    merged = merge({"blocks": jax.tree.map(lambda v: jnp.stack([v, 2 * v]), params)}, alpha=6)["blocks"]
    first = jax.tree.map(lambda v: v[0], merged)
    np.testing.assert_allclose(LoraDense(4).apply({"params": first}, x), layer.apply({"params": params}, x), atol=1e-5)


@pytest.mark.parametrize(("stable", "factor"), [(False, 3.0), (True, 6.0 / 2**0.5)])
def test_adapters_are_scaled_merged_and_taken_out_again(stable, factor):
    x, layer = jax.random.normal(jax.random.key(0), (3, 5)), LoraDense(4, rank=2, alpha=6, rank_stabilised=stable)
    assert scaling(2, 6, stable) == pytest.approx(factor)
    params = {**layer.init(jax.random.key(1), x)["params"], "bias": jnp.arange(4.0)}
    params["lora_b"] = jax.random.normal(jax.random.key(2), (2, 4))
    merged = merge({"layer": params}, 6, stable)["layer"]
    by_hand = x @ (params["kernel"] + factor * params["lora_a"] @ params["lora_b"]) + params["bias"]
    for got in (LoraDense(4).apply({"params": merged}, x), layer.apply({"params": params}, x)):
        np.testing.assert_allclose(got, by_hand, atol=1e-5)
    back = unmerge({"layer": merged}, {"layer": params}, 6, stable)["layer"]
    np.testing.assert_allclose(back["kernel"], params["kernel"], atol=1e-6)
    np.testing.assert_array_equal(back["bias"], params["bias"])


def test_overlay_keeps_new_leaves_and_names_what_does_not_fit():
    full = {"a": {"kernel": np.zeros((2, 2)), "lora_a": np.ones((2, 1))}}
    out = overlay(full, {"a": {"kernel": np.full((2, 2), 3.0)}})
    assert out["a"]["kernel"][0, 0] == 3.0 and out["a"]["lora_a"][0, 0] == 1.0
    with pytest.raises(ValueError, match="a/bias"):
        overlay(full, {"a": {"bias": np.zeros(2)}})
    with pytest.raises(ValueError, match="a/kernel is"):
        overlay(full, {"a": {"kernel": np.zeros((3, 2))}})
