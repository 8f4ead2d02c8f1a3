"""What magnitude-preserving blocks promise, and their formulas once more in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference_blocks import magnitude_joint_block

from spresso_jax.checkpoints.trees import flatten
from spresso_jax.diffusion import edm
from spresso_jax.dit.magnitude_blocks import MagnitudeAudioBlock, MagnitudeCaption, MagnitudeJointBlock
from spresso_jax.dit.model import DiT, init_down_from_audio
from spresso_jax.nn.lora import overlay
from spresso_jax.nn.magnitude import KERNEL, project_kernels
from spresso_jax.nn.rope import rope_table

SMALL = dict(
    width=16, heads=2, joint_blocks=2, audio_blocks=1, text_width=6, text_tokens=3, latent_channels=4, patch=2,
    noise_features=8, uncertainty_hidden=8, block_style="mp",
)
X = jax.random.normal(jax.random.key(0), (2, 12, 4))
TEXT, MASK, NOISE = jax.random.normal(jax.random.key(1), (2, 3, 6)), jnp.ones((2, 3), bool), jnp.array([-0.3, 0.4])
DOWN = jax.random.normal(jax.random.key(2), (2, 4, 16))


def stirred(shapes, seed=3):
    """Parameters of these shapes with every gain away from zero."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda v: rng.normal(size=v.shape).astype(np.float32), shapes)


@functools.cache
def built(**options):
    """The compiled network and the shapes of its parameters."""
    net = DiT(**{**SMALL, **options})
    shapes = jax.eval_shape(net.init, jax.random.key(0), X, NOISE, TEXT, MASK)["params"]
    return jax.jit(net.apply, static_argnums=7), shapes


def rms(x):
    return np.sqrt(np.mean(np.square(np.asarray(x, np.float32))))


def test_a_joint_block_of_three_streams_equals_its_formulas_in_float64():
    tables = {"audio": rope_table(range(6), 8), "down": rope_table([1, 4], 8)}
    y = jax.random.normal(jax.random.key(9), (2, 16))
    carry = {"text": 5 * jax.random.normal(jax.random.key(4), (2, 3, 16)), "audio": X.reshape(2, 6, 8).repeat(2, -1)}
    carry["down"] = 0.01 * DOWN[:, :2]
    for last in (False, True):
        block = MagnitudeJointBlock(16, 2, 2.0, third_stream=True, last=last, down_bias_init=0.0)
        params = stirred(jax.eval_shape(block.init, jax.random.key(0), carry, y, tables)["params"])
        out, _ = jax.jit(block.apply)({"params": params}, carry, y, tables)
        want = magnitude_joint_block(params, carry, y, tables, heads=2, last=last)
        for name in carry:
            np.testing.assert_allclose(out[name], want[name], atol=2e-5, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_tokens_keep_their_magnitude_through_the_depth(seed):
    block, table = MagnitudeAudioBlock(64, 4), rope_table(range(20), 16)
    x = jax.random.normal(jax.random.key(seed), (2, 20, 64))
    y = jax.random.normal(jax.random.key(100 + seed), (2, 64))
    init, run = jax.jit(block.init), jax.jit(block.apply)
    for layer in range(12):
        params = init(jax.random.fold_in(jax.random.key(seed), layer), x, y, table)
        x, _ = run(params, x, y, table)
        assert 0.85 < rms(x) < 1.1, layer
    # Whatever size comes in, as from the projected embedding, the block brings back.
    assert 0.85 < rms(run(params, 1000.0 * x, y, table)[0]) < 1.1


def test_captions_of_any_scale_enter_with_unit_magnitude():
    text, caption = jax.random.normal(jax.random.key(0), (4, 8, 32)), MagnitudeCaption(8, 256, 64)
    params = caption.init(jax.random.key(1), text, jnp.ones((4, 8), bool))
    for scale, mask in ((1.0, True), (1e3, True), (1.0, False)):
        assert 0.8 < rms(caption.apply(params, scale * text, jnp.full((4, 8), mask))) < 1.2


def test_a_fresh_network_scores_one_at_every_noise_level():
    net = DiT(**{**SMALL, "latent_channels": 128, "joint_blocks": 1})
    x0, noise = (jax.random.normal(jax.random.key(i), (24, 250, 128)) for i in (0, 1))
    sigma = jnp.tile(jnp.asarray([0.002, 0.08, 0.3, 0.5, 0.9, 3.0, 6.0, 80.0]), 3)
    caption = jnp.zeros((24, 3, 6)), jnp.zeros((24, 3), bool)
    params = jax.jit(net.init)(jax.random.key(2), x0, sigma, *caption)

    def network(x, c_noise):
        return net.apply(params, x, c_noise, *caption)

    raw = jax.jit(lambda: edm.loss_at(network, 0.5 * x0, noise, sigma, sigma_data=0.5).raw)()
    np.testing.assert_allclose(raw.reshape(3, 8).mean(axis=0), 1.0, atol=0.02)


@functools.cache
def learned():
    """Losses of a short training on one batch, parameters before and after, and the last gradient."""
    net = DiT(**{**SMALL, "joint_blocks": 1})
    params = project_kernels(jax.jit(net.init)(jax.random.key(0), X, NOISE, TEXT, MASK)["params"])
    optimizer = optax.adam(1e-2, b2=0.99)

    def loss(p):
        return jnp.mean(jnp.square(net.apply({"params": p}, X, NOISE, TEXT, MASK) - jnp.roll(X, 3, axis=1)))

    @jax.jit
    def step(p, opt):
        value, gradient = jax.value_and_grad(loss)(p)
        updates, opt = optimizer.update(gradient, opt, p)
        return project_kernels(optax.apply_updates(p, updates)), opt, value, gradient

    now, opt, values = params, optimizer.init(params), []
    for _ in range(120):
        before, (now, opt, value, gradient) = now, step(now, opt)
        values.append(float(value))
    return values, params, before, gradient


def test_a_few_steps_lower_the_loss_and_every_kernel_moves():
    values, before, after, _ = learned()
    assert values[-1] < 0.5 * values[0]
    before, after = flatten(before), flatten(after)
    kernels = [path for path in before if path.endswith(KERNEL)]
    assert kernels
    for path in kernels:
        assert not np.allclose(before[path], after[path], atol=1e-3), path
        np.testing.assert_allclose(np.sqrt(np.mean(np.square(after[path]), axis=-2)), 1.0, atol=1e-3)
    assert all(np.any(after[path] != 0) for path in after if path.endswith("gain"))


def test_the_gradient_of_a_kernel_is_orthogonal_to_it():
    _, _, params, gradient = learned()
    params, gradient = flatten(params), flatten(gradient)
    for path in (path for path in params if path.endswith(KERNEL)):
        along = np.abs(np.sum(params[path] * gradient[path], axis=-2))
        size = np.linalg.norm(params[path], axis=-2) * np.linalg.norm(gradient[path], axis=-2)
        assert np.max(size) > 0 and np.all(along <= 1e-3 * size + 1e-7), path


def test_kernels_have_no_bias_and_gains_start_at_zero():
    shapes = flatten(built(pooled_text_width=5, third_stream=True)[1])
    body = {path for path in shapes if not path.startswith("uncertainty_head")}
    assert {path.rsplit("/", 1)[-1] for path in body} == {KERNEL, "gain", "pad"}
    net = DiT(**SMALL)
    fresh = flatten(jax.jit(net.init)(jax.random.key(0), X, NOISE, TEXT, MASK)["params"])
    assert not any(np.any(fresh[path]) for path in fresh if path.endswith("gain"))


def test_scale_of_a_kernel_does_not_matter_but_the_caption_the_noise_level_and_the_level_of_the_sound_do():
    run, shapes = built(pooled_text_width=5)
    params, pooled = stirred(shapes), jax.random.normal(jax.random.key(5), (2, 5))

    def out(x=X, noise=NOISE, text=TEXT, mask=MASK, pooled=pooled, params=params):
        return run({"params": params}, x, noise, text, mask, pooled)

    want = out()
    scaled = jax.tree_util.tree_map_with_path(lambda p, v: 30.0 * v if p[-1].key == KERNEL else v, params)
    np.testing.assert_allclose(out(params=scaled), want, rtol=2e-2, atol=2e-2)
    others = (dict(x=3 * X), dict(noise=-NOISE), dict(text=-TEXT), dict(pooled=-pooled), dict(mask=~MASK))
    for other in others:
        assert float(jnp.abs(out(**other) - want).max()) > 1e-2, other.keys()
    dropped = out(mask=~MASK)
    np.testing.assert_array_equal(dropped, out(mask=~MASK, text=-TEXT, pooled=-pooled))
    np.testing.assert_array_equal(dropped, out(mask=~MASK, pooled=None))


def test_a_third_stream_matters_unless_its_keys_are_out_of_reach():
    run, shapes = built()
    base = stirred(shapes)
    run_full, full_shapes = built(third_stream=True, down_bias_init=-1e9)
    full = init_down_from_audio(overlay(stirred(full_shapes, seed=4), base))
    want = run({"params": base}, X, NOISE, TEXT, MASK)
    for bias, equal in ((-1e9, True), (0.0, False)):
        for name in ("joint", "joint_last"):
            full[name]["down_bias"] = np.full_like(full[name]["down_bias"], bias)
        out = run_full({"params": full}, X, NOISE, TEXT, MASK, None, DOWN, 3)
        assert np.allclose(out, want, atol=1e-5) == equal
    assert set(flatten(full)) - set(flatten(base)) == {path for path in flatten(full) if "down" in path}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_are_in_the_dtype_and_the_output_is_wide(dtype):
    run, shapes = built(dtype=dtype, third_stream=True)
    params = stirred(shapes)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    args = {"params": params}, X, NOISE, TEXT, MASK, None, DOWN, 3
    out = run(*args)
    assert out.dtype == jnp.float32 and np.isfinite(out).all()
    half = "bf16" in str(jax.make_jaxpr(run, static_argnums=7)(*args))
    assert half == (dtype == "bfloat16")
    wide = built(third_stream=True)[0](*args)
    assert float(jnp.abs(out - wide).max()) < (0.3 if half else 1e-6) * rms(wide)


def test_scanned_blocks_lower_for_cuda_and_tpu_with_their_gradient():
    net = DiT(**{**SMALL, "joint_blocks": 4, "audio_blocks": 4, "remat": True})
    shapes = jax.eval_shape(net.init, jax.random.key(0), X, NOISE, TEXT, MASK)["params"]
    assert shapes["joint"]["audio"]["q"][KERNEL].shape == (3, 16, 16)
    assert shapes["single"]["audio"]["modulation"]["gain"].shape == (4,)
    gradient = jax.jit(jax.grad(lambda p: jnp.mean(net.apply({"params": p}, X, NOISE, TEXT, MASK) ** 2)))
    lowered = gradient.trace(shapes).lower(lowering_platforms=("cuda", "tpu"))
    assert "while" in lowered.as_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lora_rank=4), "set lora_rank=0"),
        (dict(single_style="parallel"), "single_style"),
        (dict(learned_noise_features=True), "learned_noise_features"),
        (dict(block_style="edm2"), "block_style must be adaln or mp"),
    ],
)
def test_what_the_style_does_not_have_is_refused(options, message):
    net = DiT(**{**SMALL, **options})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(net.init, jax.random.key(0), X, NOISE, TEXT, MASK)
