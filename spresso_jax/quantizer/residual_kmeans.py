"""Residual k-means: tables [M, K, D], each clustering what the ones before it left of the rows.

The rows are a stream that is opened again for every pass. A Lloyd iteration adds up, batch by batch, the sums and counts
of the clusters, so that memory is a batch and the tables, however many rows there are; rows that fit in memory are the
same batches, held. With a sharding every device counts its own rows, and the totals are summed over all of them.

Source: QINCo2 section 3.3 (greedy residual k-means); k-means++ (Arthur and Vassilvitskii 2007).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from spresso_jax.quantizer.assign import smallest
from spresso_jax.quantizer.qinco import dot
from spresso_jax.quantizer.row_stream import Batch, RowStream

BOX_ROWS = 200_000  # QINCo2: the box of the start is measured on so many rows
SEEDINGS = ("k-means++", "sampled", "box")


class Totals(NamedTuple):
    """What a pass adds up: sums [K, D], counts [K], squared error (), and rows that may seed empty clusters.

    spare [K, D] are drawn in proportion to their squared error, by the K highest spare_rank [K] (Gumbel top-k).
    """

    sums: jax.Array
    counts: jax.Array
    error: jax.Array
    spare: jax.Array
    spare_rank: jax.Array


def nearest(rows: jax.Array, table: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Index of the nearest codeword and squared distance: rows [N, D], table [K, D] give [N] int32, [N]."""
    score = jnp.sum(jnp.square(table), axis=-1) - 2.0 * dot(rows, table.T)
    code = smallest(score, 1)
    return code[:, 0], jnp.take_along_axis(score, code, axis=-1)[:, 0] + jnp.sum(jnp.square(rows), axis=-1)


def _add_batch(axes, totals, rows, weight, noise, tiles, table):
    """Totals with one device's part of a batch added, summed over `axes` (None: there is one device).

    The two collectives are chained: free to run in any order, simulated devices that share few threads wait for each
    other for ever.
    """
    codewords, dimension = table.shape

    def add_tile(index, carry):
        sums, errors = carry
        here, valid = rows[:, index], weight[:, index]
        code, error = nearest(here, table)
        sums = sums.at[code].add(jnp.concatenate([here, jnp.ones_like(valid)[:, None]], axis=1) * valid[:, None])
        return sums, errors.at[:, index].set(jnp.where(valid > 0, jnp.maximum(error, 0.0), 0.0))

    carry = (jnp.zeros((codewords, dimension + 1)), jnp.zeros(weight.shape))
    sums, errors = jax.lax.fori_loop(0, tiles, add_tile, carry)
    sums = jnp.concatenate([sums, jnp.full((1, dimension + 1), jnp.sum(errors))])
    # A row on its codeword has an error of rounding size only: it would seed a second cluster at the same place.
    lost = errors > 1e-6 * jnp.maximum(jnp.sum(jnp.square(rows), axis=-1), 1e-12)
    rank = jnp.where(lost, jnp.log(jnp.maximum(errors, 1e-30)) + noise, -jnp.inf).reshape(-1)
    rank, kept = jax.lax.top_k(rank, min(codewords, rank.shape[0]))
    spare = jnp.concatenate([rows.reshape(-1, dimension)[kept], rank[:, None]], axis=1)
    if axes is not None:
        sums, spare = jax.lax.optimization_barrier((jax.lax.psum(sums, axes), spare))
        spare = jax.lax.all_gather(spare, axes, tiled=True)
    ranks = jnp.concatenate([totals.spare_rank, spare[:, -1]])
    spare_rank, kept = jax.lax.top_k(ranks, codewords)
    candidates = jnp.concatenate([totals.spare, spare[:, :-1]])
    return Totals(
        totals.sums + sums[:-1, :-1], totals.counts + sums[:-1, -1], totals.error + sums[-1, 0], candidates[kept], spare_rank
    )  # fmt: skip


def _means(totals, table, key, uniform_empty):
    """The new table: means of the clusters; empty ones go to spare rows, or to a point of the unit cube."""
    empty = totals.counts < 0.5
    if uniform_empty:
        seeds, seeded = jax.random.uniform(key, table.shape), empty
    else:
        turn = jnp.maximum(jnp.cumsum(empty) - 1, 0)
        seeds, seeded = totals.spare[turn], empty & jnp.isfinite(totals.spare_rank[turn])
    means = jnp.where(empty[:, None], table, totals.sums / jnp.maximum(totals.counts, 1.0)[:, None])
    return jnp.where(seeded[:, None], seeds, means)


def _residuals(rows, tables, first, last):
    """Rows [R, T, D] without their nearest codewords of tables first .. last - 1."""

    def tile(here):
        return jax.lax.fori_loop(first, last, lambda m, left: left - tables[m][nearest(left, tables[m])[0]], here)

    return jnp.swapaxes(jax.lax.map(tile, jnp.swapaxes(rows, 0, 1)), 0, 1)


def _plus_plus(rows, codewords, key):
    """k-means++: rows [S, D] give K of them, each drawn in proportion to its squared distance from those before."""
    keys = jax.random.split(key, codewords)

    def draw(index, carry):
        table, distance = carry
        # All at distance zero (fewer different rows than codewords): any row will do.
        logits = jnp.where(jnp.any(distance > 0), jnp.log(distance), 0.0)
        row = rows[jax.random.categorical(keys[index], logits)]
        return table.at[index].set(row), jnp.minimum(distance, jnp.sum(jnp.square(rows - row), axis=-1))

    first = rows[jax.random.randint(keys[0], (), 0, rows.shape[0])]
    start = (jnp.zeros((codewords, rows.shape[1])).at[0].set(first), jnp.sum(jnp.square(rows - first), axis=-1))
    return jax.lax.fori_loop(1, codewords, draw, start)[0]


class _Compiled(NamedTuple):
    add_batch: Callable
    means: Callable
    residuals: Callable
    plus_plus: Callable
    whole: Callable


@lru_cache(maxsize=8)
def compiled(sharding: NamedSharding | None) -> _Compiled:
    """The passes, with their results on every device (residuals: where the rows are)."""
    axes, everywhere = None, {}
    add_batch, residuals = partial(_add_batch, axes), _residuals
    if sharding is not None:
        axes, whole = sharding.spec[0], PartitionSpec()
        split = {"mesh": sharding.mesh, "check_vma": False}
        everywhere = {"out_shardings": NamedSharding(sharding.mesh, whole)}
        inputs = (whole, sharding.spec, sharding.spec, sharding.spec, whole, whole)
        add_batch = jax.shard_map(partial(_add_batch, axes), in_specs=inputs, out_specs=whole, **split)
        inputs = (sharding.spec, whole, whole, whole)
        residuals = jax.shard_map(_residuals, in_specs=inputs, out_specs=sharding.spec, **split)

    def add_noisy(totals, rows, weight, tiles, table, key):
        # Drawn for the whole batch, so that the same rows are spared on any number of devices.
        noise = jax.random.gumbel(key, weight.shape)
        return add_batch(totals, rows, weight, noise, tiles, table)

    return _Compiled(
        jax.jit(add_noisy, **everywhere),
        jax.jit(_means, static_argnums=3, **everywhere),
        jax.jit(residuals),
        jax.jit(_plus_plus, static_argnums=1, **everywhere),
        jax.jit(lambda array: array, **everywhere),
    )


def lloyd_iteration(
    batches: Iterable[Batch],
    table: jax.Array,
    key: jax.Array,
    sharding: NamedSharding | None = None,
    uniform_empty: bool = False,
) -> tuple[jax.Array, float]:
    """One k-means update from all rows of `batches`.

    Args:
      batches: placed batches, all with the same shape.
      table: [K, D] codewords.
      key: of the rows that seed empty clusters.
      sharding: of the batches.
      uniform_empty: an empty cluster becomes a point of the unit cube (the reference's rule) instead of a row that is
        coded badly.
    Returns: (new table [K, D], sum of squared distances to the old one).
    """
    passes = compiled(sharding)
    totals = Totals(
        np.zeros(table.shape, np.float32), np.zeros(table.shape[0], np.float32), np.float32(0),
        np.zeros(table.shape, np.float32), np.full(table.shape[0], -np.inf, np.float32),
    )  # fmt: skip
    for index, batch in enumerate(batches):
        totals = passes.add_batch(totals, *batch, table, jax.random.fold_in(key, index))
    moved = passes.means(totals, table, jax.random.fold_in(key, -1 & 0x7FFFFFFF), uniform_empty)
    return moved, float(totals.error)


@dataclass(frozen=True)
class KMeans:
    """How each step is clustered.

    Attributes:
      iterations: Lloyd iterations.
      seeding: "k-means++" or "sampled" rows, or the reference's "box", uniform on one side of the mean, with its rule
        for empty clusters.
      growing: iteration i of I uses the first max(N / 2^(I / 2 - i), rows_per_codeword K) rows, so that the first half
        costs little more than one pass; False uses all rows in every iteration.
      rows_per_codeword: least rows of a sample, and rows to seed from, per codeword.
    """

    iterations: int = 10
    seeding: str = "k-means++"
    growing: bool = False
    rows_per_codeword: int = 8

    def __post_init__(self):
        if self.iterations < 1 or self.rows_per_codeword < 1:
            raise ValueError(
                f"k-means needs iterations >= 1 and rows_per_codeword >= 1, got {self.iterations} and"
                f" {self.rows_per_codeword}"
            )
        if self.seeding not in SEEDINGS:
            raise ValueError(f"seeding must be one of {', '.join(SEEDINGS)}, got {self.seeding!r}")


def _first_rows(batches: Iterable[Batch], count: int, whole: Callable) -> np.ndarray:
    """The first `count` rows (fewer if the stream is shorter), on every host."""
    taken, found = [], 0
    for batch in batches:
        rows, weight = np.asarray(whole(batch.rows)), np.asarray(whole(batch.weight))
        taken.append(rows[weight > 0])
        found += len(taken[-1])
        if found >= count:
            break
    return np.concatenate(taken)[:count]


def _seeds(left, codewords, settings, key, sharding):
    """The first table [K, D] of one step."""
    passes = compiled(sharding)
    if settings.seeding == "box":
        sample = _first_rows(left(), BOX_ROWS, passes.whole)
        spread, centre = sample.std(axis=0, ddof=1), sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        return jax.random.uniform(key, (codewords, sample.shape[1])) * spread + centre
    sample = _first_rows(left(), settings.rows_per_codeword * codewords, passes.whole)
    if settings.seeding == "k-means++":
        return passes.plus_plus(sample, codewords, key)
    order = np.asarray(jax.random.permutation(key, len(sample)))
    return jnp.asarray(sample[order[np.arange(codewords) % len(sample)]])


def residual_codebooks(
    key: jax.Array,
    stream: RowStream,
    codebooks: int,
    codewords: int,
    settings: KMeans,
    *,
    count: int,
    mean: np.ndarray | float = 0.0,
    std: np.ndarray | float = 1.0,
    hold: bool = True,
) -> jax.Array:
    """Greedy residual k-means of the standardised rows of a stream: tables [M, K, D].

    Args:
      key: random key; the same in every process.
      stream: the rows, checked beforehand (`statistics.row_statistics`).
      codebooks: M.
      codewords: K.
      settings: of every step's k-means.
      count: rows in the stream, over all processes.
      mean, std: the rows are clustered as (row - mean) / std.
      hold: keep the batches and what is left of them on the devices; False opens the stream for every pass and takes
        the residuals anew, in memory O(batch + M K D).
    Source: QINCo2 section 3.3; the growing sample is ours.
    """
    sharding = stream.sharding
    passes = compiled(sharding)
    mean = np.broadcast_to(np.asarray(mean, np.float32), (stream.dimension,))
    std = np.broadcast_to(np.asarray(std, np.float32), (stream.dimension,))
    tables = jnp.zeros((codebooks, codewords, stream.dimension))
    standard = RowStream(
        lambda: ((part - mean) / std for part in stream.parts()), stream.dimension, stream.limit, sharding
    )
    held = list(standard.batches()) if hold else None
    for step in range(codebooks):
        step_key = jax.random.fold_in(key, step)

        left = partial(_left, held, standard, tables, step)
        table = _seeds(left, codewords, settings, jax.random.fold_in(step_key, 0), sharding)
        for iteration in range(settings.iterations):
            sample = count
            if settings.growing:
                sample = count >> max(settings.iterations // 2 - iteration, 0)
                sample = max(sample, settings.rows_per_codeword * codewords)
            batches = _leading(left(), sample)
            iteration_key = jax.random.fold_in(step_key, iteration + 1)
            table, _ = lloyd_iteration(batches, table, iteration_key, sharding, settings.seeding == "box")
        tables = tables.at[step].set(table)
        if held is not None:
            held = [batch._replace(rows=passes.residuals(batch.rows, tables, step, step + 1)) for batch in held]
    return tables


def _left(held, stream, tables, step):
    """Batches of what the first `step` tables leave of the rows."""
    if held is not None:
        yield from held
        return
    for batch in stream.batches():
        rows = compiled(stream.sharding).residuals(batch.rows, tables, 0, step) if step else batch.rows
        yield batch._replace(rows=rows)


def _leading(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """Batches, up to the one with the row number `count`."""
    taken = 0
    for batch in batches:
        yield batch
        taken += batch.rows.shape[0] * batch.tiles
        if taken >= count:
            break
