"""Figures side by side: paired comparisons of systems, and the Markdown table of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spresso_jax.evaluate.bootstrap import DRAWS, LEVEL, Interval, paired_interval
from spresso_jax.evaluate.decoded import System


@dataclass(frozen=True)
class Metric:
    """Name, unit and direction of one figure."""

    key: str
    label: str
    unit: str
    better: str
    digits: int = 2


def paired_comparisons(
    systems: Sequence[System],
    per_clip: Mapping[str, Mapping[str, np.ndarray]],
    metrics: Sequence[Metric],
    seed: int = 0,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> list[dict]:
    """Paired intervals of what the project wants to know: more bits against fewer, and one model against another.

    Pairs: neighbouring numbers of codebooks of one model; the same number of codebooks (and continuous z) in two
    models; continuous z against the most codebooks. `improvement` is positive when `first` is better.
    """
    pairs: list[tuple[System, System, str]] = []
    coded = [s for s in systems if s.kind in ("continuous", "discrete")]
    for model in dict.fromkeys(s.model for s in coded):
        own = sorted((s for s in coded if s.model == model and s.kind == "discrete"), key=lambda s: s.codebooks or 0)
        pairs += [(more, fewer, "more bits") for fewer, more in zip(own, own[1:], strict=False)]
        continuous = [s for s in coded if s.model == model and s.kind == "continuous"]
        if own and continuous:
            pairs.append((continuous[0], own[-1], "continuous"))
    for index, first in enumerate(coded):
        for second in coded[index + 1 :]:
            if first.model != second.model and (first.kind, first.codebooks) == (second.kind, second.codebooks):
                pairs.append((second, first, "model"))
    rows = []
    for first, second, why in pairs:
        for metric in metrics:
            a, b = per_clip[first.key].get(metric.key), per_clip[second.key].get(metric.key)
            if a is None or b is None:
                continue
            sign = 1.0 if metric.better == "higher" else -1.0
            interval = paired_interval(sign * a, sign * b, seed, draws, level)
            rows.append(
                {
                    "first": first.key,
                    "second": second.key,
                    "why": why,
                    "metric": metric.key,
                    "improvement": interval.to_json(),
                }
            )
    return rows


def markdown_table(scores: Mapping) -> str:
    """The figures as a Markdown table: mean, 95 % interval and the number of clips."""
    metrics = scores["metrics"]
    arrows = {"higher": "↑", "lower": "↓"}
    head = ["system", "kbps"] + [
        f"{m['label']}{' (' + m['unit'] + ')' if m['unit'] else ''} {arrows[m['better']]}" for m in metrics
    ]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for system in scores["systems"]:
        cells = [system["label"], "" if system["kbps"] is None else f"{system['kbps']:.3g}"]
        for metric in metrics:
            facts = scores["figures"][system["key"]].get(metric["key"])
            cells.append("" if facts is None else format_interval(Interval.from_json(facts), metric["digits"]))
        lines.append("| " + " | ".join(cells) + " |")
    count, level = scores["options"]["number_of_clips"], scores["options"]["bootstrap"]["level"]
    notes = [f"{count} clips; mean with {level:.0%} bootstrap interval over clips."]
    for key, chance in scores["chance"].items():
        notes.append(
            f"Retrieval in {key}: {chance['candidates']} candidates of like duration "
            f"(ratio at most {chance['widest_duration_ratio']:.2f}), chance recall {chance['recall']:.3f}, "
            f"chance rank {chance['rank']:.1f}."
        )
    worst = max((f["left_out"] for row in scores["figures"].values() for f in row.values()), default=0)
    if worst:
        notes.append(f"Up to {worst} clips left out of a figure (silent sources).")
    return "\n".join(lines) + "\n\n" + " ".join(notes) + "\n"


def format_interval(interval: Interval, digits: int) -> str:
    """'12.3 [11.9, 12.8]', or a dash when no clip is left."""
    if interval.count == 0 or not math.isfinite(interval.mean):
        return "–"
    return f"{interval.mean:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
