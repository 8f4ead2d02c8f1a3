"""Figures side by side: paired comparisons of systems, and the Markdown tables of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spresso_jax.evaluate.bands import DEMO_PAGE_CLIPS, DEMO_PAGE_PROFILE, MEASURES
from spresso_jax.evaluate.bootstrap import DRAWS, LEVEL, Interval, paired_interval
from spresso_jax.evaluate.decoded import WAVEFORM_KINDS, System

DEMO_PAGE_LABEL = f"the authors' AudioAE on {DEMO_PAGE_CLIPS} demo clips"
BAND_NOTES = (
    "Medians over the clips whose source has energy in the band; no gain is corrected. Coded systems draw a new "
    "waveform, so only their energy is shown.",
    "The authors' profile was measured on the public demo audio of the paper: other clips than these.",
)


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
    """The figures as a Markdown table: mean, 95 % interval and the number of clips; then the bands, if measured.

    SI-SDR has its median too, for systems that aim at the waveform: a few clips coded almost exactly pull the mean up.
    """
    metrics, medians = scores["metrics"], scores.get("medians", {})
    arrows = {"higher": "↑", "lower": "↓"}
    head = ["system", "kbps"]
    for metric in metrics:
        unit, arrow = (f" ({metric['unit']})" if metric["unit"] else ""), arrows[metric["better"]]
        head.append(f"{metric['label']}{unit} {arrow}")
        if any(metric["key"] in row for row in medians.values()):
            head.append(f"{metric['label']}, median{unit} {arrow}")
    lines = markdown_head(head)
    for system in scores["systems"]:
        cells = [system["label"], "" if system["kbps"] is None else f"{system['kbps']:.3g}"]
        for metric in metrics:
            shown = [scores["figures"][system["key"]].get(metric["key"])]
            if any(metric["key"] in row for row in medians.values()):
                shown.append(medians.get(system["key"], {}).get(metric["key"]))
            cells += ["" if f is None else format_interval(Interval.from_json(f), metric["digits"]) for f in shown]
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
    return "\n".join(lines) + "\n\n" + " ".join(notes) + "\n" + _markdown_bands(scores)


def markdown_head(head: Sequence[str]) -> list[str]:
    """The two first lines of a Markdown table whose first column is text and whose others are figures."""
    return ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]


def _markdown_bands(scores: Mapping) -> str:
    """One table a measure, or nothing."""
    text = ""
    for table in band_tables(scores):
        lines = markdown_head([f"{table['label']} (dB)", *table["bands"]])
        for row in table["rows"]:
            cells = [c if isinstance(c, str) else format_interval(c, 1) for c in row["cells"]]
            lines.append("| " + " | ".join([row["label"], *cells]) + " |")
        text += "\n" + "\n".join(lines) + "\n"
    return text + "\n" + " ".join(BAND_NOTES) + "\n" if text else ""


def band_tables(scores: Mapping) -> list[dict]:
    """The band report, one table a measure; empty for scores written before bands were measured.

    Returns:
      Dictionaries of key, label, bands (column heads) and rows. A row has label, kind ("clips", a system's kind, or
      "published") and one cell a band: an `Interval`, or text where nothing was drawn (counts, published figures).
    """
    measured = scores.get("bands")
    if not measured or not measured["figures"]:
        return []
    edges = measured["edges_hz"]
    pairs = list(zip(edges, edges[1:], strict=False))
    tables = []
    for key, label in MEASURES.items():
        rows = []
        for system in scores["systems"]:
            figures = measured["figures"].get(system["key"])
            if figures and (key != "snr" or system["kind"] in WAVEFORM_KINDS):
                cells = [Interval.from_json(facts) for facts in figures[key]]
                rows.append({"label": system["label"], "kind": system["kind"], "cells": cells})
        if rows:
            # Which clips count in a band depends on the sources alone, so one row of counts is true of all systems.
            counts = {"label": "clips", "kind": "clips", "cells": [str(cell.count) for cell in rows[0]["cells"]]}
            published = [_published_cell(key, low, high) for low, high in pairs]
            rows = [counts, *rows, {"label": DEMO_PAGE_LABEL, "kind": "published", "cells": published}]
            tables.append({"key": key, "label": label, "bands": [_band_name(*pair) for pair in pairs], "rows": rows})
    return tables


def _published_cell(key: str, low: float, high: float) -> str:
    """The authors' figure in a band, or all of those that share it, each with its own range in kHz."""
    inside = [band for band in DEMO_PAGE_PROFILE if low <= band.low_hz and band.high_hz <= high]
    if len(inside) == 1:
        return f"{getattr(inside[0], key):.1f}"
    parts = [f"{getattr(b, key):.1f} ({b.low_hz / 1000:g}–{b.high_hz / 1000:g})" for b in inside]
    return ", ".join(parts) or "–"


def _band_name(low: float, high: float) -> str:
    return f"{low / 1000:g}–{high / 1000:g} kHz"


def format_interval(interval: Interval, digits: int) -> str:
    """'12.3 [11.9, 12.8]' without negative zeros, or a dash when no clip is left."""
    if interval.count == 0 or not math.isfinite(interval.mean):
        return "–"
    return f"{interval.mean:z.{digits}f} [{interval.low:z.{digits}f}, {interval.high:z.{digits}f}]"
