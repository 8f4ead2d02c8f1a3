"""Power-function averages, their coefficients and reconstruction against EDM2's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import families

from spresso_jax.diffusion import ema

pytestmark = pytest.mark.golden
FILES = families("diffusion", "phema")


@pytest.fixture(params=FILES, ids=lambda p: p.stem)
def golden(request):
    return np.load(request.param)


def test_exponents_decays_and_profiles_match(golden):
    gammas = [ema.exponent(s) for s in golden["stds"]]
    np.testing.assert_allclose(gammas, golden["exp"], rtol=1e-10)
    np.testing.assert_allclose([ema.relative_length(g) for g in gammas], golden["std_roundtrip"], rtol=1e-10)
    times, step = golden["beta/t_next"].astype(float), float(golden["beta/t_delta"])
    decays = np.stack([ema.beta(times, g, step) for g in gammas], axis=1)
    np.testing.assert_allclose(decays, golden["beta/value"], rtol=1e-10, atol=1e-12)
    times, batch = golden["beta_batch/t_next_nimg"].astype(float), float(golden["beta_batch/batch"])
    decays = np.stack([ema.beta(times, g, batch) for g in gammas], axis=1)
    np.testing.assert_allclose(decays, golden["beta_batch/value"], rtol=1e-10, atol=1e-12)
    grid = np.arange(int(golden["response/len"])) + 0.0
    profiles = np.stack([ema.profile(grid, float(golden["response/ofs"]), g) for g in gammas])
    np.testing.assert_allclose(profiles, golden["response/value"], atol=1e-10)
    print(f"{len(gammas)} profiles")


def test_posthoc_coefficients_match(golden):
    times = golden["snap/in_ofs"]
    gammas = np.array([ema.exponent(s) for s in golden["snap/in_std"]])
    correlations = ema.correlation(times[:, None], gammas[:, None], times, gammas)
    np.testing.assert_allclose(correlations, golden["snap/corr"], rtol=1e-10)
    used = golden["snap/mid_in_sel"]
    for column, sigma_rel in enumerate(golden["snap/out_std"]):
        gamma = ema.exponent(sigma_rel)
        full = ema.posthoc_coefficients(times, gammas, float(golden["snap/out_ofs"]), gamma)
        np.testing.assert_allclose(full, golden["snap/coef"][:, column], atol=1e-10)
        middle = ema.posthoc_coefficients(times, gammas, float(golden["snap/mid_out_ofs"]), gamma)
        np.testing.assert_allclose(middle[used], golden["snap/mid_coef"][:, column], atol=1e-10)
        assert not middle[~used].any()
    print(f"{golden['snap/out_std'].size} targets")


def test_tracking_and_reconstruction_match(golden):
    trajectory, stds = golden["track/traj"], golden["track/stds"]
    gammas = [ema.exponent(s) for s in stds]
    every = len(trajectory) // len(golden["track/snapshots"])
    averages = [np.zeros(trajectory.shape[1]) for _ in gammas]
    for index, params in enumerate(trajectory):
        decays = [ema.beta(index + 1.0, g) for g in gammas]
        averages = [params + (a - params) * d for a, d in zip(averages, decays, strict=True)]
        if (index + 1) % every == 0:
            want = golden["track/snapshots"][(index + 1) // every - 1]
            np.testing.assert_allclose(np.stack(averages), want, atol=1e-10)
    step = jax.jit(ema.update, static_argnums=3)
    tracked = jnp.zeros(trajectory.shape[1])
    for index in range(every):
        tracked = step(tracked, jnp.asarray(trajectory[index], jnp.float32), index + 1, gammas[0])
    np.testing.assert_allclose(tracked, golden["track/snapshots"][0, 0], atol=1e-5)
    count = len(golden["track/snapshots"])
    times = np.repeat(np.arange(1, count + 1) * every, 2)
    snapshots = [{"w": golden["track/snapshots"][i, j]} for i in range(count) for j in range(2)]
    for row, sigma_rel in enumerate(golden["snap/out_std"]):
        c = ema.posthoc_coefficients(times, gammas[:2] * count, len(trajectory), ema.exponent(sigma_rel))
        np.testing.assert_allclose(ema.reconstruct(snapshots, c)["w"], golden["track/reconstructed"][row], atol=1e-9)
    print(f"{len(gammas)} tracked, {golden['snap/out_std'].size} reconstructed")


def test_half_life_averages_match(golden):
    batch = int(golden["traditional/batch"])
    want, average = golden["traditional/values"], None
    for index, expected in enumerate(want):
        params = golden["track/traj"][index]
        seen = (index + 1) * batch
        half_life, ratio = float(golden["traditional/halflife_nimg"]), float(golden["traditional/rampup_ratio"])
        decay = float(ema.half_life_beta(seen, half_life, batch, ratio))
        average = params if average is None else average + (params - average) * (1 - decay)
        np.testing.assert_allclose(average, expected, atol=1e-6)
