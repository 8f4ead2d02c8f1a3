"""The records of an evaluation as tables: one for each embedding, and one for the measures without any.

A table is made once and printed as Markdown here and as LaTeX in `latex_tables`. Every column's head carries the
embedding, every set its number of clips, and whatever was left out or could not be measured is said below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from spresso_jax.evaluate.score import MEASURES, Score
from spresso_jax.evaluate.tables import markdown_head

P_VALUE = "p"
DETECTED_BY = "KAD-paired"
_ORDER = {name: index for index, name in enumerate(MEASURES)}
_MOST_DIGITS = 4


@dataclass(frozen=True)
class Cell:
    """A number with its interval; nan ends where it has none, a nan value where it could not be measured."""

    value: float
    low: float = math.nan
    high: float = math.nan
    digits: int = 2

    @property
    def text(self) -> str:
        """The number alone, without a negative zero."""
        return f"{self.value:z.{self.digits}f}" if math.isfinite(self.value) else "–"

    @property
    def interval(self) -> str:
        """'[1.2, 1.4]', or nothing."""
        if not (math.isfinite(self.value) and math.isfinite(self.low) and math.isfinite(self.high)):
            return ""
        return f"[{self.low:z.{self.digits}f}, {self.high:z.{self.digits}f}]"


@dataclass(frozen=True)
class Column:
    """Head of one column of numbers.

    Attributes:
      label: such as "FAD[aisfx]".
      unit: empty for plain numbers.
      better: "higher", "lower" or "none".
    """

    label: str
    unit: str
    better: str


@dataclass(frozen=True)
class RecordTable:
    """One table.

    Attributes:
      title: what it holds.
      embedding: its name, empty for measures without one.
      columns: of numbers.
      rows: (system's label, set's name, one cell a column or None).
      notes: sentences for below.
    """

    title: str
    embedding: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, str, tuple[Cell | None, ...]], ...]
    notes: tuple[str, ...]


def record_tables(scores: Mapping) -> list[RecordTable]:
    """Tables of the records in scores.json; none for scores that were written before there were records.

    Raises:
      ValueError: if a record is damaged.
    """
    found: dict[str, dict[tuple[str, str], dict[str, Score]]] = {}
    for record in scores.get("records") or []:
        score = Score.from_json({name: value for name, value in record.items() if name not in ("system", "set")})
        group = "" if score.embedding is None else score.embedding.name
        found.setdefault(group, {}).setdefault((record["set"], record["system"]), {})[score.metric] = score
    labels = {system["key"]: system["label"] for system in scores["systems"]}
    return [_table(group, rows, labels, scores) for group, rows in found.items()]


def markdown_records(scores: Mapping) -> str:
    """All tables as Markdown; the one without an embedding only where there are several sets to tell apart."""
    text = ""
    several = len(scores.get("sets") or []) > 1
    for table in record_tables(scores):
        if not table.embedding and not several:
            continue
        head = ["system", "set"] if several else ["system"]
        lines = markdown_head(head + [_head(column) for column in table.columns])
        if several:
            lines[1] = "|---|---|" + "---:|" * len(table.columns)
        for system, part, cells in table.rows:
            shown = ["" if cell is None else f"{cell.text} {cell.interval}".strip() for cell in cells]
            lines.append("| " + " | ".join([system, *([part] if several else []), *shown]) + " |")
        text += f"\n**{table.title}**\n\n" + "\n".join(lines) + "\n\n" + "\n".join(f"- {n}" for n in table.notes) + "\n"
    return text + ("\n" + "\n".join(f"- {note}" for note in set_notes(scores)) + "\n" if text else "")


def set_notes(scores: Mapping) -> list[str]:
    """A sentence a set: how many clips, of how many, and what was left out of it."""
    notes = []
    for part in scores.get("sets") or []:
        left = ", ".join(f"{facts['count']} {why}" for why, facts in part["exclusions"].items()) or "nothing"
        fewer = f" ({part['asked']} asked)" if part["asked"] > part["clips"] else ""
        notes.append(f"Set {part['name']}: {part['clips']} clips{fewer} of {part['listed']} listed; left out: {left}.")
    for system in scores["systems"]:
        if system.get("short") and system["kind"] != "control":
            notes.append(
                f"{system['label']}: {system['short']} outputs lack more than 0.1 s at their end and were filled up with "
                "zeros: are they of these clips, and at the rate that their headers say?"
            )
        if system.get("delay"):
            notes.append(f"{system['label']}: {system['delay']} samples of delay were taken off before SI-SDR.")
    return notes


def _table(
    group: str, found: Mapping[tuple[str, str], Mapping[str, Score]], labels: Mapping[str, str], scores: Mapping
) -> RecordTable:
    metrics = sorted({metric for row in found.values() for metric in row}, key=_ORDER.__getitem__)
    columns: list[Column] = []
    cells: dict[tuple[str, str], list[Cell | None]] = {place: [] for place in found}
    for metric in metrics:
        example = next(row[metric] for row in found.values() if metric in row)
        columns.append(Column(example.label, example.unit, example.better))
        digits = _digits([row[metric].value for row in found.values() if metric in row])
        for place, row in found.items():
            score = row.get(metric)
            cells[place].append(None if score is None else Cell(score.value, score.low, score.high, digits))
        if metric == DETECTED_BY:
            columns.append(Column(f"{P_VALUE} of {example.label}", "", "none"))
            for place, row in found.items():
                p = row[metric].details.get("p_value") if metric in row else None
                cells[place].append(None if p is None else Cell(p, digits=3))
    order = [part["name"] for part in scores.get("sets") or []]
    systems = list(labels)
    places = sorted(
        found, key=lambda place: (order.index(place[0]) if place[0] in order else len(order), systems.index(place[1]))
    )
    source = next(iter(next(iter(found.values())).values())).embedding
    title = "Clip against its source" if source is None else f"Sets of clips in {source.name}"
    return RecordTable(
        title,
        group,
        tuple(columns),
        tuple((labels[system], part, tuple(cells[part, system])) for part, system in places),
        tuple(_notes(found, labels, places)),
    )


def _notes(
    found: Mapping[tuple[str, str], Mapping[str, Score]], labels: Mapping[str, str], places: Sequence[tuple[str, str]]
) -> list[str]:
    """What the records say of themselves, each sentence once, and how many clips they left out."""
    first = next(iter(next(iter(found.values())).values()))
    notes = []
    if first.embedding is not None:
        audio = first.options.get("audio") or {}
        notes.append(
            f"Embedding {first.embedding.name} ({first.embedding.version}), {audio.get('part', 'of unknown audio')}; "
            "brackets: bootstrap over clips."
        )
        drawn = next(
            (s.options["permutation"]["permutations"] for row in found.values() for s in row.values()
             if s.metric == DETECTED_BY and "permutation" in s.options), 0
        )  # fmt: skip
        if drawn:
            notes.append(f"p: {drawn} swaps within pairs; small where the system's clips differ from the sources'.")
    told: dict[str, list[str]] = {}
    for place in places:
        for score in found[place].values():
            where = f"{labels[place[1]]} ({place[0]})"
            for note in score.notes:
                told.setdefault(f"{score.label}: {note}", []).append(where)
            for why, names in score.exclusions.items():
                told.setdefault(f"{score.label}: {len(names)} clips left out, {why}", []).append(where)
    for note, where in told.items():
        others = "all" if len(where) == len(places) else ", ".join(where[:3]) + (" ..." if len(where) > 3 else "")
        notes.append(f"{note} [{others}].")
    return notes


def _head(column: Column) -> str:
    arrow = {"higher": " ↑", "lower": " ↓"}.get(column.better, "")
    return f"{column.label}{f' ({column.unit})' if column.unit else ''}{arrow}"


def _digits(values: Sequence[float]) -> int:
    """Digits after the point that show three figures of a typical value, the median of the magnitudes."""
    sizes = sorted(abs(v) for v in values if math.isfinite(v) and v != 0.0)
    if not sizes:
        return 2
    return min(max(2 - math.floor(math.log10(sizes[len(sizes) // 2])), 0), _MOST_DIGITS)
