"""Diversity of made-up decoders whose distances are known, its yardsticks, and resuming."""

import json

import numpy as np
import pytest

from spresso_jax.evaluate import decoded
from spresso_jax.evaluate.bootstrap import mean_interval
from spresso_jax.evaluate.paper import diversity
from spresso_jax.evaluate.paper.diversity import drawn_points, embedding_measure, measure_diversity, mel_measure
from spresso_jax.evaluate.paper.diversity_page import write_diversity
from spresso_jax.evaluate.reconstruction import multi_scale_mel_distance


def clips(count=6):
    rng = np.random.default_rng(0)
    return [
        decoded.Clip(f"clip {i}", 0.1 * rng.standard_normal(2400 + 300 * i).astype(np.float32)) for i in range(count)
    ]


def decoder(rate, freedom, calls=None, kind="continuous"):
    """Gives the source plus `freedom` times a noise of its own for every seed and clip."""

    def make(seed):
        def produce(batch, indices):
            if calls is not None:
                calls.extend((seed, i) for i in indices)
            noises = [
                np.random.default_rng(seed + i).standard_normal(clip.audio.size)
                for clip, i in zip(batch, indices, strict=True)
            ]
            return [clip.audio + freedom * noise for clip, noise in zip(batch, noises, strict=True)]

        facts = (kind, produce, f"{rate} {freedom} seed {seed}", f"model{rate}", None, rate, None)
        return [decoded.System(f"model{rate}.{kind}", f"z, {rate} Hz", *facts, batch=1)]

    return make


def by_first_samples(sounds):
    """An embedding in which a sound is its first samples; silence has no direction."""
    return np.stack([sound[:300] for sound in sounds]).astype(np.float64)


SPACE = embedding_measure("first-samples", by_first_samples, {"fingerprint": "1"})


def points_of(*decoders, draws=3):
    return [point for make in decoders for point in drawn_points(make, draws)]


def test_no_freedom_is_no_diversity_and_pure_noise_is_like_other_clips(tmp_path):
    points = points_of(decoder(25.0, 0.0), decoder(1.0, 1000.0))
    fixed, noise = measure_diversity(clips(12), points, [SPACE], tmp_path, bootstrap_draws=200)
    assert fixed.within.mean == pytest.approx(0.0, abs=1e-6) and fixed.share.mean == pytest.approx(0.0, abs=1e-6)
    assert fixed.to_source.mean == pytest.approx(0.0, abs=1e-6) and fixed.between.mean > 0.5
    # Clipped noise that owes nothing to its clip: two draws are as far apart as two clips.
    assert noise.share.mean == pytest.approx(1.0, abs=0.1) and noise.within.mean == pytest.approx(1.0, abs=0.1)
    assert noise.within.count == 12


def test_distances_are_means_over_pairs_of_one_clip(tmp_path):
    chosen = clips(3)
    (found,) = measure_diversity(chosen, points_of(decoder(5.0, 0.01)), [mel_measure()], tmp_path, bootstrap_draws=50)
    keys = [f"model5.0.continuous.draw{k}" for k in range(3)]
    sounds = [[decoded.read_decoded(tmp_path, key, chosen, i) for key in keys] for i in range(3)]
    own = [np.mean([multi_scale_mel_distance(a[j], a[k]) for j, k in ((0, 1), (0, 2), (1, 2))]) for a in sounds]
    np.testing.assert_allclose(found.per_clip, own, rtol=1e-9)
    to_source = [
        np.mean([multi_scale_mel_distance(c.audio, x) for x in a]) for c, a in zip(chosen, sounds, strict=True)
    ]
    assert found.to_source.mean == pytest.approx(np.mean(to_source))
    assert (found.within.low, found.within.high) == (lambda i: (i.low, i.high))(mean_interval(np.array(own), 0, 50))


def test_draws_share_no_seed_and_a_stopped_run_goes_on(tmp_path):
    calls = []
    chosen = clips(4)
    points = points_of(decoder(5.0, 0.1, calls))
    first = measure_diversity(chosen, points, [SPACE], tmp_path, bootstrap_draws=50)
    assert len({seed + i for seed, i in calls}) == len(calls) == 12
    calls.clear()
    decoded.audio_path(tmp_path, "model5.0.continuous.draw1", chosen, 2).unlink()
    again = measure_diversity(chosen, points, [SPACE], tmp_path, bootstrap_draws=50)
    assert len(calls) == 1
    np.testing.assert_array_equal(first[0].per_clip, again[0].per_clip)


def test_a_silent_decode_is_left_out_and_counted(tmp_path):
    chosen = clips(5)

    def make(seed):
        (system,) = decoder(5.0, 0.1)(seed)

        def produce(batch, indices):
            made = system.produce(batch, indices)
            return [np.zeros_like(x) if i == 3 else x for x, i in zip(made, indices, strict=True)]

        return [decoded.System("m.continuous", "z", "continuous", produce, str(seed), "m", None, 5.0, None, 1)]

    (found,) = measure_diversity(chosen, points_of(make), [SPACE], tmp_path, partners=1, bootstrap_draws=50)
    assert (found.within.count, found.within.left_out) == (4, 1) and np.isnan(found.per_clip[3])
    text = write_diversity(chosen, [found], [SPACE], tmp_path, {})
    assert "Up to 1 clips left out" in text
    assert json.loads((tmp_path / "diversity.json").read_text())["rows"][0]["within_per_clip"][3] is None


def test_the_lower_rate_is_compared_with_the_higher_clip_by_clip(tmp_path):
    chosen = clips(4)
    points = points_of(decoder(1.0, 0.2), decoder(25.0, 0.01), decoder(11.1, 0.05))
    measures = [SPACE, embedding_measure("second", by_first_samples)]
    found = measure_diversity(chosen, points, measures, tmp_path, bootstrap_draws=200)
    pairs = diversity.neighbours(found)
    assert [(p["lower"], p["higher"]) for p in pairs] == [(1.0, 11.1), (11.1, 25.0)] * 2
    assert all(p["difference"].clearly_positive for p in pairs)
    text = write_diversity(chosen, found, measures, tmp_path, {"draws": 3})
    assert text.count("as the paper states") == 4 and "Diversity of reconstructions, cosine distance\\[second]" in text
    stored = json.loads((tmp_path / "diversity.json").read_text())
    assert len(stored["rows"]) == 6 and stored["measures"][SPACE.name] == {"fingerprint": "1"}
    assert (tmp_path / "diversity.png").stat().st_size > 5000
    assert (tmp_path / "diversity.tex").read_text().count(r"\begin{tabular}") == 3


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 2 are needed, got 1"):
        drawn_points(decoder(5.0, 0.1), 1)
    with pytest.raises(ValueError, match="at least 2 are needed, got 1"):
        measure_diversity(clips(1), points_of(decoder(5.0, 0.1)), [SPACE], tmp_path)
    with pytest.raises(ValueError, match="two operating points are called 'model5.0.continuous'"):
        measure_diversity(clips(3), points_of(decoder(5.0, 0.1), decoder(5.0, 0.2)), [SPACE], tmp_path)
    with pytest.raises(ValueError, match="two clips are called 'clip 0'"):
        measure_diversity(clips(2)[:1] * 2, points_of(decoder(5.0, 0.1)), [SPACE], tmp_path)
