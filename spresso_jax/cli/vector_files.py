"""Vectors and codes in `.npy` files of any length: mapped into memory, checked block by block, written whole or not at all.

Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.npy_files import map_npy
from data_pipeline.vectors import Vectors, open_vectors

# Numbers (rows x codebooks x dimensions) that one block of a search may give back: 64 MB of float32.
BLOCK_NUMBERS = 1 << 24
BLOCK_ROWS = 8192
_SECONDS_BETWEEN_LINES = 5.0


def read_array(path: str | Path, kinds: str = "fiu") -> np.ndarray:
    """The array of a `.npy` file, mapped and not read.

    Args:
      path: the file.
      kinds: kinds of numpy data types that are welcome.
    Raises:
      ValueError: naming the file, if it is missing, damaged, not a `.npy` file, or holds other things than numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    found = map_npy(path)
    if found.dtype.kind not in kinds:
        raise ValueError(f"{path} holds {found.dtype}, expected {'whole numbers' if kinds == 'iu' else 'numbers'}")
    return found


def read_vectors(path: str | Path, dimension: int, split: str | None = None) -> np.ndarray | Vectors:
    """Vectors [N, D] of a `.npy` file, mapped; their values are checked as `blocks` hands them out.

    Args:
      path: the file, or with `split` a folder that `spresso data embeddings` wrote.
      dimension: D.
      split: the one that is read of a folder.
    Raises:
      ValueError: as `read_array` and `open_vectors`, or if the shape is not [N, `dimension`] with N >= 1.
    """
    found = open_vectors(path, split) if split and Path(path).is_dir() else read_array(path)
    if len(found.shape) != 2 or found.shape[1] != dimension or not len(found):
        raise ValueError(
            f"{path} has shape {found.shape}, this quantizer codes vectors of {dimension} numbers, [N, {dimension}]:"
            " choose the vectors that it was trained on"
        )
    return found


def read_codes(path: str | Path, codebooks: int) -> np.ndarray:
    """Codes [N, m] of a `.npy` file, mapped; their values are checked as `code_blocks` hands them out.

    Raises:
      ValueError: as `read_array`, or if the shape is not [N, m] with N >= 1 and 1 <= m <= `codebooks`.
    """
    found = read_array(path, kinds="iu")
    if found.ndim != 2 or not 1 <= found.shape[1] <= codebooks or not len(found):
        raise ValueError(
            f"{path} has shape {found.shape}, this quantizer reads codes [N, m] of 1 to {codebooks} codebooks: choose the"
            " model that wrote them"
        )
    return found


def block_rows(codebooks: int, dimension: int) -> int:
    """Rows that are coded at once, so that all their reconstructions stay small."""
    return max(1, min(BLOCK_ROWS, BLOCK_NUMBERS // (codebooks * dimension)))


def blocks(vectors: np.ndarray | Vectors, path: str | Path, rows: int, every: int = 1) -> Iterator[np.ndarray]:
    """Blocks [n, D] float32 of at most `rows` vectors, in order; of all vectors, or of one in `every`.

    Raises:
      ValueError: naming the first row that is not finite in float32.
    """
    for start in range(0, len(vectors), rows * every):
        with np.errstate(over="ignore"):
            block = np.asarray(vectors[start : start + rows * every : every]).astype(np.float32)
        broken = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if broken.size:
            row = start + broken[0] * every
            raise ValueError(f"{path}: row {row} holds NaN, infinity or more than float32 can: leave it out")
        yield block


def code_blocks(codes: np.ndarray, path: str | Path, codewords: int, rows: int) -> Iterator[np.ndarray]:
    """Blocks [n, m] int32 of at most `rows` codes, in order.

    Raises:
      ValueError: naming the first row with a code outside 0..K-1.
    """
    for start in range(0, len(codes), rows):
        block = np.asarray(codes[start : start + rows])
        wrong = np.flatnonzero(((block < 0) | (block >= codewords)).any(axis=1))
        if wrong.size:
            raise ValueError(
                f"{path}: row {start + wrong[0]} holds a code outside 0..{codewords - 1}: these are not codes of this"
                " quantizer, or they hold the -1 of absent codebooks"
            )
        yield block.astype(np.int32)


@contextlib.contextmanager
def new_array(path: str | Path, shape: tuple[int, ...], dtype: Any) -> Iterator[np.ndarray]:
    """A mapped `.npy` file to fill; it gets its name when the block ends without an error, and else never existed.

    Raises:
      OSError: if it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".npy", dir=path.parent)
    os.close(handle)
    try:
        made = np.lib.format.open_memmap(partial, mode="w+", dtype=dtype, shape=shape)
        yield made
        made.flush()
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


class RowProgress:
    """Tells now and then how many rows are done, on standard error so that results can be piped.

    Args:
      what: such as "encoded".
      total: number of rows.
      say: writes one line.
    """

    def __init__(self, what: str, total: int, say: Callable[[str], None]):
        self._what, self._total, self._say = what, total, say
        self._began = self._last = time.monotonic()
        self.done = 0

    def add(self, rows: int) -> None:
        """Counts rows; tells at most every few seconds."""
        self.done += rows
        now = time.monotonic()
        if now - self._last > _SECONDS_BETWEEN_LINES and self.done < self._total:
            self._last = now
            rate = self.done / (now - self._began)
            left = (self._total - self.done) / rate
            self._say(
                f"{self._what} {self.done:,} of {self._total:,} rows, {rate:,.0f} rows/s, {left / 60:.1f} min left"
            )

    def summary(self) -> str:
        """What was done at which rate."""
        seconds = max(time.monotonic() - self._began, 1e-6)
        return f"{self._what} {self.done:,} rows in {seconds:.1f} s ({self.done / seconds:,.0f} rows/s)"
