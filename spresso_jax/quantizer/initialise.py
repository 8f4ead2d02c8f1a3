"""A quantizer that is ready to train: statistics and codebooks from residual k-means of real vectors.

Two starts: "residual", in which the untrained quantizer is exactly the residual k-means, and "official", the reference's.
Source: QINCo2 section 3.3 and its released initialisation, with the repairs that `fit` names.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from spresso_jax.quantizer.qinco import Params, Qinco
from spresso_jax.quantizer.residual_kmeans import KMeans, residual_codebooks
from spresso_jax.quantizer.row_statistics import official_statistics, row_statistics
from spresso_jax.quantizer.row_stream import RowStream, stream_of

STARTS = ("residual", "official")
OFFICIAL_KMEANS = KMeans(iterations=10, seeding="box", growing=False)
OFFICIAL_NOISE = 0.1


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
    rows: jax.Array | RowStream,
    *,
    start: str = "residual",
    kmeans: KMeans | None = None,
    scale: str | None = None,
    hold: bool = True,
) -> Params:
    """Parameters of a quantizer that is ready to train on vectors like `rows`.

    With start "residual" the untrained quantizer is exactly the residual k-means: the reference's own start passes
    each codeword through two skips (it acts as 2c, or through random projections) and loses that advantage. Start
    "official" is the reference's: k-means of raw vectors from a box on one side of the mean, 10 iterations, one scale
    from the first 100,000 rows, codebook noise 0.1, S = C, random projections.

    Args:
      quantizer: the sizes.
      key: random key; the same in every process.
      rows: [N, D] vectors, which are shuffled, or a stream of them; 100 rows a codeword are plenty.
      start: "residual" or "official".
      kmeans: of every step; None takes `KMeans()` or the reference's. Start "official" always takes the reference's.
      scale: "dimension" (None with start "residual") or "single" (None with "official"): `RowStatistics.standardisation`.
      hold: keep the rows on the devices between the passes; False needs memory for one batch only, and reads the stream
        (iterations + 2) M times.
    Raises:
      ValueError: as `row_statistics` and `fill_codebooks`.
    Source: QINCo2 section 3.3; the equal start is ours.
    """
    if start not in STARTS:
        raise ValueError(f"start must be one of {', '.join(STARTS)}, got {start!r}")
    official = start == "official"
    key_order, key_network, key_tables, key_noise = jax.random.split(key, 4)
    stream = rows if isinstance(rows, RowStream) else stream_of(rows, key_order)
    if stream.dimension != quantizer.dimension:
        raise ValueError(
            f"vectors have {stream.dimension} dimensions, but the quantizer takes {quantizer.dimension}: give embeddings"
            " of that width, or set the quantizer's dimension"
        )
    found = row_statistics(stream, quantizer.codewords)
    measured = official_statistics(stream) if official else found
    mean, std = measured.standardisation(scale or ("single" if official else "dimension"))
    params = {**quantizer.init(key_network), "data_mean": jnp.asarray(mean), "data_std": jnp.asarray(std)}
    sizes = (quantizer.codebooks, quantizer.codewords)
    if official:
        # The empty-cluster rule and the box know the raw vectors' units: the tables are scaled afterwards.
        raw = residual_codebooks(key_tables, stream, *sizes, OFFICIAL_KMEANS, count=found.count, hold=hold)
        tables = raw.at[0].add(-mean) / std
    else:
        tables = residual_codebooks(
            key_tables, stream, *sizes, kmeans or KMeans(), count=found.count, mean=mean, std=std, hold=hold
        )
    return fill_codebooks(quantizer, params, tables, start, OFFICIAL_NOISE if official else 0.0, key_noise)
