"""Caches of the last two stages, made from cached latents: embeddings for the quantizer, coded latents for step 3."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from data_pipeline.loader import Source, count_records
from data_pipeline.records import META, fingerprint_of, read_meta, splits_of, write_arrays
from data_pipeline.vectors import is_complete, is_vectors, write_split
from spresso_jax.cli.upstream_data import counted, digest, is_current, made_by, rows_of

SPLITS = ("train", "val")


def dump_embeddings(model: Path, data: tuple[Path, ...], out: Path, crops: int, seed: int) -> dict[str, dict[str, int]]:
    """Writes the embeddings of `data` to `out`; latents that are missing are made in `cache` beside it.

    Args:
      model: model folder with a latent_encoder.
      data: folders of shards of sounds or of cached latents.
      out, crops, seed: as `write_embeddings`.

    Returns:
      split -> {"rows", "shards", "clips", "windows"}.

    Raises:
      TrainingError, ModelFolderError, ShardError, ValueError: naming the file, before anything is computed where that can be.
    """
    from spresso_jax.checkpoints.weights import load_model
    from spresso_jax.cli.admission import check_upstream
    from spresso_jax.cli.training import RunRequest, TrainingError, as_paths
    from spresso_jax.cli.upstream_data import latent_cache
    from spresso_jax.configuration import load_config

    upstream = load_model(model)
    for path in as_paths(data):
        if is_vectors(path):
            raise TrainingError(f"{path} holds vectors already: give shards of sounds or of latents")
    if (out / META).is_file() and not is_vectors(out):
        raise TrainingError(f"{out} holds shards of {read_meta(out).get('kind')}: choose another folder for embeddings")
    config = load_config("quantizer", [f"crops={crops}", f"seed={seed}"])
    check_upstream(RunRequest("quantizer", config, out, data, str(model)), upstream)
    latents = tuple(latent_cache(path, out.parent / "cache", upstream) for path in data)
    write_embeddings(latents, out, upstream, crops, seed)
    return read_meta(out)["splits"]


def embedding_folder(latents: tuple[Path, ...], folder: Path, upstream: Any, config: Any) -> Path:
    """The folder of embeddings that a training of the quantizer reads, made under `folder` when it is not there.

    Raises:
      TrainingError: as `write_embeddings`.
    """
    crops, seed = int(config.crops), int(config.seed)
    target = folder / f"embeddings-{digest(embeddings_made_by(latents, upstream, crops, seed))}"
    return write_embeddings(latents, target, upstream, crops, seed)


def write_embeddings(latents: tuple[Path, ...], target: Path, upstream: Any, crops: int, seed: int) -> Path:
    """Writes z of the splits "train" and "val" of cached latents as shards of vectors; what is complete stays.

    Args:
      latents: folders of cached latents, of which one at least has the split "train".
      target: the folder; made if needed.
      upstream: loaded model with latent_encoder.
      crops: windows a clip, each with all its pooling windows that are mostly sound.
      seed: of the windows.

    Returns:
      `target`.

    Raises:
      TrainingError: if there is no training clip, or no clip of a split holds sound.
      ValueError: naming the clip whose embeddings are not finite.
    """
    from spresso_jax.cli.training import TrainingError
    from spresso_jax.extract.embeddings import EmbeddingExtractor

    wanted = embeddings_made_by(latents, upstream, crops, seed)
    extractor = EmbeddingExtractor.of_model(upstream)
    for split in SPLITS:
        having = [path for path in latents if split in splits_of(path)]
        if split == "train" and not having:
            raise TrainingError(f"{', '.join(map(str, latents))}: no train split to take embeddings from")
        if not having or is_complete(target, split, wanted):
            continue
        clips = sum(count_records(Source(str(path), split)) for path in having)
        windows = counted(extractor.crops(rows_of(latents, split), crops, seed), f"embeddings of {split}", clips * crops)
        rows = (block for block in extractor.rows(windows) if len(block))
        first = next(rows, None)
        if first is None:
            raise TrainingError(f"none of the {clips} {split} clips holds a frame of sound to take embeddings from")
        facts = {"clips": clips, "windows": clips * crops}
        write_split(target, split, itertools.chain([first], rows), wanted, facts)
    return target


def embeddings_made_by(latents: tuple[Path, ...], upstream: Any, crops: int, seed: int) -> dict[str, str]:
    """What embeddings depend on: networks, windows, and the latents themselves."""
    sources = ",".join(f"{path.name}:{fingerprint_of(path)[:16]}" for path in latents)
    made = made_by(upstream, "audio_ae", "latent_encoder")
    return made | {"crops": str(crops), "seed": str(seed), "latents": sources}


def coded_cache(path: Path, folder: Path, upstream: Any, config: Any) -> Path:
    """Shards of crops with latents, embeddings and codes, made from the cached latents at `path` when missing.

    The codes are of `codebooks` codebooks, or of every number in the range of `draw_codebooks`.
    """
    from spresso_jax.extract.embeddings import EmbeddingExtractor
    from spresso_jax.stages.decoder_finetune import codebook_range

    codebooks, low, high = codebook_range(config, upstream)
    wanted = made_by(upstream, "audio_ae", "clap", "latent_encoder", "quantizer")
    wanted |= {"crops": str(config.crops), "seed": str(config.seed)}
    wanted["codebooks"] = f"each of {low} to {high}" if low < high else str(codebooks)
    target = folder / f"coded-{path.name}-{digest(wanted)}"
    if is_current(target, wanted, splits_of(path)):
        return target
    extractor = EmbeddingExtractor.of_model(upstream)
    for split in splits_of(path):
        crops = 1 if split == "val" else config.crops
        windows = extractor.crops(rows_of((path,), split), crops, config.seed)
        records = extractor.coded_by_length(windows, low, high) if low < high else extractor.coded(windows, codebooks)
        write_arrays(target, split, counted(records, f"codes of {path.name}/{split}"), wanted)
    return target
