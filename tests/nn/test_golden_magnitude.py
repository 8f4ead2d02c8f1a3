"""EDM2's magnitude-preserving primitives against numbers from the reference implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import families

from spresso_jax.nn import magnitude
from spresso_jax.nn.attention import attention

pytestmark = pytest.mark.golden
FILES = families("diffusion", "edm2_mp_layers")


@pytest.fixture(params=FILES, ids=lambda p: p.stem)
def golden(request):
    return np.load(request.param)


def close(got, want, tolerance=2e-6):
    np.testing.assert_allclose(np.asarray(got), want, atol=tolerance, rtol=2e-6)


def test_normalisation_matches_also_for_zeros(golden):
    x = golden["normalize/x"]
    close(magnitude.normalize(jnp.asarray(x), tuple(range(1, x.ndim))), golden["normalize/all_but_first"])
    close(magnitude.normalize(jnp.asarray(x), 1), golden["normalize/dim1"])
    zeros = golden["normalize/zeros_dim1"]
    close(magnitude.normalize(jnp.zeros(zeros.shape), 1), zeros)
    gradient = jax.grad(lambda v: magnitude.normalize(v, 1).sum())(jnp.zeros(zeros.shape))
    assert np.isfinite(np.asarray(gradient)).all()


def test_sums_concatenations_activation_and_features_match(golden):
    a, b, b2 = (jnp.asarray(golden[name]) for name in ("a", "b", "b2"))
    cases = [k for k in golden.files if k.startswith(("mp_sum/t", "mp_cat/t"))]
    assert cases
    for name in cases:
        t = float(name.split("/t")[1])
        got = magnitude.weighted_sum(a, b, t) if name.startswith("mp_sum") else magnitude.concatenate(a, b2, t, axis=1)
        close(got, golden[name])
    close(magnitude.silu(a), golden["mp_silu"])
    features = [jnp.asarray(golden[f"mpfourier/{name}"]) for name in ("x", "freqs", "phases")]
    close(magnitude.fourier(*features), golden["mpfourier/y"], 2e-5)
    print(f"{len(cases) + 2} cases")


def test_linear_layers_and_projection_match_with_gradients(golden):
    x, w = jnp.asarray(golden["a"]), jnp.asarray(golden["mplinear/w"]).T
    cases = sorted({k.rsplit("/", 1)[0] for k in golden.files if k.startswith("mplinear/gain")})
    assert cases
    for case in cases:
        gain, mode = float(case.split("/")[1][4:]), case.split("/")[2]
        kernel = magnitude.project(w) if mode == "train" else w
        y, pull = jax.vjp(lambda k, gain=gain: magnitude.linear(x, k, gain), kernel)
        close(y, golden[f"{case}/y"])
        close(pull(jnp.asarray(golden["mplinear/cotangent"]))[0].T, golden[f"{case}/grad_w"], 5e-6)
        close(kernel.T, golden[f"{case}/w_after"])
    print(f"{len(cases)} cases")


def test_cosine_attention_block_matches(golden):
    x, heads = jnp.asarray(golden["mpattn/x"]).transpose(0, 2, 1), int(golden["mpattn/heads"])
    packed = magnitude.linear(x, jnp.asarray(golden["mpattn/w_qkv"]).reshape(-1, x.shape[-1]).T)
    packed = packed.reshape(*x.shape[:2], heads, -1, 3)
    attended = attention(*magnitude.attention_operands(*(packed[..., i] for i in range(3))))
    out = magnitude.linear(attended.reshape(x.shape), jnp.asarray(golden["mpattn/w_proj"]).reshape(-1, x.shape[-1]).T)
    out = magnitude.weighted_sum(x, out, float(golden["mpattn/res_balance"]))
    close(out.transpose(0, 2, 1), golden["mpattn/out"], 5e-6)
