"""Mean, scale and fitness of the vectors that a quantizer is to be trained on, in one pass over a stream."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from spresso_jax.quantizer.residual_kmeans import compiled
from spresso_jax.quantizer.row_stream import RowStream

SCALES = ("dimension", "single")
OFFICIAL_ROWS = 100_000  # QINCo2 takes its scale from so many rows


@dataclass(frozen=True)
class RowStatistics:
    """Moments of N rows.

    Attributes:
      count: N, over all processes.
      mean: [D].
      std: [D], ddof 0.
    """

    count: int
    mean: np.ndarray
    std: np.ndarray

    def standardisation(self, scale: str) -> tuple[np.ndarray, np.ndarray]:
        """(mean [D], std [D]), float32.

        Args:
          scale: "dimension", or the reference's "single": the standard deviation of all entries around the mean of all
            entries, so that the spread of the means is in it and the scaled data has no unit variance.
        Raises:
          ValueError: if `scale` is unknown.
        """
        if scale not in SCALES:
            raise ValueError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}")
        std = self.std
        if scale == "single":
            std = np.full_like(std, np.sqrt(np.mean(np.square(self.std) + np.square(self.mean - np.mean(self.mean)))))
        return self.mean.astype(np.float32), std.astype(np.float32)


def _moments(axes, rows, weight):
    """One line of numbers a device: rows that are not finite, N, mean, sum of squares around it, least, greatest."""
    valid = weight[..., None] > 0
    bad = jnp.sum((weight > 0) & ~jnp.all(jnp.isfinite(rows), axis=-1))
    count = jnp.sum(weight)
    mean = jnp.sum(jnp.where(valid, rows, 0.0), axis=(0, 1)) / jnp.maximum(count, 1.0)
    square = jnp.sum(jnp.where(valid, jnp.square(rows - mean), 0.0), axis=(0, 1))
    least = jnp.min(jnp.where(valid, rows, jnp.inf), axis=(0, 1))
    greatest = jnp.max(jnp.where(valid, rows, -jnp.inf), axis=(0, 1))
    line = jnp.concatenate([jnp.stack([bad, count]), mean, square, least, greatest])[None]
    return line if axes is None else jax.lax.all_gather(line, axes, tiled=True)


@lru_cache(maxsize=8)
def _compiled_moments(sharding: NamedSharding | None):
    if sharding is None:
        return jax.jit(partial(_moments, None))
    split = {"in_specs": (sharding.spec, sharding.spec), "out_specs": PartitionSpec(), "check_vma": False}
    return jax.jit(jax.shard_map(partial(_moments, sharding.spec[0]), mesh=sharding.mesh, **split))


def row_statistics(stream: RowStream, codewords: int = 1) -> RowStatistics:
    """Moments of the rows, after checks that K codewords can be placed among them.

    Args:
      stream: the rows.
      codewords: K.
    Raises:
      ValueError: if rows are missing, not finite or of another width, a dimension is constant (which ones), or there
        are fewer different rows than codewords (both numbers).
    """
    moments, whole = _compiled_moments(stream.sharding), compiled(stream.sharding).whole
    count, mean, square = 0, np.zeros(stream.dimension), np.zeros(stream.dimension)
    least, greatest = np.full(stream.dimension, np.inf), np.full(stream.dimension, -np.inf)
    different: set[bytes] = set()
    for batch in stream.batches():
        lines = np.asarray(moments(batch.rows, batch.weight), np.float64)
        here = int(lines[:, 1].sum())
        if lines[:, 0].any():
            raise ValueError(
                f"{int(lines[:, 0].sum())} of the rows {count} to {count + here - 1} hold NaN or infinite values: look at"
                " what made these embeddings, or leave those rows out"
            )
        for line in lines[lines[:, 1] > 0]:
            part, (part_mean, part_square, low, high) = int(line[1]), line[2:].reshape(4, -1)
            gap = part_mean - mean
            square += part_square + np.square(gap) * count * part / (count + part)
            mean += gap * part / (count + part)
            count += part
            least, greatest = np.minimum(least, low), np.maximum(greatest, high)
        if len(different) < codewords:
            rows, weight = np.asarray(whole(batch.rows)), np.asarray(whole(batch.weight))
            for row in rows[weight > 0]:
                different.add((row + 0.0).tobytes())
                if len(different) >= codewords:
                    break
    if count == 0:
        raise ValueError("there are no vectors to start the codebooks from: the embeddings are empty")
    std = np.sqrt(square / count)
    constant = np.flatnonzero((least == greatest) | ~(std > 0))
    if len(constant):
        named = ", ".join(str(index) for index in constant[:8]) + (", ..." if len(constant) > 8 else "")
        raise ValueError(
            f"dimension {named} of the vectors is constant over {count} rows: it carries no information and cannot be"
            " standardised; check the embeddings, or drop it"
        )
    if len(different) < codewords:
        raise ValueError(
            f"{codewords} codewords need at least as many different vectors, but the {count} rows hold only"
            f" {len(different)}: collect more embeddings or use fewer codewords"
        )
    return RowStatistics(count, mean, std)


def official_statistics(stream: RowStream) -> RowStatistics:
    """Moments of the first 100,000 rows, from which the reference takes its scale."""
    limit = OFFICIAL_ROWS if stream.limit is None else min(stream.limit, OFFICIAL_ROWS)
    return row_statistics(replace(stream, limit=limit))
