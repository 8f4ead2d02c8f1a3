"""Hands data_pipeline's batches to a stage: training batches from any step, and finite validation passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline import loader
from data_pipeline.records import open_split, splits_of
from data_pipeline.vectors import ScatteredRows, Vectors
from spresso_jax.shapes import CLIP_FRAMES, whole_hops

Batches = Iterator[Mapping[str, np.ndarray]]

# What a batch of cached latents holds; the first two are cropped together, the text arrays are one draw of a caption.
LATENT_ARRAYS = ("latent", "weight")
CAPTION_ARRAYS = ("text", "text_mask", "pooled_text")


@dataclass(frozen=True)
class Feed:
    """Training and validation batches of one stage.

    Attributes:
      draw: start step -> endless iterator with `close()`; batch k is a function of (seed, k).
      validation: source name -> function that gives a finite iterator.
      records: records of the training split, or None.
    """

    draw: Callable[[int], Batches]
    validation: dict[str, Callable[[], Batches]]
    records: int | None = None


def make_feed(
    reads: str,
    paths: Sequence[str | Path],
    config: Any,
    tokenize: Callable | None = None,
    keys: Sequence[str] | None = None,
) -> Feed:
    """The feed of a stage that reads `reads` (see stages/registry.py) from folders of shards.

    Args:
      reads: kind of data.
      paths: the folders.
      config: of the stage.
      tokenize: caption -> (ids, mask), for captioned clips.
      keys: of cached arrays those to hand on, uncaptioned; all of them by default.

    Raises:
      ValueError: if the number of weights does not fit the sources, or a folder has no train split.
    """
    import jax

    from spresso_jax.audio.loudness import integrated_loudness

    weights = list(config.data.weights) or [1.0] * len(paths)
    if len(weights) != len(paths):
        raise ValueError(f"data.weights has {len(weights)} entries for {len(paths)} sources")
    train, val = [], []
    for path, weight in zip(paths, weights, strict=True):
        splits = splits_of(path)
        if "train" not in splits:
            raise ValueError(f"{path}: no train split (splits: {', '.join(splits) or 'none'})")
        train.append(loader.Source(str(path), "train", float(weight)))
        val.append(loader.Source(str(path), "val" if "val" in splits else "train"))
    place = dict(
        batch_size=config.data.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.data.threads,
    )
    if reads in ("clips", "captioned_clips"):
        samples = whole_hops(config.data.seconds)
        held_out = whole_hops(config.data.validation_seconds) or samples
        chosen = tokenize if reads == "captioned_clips" else None

        def draw(step: int) -> Batches:
            return loader.audio_batches(
                train, samples=samples, start_step=step, crop=config.data.crop, gain_db=config.data.gain_db,
                tokenize=chosen, loudness=integrated_loudness, **place,
            )  # fmt: skip

        def passes(source: loader.Source) -> Callable[[], Batches]:
            return lambda: _clip_pass(source, held_out, chosen, config.data)

    else:
        crops = {name: CLIP_FRAMES for name in LATENT_ARRAYS} if reads == "latents" else None

        def draw(step: int) -> Batches:
            captions = CAPTION_ARRAYS if keys is None else ()
            return loader.array_batches(train, crop_frames=crops, start_step=step, keys=keys, choose=captions, **place)

        def passes(source: loader.Source) -> Callable[[], Batches]:
            return lambda: _array_pass(source, config.data, keys)

    return Feed(draw, {source.title: passes(source) for source in val}, sum(loader.count_records(s) for s in train))


def vector_feed(train: Vectors | ScatteredRows, val: Vectors | ScatteredRows, config: Any) -> Feed:
    """Rows of vectors; validation takes up to `data.validation_clips` batches of them, the same ones every time."""
    import jax

    def draw(step: int) -> Batches:
        return loader.vector_batches(
            train, batch_size=config.data.batch_size, seed=config.seed, start_step=step,
            process_index=jax.process_index(), process_count=jax.process_count(), threads=config.data.threads,
        )  # fmt: skip

    def passes() -> Batches:
        rows, devices = ScatteredRows(val), jax.device_count()
        # Whole batches of one shape that divides over the devices; fewer rows than devices are taken again.
        size = max(min(config.data.batch_size, len(rows)) // devices, 1) * devices
        for start in range(0, max(min(len(rows), config.data.validation_clips * size) - size, 0) + 1, size):
            yield {"embedding": rows[np.arange(start, start + size) % len(rows)]}

    return Feed(draw, {"val": passes}, len(train))


def _clip_pass(source: loader.Source, samples: int, tokenize: Callable | None, data: Any) -> Batches:
    """Whole batches of a split's clips at their most active window, each clip once, in scattered order."""
    rows: list[dict] = []
    taken = 0
    for clip in loader.ordered_clips(source, samples, crop="most_active", scattered=True):
        row = {"audio": clip["audio"], "valid": np.int32(clip["valid"])}
        if tokenize is not None:
            row["tokens"], row["text_mask"] = tokenize(clip["caption"])
        rows.append(row)
        if len(rows) == data.batch_size:
            yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}
            taken += len(rows)
            rows = []
            if taken >= data.validation_clips:
                return
    if not taken and rows:
        repeated = [rows[i % len(rows)] for i in range(data.batch_size)]
        yield {name: np.stack([row[name] for row in repeated]) for name in rows[0]}


def _array_pass(source: loader.Source, data: Any, keys: Sequence[str] | None = None) -> Batches:
    """Whole batches of cached records in scattered order, first clip and first caption of each."""
    reader = open_split(source.path, source.split)
    try:
        count = min(len(reader), data.validation_clips) // data.batch_size * data.batch_size
        scattered = loader.scattered_order(len(reader))
        order = scattered[:count] if count else [scattered[i % len(reader)] for i in range(data.batch_size)]
        for start in range(0, len(order), data.batch_size):
            rows = [_first_clip(reader[i], keys) for i in order[start : start + data.batch_size]]
            yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    finally:
        reader.close()


def _first_clip(record: Any, keys: Sequence[str] | None) -> dict[str, np.ndarray]:
    row = {}
    for name in record.names if keys is None else keys:
        if name in LATENT_ARRAYS:
            value = record.window(name, 0, CLIP_FRAMES)
        elif name in CAPTION_ARRAYS:
            value = record.array(name)[0]
        else:
            value = record.array(name)
        row[name] = value.astype(np.float32) if value.dtype == np.float16 else value
    return row
