"""Caches of the last two stages, made from cached latents: embeddings as .npy for the quantizer, coded latents for step 3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.records import splits_of, write_arrays
from spresso_jax.cli.upstream_data import counted, digest, is_current, made_by, rows_of

SPLITS = ("train", "val")


def embedding_files(latents: tuple[Path, ...], folder: Path, upstream: Any, config: Any) -> tuple[Path, Path]:
    """(train.npy, val.npy) of embeddings [n, 64] float32, made when they are missing or of another encoder.

    Raises:
      TrainingError: if a split gives no embedding.
    """
    from spresso_jax.cli.training import TrainingError
    from spresso_jax.extract.embeddings import EmbeddingExtractor

    wanted = made_by(upstream, "audio_ae", "latent_encoder") | {"crops": str(config.crops), "seed": str(config.seed)}
    wanted["latents"] = ",".join(path.name for path in latents)
    files = tuple(folder / f"embeddings-{digest(wanted)}-{split}.npy" for split in SPLITS)
    if all(file.is_file() for file in files):
        return files
    folder.mkdir(parents=True, exist_ok=True)
    extractor = EmbeddingExtractor.of_model(upstream)
    for split, file in zip(SPLITS, files, strict=True):
        source = split if any(split in splits_of(path) for path in latents) else "train"
        crops = extractor.crops(rows_of(latents, source), config.crops, config.seed)
        rows = list(extractor.rows(counted(crops, f"embeddings of {split}")))
        if not rows:
            raise TrainingError(f"no {source} clips to take embeddings from")
        order = np.random.default_rng(config.seed).permutation(sum(len(part) for part in rows))
        # Under its final name only when complete: a kill leaves no half a file.
        part = file.with_suffix(".part.npy")
        np.save(part, np.concatenate(rows).astype(np.float32)[order])
        part.replace(file)
    return files


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
