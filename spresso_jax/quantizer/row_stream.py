"""Vectors that are walked many times, as placed batches of one shape: from an array or from a stream opened anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

TILE_ROWS = 1024
BATCH_TILES = 8


class Batch(NamedTuple):
    """One placed batch: rows [R, T, D] in T tiles of R rows, weight [R, T] (0 on padding), tiles that hold rows."""

    rows: jax.Array
    weight: jax.Array
    tiles: int


@dataclass(frozen=True)
class RowStream:
    """Vectors that are walked many times.

    Attributes:
      open: gives a fresh iterator of arrays [n, D], the same rows in the same order at every call, in random order if
        part of the stream is to stand for all of it. Each process gives its own share, as many rows as the others.
      dimension: D.
      limit: rows to take, over all processes; None takes all (of a stream that ends).
      sharding: where rows live, split on the first axis; None is the default device.
    """

    open: Callable[[], Iterable[np.ndarray]]
    dimension: int
    limit: int | None = None
    sharding: NamedSharding | None = None

    def parts(self) -> Iterator[np.ndarray]:
        """This process's rows as they come, up to the limit.

        Raises:
          ValueError: if a part has another width than `dimension`.
        """
        left = None if self.limit is None else self.limit // jax.process_count()
        source = iter(self.open())
        try:
            while left is None or left > 0:
                part = next(source, None)
                if part is None:
                    return
                if part.ndim != 2 or part.shape[1] != self.dimension:
                    raise ValueError(
                        f"vectors have shape {tuple(part.shape)}, but the quantizer takes [N, {self.dimension}]: give"
                        " embeddings of that width, or set the quantizer's dimension"
                    )
                part = np.asarray(part[:left], np.float32)
                left = None if left is None else left - len(part)
                if len(part):
                    yield part
        finally:
            if hasattr(source, "close"):
                source.close()

    def batches(self) -> Iterator[Batch]:
        """All rows as batches of one shape; only the last one holds padding."""
        devices = 1 if self.sharding is None else self.sharding.num_devices
        tile = -(-TILE_ROWS // devices) * devices // jax.process_count()
        size = tile * BATCH_TILES
        waiting, count = [], 0
        for part in self.parts():
            waiting.append(part)
            count += len(part)
            if count >= size:
                rows = np.concatenate(waiting)
                whole = count - count % size
                for start in range(0, whole, size):
                    yield self._place(rows[start : start + size], tile)
                waiting, count = [rows[whole:]], count - whole
        if count:
            yield self._place(np.concatenate(waiting), tile)

    def _place(self, rows: np.ndarray, tile: int) -> Batch:
        padded = np.zeros((tile * BATCH_TILES, self.dimension), np.float32)
        padded[: len(rows)] = rows
        weight = (np.arange(len(padded)) < len(rows)).astype(np.float32)
        arrays = (padded.reshape(BATCH_TILES, tile, -1), weight.reshape(BATCH_TILES, tile))
        arrays = tuple(np.ascontiguousarray(np.swapaxes(array, 0, 1)) for array in arrays)
        if self.sharding is None:
            placed = tuple(jnp.asarray(array) for array in arrays)
        else:
            placed = tuple(jax.make_array_from_process_local_data(self.sharding, array) for array in arrays)
        return Batch(*placed, -(-len(rows) // tile))


def stream_of(rows: np.ndarray | jax.Array, key: jax.Array, sharding: NamedSharding | None = None) -> RowStream:
    """The rows [N, D] of an array, shuffled.

    Raises:
      ValueError: if `rows` is not [N, D].
    """
    rows = np.asarray(rows, np.float32)
    if rows.ndim != 2:
        raise ValueError(f"rows must be [N, D], got shape {rows.shape}")
    order = np.asarray(jax.random.permutation(key, len(rows)))
    size = TILE_ROWS * BATCH_TILES
    return RowStream(
        lambda: (rows[order[start : start + size]] for start in range(0, len(rows), size)),
        rows.shape[1],
        sharding=sharding,
    )
