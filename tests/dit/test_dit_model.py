"""What the diffusion transformer promises, on networks of width 16."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.dit.model import DiT, init_down_from_audio
from spresso_jax.nn.lora import overlay
from spresso_jax.train.estimate import count_flops

SMALL = dict(
    width=16, heads=2, joint_blocks=2, audio_blocks=1, text_width=6, text_tokens=3, latent_channels=4, patch=2,
    noise_features=8, uncertainty_hidden=8,
)
X = jax.random.normal(jax.random.key(0), (2, 12, 4))
TEXT, MASK, NOISE = jax.random.normal(jax.random.key(1), (2, 3, 6)), jnp.ones((2, 3), bool), jnp.array([-0.3, 0.4])
DOWN = jax.random.normal(jax.random.key(2), (2, 4, 16))


def stirred(shapes, seed=3):
    """Parameters of these shapes away from every special value; made on the host, because compiling takes longer."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda v: rng.normal(size=v.shape, scale=0.3).astype(np.float32), shapes)


@functools.cache
def built(**options):
    """The compiled network and the shapes of its parameters."""
    net = DiT(**SMALL, **options)
    shapes = jax.eval_shape(net.init, jax.random.key(0), X, NOISE, TEXT, MASK)["params"]
    return jax.jit(net.apply, static_argnums=7), shapes


def paths(tree):
    return {"/".join(k.key for k in path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def test_a_fresh_network_returns_zero_and_no_uncertainty():
    net = DiT(**SMALL, third_stream=True, lora_rank=2)
    params = jax.jit(net.init)(jax.random.key(0), X, NOISE, TEXT, MASK)["params"]
    run, shapes = built(third_stream=True, lora_rank=2)
    assert paths(params) == paths(shapes)
    assert not run({"params": params}, X, NOISE, TEXT, MASK, None, DOWN, 3).any()
    assert not net.apply({"params": params}, NOISE, method="uncertainty").any()


def test_third_stream_and_adapters_only_add_leaves():
    base, full = paths(built()[1]), paths(built(third_stream=True, lora_rank=2)[1])
    assert base.items() <= full.items()
    assert all("down" in p or p.endswith(("lora_a", "lora_b")) for p in full.keys() - base.keys())
    assert not any("down" in p and "lora" in p for p in full)


def test_without_influence_of_the_down_keys_the_network_equals_its_base():
    run, params = built()
    base = stirred(params)
    bias = dict(third_stream=True, lora_rank=2, down_bias_init=-1e9)
    run_full, shapes = built(**bias)
    full = overlay(stirred(shapes, seed=4), base)
    for name in ("joint", "joint_last"):
        full[name]["down_bias"] = np.full_like(full[name]["down_bias"], -1e9)
    full = jax.tree_util.tree_map_with_path(lambda path, v: 0 * v if path[-1].key == "lora_b" else v, full)
    want = run({"params": base}, X, NOISE, TEXT, MASK)
    np.testing.assert_allclose(run_full({"params": full}, X, NOISE, TEXT, MASK, None, DOWN, 3), want, atol=1e-5)
    np.testing.assert_allclose(run_full({"params": full}, X, NOISE, TEXT, MASK), want, atol=1e-5)


def test_copied_down_streams_equal_the_audio_streams_and_matter():
    run, params = built(third_stream=True, lora_rank=2)
    params = init_down_from_audio(stirred(params))
    for name in ("joint", "joint_last"):
        for leaf, shape in paths(params[name]["down"]).items():
            down, audio = params[name]["down"], params[name]["audio"]
            for part in leaf.split("/"):
                down, audio = down[part], audio[part]
            assert down.shape == shape
            np.testing.assert_array_equal(down, audio)
    one = run({"params": params}, X, NOISE, TEXT, MASK, None, DOWN, 3)
    assert float(jnp.abs(one - run({"params": params}, X, NOISE, TEXT, MASK, None, -DOWN, 3)).max()) > 1e-3


def test_a_dropped_caption_leaves_no_trace_of_tokens_or_pooled_text():
    run, params = built(pooled_text_width=5)
    params, null = stirred(params), jnp.zeros((2, 3), bool)
    pooled = jax.random.normal(jax.random.key(5), (2, 5))
    one = run({"params": params}, X, NOISE, TEXT, null, pooled)
    np.testing.assert_array_equal(one, run({"params": params}, X, NOISE, 3 * TEXT, null, -pooled))
    np.testing.assert_array_equal(one, run({"params": params}, X, NOISE, TEXT, null))
    shown = run({"params": params}, X, NOISE, TEXT, MASK, pooled)
    assert float(jnp.abs(shown - run({"params": params}, X, NOISE, TEXT, MASK, -pooled)).max()) > 1e-4


def test_recomputed_blocks_give_the_same_gradient():
    gradients, products = [], []
    for remat in ("none", "names", "full"):
        run, params = built(remat=remat)
        params = stirred(params)

        def energy(p, run=run):
            return jnp.mean(run({"params": p}, X, NOISE, TEXT, MASK) ** 2)

        gradients.append(jax.jit(jax.grad(energy))(params))
        products.append(sum(count_flops(jax.grad(energy), params).values()))
    for other in gradients[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), gradients[0], other)
    assert products[0] < products[1] < products[2]
    with pytest.raises(ValueError, match="remat must be none, names or full, got 'all'"):
        built(remat="all")


def test_isolated_down_tokens_do_not_hear_the_audio():
    from spresso_jax.dit.blocks import JointBlock

    block = JointBlock(16, 2, third_stream=True, isolated=True)
    carry = {"text": jnp.ones((2, 3, 16)), "audio": jnp.tile(X, (1, 1, 4)), "down": DOWN}
    params = stirred(jax.eval_shape(block.init, jax.random.key(0), carry, jnp.ones((2, 16)), {})["params"])
    run = jax.jit(block.apply)
    one, _ = run({"params": params}, carry, jnp.ones((2, 16)), {})
    other, _ = run({"params": params}, {**carry, "audio": -carry["audio"]}, jnp.ones((2, 16)), {})
    np.testing.assert_array_equal(one["down"], other["down"])
    assert float(jnp.abs(one["text"] - other["text"]).max()) > 1e-3


def test_wrong_shapes_are_named():
    net, params = DiT(**SMALL, third_stream=True), stirred(built(third_stream=True, lora_rank=2)[1])
    with pytest.raises(ValueError, match="11 frames"):
        net.apply({"params": params}, X[:, :11], NOISE, TEXT, MASK)
    with pytest.raises(ValueError, match="text has 2 positions"):
        net.apply({"params": params}, X, NOISE, TEXT[:, :2], MASK[:, :2])
    with pytest.raises(ValueError, match="downsample"):
        net.apply({"params": params}, X, NOISE, TEXT, MASK, None, DOWN)
    with pytest.raises(ValueError, match="condition has shape"):
        net.apply({"params": params}, X, NOISE, TEXT, MASK, None, DOWN[:, :3], 3)
