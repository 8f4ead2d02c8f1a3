"""Chooses the codes of a vector: beam search over the steps of a QINCo2 quantizer.

The search is one `lax.scan` over steps 1..M-1 at constant beam width. The best beam after step m is the best m-step
code, so one search yields the codes of every bitrate. Only float32 numbers decide, ties go to the lower index, and rows
are searched in tiles of a size that depends on the quantizer alone: a row's codes do not depend on its neighbours, nor on
the number of devices, each of which searches tiles of its own.

Source: QINCo2 (arXiv 2501.03078) section 3.2; S-PRESSO 3.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from spresso_jax.quantizer.qinco import Params, Qinco, dot

# Candidates (row, beam, codeword) that one tile evaluates: cache-sized on a CPU, large enough to fill an accelerator.
TILE_CANDIDATES = {"cpu": 2048}
TILE_CANDIDATES_ACCELERATOR = 262_144
CANDIDATE_DTYPES = ("float32", "bfloat16")
# Candidates of a narrow type that are computed again in float32, for every one that is kept.
SHORTLIST = 2


@dataclass(frozen=True)
class SearchWidth:
    """What one search keeps; static, so that it can select a compiled function.

    Attributes:
      codebooks: m, number of steps to search.
      preselect: A, candidates of every beam (K when the search is exhaustive).
      beam: B, at most K.
      tile: rows that are searched together.
      candidate_dtype: type that the candidates' network runs in.
    """

    codebooks: int
    preselect: int
    beam: int
    tile: int
    candidate_dtype: str = "float32"

    @classmethod
    def of(
        cls,
        quantizer: Qinco,
        codebooks: int | None,
        preselect: int | None,
        beam: int | None,
        tile: int | None,
        candidate_dtype: DTypeLike | None = None,
    ) -> SearchWidth:
        """Resolves None to the quantizer's own values, clamps A and B to K and picks the tile.

        Raises:
          ValueError: if a value is out of range, or A > 0 is asked of a quantizer without pre-selection codebooks.
        """
        used = quantizer.codebooks if codebooks is None else codebooks
        if not 1 <= used <= quantizer.codebooks:
            raise ValueError(f"codebooks must be within 1..{quantizer.codebooks}, got {used}")
        wanted = quantizer.preselect if preselect is None else preselect
        width = quantizer.beam if beam is None else beam
        if wanted < 0 or width < 1:
            raise ValueError(f"need preselect >= 0 and beam >= 1, got {wanted} and {width}")
        if wanted > 0 and quantizer.preselect == 0:
            raise ValueError(
                f"preselect={wanted}, but this quantizer has no pre-selection codebooks: encode with preselect=0"
            )
        kept = min(wanted or quantizer.codewords, quantizer.codewords)
        width = min(width, quantizer.codewords)
        if tile is None:
            budget = TILE_CANDIDATES.get(jax.default_backend(), TILE_CANDIDATES_ACCELERATOR)
            tile = min(max(budget // (kept * width), 1), 1024)
        elif tile < 1:
            raise ValueError(f"tile must be at least 1 row, got {tile}")
        name = jnp.dtype("float32" if candidate_dtype is None else candidate_dtype).name
        if name not in CANDIDATE_DTYPES:
            raise ValueError(f"candidate_dtype must be one of {', '.join(CANDIDATE_DTYPES)}, got {name}")
        return cls(used, kept, width, tile, name)

    @property
    def exact(self) -> bool:
        """True when candidates are computed in float32, so that none has to be computed again."""
        return self.candidate_dtype == "float32"


def smallest(values: jax.Array, count: int) -> jax.Array:
    """Indices of the `count` smallest entries of the last axis, ascending; of equal entries the lower index first.

    Long rows are cut into groups first: whatever belongs to the `count` smallest lies in the `count` groups with the
    smallest minima (ties included), so only those are ranked. Equal result, up to three times faster on a CPU.
    """
    length = values.shape[-1]
    group = 16 if length < 2048 else 32
    if length % group or length < 64 * count:
        return jax.lax.top_k(-values, count)[1]
    groups = values.reshape(*values.shape[:-1], length // group, group)
    # Ascending group order keeps the order of the indices, hence of the ties.
    picked = jnp.sort(jax.lax.top_k(-jnp.min(groups, axis=-1), count)[1], axis=-1)
    kept = jnp.take_along_axis(groups, picked[..., None], axis=-2).reshape(*values.shape[:-1], count * group)
    position = jax.lax.top_k(-kept, count)[1]
    return jnp.take_along_axis(picked, position // group, axis=-1) * group + position % group


def search_tables(quantizer: Qinco, width: SearchWidth, params: Params) -> Params:
    """What all rows of a search share: the steps' networks folded, and |S|^2 and -2 S^T of the pre-selection codebooks.

    Returns: {"first_codebook" [K, D], "steps": {"network": as `Qinco.fold_step`, "candidates": the same in the narrower
      type, if one is wanted, "preselection_norms" [M-1, K], "preselection_factor" [M-1, D, K]}}; no steps when M = 1.
    """
    tables = {"first_codebook": params["first_codebook"]}
    if width.codebooks == 1:
        return tables
    used = jax.tree.map(lambda leaf: leaf[: width.codebooks - 1], params["steps"])
    steps = {"network": jax.vmap(quantizer.fold_step)(used)}
    if not width.exact:
        # The codewords themselves stay exact: only what the network adds to them is approximate.
        narrow = jax.tree.map(lambda leaf: leaf.astype(width.candidate_dtype), steps["network"])
        steps["candidates"] = narrow | {"codebook": steps["network"]["codebook"]}
    if width.preselect < quantizer.codewords:
        steps["preselection_norms"] = jnp.sum(jnp.square(used["preselection"]), axis=-1)
        steps["preselection_factor"] = -2.0 * jnp.swapaxes(used["preselection"], -1, -2)
    return tables | {"steps": steps}


def search(
    quantizer: Qinco, width: SearchWidth, tables: Params, target: jax.Array, all_prefixes: bool
) -> tuple[jax.Array, jax.Array]:
    """Beam search of standardised rows [N, D], all at once.

    Args:
      quantizer: the sizes.
      width: what to keep.
      tables: result of `search_tables`.
      target: [N, D] standardised rows.
      all_prefixes: keep the best beam after every step, not only after the last.
    Returns: (codes [P, N, m] int32, sums [P, N, D] standardised); P is m with `all_prefixes`, else 1. Entries of
      steps that a prefix does not reach are -1.
    """
    rows, dimension = target.shape
    beam, kept = width.beam, width.preselect
    first = tables["first_codebook"]
    distance = jnp.sum(jnp.square(first), axis=-1) - 2.0 * dot(target, first.T)
    code = smallest(distance, beam)
    codes = jnp.full((rows, beam, width.codebooks), -1, jnp.int32).at[:, :, 0].set(code)
    sums = first[code]
    best = (codes[:, 0], sums[:, 0])

    def distances(proposed, wanted):
        return jnp.sum(jnp.square(wanted - proposed), axis=-1).reshape(rows, -1)

    def extend(carry, inputs):
        codes, sums = carry
        index, step = inputs
        flat, residual = sums.reshape(rows * beam, dimension), target[:, None] - sums
        if kept < quantizer.codewords:
            nearness = dot(residual.reshape(rows * beam, dimension), step["preselection_factor"])
            # Without a barrier a CPU works out every index anew for every number that it gathers.
            candidates = jax.lax.optimization_barrier(smallest(step["preselection_norms"] + nearness, kept))
        else:
            candidates = jnp.broadcast_to(jnp.arange(kept, dtype=jnp.int32), (rows * beam, kept))
        output = quantizer.folded_output(step["network" if width.exact else "candidates"], candidates, flat)
        output = output.reshape(rows, beam, kept, dimension)
        distance = distances(output, residual[:, :, None])
        output, candidates = output.reshape(rows, -1, dimension), candidates.reshape(rows, -1)
        if width.exact:
            chosen = smallest(distance, beam)
            code, parent = _picked(candidates, chosen), chosen // kept
            sums = _picked(sums, parent) + _picked(output, chosen)
        else:
            # Ascending, so that of equal candidates the first wins, as it does among all of them.
            listed = jnp.sort(smallest(distance, min(SHORTLIST * beam, beam * kept)), axis=-1)
            code, parent = _picked(candidates, listed), listed // kept
            sums = _picked(sums, parent)
            flat = sums.reshape(-1, dimension)
            sums = sums + quantizer.folded_output(step["network"], code.reshape(-1, 1), flat).reshape(sums.shape)
            chosen = smallest(distances(sums, target[:, None]), beam)
            code, parent, sums = (_picked(values, chosen) for values in (code, parent, sums))
        codes = _picked(codes, parent).at[:, :, index].set(code)
        return (codes, sums), (codes[:, 0], sums[:, 0]) if all_prefixes else None

    if width.codebooks == 1:
        return best[0][None], best[1][None]
    (codes, sums), later = jax.lax.scan(extend, (codes, sums), (jnp.arange(1, width.codebooks), tables["steps"]))
    if not all_prefixes:
        return codes[None, :, 0], sums[None, :, 0]
    return jnp.concatenate([best[0][None], later[0]]), jnp.concatenate([best[1][None], later[1]])


def _picked(values, index):
    """Entries `index` [N, C] of the second axis of `values` [N, ...]."""
    return jnp.take_along_axis(values, index.reshape(index.shape + (1,) * (values.ndim - 2)), axis=1)


def _search_rows(quantizer, width, all_prefixes, tables, target):
    """`search` of rows [N, D] tile by tile, for use inside of jit."""
    count, tile = target.shape[0], width.tile
    tiles = -(-count // tile)
    padded = jnp.pad(target, ((0, tiles * tile - count), (0, 0)))
    # Rows of a tile lie `tiles` apart, so a batch that the compiler shards over its rows stays sharded inside the map.
    strided = jnp.moveaxis(padded.reshape(tile, tiles, -1), 1, 0)
    found = jax.lax.map(lambda rows: search(quantizer, width, tables, rows, all_prefixes), strided)
    prefixes = found[0].shape[1]
    return tuple(jnp.moveaxis(part, 0, 2).reshape(prefixes, tiles * tile, -1)[:, :count] for part in found)


def _search_devices(quantizer, width, all_prefixes, mesh, params, target):
    """`_search_rows` on every device of a mesh, for rows of its own."""
    count, axes = target.shape[0], mesh.axis_names
    padded = jnp.pad(target, ((0, -count % mesh.size), (0, 0)))
    found = jax.shard_map(
        partial(_search_rows, quantizer, width, all_prefixes),
        mesh=mesh,
        in_specs=(P(), P(axes)),
        out_specs=(P(None, axes), P(None, axes)),
    )(search_tables(quantizer, width, params), padded)
    return tuple(part[:, :count] for part in found)


def _mesh_of(z):
    """The mesh that rows z are split over, as far as it can be known: inside of jit only one in force (`jax.set_mesh`)."""
    if isinstance(z, jax.core.Tracer):
        mesh = jax.sharding.get_abstract_mesh()
    else:
        sharding = getattr(z, "sharding", None)
        mesh = sharding.mesh if isinstance(sharding, NamedSharding) else jax.sharding.get_abstract_mesh()
    return mesh if mesh.size > 1 and all(kind == AxisType.Auto for kind in mesh.axis_types) else None


_jitted_tables = jax.jit(search_tables, static_argnums=(0, 1))
_jitted_search = jax.jit(search, static_argnums=(0, 1, 4))
_jitted_search_devices = jax.jit(_search_devices, static_argnums=(0, 1, 2, 3))


def _search_tiles(quantizer, width, params, z, all_prefixes, mesh):
    """Standardises, pads and tiles z [..., D]; gives (codes [P, ..., m], sums [P, ..., D]), standardised."""
    if z.shape[-1] != quantizer.dimension:
        raise ValueError(f"vectors must end in dimension {quantizer.dimension}, got shape {tuple(z.shape)}")
    leading, prefixes = z.shape[:-1], width.codebooks if all_prefixes else 1
    mesh = _mesh_of(z) if mesh is None else mesh
    traced = isinstance(z, jax.core.Tracer) or any(
        isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(params)
    )
    if mesh is not None and not traced:
        params = jax.device_put(params, NamedSharding(mesh, P()))
    target = quantizer.standardise(params, z).reshape(-1, quantizer.dimension)
    count, tile = target.shape[0], width.tile
    if count == 0:
        codes = jnp.zeros((prefixes, *leading, width.codebooks), jnp.int32)
        return codes, jnp.zeros((prefixes, *leading, quantizer.dimension))
    if mesh is not None:
        codes, sums = _jitted_search_devices(quantizer, width, all_prefixes, mesh, params, target)
    elif traced:
        codes, sums = _search_rows(quantizer, width, all_prefixes, search_tables(quantizer, width, params), target)
    else:
        # Outside of jit one compiled tile serves every number of rows.
        tables = _jitted_tables(quantizer, width, params)
        padded = jnp.pad(target, ((0, -count % tile), (0, 0)))
        found = [
            _jitted_search(quantizer, width, tables, padded[start : start + tile], all_prefixes)
            for start in range(0, count, tile)
        ]
        codes, sums = (jnp.concatenate(parts, axis=1)[:, :count] for parts in zip(*found, strict=True))
    codes = codes.reshape(prefixes, *leading, width.codebooks)
    return codes, sums.reshape(prefixes, *leading, quantizer.dimension)


def encode(
    quantizer: Qinco,
    params: Params,
    z: jax.Array,
    codebooks: int | None = None,
    *,
    preselect: int | None = None,
    beam: int | None = None,
    tile: int | None = None,
    candidate_dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Codes of the best beam after `codebooks` steps; works inside and outside of jit.

    Args:
      quantizer: the sizes; its `preselect` and `beam` are the defaults of A and B.
      params: the quantizer's tree.
      z: [..., D] vectors.
      codebooks: m, number of codebooks to use; None uses all M.
      preselect: A; 0 tries every codeword, more than K means K.
      beam: B; more than K means K.
      tile: rows searched together; None chooses by memory. Changes rounding only.
      candidate_dtype: type of the network that proposes candidates, "float32" (None) or "bfloat16". With bfloat16 only
        the short list of `SHORTLIST` B candidates of every step is approximate: it is computed again in float32, and
        these numbers decide, and are the sums that later steps see and that decoding gives. Pre-selection stays float32.
      mesh: devices to search on, each a part of the rows (which need not divide). None takes the mesh in force
        (`jax.set_mesh`) or, outside of jit, that of z. Codes are those of one device.
    Returns: codes [..., m] int32 in 0..K-1.
    Raises:
      ValueError: if a width is out of range or z does not end in D.
    Source: QINCo2 section 3.2. Cost: m A B evaluations of the step network per vector.
    """
    width = SearchWidth.of(quantizer, codebooks, preselect, beam, tile, candidate_dtype)
    return jax.lax.stop_gradient(_search_tiles(quantizer, width, params, z, False, mesh)[0][0])


def encode_all_prefixes(
    quantizer: Qinco,
    params: Params,
    z: jax.Array,
    *,
    preselect: int | None = None,
    beam: int | None = None,
    tile: int | None = None,
    candidate_dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Codes and reconstructions of every number of codebooks from one search, each equal to `encode(..., m)`.

    Args: as `encode`.
    Returns: (codes [M, ..., M] int32, where codes[m - 1, ..., :m] is the m-codebook code and the rest is -1;
      reconstructions [M, ..., D] in the units of z).
    Raises:
      ValueError: as `encode`.
    """
    width = SearchWidth.of(quantizer, None, preselect, beam, tile, candidate_dtype)
    codes, sums = jax.lax.stop_gradient(_search_tiles(quantizer, width, params, z, True, mesh))
    return codes, quantizer.unstandardise(params, sums)


def code_type(codewords: int) -> str:
    """The smallest integer type that stores the codes of a quantizer with K codewords, and the -1 of absent ones."""
    return "int16" if codewords <= 1 << 15 else "int32"


@partial(jax.jit, static_argnums=1)
def usage_counts(codes: jax.Array, codewords: int) -> jax.Array:
    """How often each codeword was chosen: codes [..., m] give [m, K] int32 (add them up over batches and devices)."""
    flat = codes.reshape(-1, codes.shape[-1]).T
    return jax.vmap(lambda column: jnp.zeros(codewords, jnp.int32).at[column].add(1))(flat)


def usage_statistics(counts: jax.Array) -> dict[str, jax.Array]:
    """Use of every codebook from counts [m, K].

    Returns: {"entropy_bits": [m] (at most log2 K), "perplexity": [m], "used_fraction": [m]}; all zero without counts.
    """
    counts = jnp.asarray(counts, jnp.float32)
    share = counts / jnp.maximum(jnp.sum(counts, axis=-1, keepdims=True), 1.0)
    entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log2(jnp.where(share > 0, share, 1.0)), 0.0), axis=-1)
    used = jnp.mean((counts > 0).astype(jnp.float32), axis=-1)
    return {"entropy_bits": entropy, "perplexity": jnp.where(used > 0, 2.0**entropy, 0.0), "used_fraction": used}
