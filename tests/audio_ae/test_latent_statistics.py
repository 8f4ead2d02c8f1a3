import json

import jax.numpy as jnp
import numpy as np
import pytest

from spresso_jax.audio_ae.statistics import LatentStatistics, standardise, unstandardise


def latents(seed: int = 0, batch: int = 6, frames: int = 50, channels: int = 4) -> np.ndarray:
    generator = np.random.default_rng(seed)
    scale = 10.0 ** np.arange(channels) / 10.0
    return (generator.standard_normal((batch, frames, channels)) ** 3 * scale + 100.0 * scale).astype(np.float32)


def seen(*parts: np.ndarray) -> LatentStatistics:
    statistics = LatentStatistics(parts[0].shape[-1])
    for part in parts:
        statistics.update(part)
    return statistics


def test_moments_equal_numpys_on_all_frames_at_once():
    x = latents()
    rows = x.reshape(-1, 4).astype(np.float64)
    statistics = seen(x[:1], x[1:5], x[5:])
    centred = rows - rows.mean(0)
    np.testing.assert_allclose(statistics.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(statistics.std, rows.std(0), rtol=1e-10)
    np.testing.assert_allclose(statistics.correlation, np.corrcoef(rows.T), atol=1e-9)
    np.testing.assert_allclose(statistics.kurtosis, (centred**4).mean(0) / rows.var(0) ** 2, rtol=1e-8)


def test_merged_halves_equal_the_whole():
    x = latents()
    half = seen(x[:3])
    half.merge(seen(x[3:]))
    half.merge(LatentStatistics(4))
    whole = seen(x)
    assert half.count == whole.count
    for name in ("mean", "std", "kurtosis", "correlation"):
        np.testing.assert_allclose(getattr(half, name), getattr(whole, name), rtol=1e-9)


def test_masked_frames_leave_no_trace():
    x = latents()
    mask = np.random.default_rng(1).random(x.shape[:2]) < 0.5
    masked = LatentStatistics(4)
    masked.update(np.where(mask[..., None], x, 1e6), mask)
    masked.update(x, np.zeros(x.shape[:2], bool))
    np.testing.assert_allclose(masked.mean, x[mask].astype(np.float64).mean(0), rtol=1e-12)
    assert masked.count == mask.sum()


def test_dead_and_heavy_channels_are_reported_and_divide_nothing_by_zero():
    generator = np.random.default_rng(0)
    x = generator.standard_normal((10, 200, 5)).astype(np.float32)
    x[..., 1] = 0.25
    x[..., 3] = np.where(generator.random((10, 200)) < 0.002, 100.0, x[..., 3])
    facts = seen(x).to_facts()
    assert facts["dead_channels"] == [1] and facts["heavy_channels"] == [3]
    assert len(facts["warnings"]) == 2 and min(facts["std"]) > 0.0
    assert json.loads(json.dumps(facts, allow_nan=False))["sigma_data"] == 0.5


def test_channels_that_say_the_same_are_counted_once():
    x = np.random.default_rng(0).standard_normal((4, 500, 6)).astype(np.float32)
    independent = seen(x)
    assert 5.9 < independent.effective_channels() <= 6.0
    x[..., 5] = -2.0 * x[..., 4]
    copied = seen(x)
    facts = copied.to_facts()
    assert copied.effective_channels() == pytest.approx(36 / 8, rel=0.02)
    assert facts["strongest_correlation"] == {"channels": [4, 5], "value": -1.0}
    x[..., 0] = 1.0
    assert np.isfinite(seen(x).correlation).all()


def test_standardised_latents_have_the_std_of_the_data_and_come_back():
    x = latents()
    statistics = seen(x)
    x0 = standardise(jnp.asarray(x), statistics.mean, statistics.std)
    np.testing.assert_allclose(np.asarray(x0).reshape(-1, 4).std(0), 0.5, rtol=1e-3)
    np.testing.assert_allclose(unstandardise(x0, statistics.mean, statistics.std), x, rtol=1e-4)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="no latent frames"):
        _ = LatentStatistics(4).std
    with pytest.raises(ValueError, match=r"\[B, T, 4\]"):
        LatentStatistics(4).update(np.zeros((3, 4)))
    with pytest.raises(ValueError, match="mask"):
        LatentStatistics(4).update(np.zeros((1, 3, 4)), np.ones((1, 4)))
    with pytest.raises(ValueError, match="finite"):
        LatentStatistics(4).update(np.full((1, 3, 4), np.nan))
    with pytest.raises(ValueError, match="merge"):
        LatentStatistics(4).merge(LatentStatistics(5))
