"""Reconstruction diversity as a table, a record and a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spresso_jax.evaluate.bootstrap import Interval
from spresso_jax.evaluate.decoded import Clip, write_json
from spresso_jax.evaluate.paper.diversity import Diversity, Measure, neighbours, record
from spresso_jax.evaluate.paper.plots import Curve, curves_png
from spresso_jax.evaluate.paper.sheet import Sheet, figure, interval, latex, markdown

_TITLES = {"within": "between decodes of a clip", "between": "between different clips", "to_source": "to the source"}


def write_diversity(
    clips: Sequence[Clip],
    found: Sequence[Diversity],
    measures: Sequence[Measure],
    out: Path,
    options: Mapping[str, Any],
) -> str:
    """Fills OUT with diversity.json, .md, .tex and .png; returns the Markdown."""
    page = sheets(clips, found, options)
    text = markdown(page)
    write_json(out / "diversity.json", record(clips, found, measures, options))
    (out / "diversity.md").write_text(text, encoding="utf-8")
    (out / "diversity.tex").write_text(latex(page), encoding="utf-8")
    (out / "diversity.png").write_bytes(picture(found))
    return text


def sheets(clips: Sequence[Clip], found: Sequence[Diversity], options: Mapping[str, Any]) -> list[Sheet]:
    """One table for every measure, points by falling frame rate; then what the paper says of the frame rate."""
    pages = []
    draws = len(found[0].point.draws)
    for name in dict.fromkeys(d.measure for d in found):
        own = sorted(
            (d for d in found if d.measure == name), key=lambda d: (-d.point.frame_rate, d.point.kbps or math.inf)
        )
        rows = [
            (
                d.point.label, figure(d.point.frame_rate, 4), figure(d.point.kbps, 3), _cell(d.within), _cell(d.between),
                _cell(d.share), _cell(d.to_source),
            )
            for d in own
        ]  # fmt: skip
        head = (
            "system",
            "Hz",
            "kbps",
            _TITLES["within"],
            _TITLES["between"],
            "first over second",
            _TITLES["to_source"],
        )
        worst = max(d.within.left_out for d in own)
        notes = [f"{len(clips)} clips, {draws} draws each; means with bootstrap intervals over clips."]
        if worst:
            notes.append(f"Up to {worst} clips left out (a silent sound has no embedding).")
        pages.append(Sheet(f"Diversity of reconstructions, {name}", head, tuple(rows), tuple(notes)))
    pairs = neighbours(found)
    if pairs:
        rows = [
            (pair["measure"], f"{figure(pair['lower'], 4)} against {figure(pair['higher'], 4)} Hz",
             _cell(pair["difference"]), _verdict(pair["difference"]))
            for pair in pairs
        ]  # fmt: skip
        head = ("measure", "frame rates", "more diverse by", "")
        notes = (
            "The paper states more diversity at low frame rates, without figures. Continuous embeddings, paired by clip.",
        )
        pages.append(Sheet("The lower frame rate against the higher", head, tuple(rows), notes, texts=2))
    return pages


def picture(found: Sequence[Diversity]) -> bytes:
    """A panel for every measure: the three distances over frame rate, continuous embeddings (or codes, if all are codes)."""
    kinds = {d.point.kind for d in found}
    shown = [d for d in found if d.point.kind == ("continuous" if "continuous" in kinds else "discrete")]
    panels: dict[str, list[Curve]] = {}
    for name in dict.fromkeys(d.measure for d in shown):
        own = sorted((d for d in shown if d.measure == name), key=lambda d: d.point.frame_rate)
        for field, title in _TITLES.items():
            intervals = [(d.point.frame_rate, getattr(d, field)) for d in own]
            points = tuple((rate, i.mean, i.low, i.high) for rate, i in intervals if i.count)
            if points:
                panels.setdefault(name, []).append(Curve(title, title, points, dashed=field != "within"))
    return curves_png(panels, title="Distances of decodes over frame rate", x_label="frame rate (Hz)", log_x=True)


def _cell(i: Interval) -> str:
    return "–" if not i.count else interval(i.mean, i.low, i.high)


def _verdict(difference: Interval) -> str:
    if difference.clearly_positive:
        return "as the paper states"
    return "the other way round" if difference.clearly_negative else "cannot be told apart"
