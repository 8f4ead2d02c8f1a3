"""Ours beside the paper's, cell by cell: what may be subtracted, what may not and why, and whether the order is the same.

Absolute values cannot be the paper's without its clips and checkpoints. What can be reproduced is the order of the
systems and the gaps between them; both are measured over the rows that the two tables share.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from spresso_jax.evaluate.paper.measurements import Measured, Measurements
from spresso_jax.evaluate.paper.published import Published, PublishedColumn, PublishedRow, PublishedTable
from spresso_jax.evaluate.score import Score

# Counted bits of a peer depend on its padding; beyond this it is another operating point.
_NEAREST_RATE = 0.25
_SAME_RATE = 0.02
# What stands in for the paper's embeddings when they are not there, the best first.
_STAND_INS = {
    "vggish": ("vggish-imported", "yamnet", "aisfx", "clap-own"),
    "clap": ("clap-own", "clap-own-kadtk", "aisfx", "yamnet"),
}
_LEAST_ROWS = 3
_NOT_ROWS = ("source",)


@dataclass(frozen=True)
class Absent:
    """Something that was asked for and has no scores.

    Attributes:
      name: of the run, point or peer.
      why: "started, at step 40 of 1000".
      downsample: t of its code, if known.
      peer: name of the peer.
    """

    name: str
    why: str
    downsample: int | None = None
    peer: str | None = None


@dataclass(frozen=True)
class Cell:
    """Ours in one column.

    Attributes:
      score: None when it was not measured.
      difference: ours minus the paper's, None where the two are not the same measure.
    """

    score: Score | None
    difference: float | None


@dataclass(frozen=True)
class ComparedRow:
    """A row of the paper with ours beside it.

    Attributes:
      system: None when there is none; then `missing` says why.
      cells: column key -> cell.
      remarks: on this row of ours.
    """

    published: PublishedRow
    system: Measured | None
    cells: Mapping[str, Cell] = field(default_factory=dict)
    missing: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Agreement:
    """How far ours repeats the paper's order and gaps in one column.

    Attributes:
      column: key.
      ours: printed name of our metric.
      rows: shared rows that count.
      spearman: rank correlation; None below three rows, or where one side is constant.
      pearson: correlation of the values, the gaps; logarithms where both sides are distances above zero.
      same, pairs: pairs of rows that stand in the paper's order, of those that it does not print as equal.
      exchanged: the others, the other way round or equal here, as (better in the paper, worse in the paper).
      left_out: rows that were not counted.
    """

    column: str
    ours: str
    rows: int
    spearman: float | None
    pearson: float | None
    same: int
    pairs: int
    exchanged: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """A table of the paper with ours.

    Attributes:
      table: the paper's.
      columns: those of the paper.
      ours: column key -> printed name of our metric, None where we have none.
      rows: one for every row of the paper, in its order.
      others: systems of ours that the paper has no row for.
      agreements: for the columns with shared rows.
      absent: what was asked for and has no scores.
      remarks: on the whole table.
    """

    table: PublishedTable
    columns: tuple[PublishedColumn, ...]
    ours: Mapping[str, str | None]
    rows: tuple[ComparedRow, ...]
    others: tuple[Measured, ...]
    agreements: tuple[Agreement, ...]
    absent: tuple[Absent, ...]
    remarks: tuple[str, ...]


def compare(
    paper: Published,
    name: str,
    measured: Measurements,
    *,
    absent: Sequence[Absent] = (),
    embeddings: Mapping[str, str] | None = None,
) -> Comparison:
    """Sets what was measured beside a table of the paper.

    Args:
      paper: the published figures.
      name: "table1" or "table2".
      measured: our systems with their scores.
      absent: what was asked for and has no scores.
      embeddings: column key -> name of the embedding to set beside it; by default the paper's own, or else a stand-in.

    Raises:
      ValueError: two systems for one row, an unknown column, or an embedding that nothing was measured in.
    """
    table = paper.tables[name]
    ours = {c.key: label for c, label in _our_columns(paper.columns, measured, embeddings or {})}
    taken: dict[str, Measured] = {}
    for row in table.rows:
        found = [system for system in measured.systems if _fits(row, system, table.rows)]
        if len(found) > 1:
            told = ", ".join(f"{system.key!r} ({system.folder})" for system in found)
            raise ValueError(f"{len(found)} systems stand for the row {row.label!r}: {told}; give one of them")
        if found:
            taken[row.key] = found[0]
    rows = tuple(_row(paper, row, taken.get(row.key), ours, absent) for row in table.rows)
    used = {id(system) for system in taken.values()}
    others = tuple(s for s in measured.systems if id(s) not in used and s.kind not in _NOT_ROWS)
    agreements = tuple(_agreement(c, ours[c.key], rows) for c in paper.columns if ours[c.key] is not None)
    return Comparison(
        table, paper.columns, ours, rows, others, agreements, tuple(absent), tuple(_remarks(paper, measured, ours))
    )


def _our_columns(
    columns: Sequence[PublishedColumn], measured: Measurements, chosen: Mapping[str, str]
) -> list[tuple[PublishedColumn, str | None]]:
    keys = [column.key for column in columns if column.embedding]
    for key in chosen:
        if key not in keys:
            raise ValueError(f"the paper has no column {key!r} with an embedding: choose one of {', '.join(keys)}")
    known: dict[str, dict[str | None, str]] = {}
    for system in measured.systems:
        for label, score in system.scores.items():
            known.setdefault(score.metric, {})[score.embedding.name if score.embedding else None] = label
    pairs = []
    for column in columns:
        names = known.get(column.metric, {})
        if column.key in chosen and chosen[column.key] not in names:
            measured_in = ", ".join(sorted(n for n in names if n)) or "no embedding at all"
            raise ValueError(
                f"{column.metric} was not measured in {chosen[column.key]!r} but in {measured_in}: evaluate with it, or"
                " choose another"
            )
        pairs.append((column, names.get(chosen.get(column.key, _nearest(column, names)))))
    return pairs


def _nearest(column: PublishedColumn, names: Mapping[str | None, str]) -> str | None:
    """The paper's embedding if it is there, or else what stands in for it."""
    if column.embedding is None:
        return None
    present = sorted((name for name in names if name), key=lambda name: (len(name), name))
    ranked = [name for name in present if column.same_embedding(name)]
    ranked += [name for name in _STAND_INS[column.embedding] if name in names]
    return next(iter([*ranked, *present]), None)


def _fits(row: PublishedRow, system: Measured, rows: Sequence[PublishedRow]) -> bool:
    target, kind = row.target, row.target["kind"]
    if kind == "peer":
        return _is_peer(system, target["peer"]) and _nearest_rate(row, system, rows)
    if kind != system.kind:
        return False
    names = ("downsample", "codebooks", "codebook_bits")
    return all(getattr(system, name) == target[name] for name in names if name in target)


def _is_peer(system: Measured, peer: str) -> bool:
    """Whether a decoded folder is a peer's: peers are keyed "peer-dac-n_quantizers-2"."""
    if system.kind not in ("folder", "peer"):
        return False
    name = system.key.removeprefix("peer-").removeprefix("folder-")
    return name == peer or name.startswith(f"{peer}-")


def _nearest_rate(row: PublishedRow, system: Measured, rows: Sequence[PublishedRow]) -> bool:
    wanted = row.target.get("kbps")
    if wanted is None:
        return True
    if system.kbps is None:
        return False
    rates = [r.target["kbps"] for r in rows if r.target.get("peer") == row.target["peer"]]
    nearest = min(rates, key=lambda rate: abs(math.log(system.kbps / rate)))
    return nearest == wanted and abs(system.kbps / wanted - 1.0) <= _NEAREST_RATE


def _row(
    paper: Published,
    row: PublishedRow,
    system: Measured | None,
    ours: Mapping[str, str | None],
    absent: Sequence[Absent],
) -> ComparedRow:
    if system is None:
        return ComparedRow(row, None, missing=_why_missing(row, absent))
    cells = {}
    for column in paper.columns:
        score = system.scores.get(ours[column.key] or "")
        comparable = score is not None and math.isfinite(score.value) and column.same_embedding(_embedding(score))
        cells[column.key] = Cell(score, score.value - row.values[column.key] if comparable else None)
    return ComparedRow(row, system, cells, remarks=tuple(_row_remarks(row, system, cells)))


def _embedding(score: Score) -> str | None:
    return score.embedding.name if score.embedding else None


def _row_remarks(row: PublishedRow, system: Measured, cells: Mapping[str, Cell]) -> list[str]:
    told = []
    if row.target["kind"] == "peer" and not system.key.startswith("peer-"):
        told.append("taken for this peer by its folder's name; no record says what made it")
    if system.kind == "continuous" and system.finetuned:
        told.append("its decoder was finetuned on codes (step 3); the paper's row is step 1")
    if system.kind == "discrete" and system.finetuned is False:
        told.append("before step 3; the paper's row is after it")
    if system.kind == "discrete" and system.finetuned is None:
        told.append("nothing says whether step 3 was done")
    wanted = row.target.get("kbps")
    if wanted and system.kbps and abs(system.kbps / wanted - 1.0) > _SAME_RATE:
        told.append(f"{system.kbps:.4g} kbps were counted on these clips, not {wanted:.4g}")
    for cell in cells.values():
        score = cell.score
        if score is not None and not math.isfinite(score.value):
            told.append(f"{score.label} could not be measured{': ' + '; '.join(score.notes) if score.notes else ''}")
        elif score is not None and score.excluded:
            reasons = ", ".join(f"{len(names)} {why}" for why, names in score.exclusions.items())
            told.append(f"{score.label} leaves clips out: {reasons}")
    return told


def _why_missing(row: PublishedRow, absent: Sequence[Absent]) -> str:
    target = row.target
    causes = [
        f"{a.name}: {a.why}"
        for a in absent
        if (target["kind"] == "peer" and a.peer == target["peer"])
        or ("downsample" in target and a.downsample == target["downsample"])
    ]
    return "; ".join(causes) or "not given"


def _agreement(column: PublishedColumn, ours: str, rows: Sequence[ComparedRow]) -> Agreement:
    kept, left_out = [], []
    for row in rows:
        cell = row.cells.get(column.key)
        usable = cell is not None and cell.score is not None and math.isfinite(cell.score.value)
        if usable and column.key not in row.published.doubtful:
            kept.append((row.published.label, row.published.values[column.key], cell.score.value))
        else:
            left_out.append(row.published.label)
    same, exchanged = 0, []
    sign = 1.0 if column.better == "higher" else -1.0
    for (first, paper_first, our_first), (second, paper_second, our_second) in itertools.combinations(kept, 2):
        in_paper, here = sign * (paper_first - paper_second), sign * (our_first - our_second)
        if in_paper == 0.0:
            continue
        if in_paper * here > 0.0:
            same += 1
        else:
            exchanged.append((first, second) if in_paper > 0.0 else (second, first))
    paper_values, our_values = (np.array([entry[i] for entry in kept], np.float64) for i in (1, 2))
    rank = _correlation(paper_values, our_values, ranks=True)
    if column.better == "lower" and (paper_values > 0).all() and (our_values > 0).all():
        paper_values, our_values = np.log(paper_values), np.log(our_values)
    return Agreement(
        column.key, ours, len(kept), rank, _correlation(paper_values, our_values), same, same + len(exchanged),
        tuple(exchanged), tuple(left_out),
    )  # fmt: skip


def _correlation(first: np.ndarray, second: np.ndarray, ranks: bool = False) -> float | None:
    from scipy.stats import rankdata

    if first.size < _LEAST_ROWS or np.ptp(first) == 0.0 or np.ptp(second) == 0.0:
        return None
    if ranks:
        first, second = rankdata(first), rankdata(second)
    return float(np.corrcoef(first, second)[0, 1])


def _remarks(paper: Published, measured: Measurements, ours: Mapping[str, str | None]) -> list[str]:
    protocol = paper.protocol
    wanted = len(protocol["sets"]) * protocol["clips_per_set"]
    of = f"{measured.chosen} of {', '.join(measured.sets)}" if measured.sets else measured.chosen
    told = [
        f"Ours: {measured.clips} clips ({of}; fingerprint {measured.fingerprint}). The paper: {wanted} clips,"
        f" {protocol['clips_per_set']} each of {', '.join(protocol['sets'])}. Other sounds give other figures, whatever the"
        " system."
    ]
    if measured.clips != wanted:
        told.append(f"Another number of clips, {measured.clips} for {wanted}: the bias of FAD falls with it.")
    for column in paper.columns:
        label = ours[column.key]
        if label is None:
            told.append(f"{column.title}: nothing of ours was measured for it.")
            continue
        embedding = label.partition("[")[2].rstrip("]") or None
        if not column.same_embedding(embedding):
            told.append(
                f"{column.title}: ours is {label}. Its scale is another, so no difference is taken; its order can be compared."
            )
        elif column.embedding == "clap":
            told.append(
                f"{column.title}: ours is {label}; the paper does not say which checkpoint and windows it used."
            )
    for options in measured.decoding:
        steps, sampler = options.get("steps"), options.get("sampler")
        if (steps, sampler) != (None, None) and (steps, sampler) != (protocol["steps"], protocol["sampler"]):
            told.append(
                f"Decoded with {sampler!s:.40} in {steps!s:.40} steps, the paper with {protocol['sampler']} in"
                f" {protocol['steps']}."
            )
    return [*dict.fromkeys(told), *measured.remarks]
