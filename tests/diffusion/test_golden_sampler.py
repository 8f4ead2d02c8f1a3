"""Heun's sampler against EDM2's, with a closed-form denoiser, in float64 and float32."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import families

from spresso_jax.diffusion.guidance import guided
from spresso_jax.diffusion.sampler import Churn, evaluations, heun, sigma_grid

pytestmark = pytest.mark.golden
FILES = families("diffusion", "heun_sampler")


def mixture_denoiser(golden, name):
    """Posterior mean of a mixture of isotropic Gaussians."""
    means, stds, weights = (jnp.asarray(golden[f"gmm_{name}/{part}"]) for part in ("means", "stds", "weights"))

    def denoiser(x, sigma):
        m, s, w = (v.astype(x.dtype) for v in (means, stds, weights))
        variance = s**2 + sigma**2
        square = jnp.sum((x[:, None] - m) ** 2, axis=-1)
        share = jax.nn.softmax(jnp.log(w) - x.shape[-1] / 2 * jnp.log(variance) - square / (2 * variance), axis=-1)
        posterior = (s[:, None] ** 2 * x[:, None] + sigma**2 * m) / variance[:, None]
        return jnp.sum(share[..., None] * posterior, axis=1)

    return denoiser


def recorded(denoiser, log):
    """The same denoiser, noting every input, noise level and output.

    They pass through the callback as 32-bit words, because its thread knows nothing of the 64-bit switch.
    """

    def words(x):
        return jax.lax.bitcast_convert_type(x, jnp.uint32)

    def wrapped(x, sigma):
        out = denoiser(x, sigma)

        def note(*args):
            log.append([np.asarray(a).view(x.dtype).reshape(n) for a, n in zip(args, shapes, strict=True)])

        shapes = (x.shape, (), x.shape)
        jax.debug.callback(note, words(x), words(jnp.asarray(sigma, x.dtype)), words(out), ordered=True)
        return out

    return wrapped


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_case_matches_the_reference_trajectory(path):
    golden = np.load(path)
    cases = golden["case_names"].tolist()
    assert cases
    for case in cases:
        g = {k.split("/", 1)[1]: golden[k] for k in golden.files if k.startswith(case + "/")}
        s = json.loads(str(g["settings_json"]))
        double = s["dtype"] == "float64"
        with jax.enable_x64(double):
            reference = None if s["ref"] == "none" else mixture_denoiser(golden, s["ref"])
            grid = sigma_grid(s["num_steps"], s["sigma_min"], s["sigma_max"], s["rho"])
            np.testing.assert_allclose(grid, g["t_steps"], rtol=1e-12 if double else 3e-6)
            churn = Churn(s.get("S_churn", 0), s.get("S_min", 0), float(s.get("S_max", "inf")), s.get("S_noise", 1))
            fresh = None if "churn_noise" not in g else (lambda i, g=g: jnp.asarray(g["churn_noise"])[i])
            noise = jnp.asarray(golden["init_noise"], s["dtype"])

            log: list = []
            denoiser = recorded(mixture_denoiser(golden, "main"), log)
            if reference is not None:
                denoiser = guided(denoiser, reference, s["guidance"])
            sampler = functools.partial(heun, denoiser, sigmas=grid, churn=churn, fresh=fresh)
            x = jax.jit(sampler)(noise)
            jax.effects_barrier()
        tolerance = (1e-12 if s["num_steps"] > 3 else 1e-10) if double else 5e-6
        np.testing.assert_allclose(x, g["x_final"], atol=tolerance, rtol=0)
        assert len(log) == evaluations(s["num_steps"]) == s["nfe"] == 2 * s["num_steps"] - 1
        np.testing.assert_allclose([entry[1] for entry in log], g["nfe_sigma"], rtol=1e-12 if double else 3e-6)
        if "nfe_x" in g:
            scale = np.maximum(g["nfe_sigma"], 1.0)[:, None, None]
            np.testing.assert_allclose([e[0] for e in log] / scale, g["nfe_x"] / scale, atol=tolerance, rtol=0)
            np.testing.assert_allclose([e[2] for e in log], g["nfe_denoised_main"], atol=tolerance, rtol=0)
    print(f"{path.name}: {len(cases)} cases")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_sampled_moments_match(path):
    golden = np.load(path)
    n, size = int(golden["moments/n"]), golden["init_noise"].shape[-1]
    noise = np.random.default_rng(int(golden["moments/noise_seed"])).normal(size=(n, size))
    x = jax.jit(lambda v: heun(mixture_denoiser(golden, "main"), v, sigma_grid(64)))(jnp.asarray(noise, jnp.float32))
    np.testing.assert_allclose(np.mean(x, axis=0), golden["moments/sampled_mean"], atol=1e-4)
    np.testing.assert_allclose(np.cov(np.asarray(x).T), golden["moments/sampled_cov"], atol=2e-4)
