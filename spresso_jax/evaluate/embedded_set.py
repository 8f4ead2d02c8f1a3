"""Embeddings of a set of clips, and what must hold before two sets are compared.

A clip has one row (a CLAP embedding of the whole) or several (windows). Rows of one clip are dependent, so whatever is
drawn, permuted or left out is a clip with all of its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NOT_FINITE = "embedding not finite"


@dataclass(frozen=True)
class EmbeddedSet:
    """Rows of one set of clips.

    Attributes:
      rows: [R, D] floating point, rows of one clip next to each other.
      starts: [C + 1] index of each clip's first row, and R.
      names: C clip names.
      role: "reference" or "evaluation", for messages.
    """

    rows: np.ndarray
    starts: np.ndarray
    names: tuple[str, ...]
    role: str = "set"

    @classmethod
    def of(
        cls,
        rows: np.ndarray,
        names: Sequence[str] | None = None,
        counts: Sequence[int] | None = None,
        role: str = "set",
    ) -> EmbeddedSet:
        """Checks and groups rows.

        Args:
          rows: [R, D], real numbers; may hold nan (see `usable`).
          names: one a clip; numbers when not given.
          counts: rows of each clip, in order; one each when not given.
          role: "reference" or "evaluation", for messages.

        Raises:
          ValueError: if the shapes, names or counts do not fit together.
        """
        rows = np.asarray(rows)
        if rows.ndim != 2 or rows.shape[1] == 0 or rows.dtype.kind not in "fiu":
            raise ValueError(f"{role}: embeddings must be rows [R, D] of real numbers, got {rows.dtype} {rows.shape}")
        rows = rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float64)
        counts = np.ones(len(rows), np.int64) if counts is None else np.asarray(counts)
        if counts.ndim != 1 or counts.dtype.kind not in "iu" or np.any(counts < 1) or counts.sum() != len(rows):
            raise ValueError(f"{role}: every clip needs at least one row, {len(rows)} in all, got the counts {counts}")
        names = tuple(str(i) for i in range(len(counts))) if names is None else tuple(str(name) for name in names)
        if len(names) != len(counts):
            raise ValueError(f"{role}: {len(names)} names for {len(counts)} clips")
        if len(set(names)) < len(names):
            seen: set[str] = set()
            twice = next(name for name in names if name in seen or seen.add(name))
            raise ValueError(f"{role}: two clips are called {twice!r}: rename one of them")
        return cls(rows, np.concatenate([[0], np.cumsum(counts)]), names, role)

    @property
    def clips(self) -> int:
        """Number of clips."""
        return len(self.names)

    @property
    def width(self) -> int:
        """Dimensions of the embedding."""
        return self.rows.shape[1]

    @property
    def counts(self) -> np.ndarray:
        """[C] rows of each clip."""
        return np.diff(self.starts)

    @property
    def clip_of_row(self) -> np.ndarray:
        """[R] index of each row's clip."""
        return np.repeat(np.arange(self.clips), self.counts)

    def row_indices(self, clips: np.ndarray) -> np.ndarray:
        """Rows of the clips of these indices, in order, repetitions included."""
        clips = np.asarray(clips)
        if len(self.rows) == self.clips:
            return clips
        counts = self.counts[clips]
        ends = np.cumsum(counts)
        return np.arange(int(counts.sum())) + np.repeat(self.starts[clips] - (ends - counts), counts)

    def kept(self, clips: np.ndarray) -> EmbeddedSet:
        """The set of the clips of these indices, without repetitions."""
        names = [self.names[i] for i in clips]
        return EmbeddedSet.of(self.rows[self.row_indices(clips)], names, self.counts[clips], self.role)


def check_paired(reference: EmbeddedSet, evaluation: EmbeddedSet) -> None:
    """Row i of one set must belong to row i of the other.

    Raises:
      ValueError: if the clips, their order, or their numbers of rows differ.
    """
    if reference.clips != evaluation.clips:
        raise ValueError(
            f"paired measures need the same clips on both sides, got {reference.clips} and {evaluation.clips} "
            f"({_one_sided(reference, evaluation)})"
        )
    for i, (first, second) in enumerate(zip(reference.names, evaluation.names, strict=True)):
        if first != second:
            raise ValueError(
                f"paired measures need the same clips in the same order, got {first!r} and {second!r} at {i}"
            )
        if reference.counts[i] != evaluation.counts[i]:
            raise ValueError(
                f"clip {first!r} has {reference.counts[i]} rows in the reference and {evaluation.counts[i]} in the "
                "evaluation: embed both with the same windows"
            )


def usable(
    reference: EmbeddedSet, evaluation: EmbeddedSet, paired: bool, least: int = 2
) -> tuple[EmbeddedSet, EmbeddedSet, dict[str, list[str]]]:
    """Both sets without the clips whose embedding is not finite; with pairs, such a clip leaves both sides.

    Returns:
      (reference, evaluation, reason -> names of the clips left out).

    Raises:
      ValueError: if the widths differ, `check_paired` fails, or fewer than `least` clips are left on a side.
    """
    if reference.width != evaluation.width:
        raise ValueError(
            f"the reference has {reference.width} dimensions and the evaluation {evaluation.width}: "
            "both must come from one embedding"
        )
    if paired:
        check_paired(reference, evaluation)
    sides = (reference, evaluation)
    good = [np.logical_and.reduceat(np.isfinite(s.rows).all(axis=1), s.starts[:-1]) if s.clips else None for s in sides]
    exclusions: dict[str, list[str]] = {}
    for side, fine in zip(sides, good, strict=True):
        if fine is not None and not fine.all():
            exclusions[f"{side.role}: {NOT_FINITE}"] = [side.names[i] for i in np.flatnonzero(~fine)]
    if paired and exclusions:
        good = [good[0] & good[1]] * 2
    kept = []
    for side, fine in zip(sides, good, strict=True):
        left = 0 if fine is None else int(fine.sum())
        if left < least:
            gone = f" ({side.clips - left} left out: {NOT_FINITE})" if left < side.clips else ""
            raise ValueError(f"{side.role}: {left} clips{gone}; this measure needs at least {least}: give more clips")
        kept.append(side if left == side.clips else side.kept(np.flatnonzero(fine)))
    return kept[0], kept[1], exclusions


def finite_rows(rows: np.ndarray, role: str, least: int = 2) -> np.ndarray:
    """[R, D] float64 or float32 rows for a distance.

    Raises:
      ValueError: if there are fewer than `least` rows, or a value is not finite.
    """
    rows = np.asarray(rows)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"{role}: embeddings must be rows [R, D], got shape {rows.shape}")
    if len(rows) < least:
        raise ValueError(f"{role}: {len(rows)} rows; a distance between sets needs at least {least}")
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{role}: row {bad[0]} (and {bad.size - 1} more) is not finite: leave such clips out and count them"
        )
    return rows


def _one_sided(reference: EmbeddedSet, evaluation: EmbeddedSet) -> str:
    """Which clips are on one side alone, the first few by name."""
    parts = []
    for side, other in ((reference, evaluation), (evaluation, reference)):
        alone = [name for name in side.names if name not in set(other.names)]
        if alone:
            more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
            parts.append(f"only in the {side.role}: {', '.join(alone[:3])}{more}")
    return "; ".join(parts) or "the names agree, their number does not"
