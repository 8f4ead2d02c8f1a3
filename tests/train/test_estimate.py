"""Operations counted in a trace against products whose cost is known, and against the published sizes of the models."""

import jax
import jax.numpy as jnp
import pytest
from train.toy_stage import regression

from spresso_jax.diffusion_autoencoder.encoder import LatentEncoder, Projector
from spresso_jax.diffusion_autoencoder.model import DiffusionAutoencoder
from spresso_jax.dit.model import DiT
from spresso_jax.train.estimate import Cost, count_flops, measure_rate, stage_cost


def spec(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


def total(function, *arguments):
    return sum(count_flops(function, *arguments).values())


def test_products_cost_two_operations_a_multiply_add():
    a, b = spec(3, 4), spec(4, 5)
    assert count_flops(jnp.matmul, a, b) == {"float32": 2 * 3 * 4 * 5}
    assert total(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), spec(7, 3, 4), spec(7, 4, 5)) == 7 * 120
    half = count_flops(lambda a, b, c: (a @ b, c @ c), spec(3, 4, dtype="bfloat16"), spec(4, 5, dtype="bfloat16"), spec(2, 2))
    assert half == {"bfloat16": 120.0, "float32": 16.0}
    assert count_flops(jnp.add, a, a) == {}


def test_loops_count_by_their_length_and_conditions_by_the_dearest_branch():
    w, x = spec(6, 6), spec(6)
    once = 2 * 6 * 6
    assert total(lambda w, x: jax.lax.scan(lambda c, _: (w @ c, None), x, None, length=5)[0], w, x) == 5 * once
    assert total(lambda w, x: jax.lax.fori_loop(0, 3, lambda _, c: w @ c, x), w, x) == 3 * once
    assert total(lambda w, x: jax.lax.cond(x[0] > 0, lambda: w @ (w @ x), lambda: w @ x), w, x) == 2 * once
    assert total(jax.jit(lambda w, x: jax.checkpoint(jnp.matmul)(w, x)), w, x) == once


def test_a_gradient_costs_two_more_products():
    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w))

    forward = total(loss, spec(4, 5), spec(3, 4))
    assert total(jax.grad(loss, argnums=(0, 1)), spec(4, 5), spec(3, 4)) == 3 * forward
    assert total(jax.grad(loss), spec(4, 5), spec(3, 4)) == 2 * forward


def test_convolutions_count_the_channels_of_one_group():
    def convolve(x, kernel, groups):
        return jax.lax.conv_general_dilated(
            x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups
        )

    x = spec(2, 10, 6)
    assert total(lambda x, k: convolve(x, k, 1), x, spec(3, 6, 8)) == 2 * (2 * 10 * 8) * (3 * 6)
    assert total(lambda x, k: convolve(x, k, 6), x, spec(3, 1, 6)) == 2 * (2 * 10 * 6) * 3


@pytest.mark.slow
def test_the_papers_sizes_cost_what_the_published_arithmetic_says():
    """82 GFLOP for six blocks of g_psi and 200 for one evaluation of the DiT, for 5 s at 25 Hz, in hand-made sums of layers."""
    model = DiffusionAutoencoder(
        LatentEncoder(width=1024, heads=8, depth=6, downsample=4),
        Projector(1024),
        DiT(width=1024, heads=8, joint_blocks=6, audio_blocks=6, third_stream=True, text_width=768, text_tokens=77),
    )
    params = jax.eval_shape(lambda key: model.init(key, 500), jax.random.key(0))
    x0, z = spec(1, 500, 128), spec(1, 125, 64)
    assert total(model.encode, params, x0) == pytest.approx(82e9, rel=0.01)
    evaluation = total(lambda p, x, z: model.conditioned_network(p, z)(x, jnp.zeros(1)), params, x0, z)
    assert evaluation == pytest.approx(200e9, rel=0.02)


def test_the_cost_of_a_stage_comes_from_shapes_alone():
    upstream = {"net": {"kernel": spec(4, 1)}, "ears": {"window": spec(100, 100)}}
    for stage in (regression(), regression(upstream=upstream)):
        cost = stage_cost(stage)
        assert (cost.parameters, cost.trained) == (5, 4)
        assert cost.flops == {"float32": 2 * (2 * 8 * 4)}  # forward, and the gradient of the kernel
        assert stage_cost(stage, accumulate=2).total_flops == cost.total_flops


def test_seconds_are_operations_over_speed():
    assert Cost(1, 1, {"float32": 4e9, "bfloat16": 8e9}).seconds({"float32": 2e9, "bfloat16": 8e9}) == 3.0
    assert measure_rate("float32", size=32, seconds=0.01) > 0
