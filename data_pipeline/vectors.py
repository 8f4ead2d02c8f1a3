"""Rows of vectors on disk, memory-mapped: a user's own `.npy` files, or folders of shards that `write_split` made.

A folder holds

  train-00000-of-00002.npy ...   float32 [n, D], standardised
  meta.json                      kind "vectors", dimension, mean and std of the rows before, counts by split, fingerprints

Rows are read in the units that they had before they were standardised. Nothing of the size of the data is ever in memory,
and nothing is unpickled.
"""

from __future__ import annotations

import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np

from data_pipeline import permutation
from data_pipeline.npy_files import map_npy
from data_pipeline.records import META, ShardError, read_meta, write_meta

KIND = "vectors"
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.npy")
_BLOCK_BYTES = 2**24
# The order in which rows are held out or validated; not the seed of a run, so that runs are compared on the same rows.
_FIXED = 20_240_501


def read_npy(path: str | os.PathLike) -> np.ndarray:
    """The matrix of a `.npy` file, memory-mapped; only its header is read.

    Returns:
      [N, D] of a floating type, N and D at least 1.

    Raises:
      ShardError: it is missing, damaged, cut short, empty, or holds something else; the message names it.
    """
    found = map_npy(path)
    shape, dtype = found.shape, found.dtype
    if dtype.kind != "f":
        raise ShardError(
            f"{path}: holds {dtype}, but vectors are floating-point numbers: numpy.save(path, array.astype(numpy.float32))"
        )
    if len(shape) != 2:
        raise ShardError(f"{path}: has the shape {shape}, but vectors are rows [N, D]: reshape it to two dimensions")
    if not found.size:
        raise ShardError(f"{path}: is empty, with the shape {shape}: vectors are at least one row [N, D]")
    return found


class Matrix(NamedTuple):
    """One file of rows.

    Attributes:
      name: of the file, for messages.
      rows: [n, D], memory-mapped as a rule.
      mean, std: [D] float32 of rows that were standardised, to give them back their units; or None.
    """

    name: str
    rows: np.ndarray
    mean: np.ndarray | None = None
    std: np.ndarray | None = None

    def take(self, indices: np.ndarray | slice) -> np.ndarray:
        """Chosen rows in their own units, float32."""
        with np.errstate(over="ignore"):  # `check_rows` finds what float32 cannot hold
            rows = np.array(self.rows[indices], np.float32)
        if self.mean is not None:
            rows *= self.std
            rows += self.mean
        return rows


class Vectors:
    """Rows of one or more matrices of equal width, one after the other, as float32; safe to share between threads.

    `len(vectors)`, and `vectors[indices] -> [n, D]` for an int array of indices or a slice.

    Attributes:
      matrices: in order.
      shape: (N, D).
    """

    def __init__(self, matrices: Sequence[Matrix]):
        """Puts matrices together, at least one.

        Raises:
          ShardError: the widths differ.
        """
        self.matrices = tuple(matrices)
        first = self.matrices[0]
        for other in self.matrices[1:]:
            if other.rows.shape[1] != first.rows.shape[1]:
                raise ShardError(
                    f"{other.name}: vectors of {other.rows.shape[1]} dimensions beside those of {first.rows.shape[1]} in "
                    f"{first.name}: vectors of one training are equally wide"
                )
        self._ends = list(itertools.accumulate(len(matrix.rows) for matrix in self.matrices))
        self.shape = (self._ends[-1], first.rows.shape[1])

    @property
    def name(self) -> str:
        """For messages."""
        more = len(self.matrices) - 1
        return f"{self.matrices[0].name} and {more} more" if more else self.matrices[0].name

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
        indices = _as_indices(indices, len(self))
        if indices.size and not (0 <= indices.min() and indices.max() < len(self)):
            raise IndexError(f"rows {indices.min()} to {indices.max()} of {len(self)}")
        taken = np.empty((len(indices), self.shape[1]), np.float32)
        owner = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(owner):
            chosen = owner == number
            start = self._ends[number - 1] if number else 0
            taken[chosen] = self.matrices[number].take(indices[chosen] - start)
        return taken

    def blocks(self) -> Iterator[tuple[str, int, np.ndarray]]:
        """(name of the file, number of the first row in it, rows) over all rows in order, a few MB at a time."""
        for matrix in self.matrices:
            for start, stop in _ranges(len(matrix.rows), self.shape[1]):
                yield matrix.name, start, matrix.take(slice(start, stop))


class ScatteredRows:
    """Some of a matrix's rows: those at `first .. first + count` of one fixed order that tears neighbours apart."""

    def __init__(self, vectors: Vectors | ScatteredRows, first: int = 0, count: int | None = None):
        self._vectors, self._first = vectors, first
        self.shape = (len(vectors) - first if count is None else count, vectors.shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
        numbers = self._first + _as_indices(indices, len(self))
        return self._vectors[permutation.permute(numbers, len(self._vectors), (_FIXED, 0))]


def hold_out(vectors: Vectors, share: float) -> tuple[ScatteredRows, ScatteredRows]:
    """(rows to train on, rows held out), drawn over all of `vectors`; the same ones whenever there are as many rows.

    Args:
      vectors: at least two rows.
      share: to hold out, in (0, 1); at least one row goes to either part.

    Raises:
      ValueError: if the share is out of range or there is one row only.
    """
    if not 0 < share < 1:
        raise ValueError(f"the held-out share must be between 0 and 1, got {share}")
    if len(vectors) < 2:
        raise ValueError(f"{vectors.name}: one row alone cannot be both trained on and held out")
    held = min(max(round(share * len(vectors)), 1), len(vectors) - 1)
    return ScatteredRows(vectors, held), ScatteredRows(vectors, 0, held)


def is_vectors(path: str | os.PathLike) -> bool:
    """Whether `path` is a file (of vectors, whatever is wrong with it) or a folder of their shards, and not of other data."""
    path = pathlib.Path(path)
    return path.is_file() or (path / META).is_file() and read_meta(path).get("kind") == KIND


def splits_of(folder: str | os.PathLike) -> dict[str, list[pathlib.Path]]:
    """The shards of a folder of vectors by split, in order.

    Raises:
      ShardError: a shard is missing.
    """
    folder = pathlib.Path(folder)
    found: dict[str, list[pathlib.Path]] = {}
    for split, facts in read_meta(folder).get("splits", {}).items():
        total = int(facts["shards"])
        found[split] = [folder / _shard_name(split, number, total) for number in range(total)]
        for path in found[split]:
            if not path.is_file():
                raise ShardError(f"{path}: missing, of {total} shards: copy it there or make the vectors again")
    return found


def open_vectors(path: str | os.PathLike, split: str = "train") -> Vectors:
    """Opens a `.npy` file, or one split of a folder of vectors.

    Raises:
      ShardError: it is missing, damaged or empty, or the folder's facts and shards contradict each other.
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        return Vectors([Matrix(str(path), read_npy(path))])
    shards, meta = splits_of(path), read_meta(path)
    if split not in shards:
        raise ShardError(f"{path}: no split {split!r}, there is: {', '.join(sorted(shards)) or 'none'}")
    try:
        width, rows = int(meta["dimension"]), int(meta["splits"][split]["rows"])
        mean, std = (np.asarray(meta[name], np.float32) for name in ("mean", "std"))
        if mean.shape != (width,) or std.shape != (width,) or not (np.isfinite(mean).all() and (std > 0).all()):
            raise ValueError(f"mean and std must be {width} finite numbers, std positive")
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path / META}: damaged ({error}): make the vectors again") from error
    vectors = Vectors([Matrix(str(shard), read_npy(shard), mean, std) for shard in shards[split]])
    if vectors.shape != (rows, width):
        raise ShardError(
            f"{path}: split {split!r} holds {vectors.shape[0]} rows of {vectors.shape[1]}, but {META} says {rows} of"
            f" {width}: copy the folder again"
        )
    return vectors


def check_rows(
    vectors: Vectors, progress: Callable[[int, int], None] | None = None, constant_allowed: bool = False
) -> None:
    """Reads every row once, in blocks, and refuses what no quantizer can be trained on.

    Args:
      vectors: to check.
      progress: (rows read, rows) after every block.
      constant_allowed: let dimensions pass that have one value in all rows, as a handful of held-out rows may.

    Raises:
      ShardError: naming the file, row and column of the first number that is not finite, or the constant dimensions.
    """
    count, width = vectors.shape
    low, high = np.full(width, np.inf, np.float32), np.full(width, -np.inf, np.float32)
    read = 0
    for name, start, rows in vectors.blocks():
        least, most = rows.min(axis=0), rows.max(axis=0)
        # One NaN makes both NaN, an infinity one of them: no mask of the block is needed.
        if not (np.isfinite(least).all() and np.isfinite(most).all()):
            row, column = (int(index) for index in np.argwhere(~np.isfinite(rows))[0])
            raise ShardError(
                f"{name}: row {start + row}, column {column} is {rows[row, column]} as float32 (both counted from 0): leave out"
                " such rows, or scale the vectors"
            )
        np.minimum(low, least, out=low)
        np.maximum(high, most, out=high)
        read += len(rows)
        if progress is not None:
            progress(read, count)
    constant = np.flatnonzero(low == high)
    if len(constant) and not constant_allowed:
        listed = ", ".join(map(str, constant[:8])) + (", ..." if len(constant) > 8 else "")
        raise ShardError(
            f"{vectors.name}: {len(constant)} of {width} dimensions hold one value in all {count} rows (counted from 0: "
            f"{listed}): leave them out, they carry nothing"
        )


def write_split(
    folder: str | os.PathLike,
    split: str,
    blocks: Iterable[np.ndarray],
    fingerprints: Mapping[str, str],
    facts: Mapping | None = None,
    shard_bytes: int = 2**28,
) -> int:
    """Writes the rows of one split, standardised by the mean and std of the split "train", which is written first.

    The rows go to a scratch file as they come, and from there, once their statistics are known, into the shards; the
    memory does not grow with them. The shards appear, and older ones go, only when all are complete. Writing "train"
    begins the folder anew: other splits were standardised by other statistics.

    Args:
      folder: made if needed.
      split: "train", or any other once "train" is there.
      blocks: [n, D] finite rows, in order.
      fingerprints: what the rows were made with; `records.check_fingerprint` compares them.
      facts: further JSON-able entries of the split in `meta.json`.
      shard_bytes: size of a shard.

    Returns:
      the number of rows.

    Raises:
      ShardError: "train" is not there yet, or was made with other fingerprints.
      ValueError: no rows, or rows that are not finite.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / META).is_file() and not is_vectors(folder):
        raise ShardError(
            f"{folder}: holds shards of {read_meta(folder).get('kind')}: choose another folder for vectors"
        )
    meta = {"kind": KIND, "splits": {}, "fingerprints": dict(fingerprints)}
    if split != "train":
        if not is_complete(folder, "train", fingerprints):
            raise ShardError(
                f"{folder}: no split 'train' of the same making, whose statistics {split!r} needs: write it first"
            )
        meta = read_meta(folder)
    scratch = folder / f".{split}.rows.partial"
    parts: list[pathlib.Path] = []
    try:
        moments = _write_rows(scratch, blocks)
        if not moments.count:
            raise ValueError(f"no vectors for split {split!r}: nothing was written to {folder}")
        if split == "train":
            meta |= {"dimension": len(moments.mean), "mean": moments.mean.tolist(), "std": moments.deviation().tolist()}
        mean, std = (np.asarray(meta[name], np.float32) for name in ("mean", "std"))
        if mean.shape != moments.mean.shape:
            raise ShardError(
                f"{folder}: vectors of {len(moments.mean)} dimensions beside the {len(mean)} of split 'train'"
            )
        per_shard = max(1, shard_bytes // (4 * len(mean)))
        with open(scratch, "rb") as file:
            for start in range(0, moments.count, per_shard):
                parts.append(folder / f".{split}-{len(parts):05d}.partial")
                _write_shard(parts[-1], file, min(per_shard, moments.count - start), mean, std)
        if split == "train":
            (folder / META).unlink(missing_ok=True)
        for path in list(folder.iterdir()):
            match = _SHARD.fullmatch(path.name)
            if match and (split == "train" or match["split"] == split):
                path.unlink()
        for number, part in enumerate(parts):
            os.replace(part, folder / _shard_name(split, number, len(parts)))
    finally:
        for part in (scratch, *parts):
            part.unlink(missing_ok=True)
    meta["splits"][split] = {**(facts or {}), "rows": moments.count, "shards": len(parts)}
    write_meta(folder, meta)
    return moments.count


def is_complete(folder: str | os.PathLike, split: str, fingerprints: Mapping[str, str]) -> bool:
    """Whether `folder` holds all shards of `split`, made with exactly `fingerprints`."""
    try:
        return read_meta(folder).get("fingerprints") == dict(fingerprints) and split in splits_of(folder)
    except ShardError:
        return False


class _Moments:
    """Running mean and variance of rows, in float64; blocks are merged by the pairwise update of Chan, Golub and LeVeque."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, np.zeros(0), np.zeros(0)

    def add(self, rows: np.ndarray) -> None:
        rows = np.asarray(rows, np.float64)
        mean, squares = rows.mean(axis=0), rows.var(axis=0) * len(rows)
        if not self.count:
            self.count, self.mean, self._squares = len(rows), mean, squares
            return
        total, apart = self.count + len(rows), mean - self.mean
        self._squares += squares + apart**2 * (self.count * len(rows) / total)
        self.mean = self.mean + apart * (len(rows) / total)
        self.count = total

    def deviation(self) -> np.ndarray:
        """Standard deviation [D]; 1 for a constant dimension, which stays constant."""
        deviation = np.sqrt(self._squares / max(self.count, 1))
        return np.where(deviation > 1e-9 * np.abs(self.mean), deviation, 1.0)


def _write_rows(path: pathlib.Path, blocks: Iterable[np.ndarray]) -> _Moments:
    """Appends blocks as raw float32 and returns their statistics."""
    moments = _Moments()
    with open(path, "wb") as file:
        for block in blocks:
            block = np.ascontiguousarray(block, "<f4")
            if not len(block):
                continue
            if block.ndim != 2 or moments.count and block.shape[1] != len(moments.mean):
                raise ValueError(f"vectors must be rows [n, D] of one width, got the shape {block.shape}")
            if not np.isfinite(block).all():
                raise ValueError(f"vector {moments.count} or one of the {len(block)} from there is not finite")
            moments.add(block)
            file.write(block.tobytes())
    return moments


def _write_shard(path: pathlib.Path, source: BinaryIO, count: int, mean: np.ndarray, std: np.ndarray) -> None:
    """Standardises the next `count` raw rows of `source` into one `.npy` file."""
    width = len(mean)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (count, width)})
        for start, stop in _ranges(count, width):
            rows = np.fromfile(source, "<f4", (stop - start) * width).reshape(-1, width)
            file.write(((rows - mean) / std).astype("<f4").tobytes())


def _ranges(count: int, width: int) -> Iterator[tuple[int, int]]:
    size = max(1, _BLOCK_BYTES // (4 * width))
    for start in range(0, count, size):
        yield start, min(start + size, count)


def _shard_name(split: str, number: int, total: int) -> str:
    return f"{split}-{number:05d}-of-{total:05d}.npy"


def _as_indices(indices: np.ndarray | slice, count: int) -> np.ndarray:
    return np.arange(*indices.indices(count)) if isinstance(indices, slice) else np.asarray(indices, np.int64)
