"""Recall of captions and sounds beside chance and the text-only baseline, on sets whose answer is known."""

import numpy as np
import pytest

from spresso_jax.evaluate.caption_retrieval import chance, compare, recall_at

NAMES = [f"sound {i}" for i in range(20)]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_recall_leaves_equal_captions_out_and_shares_ties():
    scores = np.array([[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    assert recall_at(scores, ["rain", "Rain", "dog"], (1, 2)) == {"recall@1": pytest.approx(2 / 3), "recall@2": 1.0}
    assert recall_at(scores, NAMES[:3], (1,)) == {"recall@1": 0.0}
    assert recall_at(np.zeros((20, 20)), NAMES, (1, 10)) == {"recall@1": 0.0, "recall@10": 1.0}
    assert chance(["rain", "Rain", "dog"], (1, 5)) == {
        "recall@1": pytest.approx((0.5 + 0.5 + 1 / 3) / 3),
        "recall@5": 1.0,
    }


def test_the_baseline_finds_what_words_and_likeness_of_sounds_tell_and_a_blind_clap_nothing():
    rng = np.random.default_rng(0)
    text, acoustic = unit(rng.standard_normal((20, 8))), rng.standard_normal((20, 5))
    near = unit(text + 0.01 * rng.standard_normal(text.shape)), acoustic + 0.01 * rng.standard_normal(acoustic.shape)
    perfect, blind = unit(rng.standard_normal((20, 6))), unit(rng.standard_normal((20, 6)))
    for clap_text, found in ((perfect, 1.0), (blind, 0.35)):
        report = compare(NAMES, perfect, clap_text, text, acoustic, *near)
        for direction in ("text_to_audio", "audio_to_text"):
            assert report[direction]["text_only"]["recall@1"] == 1.0
            assert report[direction]["chance"]["recall@5"] == 0.25
            assert abs(report[direction]["clap"]["recall@1"] - found) < 0.36
    strange = compare(
        NAMES, perfect, perfect, text, acoustic, unit(rng.standard_normal((30, 8))), rng.standard_normal((30, 5))
    )
    assert strange["text_to_audio"]["text_only"]["recall@1"] < 0.4


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="square"):
        recall_at(np.zeros((2, 3)), ["a", "b"])
    with pytest.raises(ValueError, match="finite"):
        recall_at(np.full((2, 2), np.nan), ["a", "b"])
    with pytest.raises(ValueError, match="library"):
        compare(["a"], *([np.ones((1, 2))] * 4), np.ones((0, 2)), np.ones((0, 2)))
