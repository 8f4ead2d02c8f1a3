"""What the quantizer trains on: a user's own vectors, embeddings on disk, or embeddings made from sounds when missing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.records import check_fingerprint, read_meta
from data_pipeline.vectors import ScatteredRows, Vectors, check_rows, hold_out, is_vectors, open_vectors, splits_of
from spresso_jax.cli.training import RunRequest, TrainingError
from spresso_jax.shapes import EMBEDDING_CHANNELS

# Files from this size on say how far the check of their rows is.
_TOLD_BYTES = 2**30


@dataclass(frozen=True)
class VectorData:
    """Rows to train on, held-out rows, and the fingerprint of the g_psi that made them, None for a user's own vectors."""

    train: Vectors | ScatteredRows
    val: Vectors | ScatteredRows
    latent_encoder: str | None


def on_the_fly(config: Any) -> bool:
    """Whether embeddings are computed within every step.

    Raises:
      ValueError: if the config asks for neither way.
    """
    if config.embeddings not in ("stored", "on_the_fly"):
        raise ValueError(f"embeddings must be 'stored' or 'on_the_fly', got {config.embeddings!r}")
    return config.embeddings == "on_the_fly"


def admit_vectors(request: RunRequest, upstream: Any, make: bool = True) -> RunRequest:
    """Reads every vector of a request once and refuses what cannot be trained on, before the run folder holds anything.

    Args:
      request: of a stage that reads vectors.
      upstream: loaded model, or None.
      make: make embeddings of sounds that have none yet, so that they are checked too.

    Returns:
      the request with what the vectors decide: `model.dimension`, and the full path of `data.validation`.

    Raises:
      TrainingError, ShardError, ValueError: naming the file or field, what is wrong and the remedy.
    """
    given = _are_given(request)
    if on_the_fly(request.config):
        if given:
            raise TrainingError(f"embeddings=on_the_fly reads sounds or latents, but {request.data[0]} holds vectors")
        if upstream is None:
            raise TrainingError("embeddings=on_the_fly needs --upstream MODEL, whose latent_encoder makes them")
        return request
    if upstream is None and not given:
        raise TrainingError(
            f"{request.data[0]} holds no vectors: stage {request.stage} makes them of sounds with --upstream MODEL, and needs"
            " none for --data FILE.npy"
        )
    if not (given or make):
        return request
    train, val = _splits(request, upstream)
    _check_width(request, train, val)
    _check_count(request, train.name, len(open_splits(request, upstream).train))
    check_rows(train, _told(train))
    if val is not None:
        check_rows(val, _told(val), constant_allowed=True)
    config = request.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.dimension = train.shape[1]
        config.data.validation = str(Path(config.data.validation).absolute()) if config.data.validation else ""
    return dataclasses.replace(request, config=config)


def open_splits(request: RunRequest, upstream: Any) -> VectorData:
    """The vectors of a request, memory-mapped and not checked row by row; embeddings are made when they are missing.

    Held out is `data.validation`, else the split "val" of the given folders, else the share `data.held_out` of the rows.

    Raises:
      TrainingError, ShardError, ValueError: as `admit_vectors`.
    """
    train, val = _splits(request, upstream)
    if val is None:
        train, val = hold_out(train, float(request.config.data.held_out))
    made_by = {_latent_encoder(path) for path in request.data} if upstream is None else {_own(upstream)}
    return VectorData(train, val, made_by.pop() if len(made_by) == 1 else None)


def _splits(request: RunRequest, upstream: Any) -> tuple[Vectors, Vectors | None]:
    """(training rows before any are held out, held-out rows that are given)."""
    if list(request.config.data.weights):
        raise TrainingError("data.weights: the vectors of several sources are put together as they are; leave it empty")
    if _are_given(request):
        folders = request.data
        for path in folders:
            _check_origin(path, upstream)
    else:
        from spresso_jax.cli.embedding_data import embedding_folder
        from spresso_jax.cli.upstream_data import latent_cache

        cache = request.run.parent / "cache"
        latents = tuple(latent_cache(path, cache, upstream) for path in request.data)
        folders = (embedding_folder(latents, cache, upstream, request.config),)
    train = _joined([open_vectors(path) for path in folders])
    named = request.config.data.validation
    if named:
        if not is_vectors(named):
            raise TrainingError(f"data.validation: {named} is no .npy file and no folder of vectors")
        _check_origin(Path(named), upstream, "data.validation: ")
        return train, open_vectors(named, _held_out_split(named) or "train")
    held_out = [open_vectors(path, split) for path in folders if (split := _held_out_split(path))]
    return train, _joined(held_out) if held_out else None


def _are_given(request: RunRequest) -> bool:
    """Whether the data are vectors already; sounds and latents are not."""
    found = [is_vectors(path) for path in request.data]
    if any(found) != all(found):
        vectors, other = request.data[found.index(True)], request.data[found.index(False)]
        raise TrainingError(f"{vectors} holds vectors, but {other} does not: train on the one or on the other")
    return all(found)


def _check_origin(path: Path, upstream: Any, field: str = "") -> None:
    """With an upstream model, vectors must say that its own g_psi made them."""
    if upstream is None:
        return
    if not Path(path).is_dir():
        raise TrainingError(
            f"{field}{path} does not say which latent_encoder made it: write embeddings with `spresso data embeddings MODEL`, or"
            " train without --upstream"
        )
    from spresso_jax.cli.upstream_data import made_by

    check_fingerprint(path, made_by(upstream, "latent_encoder", "audio_ae"))


def _check_width(request: RunRequest, train: Vectors, val: Vectors | None) -> None:
    width, saved = train.shape[1], request.run / "config.json"
    wanted = int(request.config.model.dimension)
    if request.resume and saved.is_file():
        wanted = json.loads(saved.read_text(encoding="utf-8")).get("model", {}).get("dimension", wanted)
    elif wanted == EMBEDDING_CHANNELS:
        wanted = width  # the default: the data decides
    if width != wanted:
        raise TrainingError(
            f"{train.name}: vectors of {width} dimensions, but model.dimension is {wanted}: give the vectors that it was set for"
        )
    if val is not None and val.shape[1] != width:
        raise TrainingError(f"{val.name}: vectors of {val.shape[1]} dimensions, but those of {train.name} have {width}")


def _check_count(request: RunRequest, name: str, count: int) -> None:
    codewords = int(request.config.model.codewords)
    if count < codewords:
        raise TrainingError(
            f"{name}: {count} vectors to train on are fewer than the {codewords} codewords of a codebook: give more, or set"
            f" model.codewords to {2 ** (count.bit_length() - 1)} or less"
        )


def _joined(parts: list[Vectors]) -> Vectors:
    return Vectors([matrix for part in parts for matrix in part.matrices])


def _held_out_split(path: str | Path) -> str | None:
    return "val" if Path(path).is_dir() and "val" in splits_of(path) else None


def _latent_encoder(path: Path) -> str | None:
    return read_meta(path).get("fingerprints", {}).get("latent_encoder") if path.is_dir() else None


def _own(upstream: Any) -> str:
    from spresso_jax.cli.upstream_data import made_by

    return made_by(upstream, "latent_encoder")["latent_encoder"]


def _told(vectors: Vectors) -> Callable[[int, int], None] | None:
    """Prints every tenth of a check that takes long."""
    if 4 * len(vectors) * vectors.shape[1] < _TOLD_BYTES:
        return None
    told = 0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if 10 * done // total > told:
            told = 10 * done // total
            print(f"checking {vectors.name}: {10 * told} %", flush=True)

    return tell
