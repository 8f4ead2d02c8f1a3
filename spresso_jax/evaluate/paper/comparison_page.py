"""A comparison as tables (Markdown, LaTeX), as a record (JSON) and as a picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from spresso_jax.evaluate.decoded import write_json
from spresso_jax.evaluate.paper.comparison import Agreement, ComparedRow, Comparison
from spresso_jax.evaluate.paper.measurements import Measured
from spresso_jax.evaluate.paper.plots import comparison_png
from spresso_jax.evaluate.paper.published import Published, PublishedColumn
from spresso_jax.evaluate.paper.sheet import Sheet, figure, interval, latex, markdown, minus

_ARROWS = {"higher": "↑", "lower": "↓", "none": ""}
_CLIP_SECONDS = 5


def write_comparison(comparison: Comparison, paper: Published, out: Path) -> str:
    """Fills OUT with NAME.md, NAME.tex, NAME.json and NAME.png; returns the Markdown."""
    out.mkdir(parents=True, exist_ok=True)
    name = comparison.table.name
    page = sheets(comparison, paper)
    text = markdown(page)
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    (out / f"{name}.tex").write_text(latex(page), encoding="utf-8")
    write_json(out / f"{name}.json", record(comparison, paper))
    (out / f"{name}.png").write_bytes(comparison_png(comparison))
    return text


def sheets(comparison: Comparison, paper: Published) -> list[Sheet]:
    """The table itself, the agreement of order, and what the paper has no row for."""
    return [_table(comparison, paper), _agreements(comparison), *_others(comparison)]


def _table(comparison: Comparison, paper: Published) -> Sheet:
    rate = "R" if comparison.table.name == "table1" else "kbps"
    columns = [f"{c.title} {_ARROWS[c.better]}" for c in comparison.columns]
    head = ("system", "", "Hz", rate, *columns)
    rows: list[tuple[str, ...]] = []
    notes: dict[str, str] = {}
    for row in comparison.rows:
        published = row.published
        told = "".join(f" ({mark})" for mark in published.notes)
        printed = (figure(published.printed["frame_rate"]), figure(published.printed[rate], 4))
        values = tuple(minus(published.shown[c.key]) for c in comparison.columns)
        rows.append((published.label + told, "paper", *printed, *values))
        rows += _our_lines(comparison, row, rate, notes)
    text = [f"{mark}: {note}" for note, mark in notes.items()]
    text += comparison.remarks
    text += [f"Asked for and missing: {a.name}: {a.why}." for a in comparison.absent]
    text += [f"{mark}: {paper.notes[mark]}" for mark in _marks(comparison)]
    text.append(f"Figures of the paper: {paper.source}.")
    return Sheet(f"{comparison.table.title}, ours beside the paper's", head, tuple(rows), tuple(text), texts=2)


def _our_lines(comparison: Comparison, row: ComparedRow, rate: str, notes: dict[str, str]) -> list[tuple[str, ...]]:
    empty = ("",) * len(comparison.columns)
    if row.system is None:
        return [("", f"ours: missing ({row.missing})", "", "", *empty)]
    system = row.system
    marks = "".join(f" ({notes.setdefault(text, _letter(len(notes)))})" for text in row.remarks)
    cells, differences = [], []
    for column in comparison.columns:
        cell = row.cells[column.key]
        score = cell.score
        stands_in = score is not None and cell.difference is None and math.isfinite(score.value)
        mark = f" ({notes.setdefault(_stand_in(column, score.label), _letter(len(notes)))})" if stands_in else ""
        cells.append("–" if score is None else interval(score.value, score.low, score.high) + mark)
        differences.append("" if cell.difference is None else _signed(cell.difference))
    lines = [("", f"ours: {system.label}{marks}", _our_rate(system), _our_size(system, row, rate), *cells)]
    if any(differences):
        lines.append(("", "ours − paper", "", "", *differences))
    return lines


def _stand_in(column: PublishedColumn, label: str) -> str:
    return f"{label} in the column of {column.title}, another embedding: not to be subtracted"


def _our_rate(system: Measured) -> str:
    return figure(system.frame_rate, 4) if system.frame_rate else "100" if system.kind == "audio_ae" else "–"


def _our_size(system: Measured, row: ComparedRow, rate: str) -> str:
    """R by the exact sizes; the nominal bitrate, and the exact one where it differs."""
    if rate == "R":
        return figure(row.published.exact["R"], 4)
    nominal, exact = figure(system.kbps, 4), figure(system.exact_kbps, 4)
    return nominal if nominal == exact else f"{nominal} (exact {exact})"


def _agreements(comparison: Comparison) -> Sheet:
    rows, notes = [], []
    titles = {column.key: column.title for column in comparison.columns}
    for a in comparison.agreements:
        rows.append(
            (titles[a.column], a.ours, str(a.rows), f"{a.same} of {a.pairs}", figure(a.spearman), figure(a.pearson))
        )
        if a.exchanged:
            told = "; ".join(f"{first} before {second}" for first, second in a.exchanged[:6])
            more = f"; and {len(a.exchanged) - 6} more" if len(a.exchanged) > 6 else ""
            notes.append(f"{titles[a.column]}: in the paper, not here: {told}{more}.")
    notes.append(
        "Pairs: two rows in the paper's order, of those that it does not print as equal. Gaps: correlation of the values,"
        " of their logarithms for distances. Fewer than three shared rows have neither; rows that are missing, and cells that"
        " are doubtful in the paper, do not count."
    )
    head = ("paper", "ours", "shared rows", "pairs in order", "rank correlation", "gaps")
    return Sheet("Agreement of order and gaps", head, tuple(rows), tuple(notes), texts=2)


def _others(comparison: Comparison) -> list[Sheet]:
    if not comparison.others:
        return []
    labels = list(dict.fromkeys(label for label in comparison.ours.values() if label))
    rows = []
    for system in comparison.others:
        scores = [system.scores.get(label) for label in labels]
        cells = ["–" if s is None else interval(s.value, s.low, s.high) for s in scores]
        rows.append((system.label, _our_rate(system), figure(system.exact_kbps, 4), *cells))
    head = ("system", "Hz", "kbps", *labels)
    return [Sheet("Also measured; the paper has no such row", head, tuple(rows))]


def record(comparison: Comparison, paper: Published) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "table": comparison.table.name,
        "source": paper.source,
        "columns": [
            {"key": c.key, "paper": c.title, "ours": comparison.ours[c.key], "better": c.better}
            for c in comparison.columns
        ],
        "rows": [_row_record(row) for row in comparison.rows],
        "also_measured": [_system_record(system) for system in comparison.others],
        "agreement": [_agreement_record(a) for a in comparison.agreements],
        "absent": [vars(a) for a in comparison.absent],
        "remarks": list(comparison.remarks),
        "notes": {mark: paper.notes[mark] for mark in _marks(comparison)},
    }


def _row_record(row: ComparedRow) -> dict[str, Any]:
    published = row.published
    return {
        "row": published.key,
        "label": published.label,
        "printed": dict(published.printed),
        "exact": dict(published.exact),
        "paper": dict(published.values),
        "doubtful": list(published.doubtful),
        "notes": list(published.notes),
        "ours": None if row.system is None else _system_record(row.system),
        "difference": {key: cell.difference for key, cell in row.cells.items()},
        "missing": row.missing,
        "remarks": list(row.remarks),
    }


def _system_record(system: Measured) -> dict[str, Any]:
    return {
        "key": system.key, "label": system.label, "kind": system.kind, "model": system.model,
        "evaluation": str(system.folder), "frame_rate": system.frame_rate, "codebooks": system.codebooks,
        "codebook_bits": system.codebook_bits, "kbps": {
            "nominal": system.kbps, "exact": system.exact_kbps, "of_a_5_s_clip": kbps_of_clip(system),
        },
        "step_3": system.finetuned, "scores": [score.to_json() for score in system.scores.values()],
    }  # fmt: skip


def kbps_of_clip(system: Measured) -> float | None:
    """Bits that the codec sends for a clip of 5 s, whose last compressed frame is filled up; None for what is no code."""
    if system.kind != "discrete" or not (system.codebooks and system.codebook_bits and system.downsample):
        return None
    frames = -(-100 * _CLIP_SECONDS // system.downsample)
    return frames * system.codebooks * system.codebook_bits / _CLIP_SECONDS / 1000.0


def _agreement_record(a: Agreement) -> dict[str, Any]:
    return {
        "column": a.column, "ours": a.ours, "rows": a.rows, "rank_correlation": a.spearman, "gap_correlation": a.pearson,
        "pairs_in_order": a.same, "pairs": a.pairs, "not_in_order": [list(pair) for pair in a.exchanged],
        "left_out": list(a.left_out),
    }  # fmt: skip


def _marks(comparison: Comparison) -> list[str]:
    """Numbers of the paper's inconsistencies that bear on the table."""
    of_rows = {mark for row in comparison.rows for mark in row.published.notes}
    return sorted({*comparison.table.notes, *of_rows}, key=lambda mark: int(mark[1:]))


def _letter(index: int) -> str:
    """a, b, ..., z, aa, ...: marks of footnotes."""
    return (chr(97 + index % 26)) * (index // 26 + 1)


def _signed(value: float) -> str:
    return minus(f"{value:+.3g}")
