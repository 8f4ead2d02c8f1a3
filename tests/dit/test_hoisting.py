"""What a sampler computes once: the same outputs, and no product left in its loop that x does not need."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.diffusion import edm
from spresso_jax.diffusion.sampler import heun, sigma_grid
from spresso_jax.dit.model import DiT

SMALL = dict(
    width=16, heads=2, joint_blocks=3, audio_blocks=2, text_width=6, text_tokens=3, latent_channels=4, patch=2,
    noise_features=8, uncertainty_hidden=8, mlp_ratio=2.0,
)  # fmt: skip
STEPS = 5
X = jax.random.normal(jax.random.key(0), (2, 12, 4))
TEXT, MASK = jax.random.normal(jax.random.key(1), (2, 3, 6)), jnp.array([[True] * 3, [True, False, False]])
DOWN, POOLED = jax.random.normal(jax.random.key(2), (2, 4, 16)), jax.random.normal(jax.random.key(3), (2, 5))
KINDS = {
    "plain": {},
    "pooled text, parallel blocks over text": dict(pooled_text_width=5, single_style="parallel", single_text=True),
    "third stream": dict(third_stream=True, lora_rank=2, registers=1),
    "isolated third stream": dict(third_stream=True, isolated=True, down_bias_init=-1.0),
}


def network(options):
    """The module and parameters away from every special value."""
    net = DiT(**SMALL, **options)
    shapes = jax.eval_shape(net.init, jax.random.key(0), X, jnp.zeros(2), TEXT, MASK)["params"]
    rng = np.random.default_rng(3)
    return net, jax.tree.map(lambda v: rng.normal(size=v.shape, scale=0.3).astype(np.float32), shapes)


def context_of(net, params):
    third = (DOWN, 3) if net.third_stream else (None, None)
    pooled = POOLED if net.pooled_text_width else None
    return net.apply({"params": params}, TEXT, MASK, pooled, *third, method="prepare")


def hoisted(net, params, levels):
    """Context and modulations at some c_noise, all that is computed before the loop."""
    context = net.apply({"params": params}, context_of(net, params), X.shape[1], method="run_down")
    return context, net.apply({"params": params}, levels, context, method="modulations")


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_the_network_that_computes_everything_anew(kind):
    net, params = network(KINDS[kind])
    levels = jnp.array([-0.8, 0.1, 0.9])

    @jax.jit
    def three_ways(params, x):
        context, entries = hoisted(net, params, levels)
        plain, results = context_of(net, params), []
        for index in range(len(levels)):
            entry = jax.tree.map(lambda v, index=index: v[index], entries)
            at = jnp.broadcast_to(levels[index], (2,))
            want = net.apply({"params": params}, x, at, plain, method="predict")
            once = net.apply({"params": params}, x, entry, context, method="predict_modulated")
            results.append((want, once, net.apply({"params": params}, x, at, context, method="predict")))
        return results

    for want, *others in three_ways(params, X):
        assert float(jnp.abs(want).max()) > 0.1
        for got in others:
            np.testing.assert_allclose(got, want, atol=1e-5)


def inner_programs(equation):
    for value in equation.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            program = getattr(part, "jaxpr", part)
            if hasattr(program, "eqns"):
                yield program


def products(program):
    """Matrix products that one run of a program makes, those of inner loops counted every time."""
    count = 0
    for equation in program.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        count += equation.primitive.name == "dot_general"
        count += times * sum(products(inner) for inner in inner_programs(equation))
    return count


def products_of_a_step(net, params, once):
    """Products of one of Heun's steps: two evaluations."""
    grid = sigma_grid(STEPS)

    def sample(params, noise):
        context, entries = context_of(net, params), None
        if once:
            c_noise = edm.precondition(jnp.asarray(grid[:-1], jnp.float32), 0.5).c_noise
            context, entries = hoisted(net, params, c_noise)

        def denoiser(x, sigma, *entry):
            def run(x_in, c_noise):
                method, given = ("predict_modulated", entry[0]) if once else ("predict", c_noise)
                return net.apply({"params": params}, x_in, given, context, method=method)

            return edm.denoise(run, x, sigma, 0.5)

        return heun(denoiser, noise, grid, entries=entries)

    equations = jax.make_jaxpr(sample)(params, X).jaxpr.eqns
    loops = [e for e in equations if e.primitive.name == "scan" and e.params["length"] == STEPS - 1]
    assert len(loops) == 1
    return products(loops[0].params["jaxpr"].jaxpr)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_of_the_sampler_holds_no_product_that_x_does_not_need(kind):
    net, params = network(KINDS[kind])
    before, after = (products_of_a_step(net, params, once) for once in (False, True))
    streams = 2 * net.joint_blocks + net.audio_blocks
    gone = 2 + streams + 1  # the noise level's two layers, the modulation of every stream and of the output
    if net.isolated:
        gone += 8 * (net.joint_blocks - 1) + 2  # q, k, v, out, fc1, fc2 and attention's two; keys and values of the last
    assert before - after == 2 * gone
