"""Figure 4: every metric over bitrate, a line for each frame rate, before and after step 3, with the paper's three claims.

The paper prints no numbers in this figure; what it says of it is counted here: finetuning helps at every bitrate, more
codebooks help at a fixed frame rate, and higher frame rates win at a fixed bitrate.

Source: S-PRESSO 5, "Impact of the bitrate".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.evaluate.decoded import write_json
from spresso_jax.evaluate.paper.comparison import Absent
from spresso_jax.evaluate.paper.comparison_page import kbps_of_clip
from spresso_jax.evaluate.paper.measurements import Measured, Measurements
from spresso_jax.evaluate.paper.plots import Curve, curves_png
from spresso_jax.evaluate.paper.sheet import Sheet, figure, interval, latex, markdown
from spresso_jax.evaluate.score import Score

METRICS = ("FAD", "KAD", "similarity", "SI-SDR", "mel distance")
_STATES = {False: "before step 3", True: "after step 3"}
_ARROWS = {"higher": "↑", "lower": "↓", "none": ""}


@dataclass(frozen=True)
class RatePoint:
    """One number of codebooks at one frame rate, before and after step 3; either may be None."""

    downsample: int
    codebooks: int
    before: Measured | None
    after: Measured | None

    @property
    def either(self) -> Measured:
        """The one that is there."""
        return self.after or self.before

    @property
    def hertz(self) -> str:
        """Exact frame rate as a title."""
        return f"{figure(100.0 / self.downsample, 4)} Hz"


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, and how many of the cases that could be looked at bear it out, metric by metric.

    Attributes:
      text: what it says.
      counts: printed name of a metric -> (cases that agree, cases).
    """

    text: str
    counts: Mapping[str, tuple[int, int]]


def rate_points(measured: Measurements) -> list[RatePoint]:
    """All discrete systems, by falling frame rate and rising number of codebooks.

    Raises:
      ValueError: no code was measured, nothing tells whether step 3 was done, or two systems are at one point.
    """
    found: dict[tuple[int, int], dict[bool, Measured]] = {}
    for system in measured.systems:
        if system.kind != "discrete" or system.downsample is None or system.codebooks is None:
            continue
        if system.finetuned is None:
            raise ValueError(
                f"{system.key!r} ({system.folder}): nothing says whether step 3 was done; figure 4 takes models whose"
                " provenance ends with the quantizer or with decoder_finetune, and no controls"
            )
        place = found.setdefault((system.downsample, system.codebooks), {})
        if system.finetuned in place:
            other = place[system.finetuned]
            raise ValueError(
                f"{other.key!r} ({other.folder}) and {system.key!r} ({system.folder}) are both {_STATES[system.finetuned]} at"
                f" t = {system.downsample} with {system.codebooks} codebooks: give one of them"
            )
        place[system.finetuned] = system
    if not found:
        raise ValueError("no code was measured: figure 4 needs models with a quantizer")
    return [RatePoint(t, m, found[t, m].get(False), found[t, m].get(True)) for t, m in sorted(found)]


def chosen_labels(measured: Measurements, metrics: Sequence[str] = ()) -> list[str]:
    """Printed names of the metrics to show, in the order of `metrics` (by default `METRICS`), every embedding.

    Raises:
      ValueError: if a metric that was named was not measured at all.
    """
    scores = {label: score.metric for system in measured.systems for label, score in system.scores.items()}
    absent = [metric for metric in metrics if metric not in {*scores, *scores.values()}]
    if absent:
        raise ValueError(f"{absent[0]!r} was not measured: choose one of {', '.join(scores)}")
    labels = [label for metric in metrics or METRICS for label, name in scores.items() if metric in (name, label)]
    if not labels:
        raise ValueError(f"none of {', '.join(METRICS)} was measured: evaluate again")
    return list(dict.fromkeys(labels))


def claims(points: Sequence[RatePoint], labels: Sequence[str]) -> list[Claim]:
    """The paper's three sentences counted on these points; differences are of means, whatever their intervals."""
    helps, more, rates = {}, {}, {}
    for label in labels:
        both = [(_score(p.before, label), _score(p.after, label)) for p in points]
        helps[label] = _count([(a, b) for b, a in both if a and b])
        steps = []
        for t in dict.fromkeys(p.downsample for p in points):
            own = [p for p in points if p.downsample == t]
            for state in (False, True):
                line = [s for p in own if (s := _score(p.after if state else p.before, label))]
                steps += [(larger, smaller) for smaller, larger in itertools.pairwise(line)]
        more[label] = _count(steps)
        rates[label] = _fixed_bitrate(points, label)
    return [
        Claim("finetuning (step 3) is better at the same number of codebooks", helps),
        Claim("more codebooks are better at the same frame rate", more),
        Claim("the higher frame rate is better at the same bitrate", rates),
    ]


def write_figure4(
    measured: Measurements, out: Path, *, metrics: Sequence[str] = (), absent: Sequence[Absent] = ()
) -> str:
    """Fills OUT with figure4.png, .md, .tex and .json; returns the Markdown.

    Raises:
      ValueError: as `rate_points` and `chosen_labels`.
    """
    points = rate_points(measured)
    labels = chosen_labels(measured, metrics)
    counted = claims(points, labels)
    notes = [
        f"{measured.clips} clips ({measured.chosen}; fingerprint {measured.fingerprint}). The paper prints no numbers in"
        " this figure.",
        "Bitrates are exact: M x bits x 100 / t. Nominal ones take 100/9 Hz as 11 Hz.",
        *measured.remarks,
        *(f"Asked for and missing: {a.name}: {a.why}." for a in absent),
    ]
    lonely = [f"{p.hertz}, M = {p.codebooks}" for p in points if p.before is None or p.after is None]
    if lonely:
        notes.append(f"Only one of before and after step 3 is there at: {'; '.join(lonely)}.")
    page = [_table(points, labels, notes), _claims_sheet(counted)]
    out.mkdir(parents=True, exist_ok=True)
    text = markdown(page)
    (out / "figure4.md").write_text(text, encoding="utf-8")
    (out / "figure4.tex").write_text(latex(page), encoding="utf-8")
    write_json(out / "figure4.json", _record(points, labels, counted, notes, absent))
    better = {label: score.better for s in measured.systems for label, score in s.scores.items()}
    panels = {f"{label} {_ARROWS[better[label]]}": curves(points, label) for label in labels}
    title = "Metrics over bitrate; full after step 3, dashed before"
    (out / "figure4.png").write_bytes(curves_png(panels, title=title, x_label="kbps", log_x=True))
    return text


def curves(points: Sequence[RatePoint], label: str) -> list[Curve]:
    """One line for each frame rate and state that has scores of this metric, points by rising bitrate."""
    found = []
    for t in dict.fromkeys(p.downsample for p in points):
        own = [p for p in points if p.downsample == t]
        for state, told in _STATES.items():
            line = []
            for p in own:
                system = p.after if state else p.before
                score = _score(system, label)
                if score is not None and system.exact_kbps:
                    line.append((system.exact_kbps, score.value, score.low, score.high))
            if line:
                found.append(Curve(f"{own[0].hertz}, {told}", own[0].hertz, tuple(sorted(line)), dashed=not state))
    return found


def _score(system: Measured | None, label: str) -> Score | None:
    """The record, unless it is missing or could not be measured."""
    score = system.scores.get(label) if system is not None else None
    return score if score is not None and math.isfinite(score.value) else None


def _count(pairs: Sequence[tuple[Score, Score]]) -> tuple[int, int]:
    """How many first ones are better than their second ones."""
    return sum(_sign(first) * (first.value - second.value) > 0.0 for first, second in pairs), len(pairs)


def _sign(score: Score) -> float:
    return 1.0 if score.better == "higher" else -1.0


def _fixed_bitrate(points: Sequence[RatePoint], label: str) -> tuple[int, int]:
    """Every point of a higher frame rate against the line of a lower one, interpolated over the logarithm of the bitrate."""
    agree = cases = 0
    lines = curves(points, label)
    sign = next((_sign(s) for p in points for s in (_score(p.either, label),) if s), 1.0)
    for first, second in itertools.combinations(lines, 2):  # frame rates fall
        if first.dashed != second.dashed or first.group == second.group:
            continue
        x, y = np.array([point[:2] for point in second.points]).T
        for kbps, value, _, _ in first.points:
            if x[0] <= kbps <= x[-1]:
                cases += 1
                agree += bool(sign * (value - np.interp(math.log(kbps), np.log(x), y)) > 0.0)
    return agree, cases


def _table(points: Sequence[RatePoint], labels: Sequence[str], notes: Sequence[str]) -> Sheet:
    rows = []
    for p in points:
        for state, system in ((False, p.before), (True, p.after)):
            if system is None:
                continue
            scores = [_score(system, label) for label in labels]
            cells = ["–" if s is None else interval(s.value, s.low, s.high) for s in scores]
            nominal, exact = figure(system.kbps, 4), figure(system.exact_kbps, 4)
            rows.append((p.hertz, _STATES[state], str(p.codebooks), nominal, exact, *cells))
    head = ("frame rate", "decoder", "M", "kbps, nominal", "exact", *labels)
    return Sheet("Figure 4: bitrate and frame rate, before and after step 3", head, tuple(rows), tuple(notes), texts=2)


def _claims_sheet(counted: Sequence[Claim]) -> Sheet:
    labels = list(counted[0].counts)
    rows = [(claim.text, *(f"{a} of {n}" if n else "–" for a, n in map(claim.counts.get, labels))) for claim in counted]
    notes = (
        "Cases in which the mean is on the side that the paper states; a few of many may be chance. At a fixed bitrate the"
        " lower frame rate's line is interpolated over the logarithm of the bitrate, never extended.",
    )
    return Sheet("What the paper says of figure 4", ("claim", *labels), tuple(rows), notes)


def _record(
    points: Sequence[RatePoint],
    labels: Sequence[str],
    counted: Sequence[Claim],
    notes: Sequence[str],
    absent: Sequence[Absent],
) -> dict[str, Any]:
    rows = []
    for p in points:
        for state, system in ((False, p.before), (True, p.after)):
            if system is not None:
                rows.append(
                    {
                        "downsample": p.downsample, "codebooks": p.codebooks, "step_3": state, "system": system.key,
                        "evaluation": str(system.folder), "kbps": {
                            "nominal": system.kbps, "exact": system.exact_kbps, "of_a_5_s_clip": kbps_of_clip(system),
                        }, "scores": [s.to_json() for label in labels if (s := system.scores.get(label)) is not None],
                    }
                )  # fmt: skip
    told = [{"claim": c.text, "cases": {k: {"agree": a, "of": n} for k, (a, n) in c.counts.items()}} for c in counted]
    return {"points": rows, "claims": told, "absent": [vars(a) for a in absent], "remarks": list(notes)}
