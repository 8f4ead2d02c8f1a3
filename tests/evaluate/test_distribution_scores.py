"""Records of distances and similarities: what they hold, how they are printed, and which sets they refuse."""

import json
import math

import numpy as np
import pytest

from spresso_jax.evaluate.distribution_scores import (
    fad_inf_score,
    fad_score,
    fad_two_sided_score,
    kad_scores,
    similarity_score,
)
from spresso_jax.evaluate.embedded_set import EmbeddedSet
from spresso_jax.evaluate.score import EmbeddingSource, Score

RNG = np.random.default_rng(0)
SOURCE = EmbeddingSource("aisfx", version="0.1.2", fingerprint="0123abcd")
NAMES = [f"clip {i}" for i in range(24)]
ROWS = RNG.standard_normal((48, 6))
REFERENCE = EmbeddedSet.of(ROWS, NAMES, [2] * 24, "reference")
NEAR = EmbeddedSet.of(ROWS + 0.1 * RNG.standard_normal(ROWS.shape), NAMES, [2] * 24, "evaluation")
FAR = EmbeddedSet.of(RNG.standard_normal((60, 6)) + 1.0, None, [2] * 30, "evaluation")


def all_scores(reference: EmbeddedSet, evaluation: EmbeddedSet, paired: bool) -> list[Score]:
    return [
        fad_score(reference, evaluation, SOURCE, paired=paired, draws=30),
        fad_two_sided_score(reference, evaluation, SOURCE, paired=paired, steps=3),
        fad_inf_score(reference, evaluation, SOURCE, paired=paired, steps=3, least=20),
        *kad_scores(reference, evaluation, SOURCE, paired=paired, draws=200, permutations=99),
        *([similarity_score(reference, evaluation, SOURCE, draws=200)[0]] if paired else []),
    ]


@pytest.mark.parametrize(("evaluation", "paired"), [(NEAR, True), (FAR, False)])
def test_every_record_names_its_embedding_holds_its_options_and_survives_json(evaluation, paired):
    scores = all_scores(REFERENCE, evaluation, paired)
    assert [score.metric for score in scores][:4] == ["FAD", "FAD-inf-two-sided", "FAD-inf", "KAD"]
    assert ("KAD-paired" in [score.metric for score in scores]) == paired
    for score in scores:
        assert score.label == f"{score.metric}[aisfx]"
        assert score.options and score.counts["reference_rows"] == 48 and score.excluded == 0
        assert math.isnan(score.low) or score.low <= score.value <= score.high
        again = Score.from_json(json.loads(json.dumps(score.to_json(), allow_nan=False)))
        assert again.to_json() == score.to_json()


def test_seeds_make_records_repeatable_and_draws_can_be_left_out():
    first, second = (all_scores(REFERENCE, NEAR, True) for _ in range(2))
    assert [s.to_json() for s in first] == [s.to_json() for s in second]
    bare = kad_scores(REFERENCE, NEAR, SOURCE, paired=True, draws=0, permutations=0)
    assert bare[0].value == first[3].value and math.isnan(bare[0].low) and "p_value" not in bare[0].details


def test_near_and_far_sets_are_told_apart():
    near = {s.metric: s for s in all_scores(REFERENCE, NEAR, True)}
    far = {s.metric: s for s in all_scores(REFERENCE, FAR, False)}
    assert near["FAD"].value < 0.2 < 4.0 < far["FAD"].value
    assert near["KAD"].value < near["KAD-paired"].value < 1.0 < far["KAD"].value
    assert near["KAD"].details["p_value"] > 0.05 >= far["KAD"].details["p_value"]
    assert near["similarity"].value > 0.95 and abs(near["similarity"].details["floor"]) < 0.1


def test_bandwidth_scale_and_kernel_are_recorded_and_change_the_number():
    plain = kad_scores(REFERENCE, FAR, SOURCE, draws=0, permutations=0)[0]
    assert plain.options["bandwidth"]["from"] == "reference" and plain.options["scale"] == 100.0
    values = {plain.value}
    for change in ({"bandwidth_from": "evaluation"}, {"scale": 1000.0}, {"kind": "imq"}, {"bandwidth": 1.0}):
        other = kad_scores(REFERENCE, FAR, SOURCE, draws=0, permutations=0, **change)[0]
        assert other.options != plain.options
        values.add(other.value)
    assert len(values) == 5


def test_clips_without_a_finite_embedding_leave_both_sides_and_are_named():
    rows = NEAR.rows.copy()
    rows[7, 2] = np.nan  # second row of clip 3
    broken = EmbeddedSet.of(rows, NAMES, [2] * 24, "evaluation")
    kept = [i for i in range(24) if i != 3]
    for ours, expected in zip(
        all_scores(REFERENCE, broken, True), all_scores(REFERENCE.kept(kept), NEAR.kept(kept), True), strict=True
    ):
        assert ours.value == expected.value
        assert ours.exclusions == {"evaluation: embedding not finite": ("clip 3",)} and ours.excluded == 1
        assert ours.counts["reference_clips"] == 23
    unpaired = fad_score(REFERENCE, broken, SOURCE, draws=0)
    assert (unpaired.counts["reference_clips"], unpaired.counts["evaluation_clips"]) == (24, 23)


def test_fewer_rows_than_dimensions_work_and_are_told():
    few = EmbeddedSet.of(RNG.standard_normal((5, 6)), role="evaluation")
    score = fad_score(REFERENCE, few, SOURCE, draws=20)
    assert math.isfinite(score.value) and any("5 rows in 6 dimensions" in note for note in score.notes)


def test_similarity_of_one_row_clips_is_the_cosine_and_its_floor_the_mean_over_other_pairs():
    x, y = EmbeddedSet.of(ROWS[:9], role="reference"), EmbeddedSet.of(ROWS[9:18], role="evaluation")
    score, by_clip = similarity_score(x, y, SOURCE, draws=10)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x.rows, y.rows)]
    cosines = unit[0] @ unit[1].T
    assert list(by_clip.values()) == pytest.approx(np.diag(cosines).tolist())
    assert score.value == pytest.approx(np.diag(cosines).mean())
    assert score.details["median"] == pytest.approx(np.median(np.diag(cosines)))
    assert score.details["floor"] == pytest.approx((cosines.sum() - np.trace(cosines)) / 72)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: fad_score(REFERENCE, FAR, SOURCE, paired=True), "24 and 30 .*only in the reference: clip 0"),
    (lambda: fad_score(REFERENCE, NEAR.kept([1, 0, *range(2, 24)]), SOURCE, paired=True), "same order"),
    (lambda: similarity_score(REFERENCE.kept([0]), NEAR.kept([0]), SOURCE), "1 clips; this measure needs at least 2"),
    (lambda: fad_score(REFERENCE, EmbeddedSet.of(np.full((9, 6), np.nan)), SOURCE), "0 clips .9 left out"),
    (lambda: kad_scores(REFERENCE, EmbeddedSet.of(np.zeros((9, 5))), SOURCE), "6 dimensions and the evaluation 5"),
    (lambda: kad_scores(REFERENCE, NEAR, SOURCE, bandwidth_from="both"), "bandwidth_from"),
    (lambda: fad_inf_score(REFERENCE, FAR, SOURCE), "more than 500, got 60"),
    (lambda: similarity_score(REFERENCE, EmbeddedSet.of(np.zeros((48, 6)), NAMES, [2] * 24), SOURCE), "'clip 0'.*zeros"),
    (lambda: EmbeddedSet.of(np.zeros((3, 2)), ["a", "b", "a"], role="reference"), "two clips are called 'a'"),
    (lambda: EmbeddedSet.of(np.zeros((3, 2)), counts=[1, 1]), "3 in all"),
    (lambda: EmbeddedSet.of(np.array([["a"]])), "real numbers"),
    (lambda: fad_score(REFERENCE, EmbeddedSet.of(np.zeros((0, 6)), role="evaluation"), SOURCE), "evaluation: 0 clips;"),
])
def test_sets_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
