"""What each stage reads, made from audio shards when it does not exist yet: captions' tokenizer, latents, vectors, codes.

Caches lie in `cache` beside the run folder, so that the runs of one chain share them. Their names carry a digest of the
networks that made them, and their `meta.json` the whole fingerprints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline import loader
from data_pipeline.records import ShardError, check_fingerprint, read_meta, splits_of, write_arrays
from spresso_jax.cli.feeds import LATENT_ARRAYS, Feed, make_feed, vector_feed
from spresso_jax.cli.vector_data import on_the_fly, open_splits
from spresso_jax.stages.registry import entry


def prepare_feed(request: Any, upstream: Any) -> tuple[Feed, Any, dict[str, Any]]:
    """(feed, config with what the data decides, facts for model.json) of a training request.

    Raises:
      TrainingError: if the data cannot serve the stage.
    """
    from spresso_jax.cli.training import as_paths

    config, reads = request.config, entry(request.stage).reads
    paths = as_paths(request.data, reads)
    if reads == "clips":
        return make_feed(reads, paths, config), config, {}
    if reads == "captioned_clips":
        return _captioned(paths, request, upstream)
    if reads == "vectors" and not on_the_fly(config):
        data = open_splits(request, upstream)
        counts = {"rows": len(data.train), "held_out": len(data.val), "dimension": data.train.shape[1]}
        known = {"quantizer_trained_on": {"latent_encoder": data.latent_encoder}} if data.latent_encoder else {}
        return vector_feed(data.train, data.val, config), config, known if upstream else known | {"vectors": counts}
    cache = request.run.parent / "cache"
    latents = tuple(latent_cache(path, cache, upstream) for path in paths)
    if reads == "vectors":
        return window_feed(latents, config, upstream), config, {"quantizer_trained_on": made_by(upstream, "latent_encoder")}
    # Codes that are made within the step need no cache of their own, and fresh windows.
    if reads == "latents" or config.get("codes") == "on_the_fly":
        return make_feed("latents", latents, config), config, {}
    from spresso_jax.cli.embedding_data import coded_cache

    coded = tuple(coded_cache(path, cache, upstream, config) for path in latents)
    return make_feed(reads, coded, config), config, {}


def _captioned(paths: tuple[Path, ...], request: Any, upstream: Any) -> tuple[Feed, Any, dict[str, Any]]:
    """Clips with tokens; the tokenizer is the upstream model's, the run's own, or trained on the captions now."""
    from spresso_jax.clap.tokenizer import Tokenizer, train_tokenizer

    config, saved = request.config, request.run / "tokenizer.json"
    if saved.is_file():
        tokenizer = Tokenizer.from_json(saved.read_text(encoding="utf-8"))
    elif upstream is not None and upstream.facts.get("tokenizer"):
        tokenizer = Tokenizer.from_json(upstream.facts["tokenizer"])
    else:
        captions = [
            text for p in paths for texts in loader.captions_of(loader.Source(str(p))).values() for text in texts
        ]
        if not any(captions):
            from spresso_jax.cli.training import TrainingError

            raise TrainingError(
                "no clip has a caption: CLAP learns from captions (spresso data prepare --captions FILE)"
            )
        tokenizer = train_tokenizer(captions, config.model.vocabulary)
    saved.write_text(tokenizer.to_json(), encoding="utf-8")
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.vocabulary = tokenizer.vocabulary
    length = config.text_tokens
    feed = make_feed("captioned_clips", paths, config, lambda caption: tokenizer.encode(caption, length))
    return feed, config, {"tokenizer": tokenizer.to_json(), "text_tokens": length}


def window_feed(latents: tuple[Path, ...], config: Any, upstream: Any) -> Feed:
    """Windows of latents that give about `data.batch_size` embeddings a step, which the stage computes."""
    import jax

    from spresso_jax.stages.embedding_rows import windows_needed

    downsample = int(upstream.networks["latent_encoder"].config["downsample"])
    whole = jax.device_count() * int(config.loop.accumulate)
    windows = -(-windows_needed(config.data.batch_size, downsample) // whole) * whole
    sized = config.copy_and_resolve_references()
    with sized.unlocked():
        # Held-out batches are counted in `data.validation_clips`, as those of stored embeddings are.
        sized.data.update(dict(batch_size=windows, validation_clips=windows * config.data.validation_clips))
    return make_feed("latents", latents, sized, keys=LATENT_ARRAYS)


def made_by(upstream: Any, *networks: str) -> dict[str, str]:
    """Value fingerprints of the upstream networks that a cache depends on."""
    values = upstream.facts.get("values", {})
    return {name: values[f"{name}.safetensors"] for name in networks}


def digest(fingerprints: dict[str, str]) -> str:
    """Eight hex digits that differ when any fingerprint does, for the names of caches."""
    text = json.dumps(fingerprints, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def latent_cache(path: Path, folder: Path, upstream: Any) -> Path:
    """The folder of cached latents for `path`: itself if it is one (and matches), else made under `folder`.

    Raises:
      ShardError: if a given cache was made by other networks.
    """
    from spresso_jax.cli.training import TrainingError

    if upstream is None:
        raise TrainingError("this stage needs --upstream MODEL (the model folder of the stage before it)")
    wanted = _latents_made_by(upstream)
    if read_meta(path).get("kind") == "arrays":
        check_fingerprint(path, wanted)
        return path
    target = folder / f"latents-{path.name}-{digest(wanted)}"
    if is_current(target, wanted, splits_of(path)):
        return target
    return write_latents(path, target, upstream)


def write_latents(path: Path, target: Path, upstream: Any) -> Path:
    """Encodes every split of audio shards `path` into latent shards `target`."""
    from spresso_jax.extract.latents import LatentExtractor

    extractor = LatentExtractor.of_model(upstream)
    if extractor.tokenizer is None:
        print(f"{path.name}: the upstream model has no tokenizer, so captions are left out (null captions only)", flush=True)
    for split in splits_of(path):
        clips = loader.ordered_clips(loader.Source(str(path), split), None)
        records = counted(extractor.records(clips), f"latents of {path.name}/{split}")
        write_arrays(target, split, records, _latents_made_by(upstream))
    return target


def _latents_made_by(upstream: Any) -> dict[str, str]:
    """What cached latents depend on; a model without a tokenizer leaves captions out of them."""
    silent = {} if upstream.facts.get("tokenizer") else {"tokenizer": "none"}
    return made_by(upstream, "audio_ae", "clap") | silent


def is_current(target: Path, wanted: dict[str, str], splits: Any) -> bool:
    try:
        check_fingerprint(target, wanted)
        return set(splits_of(target)) >= set(splits)
    except (ShardError, OSError):
        return False


def counted(records: Iterator, title: str, total: int | None = None) -> Iterator:
    """Passes records on and says how many there were, at the end and every 500."""
    count = 0
    for record in records:
        count += 1
        if count % 500 == 0:
            print(f"{title}: {count}{f' of {total}' if total else ''}", flush=True)
        yield record
    print(f"{title}: {count} clips", flush=True)


def rows_of(latents: tuple[Path, ...], split: str) -> Iterator[tuple[dict, dict[str, np.ndarray]]]:
    """(meta, arrays) of every record of a split, over several caches."""
    from data_pipeline.records import open_split

    for folder in latents:
        if split not in splits_of(folder):
            continue
        reader = open_split(folder, split)
        try:
            for index in range(len(reader)):
                record = reader[index]
                yield record.meta, {name: record.array(name) for name in record.names}
        finally:
            reader.close()
