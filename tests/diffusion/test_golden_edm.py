"""Preconditioning, loss and gradients against EDM2's classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import families

from spresso_jax.diffusion import edm
from spresso_jax.nn import magnitude

pytestmark = pytest.mark.golden
FILES = families("diffusion", "edm2_precond_loss")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_coefficients_match_in_float64(path):
    golden = np.load(path)
    cases = sorted({k.split("/")[1] for k in golden.files if k.startswith("coef/sd")})
    assert cases
    with jax.enable_x64(True):
        sigma = jnp.asarray(golden["coef/sigma"])
        for case in cases:
            c = edm.precondition(sigma, float(case[2:]))
            for name in ("c_skip", "c_out", "c_in"):
                np.testing.assert_allclose(getattr(c, name), golden[f"coef/{case}/{name}"], rtol=1e-10)
            np.testing.assert_allclose(edm.weight(sigma, float(case[2:])), golden[f"coef/{case}/weight"], rtol=1e-10)
            np.testing.assert_allclose(c.c_noise, golden["coef/c_noise"], rtol=1e-10)
    print(f"{path.name}: {len(cases)} cases")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_loss_and_gradients_match(path):
    golden = np.load(path)
    cases = sorted({k.split("/")[0] for k in golden.files if k.startswith("loss")})
    assert cases
    close = dict(rtol=1e-5, atol=2e-5)
    for case in cases:
        g = {k.split("/", 1)[1]: golden[k] for k in golden.files if k.startswith(case + "/")}
        s = float(g["sigma_data"])
        sigma = np.exp(g["z"] * float(g["P_std"]) + float(g["P_mean"]))
        np.testing.assert_allclose(sigma, g["sigma"], rtol=2e-6)
        # The stored mean is that of ln sigma itself; ours is relative to ln sigma_data.
        relative = edm.relative_p_mean(float(g["P_mean"]), s)
        ours = s * np.exp(relative + float(g["P_std"]) * g["z"])
        np.testing.assert_allclose(ours, g["sigma"], rtol=2e-6)
        x0, noise = (jnp.asarray(g[n]).transpose(0, 2, 1) for n in ("x0", "eps"))
        sigma, per_sample = jnp.asarray(g["sigma"]), jnp.asarray(g["sigma"])[:, None, None]

        def network(p, e=g["F_e"]):
            return lambda x, c: jnp.tanh(x @ p["A"].T + p["b"] * c[:, None, None] + e)

        def uncertainty(p, freqs=g["logvar_freqs"], phases=g["logvar_phases"]):
            return lambda c: magnitude.linear(magnitude.fourier(c, freqs, phases), p["w"].T)[:, 0]

        def loss(p, network=network, uncertainty=uncertainty, x0=x0, noise=noise, sigma=sigma, s=s):
            return edm.loss_at(network(p), x0, noise, sigma, sigma_data=s, uncertainty=uncertainty(p))

        for mode in ("eval", "train"):
            w = jnp.asarray(g["logvar_weight"])
            w = magnitude.normalize(w, 1) if mode == "train" else w
            np.testing.assert_allclose(w, g[f"{mode}/logvar_weight_after"], rtol=1e-5, atol=1e-6)
            p = {"A": jnp.asarray(g["F_A"]), "b": jnp.asarray(g["F_b"]), "w": w}
            out = loss(p)
            np.testing.assert_allclose(out.loss, g[f"{mode}/loss_mean"], **close)
            u = uncertainty(p)(jnp.log(sigma) / 4)
            element = g[f"{mode}/loss"].mean(axis=(1, 2))
            np.testing.assert_allclose(out.raw * jnp.exp(-u) + u, element, **close)
            gradient = jax.grad(lambda p: loss(p).loss)(p)
            for ours, name in (("A", "A"), ("b", "b"), ("w", "logvar_weight")):
                np.testing.assert_allclose(gradient[ours], g[f"{mode}/grad_{name}"], **close)
            if mode == "eval":
                np.testing.assert_allclose(u, g["logvar"], **close)
                denoised = edm.denoise(network(p), x0 + per_sample * noise, sigma, s)
                np.testing.assert_allclose(denoised.transpose(0, 2, 1), g["D_x"], **close)
                elements = edm.weight(per_sample, s) * (denoised - x0) ** 2 / jnp.exp(u)[:, None, None]
                elements = (elements + u[:, None, None]).transpose(0, 2, 1)
                np.testing.assert_allclose(elements, g["eval/loss"], rtol=2e-4, atol=5e-5)
    print(f"{path.name}: {len(cases)} cases")
