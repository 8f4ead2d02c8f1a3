"""Where codewords come from: residual k-means before training, real residuals for codewords that died in training.

The k-means starts from data rows, walks growing samples (early iterations need few rows to find the centres), and
re-seeds empty clusters from rows that are coded badly. Distances are matrix products over tiles of rows, on device.

Source: QINCo2 section 3.3 and its released initialisation, with the repairs that `fit` names.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from spresso_jax.quantizer.assign import smallest
from spresso_jax.quantizer.qinco import Params, Qinco, dot

TILE_ROWS = 1024
STARTS = ("residual", "official")


def fit_standardisation(rows: jax.Array, per_dimension: bool = True) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of rows [N, D], both [D].

    Args:
      rows: [N, D] vectors.
      per_dimension: one scale for every coordinate; False repeats the reference's single scale, taken around the mean
        of all entries, so that the scaled data has no unit variance.
    Raises:
      ValueError: if `rows` is not [N, D] with N >= 2, or a scale is not finite or positive.
    """
    rows = jnp.asarray(rows, jnp.float32)
    if rows.ndim != 2 or rows.shape[0] < 2:
        raise ValueError(f"rows must be [N, D] with at least two rows, got shape {tuple(rows.shape)}")
    mean = jnp.mean(rows, axis=0)
    std = jnp.std(rows, axis=0) if per_dimension else jnp.full(rows.shape[1], jnp.std(rows))
    if not bool(jnp.all(jnp.isfinite(std))) or bool(jnp.any(std <= 0)):
        raise ValueError("a coordinate of the rows is constant or not finite: check the embeddings before fitting")
    return mean, std


def nearest(rows: jax.Array, table: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Index of the nearest codeword and squared distance: rows [N, D], table [K, D] give [N] int32, [N]."""
    score = jnp.sum(jnp.square(table), axis=-1) - 2.0 * dot(rows, table.T)
    code = smallest(score, 1)
    return code[:, 0], jnp.take_along_axis(score, code, axis=-1)[:, 0] + jnp.sum(jnp.square(rows), axis=-1)


@jax.jit
def _lloyd_iteration(key, tiles, weight, table, used_tiles):
    """One k-means update on the first `used_tiles` of tiles [T, R, D]; empty clusters get badly coded rows."""
    codewords, dimension = table.shape
    count, rows = weight.shape

    def add_tile(index, carry):
        sums, counts, errors = carry
        here = tiles[index]
        code, error = nearest(here, table)
        sums = sums.at[code].add(here * weight[index][:, None])
        counts = counts.at[code].add(weight[index])
        return sums, counts, errors.at[index].set(jnp.where(weight[index] > 0, error, 0.0))

    zero = (jnp.zeros((codewords, dimension)), jnp.zeros(codewords), jnp.zeros((count, rows)))
    sums, counts, errors = jax.lax.fori_loop(0, used_tiles, add_tile, zero)
    # Weighted draw without replacement (Gumbel top-k): rows are taken in proportion to their squared error.
    errors = errors.reshape(-1)
    rank = jnp.log(jnp.maximum(errors, 1e-30)) + jax.random.gumbel(key, errors.shape)
    worst = jax.lax.top_k(jnp.where(errors > 0, rank, -jnp.inf), codewords)[1]
    empty = counts < 0.5
    seeds = tiles.reshape(-1, dimension)[worst[jnp.maximum(jnp.cumsum(empty) - 1, 0)]]
    return jnp.where(empty[:, None], seeds, sums / jnp.maximum(counts, 1.0)[:, None])


@jax.jit
def _subtract_nearest(tiles, table):
    """Residual of every row of tiles [T, R, D] after its nearest codeword."""
    return jax.lax.map(lambda rows: rows - table[nearest(rows, table)[0]], tiles)


def _as_tiles(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pads rows [N, D] to whole tiles: ([T, R, D], weight [T, R] that is zero on the padding)."""
    count = rows.shape[0]
    tiles = -(-count // TILE_ROWS)
    padded = jnp.pad(rows, ((0, tiles * TILE_ROWS - count), (0, 0))).reshape(tiles, TILE_ROWS, -1)
    return padded, (jnp.arange(tiles * TILE_ROWS) < count).astype(jnp.float32).reshape(tiles, TILE_ROWS)


def residual_codebooks(
    key: jax.Array,
    rows: jax.Array,
    codebooks: int,
    codewords: int,
    iterations: int = 8,
    rows_per_codeword: int = 8,
    box: bool = False,
) -> jax.Array:
    """Greedy residual k-means: rows [N, D] give tables [M, K, D]; each step clusters what the ones before left.

    Iteration i of I uses the first max(N / 2^(I - 1 - i), rows_per_codeword * K) of the shuffled rows, so that all of
    them together cost little more than two full passes.

    Args:
      key: random key.
      rows: [N, D] float32, standardised.
      codebooks: M.
      codewords: K.
      iterations: Lloyd iterations of every step.
      rows_per_codeword: least rows of a sample, per codeword.
      box: the reference's start, uniform in a box on one side of the mean and without samples, instead of data rows.
    Raises:
      ValueError: if there are fewer than K rows or no iteration.
    Source: QINCo2 section 3.3 (residual k-means); the growing sample is ours.
    """
    rows = jnp.asarray(rows, jnp.float32)
    if rows.ndim != 2 or rows.shape[0] < codewords:
        raise ValueError(
            f"k-means of {codewords} codewords needs at least that many rows [N, D], got shape {tuple(rows.shape)}: "
            "collect more embeddings or use fewer codewords"
        )
    if iterations < 1 or codebooks < 1:
        raise ValueError(f"need iterations >= 1 and codebooks >= 1, got {iterations} and {codebooks}")
    count = rows.shape[0]
    key_order, key_steps = jax.random.split(key)
    keys = jax.random.split(key_steps, (codebooks, iterations + 1))
    tiles, weight = _as_tiles(rows[jax.random.permutation(key_order, count)])
    tables = []
    for step in range(codebooks):
        flat = tiles.reshape(-1, rows.shape[1])[:count]
        if box:
            spread, centre = jnp.std(flat, axis=0, ddof=1), jnp.mean(flat, axis=0)
            table = jax.random.uniform(keys[step, 0], (codewords, rows.shape[1])) * spread + centre
        else:
            # The rows are shuffled: any K in a row are a random sample, another one for every step.
            table = flat[(step * codewords + jnp.arange(codewords)) % count]
        for iteration in range(iterations):
            sample = max(count >> (iterations - 1 - iteration), rows_per_codeword * codewords)
            used = tiles.shape[0] if box else min(-(-sample // TILE_ROWS), tiles.shape[0])
            table = _lloyd_iteration(keys[step, iteration + 1], tiles, weight, table, used)
        tables.append(table)
        tiles = _subtract_nearest(tiles, table)
    return jnp.stack(tables)


def fill_codebooks(
    quantizer: Qinco, params: Params, tables: jax.Array, start: str, noise: float = 0.0, key: jax.Array | None = None
) -> Params:
    """Writes residual k-means tables [M, K, D] (standardised) into `params`.

    Args:
      quantizer: the sizes.
      params: tree of `Qinco.init`.
      tables: [M, K, D].
      start: "residual" makes the untrained network equal to the residual quantizer (codewords divided by their gain,
        `out_proj` zero); "official" writes the tables as they are, as the reference does.
      noise: standard deviation of added noise relative to the one of each table.
      key: needed with noise.
    Raises:
      ValueError: if `start` is unknown or the tables have another shape.
    """
    if start not in STARTS:
        raise ValueError(f"start must be one of {', '.join(STARTS)}, got {start!r}")
    expected = (quantizer.codebooks, quantizer.codewords, quantizer.dimension)
    if tables.shape != expected:
        raise ValueError(f"tables must have shape {expected}, got {tuple(tables.shape)}")
    if noise > 0:
        spread = noise * jnp.std(tables, axis=(1, 2), keepdims=True)
        tables = tables + spread * jax.random.normal(key, tables.shape)
    params = {**params, "first_codebook": tables[0]}
    if quantizer.codebooks == 1:
        return params
    residual = start == "residual"
    steps = {**params["steps"], "codebook": tables[1:] / (quantizer.codeword_gain if residual else 1.0)}
    if quantizer.preselect > 0:
        steps["preselection"] = jnp.array(tables[1:])
    if quantizer.projected and residual:
        steps["out_proj"] = jnp.zeros_like(steps["out_proj"])
    return {**params, "steps": steps}


def fit(
    quantizer: Qinco,
    key: jax.Array,
    rows: jax.Array,
    *,
    start: str = "residual",
    iterations: int = 8,
    standardisation: tuple[jax.Array, jax.Array] | None = None,
) -> Params:
    """Parameters of a quantizer that is ready to train on vectors like `rows`.

    With start "residual" the untrained quantizer is exactly the residual k-means: the reference's own start passes
    each codeword through two skips (it acts as 2c, or through random projections) and loses that advantage. Start
    "official" is the reference's: box start, codebook noise 0.1, random projections.

    Args:
      quantizer: the sizes.
      key: random key.
      rows: [N, D] vectors, N >= K; 100 rows a codeword are plenty.
      start: "residual" or "official".
      iterations: Lloyd iterations of every step.
      standardisation: (mean [D], std [D]); None takes `fit_standardisation(rows)`, whose scale is per coordinate for
        "residual" and single for "official".
    Raises:
      ValueError: as `fit_standardisation`, `residual_codebooks` and `fill_codebooks`.
    Source: QINCo2 section 3.3; the equal start is ours.
    """
    rows = jnp.asarray(rows, jnp.float32)
    official = start == "official"
    mean, std = standardisation or fit_standardisation(rows, per_dimension=not official)
    key_network, key_tables, key_noise = jax.random.split(key, 3)
    params = {**quantizer.init(key_network), "data_mean": jnp.asarray(mean), "data_std": jnp.asarray(std)}
    standardised = quantizer.standardise(params, rows)
    tables = residual_codebooks(
        key_tables, standardised, quantizer.codebooks, quantizer.codewords, iterations, box=official
    )
    return fill_codebooks(quantizer, params, tables, start, 0.1 if official else 0.0, key_noise)


@partial(jax.jit, static_argnums=0)
def revive(
    quantizer: Qinco, params: Params, usage_counts: jax.Array, residual_rows: jax.Array, key: jax.Array
) -> tuple[Params, jax.Array]:
    """Replaces codewords that were never chosen by residuals that really occurred.

    The reference draws independent noise per coordinate, which lies far from correlated data and is not chosen again.
    Every process must pass the summed counts, the same rows and the same key. Optimizer moments are the caller's.

    Args:
      quantizer: the sizes.
      params: the quantizer's tree.
      usage_counts: [M, K], summed over the interval and over all processes.
      residual_rows: [M, N, D] standardised, of `Qinco.residuals` on recent vectors; N may be below K.
      key: random key.
    Returns: (params, dead [M, K] bool, the replaced rows).
    Source: QINCo2's reset of unused codewords, drawn from data instead.
    """
    dead = usage_counts == 0
    codewords = quantizer.codewords
    keys = jax.random.split(key, quantizer.codebooks)

    def draw(step_key, residuals):
        # Cycled permutation: distinct rows as long as there are enough of them.
        order = jax.random.permutation(step_key, residuals.shape[0])
        return residuals[order[jnp.arange(codewords) % residuals.shape[0]]]

    fresh = jax.vmap(draw)(keys, residual_rows)
    params = {**params, "first_codebook": jnp.where(dead[0][:, None], fresh[0], params["first_codebook"])}
    if quantizer.codebooks == 1:
        return params, dead
    steps = dict(params["steps"])
    later = dead[1:, :, None]
    steps["codebook"] = jnp.where(later, fresh[1:] / quantizer.codeword_gain, steps["codebook"])
    if quantizer.preselect > 0:
        steps["preselection"] = jnp.where(later, fresh[1:], steps["preselection"])
    return {**params, "steps": steps}, dead
