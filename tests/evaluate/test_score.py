"""The record of one number: no metric without its embedding, no stand-in under a published name, JSON both ways."""

import json
import math

import pytest

from spresso_jax.evaluate.score import EmbeddingSource, Score

SOURCE = EmbeddingSource("yamnet", fingerprint="ab12")


@pytest.mark.parametrize("name", ["vggish", "VGGish", "CLAP", "LAION-CLAP", "clap_audio", "laion.clap"])
def test_published_names_are_kept_for_published_weights(name):
    for own in ({"version": "1"}, {"fingerprint": "ab"}, {"version": "1", "published": True}):
        with pytest.raises(ValueError, match="kept for the published weights"):
            EmbeddingSource(name, **own)
    assert Score("FAD", 1.0, embedding=EmbeddingSource(name, "1", "ab", published=True)).label == f"FAD[{name}]"
    assert EmbeddingSource(f"{name}-small", version="1")


@pytest.mark.parametrize("name", ["", "a b", "x]", "a\n", "é", "x" * 61])
def test_names_that_cannot_be_printed_are_refused(name):
    with pytest.raises(ValueError, match="embedding name"):
        EmbeddingSource(name, version="1")


def test_an_embedding_without_version_and_fingerprint_is_refused():
    with pytest.raises(ValueError, match="version or a fingerprint"):
        EmbeddingSource("aisfx")


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Score("FAD", 1.0), "needs the name of its embedding"),
    (lambda: Score("FAD_VGGish", 1.0), "named in its own field"),
    (lambda: Score("FAD_CLAP", 1.0, embedding=SOURCE), "named in its own field"),
    (lambda: Score("SI-SDR", 1.0, embedding=SOURCE), "has no embedding"),
    (lambda: Score("SI-SDR", 1.0, options={"x": math.nan}), "without nan"),
    (lambda: Score("SI-SDR", 1.0, options={"x": {1, 2}}), "plain JSON"),
])
def test_records_that_would_mislead_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_json_round_trip_keeps_everything_and_nan_is_null():
    score = Score(
        "FAD", 2.5, 2.0, math.nan, SOURCE, {"scales": (1, 2)}, {"clips": 3}, {"silent": ["a", "b"], "none": []},
        {"slope": math.inf}, ["few rows"],
    )  # fmt: skip
    facts = json.loads(json.dumps(score.to_json(), allow_nan=False))
    assert facts["label"] == "FAD[yamnet]" and facts["better"] == "lower" and facts["high"] is None
    assert facts["exclusions"] == {"silent": {"count": 2, "names": ["a", "b"]}} and score.excluded == 2
    assert Score.from_json(facts).to_json() == facts
    assert Score.from_json(facts).options == {"scales": [1, 2]}


@pytest.mark.parametrize("change", [
    {"label": "FAD"},
    {"better": "higher"},
    {"unit": "dB"},
    {"extra": 1},
    {"embedding": {"name": "yamnet"}},
    {"embedding": {"path": "x"}},
    {"value": [1]},
    {"exclusions": {"a": 3}},
    {"counts": None},
    {"options": []},
])
def test_altered_records_are_refused(change):
    facts = Score("FAD", 1.0, embedding=SOURCE, counts={"clips": 2}).to_json()
    with pytest.raises(ValueError):
        Score.from_json({**facts, **change})
    with pytest.raises(ValueError, match="exactly"):
        Score.from_json({k: v for k, v in facts.items() if k != "counts"})
