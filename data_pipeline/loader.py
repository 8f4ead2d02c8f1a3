"""Batches: the k-th one is a pure function of the seed and k, on any number of hosts and threads.

Order of operations: source, seed, shuffle, repeat, seeded draws, mix of sources, host slice, decode, batch, seek to
the first step, a few batches of read-ahead by threads. There is no iterator state to save: a run that goes on at step
k passes `start_step=k`.

`batch_size` is always the global one. Host h of P gets the rows h, h + P, ... of it, batch_size / P of them; the union
over the hosts does not depend on P.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import grain
import numpy as np

from data_pipeline import manifest, permutation
from data_pipeline.clips import CROPS
from data_pipeline.records import ShardError, ShardReader, open_split, read_meta
from data_pipeline.transforms import DecodeArrays, DecodeClip, Draw, Loudness, Tokenize, decode_clip
from data_pipeline.vectors import ScatteredRows, Vectors, open_vectors

_READ_AHEAD = 4
_FOREVER = 2**40


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of one folder of shards, and its share in a mix.

    Attributes:
      path: the folder.
      split: "train", "val", "test" ...
      weight: share of the examples, relative to the other sources.
      name: for reports; the folder's name by default.
    """

    path: str
    split: str = "train"
    weight: float = 1.0
    name: str | None = None

    @property
    def title(self) -> str:
        return self.name or pathlib.Path(self.path).name


class Batches:
    """An endless iterator of batches (dicts of numpy arrays); `close()` it, or use it in a `with`.

    Attributes:
      records: number of records of all sources together, None for `vector_batches`.
    """

    def __init__(self, dataset: grain.MapDataset, threads: int, readers: Sequence[ShardReader] = ()):
        self.records = sum(len(reader) for reader in readers) or None
        ahead = max(threads, min(_READ_AHEAD, 2 * threads))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        self._iterator = iter(dataset.to_iter_dataset(options))
        self._closed = False

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self._closed:
            raise StopIteration
        return next(self._iterator)

    def close(self) -> None:
        """Stops the threads after the batches they are at; further reads end the iteration.

        The shards close by themselves when the last thread lets go of them.
        """
        if not self._closed:
            self._closed = True
            self._iterator.close()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def audio_batches(
    sources: Sequence[Source],
    *,
    batch_size: int,
    samples: int,
    seed: int,
    start_step: int = 0,
    crop: str = "random",
    gain_db: float = 0.0,
    tokenize: Tokenize | None = None,
    loudness: Loudness | None = None,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Batches:
    """Endless batches of clips.

    Args:
      sources: mixed by weight; each is shuffled and repeated on its own first.
      batch_size: global number of clips in a batch.
      samples: length of a clip at 48 kHz; shorter sounds are padded with zeros at the end.
      seed: of order, crops, gains and choice of captions.
      start_step: number of the first batch to give.
      crop: "random" (uniform), "active" (uniform over the windows with a second of activity), "salient" (DAC's: up to
        eight draws until one is louder than -40 LUFS), or "start".
      gain_db: random gain, uniform in [-gain_db, gain_db]; never raises a peak over -1 dBFS.
      tokenize: caption -> (ids int32 [N], mask bool [N]); one caption of each clip is drawn.
      loudness: float32 [samples] -> LUFS; "salient" needs it.
      process_index, process_count: this host, and how many there are.
      threads: that read and decode.

    Returns:
      `Batches` of {"audio" [B, S, 1] float32, "valid" [B] int32} and, with `tokenize`, {"tokens" [B, N] int32,
      "text_mask" [B, N] bool}; B is batch_size / process_count.

    Raises:
      ShardError: missing or damaged shards, or shards of arrays.
      ValueError: arguments that make no sense.
    """
    if crop not in CROPS:
        raise ValueError(f"crop must be one of {', '.join(CROPS)}, got {crop!r}")
    if crop == "salient" and loudness is None:
        raise ValueError("crop 'salient' needs a function that measures loudness")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if gain_db < 0:
        raise ValueError(f"gain_db must not be negative, got {gain_db}")
    readers = _open_sources(sources, "clips")
    decode = DecodeClip(readers, samples, crop, gain_db, tokenize, loudness)
    place = (batch_size, start_step, process_index, process_count)
    return Batches(_stream(sources, readers, decode, seed, *place), threads, readers)


def array_batches(
    sources: Sequence[Source],
    *,
    batch_size: int,
    crop_frames: Mapping[str, int] | None = None,
    seed: int,
    start_step: int = 0,
    keys: Sequence[str] | None = None,
    choose: Sequence[str] = (),
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Batches:
    """Endless batches of cached arrays (latents, text embeddings, compressed embeddings).

    Args:
      sources: as in `audio_batches`.
      batch_size: global number of records in a batch.
      crop_frames: name -> frames, for example {"latent": 500}. These arrays are cropped along their first axis by one
        common random window (so they must be equally long), and padded with zeros where they are shorter.
      seed: of order and crops.
      start_step: number of the first batch to give.
      keys: arrays to return; all of them by default. Arrays that are not cropped must have one shape in all records.
      choose: arrays whose first axis holds alternatives (one per caption), of which one, the same for all these
        arrays, is drawn.
      process_index, process_count, threads: as in `audio_batches`.

    Returns:
      `Batches` of name -> [B, ...] (float16 as float32) and, where arrays are cropped or records store it, "valid"
      [B] int32: frames of the window that are not padding. A scalar array "valid" in a record says how many of its
      frames are sound; without it all are.

    Raises:
      ShardError: missing or damaged shards, shards of clips, or a record without an array that was asked for.
      ValueError: arguments that make no sense.
    """
    if crop_frames and (min(crop_frames.values()) < 1 or len(set(crop_frames.values())) > 1):
        raise ValueError(f"crop_frames must be equal and at least 1 for arrays that share a window, got {crop_frames}")
    readers = _open_sources(sources, "arrays")
    for source, reader in zip(sources, readers, strict=True):
        present = reader[0].names
        absent = [name for name in (*(keys or ()), *(crop_frames or ()), *choose) if name not in (*present, "valid")]
        if absent:
            raise ShardError(f"{source.path}: no array {absent[0]!r} in its records, there is {', '.join(present)}")
    decode = DecodeArrays(readers, crop_frames, keys, choose)
    place = (batch_size, start_step, process_index, process_count)
    return Batches(_stream(sources, readers, decode, seed, *place), threads, readers)


def vector_batches(
    vectors: np.ndarray | Vectors | ScatteredRows | str | os.PathLike,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    key: str = "embedding",
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Batches:
    """Endless batches of rows of one big matrix, a fresh permutation each epoch; nothing of length N is built.

    Args:
      vectors: [N, D], in memory or memory-mapped; or the path of a .npy file or of a folder of vectors (its split "train").
      batch_size: global number of rows in a batch; a batch may run over the end of an epoch.
      seed: of the permutations.
      start_step: number of the first batch to give.
      key: name of the rows in a batch.
      process_index, process_count, threads: as in `audio_batches`.

    Returns:
      `Batches` of {key: [B, D]}, float16 as float32.

    Raises:
      ShardError: as `vectors.open_vectors`, or not an [N, D] array.
      ValueError: arguments that make no sense.
    """
    if isinstance(vectors, (str, os.PathLike)):
        vectors = open_vectors(vectors)
    if len(vectors.shape) != 2 or not len(vectors):
        raise ShardError(f"vectors must be [N, D] with rows, got shape {vectors.shape}")
    local = _check_place(batch_size, start_step, process_index, process_count)

    def batch(step: int) -> dict[str, np.ndarray]:
        positions = step * batch_size + process_index + process_count * np.arange(local, dtype=np.int64)
        rows = vectors[permutation.rows(positions, len(vectors), seed)]
        return {key: np.asarray(rows, np.float32 if rows.dtype == np.float16 else rows.dtype)}

    return Batches(grain.MapDataset.range(start_step, _FOREVER).map(batch), threads)


def ordered_clips(
    source: Source,
    samples: int | None,
    *,
    crop: str = "start",
    scattered: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict]:
    """One finite pass over a split in the order of its shards, each clip once: for validation and extraction.

    Args:
      source: one split (validation is by source; the weight does not matter).
      samples: length of each clip; None gives every sound whole.
      crop: "start", or "most_active" for the window with the most active frames.
      scattered: in the order of `scattered_order` instead.
      process_index, process_count: this host takes every process_count-th clip.

    Yields:
      {"id" str, "caption" str (the first, or ""), "captions" list, "audio" [S, 1] float32, "valid" int, "meta" dict}.

    Raises:
      ShardError: missing or damaged shards.
      ValueError: arguments that make no sense.
    """
    if crop not in ("start", "most_active"):
        raise ValueError(f"crop must be 'start' or 'most_active', got {crop!r}")
    (reader,) = _open_sources([source], "clips")
    order = scattered_order(len(reader)) if scattered else range(len(reader))
    return _ordered(reader, samples, crop, order[process_index::process_count])


def scattered_order(count: int) -> list[int]:
    """One fixed order of `count` records that tears neighbours apart.

    Shards keep the order of folders, so that their first records, and the rows of a validation batch, would be of one kind.
    """
    return np.random.default_rng(count).permutation(count).tolist()


def _ordered(reader: ShardReader, samples: int | None, crop: str, indices: Sequence[int]) -> Iterator[dict]:
    try:
        for index in indices:
            record = reader[index]
            audio, valid = decode_clip(record, samples or record.shape("audio")[0], crop)
            captions = record.meta.get("caption") or []
            yield {"id": record.meta["id"], "caption": captions[0] if captions else "", "captions": captions,
                   "audio": audio[:, None], "valid": valid, "meta": record.meta}  # fmt: skip
    finally:
        reader.close()


def count_records(source: Source) -> int:
    """Number of records of a source (clips seen in one epoch)."""
    reader = open_split(source.path, source.split)
    try:
        return len(reader)
    finally:
        reader.close()


def captions_of(source: Source) -> dict[str, list[str]]:
    """Record id -> captions of a split, from the manifest where there is one (no sound is read), else the records."""
    path = pathlib.Path(source.path) / manifest.MANIFEST
    if path.is_file():
        rows = [row for row in manifest.read_rows(path) if row.split == source.split]
        return {record[0]: list(row.captions) for row in rows for record in row.records}
    reader = open_split(source.path, source.split)
    try:
        metas = (reader[index].meta for index in range(len(reader)))
        return {meta["id"]: list(meta.get("caption") or []) for meta in metas}
    finally:
        reader.close()


def _open_sources(sources: Sequence[Source], kind: str) -> list[ShardReader]:
    if not sources:
        raise ValueError("sources is empty: give at least one Source")
    readers = []
    for source in sources:
        if source.weight <= 0:
            raise ValueError(f"source {source.title}: weight must be positive, got {source.weight}")
        found = read_meta(source.path).get("kind")
        if found != kind:
            raise ShardError(f"{source.path}: holds shards of {found}, but {kind} are needed here")
        readers.append(open_split(source.path, source.split))
        if not len(readers[-1]):
            raise ShardError(f"{source.path}: split {source.split!r} has no records")
    return readers


def _stream(
    sources: Sequence[Source],
    readers: Sequence[ShardReader],
    decode: Callable,
    seed: int,
    batch_size: int,
    start_step: int,
    process_index: int,
    process_count: int,
) -> grain.MapDataset:
    """The order of operations that the module's text names."""
    local = _check_place(batch_size, start_step, process_index, process_count)
    parts = []
    for number, reader in enumerate(readers):
        part = grain.MapDataset.range(len(reader)).seed(_derived(seed, number)).shuffle().repeat(None)
        parts.append(part.random_map(Draw(number)))
    mixed = parts[0]
    if len(parts) > 1:
        mixed = grain.MapDataset.mix(parts, weights=[source.weight for source in sources])
    mine = mixed.slice(slice(process_index, None, process_count)).map(decode)
    return mine.batch(local, drop_remainder=True).slice(slice(start_step, None))


def _check_place(batch_size: int, start_step: int, process_index: int, process_count: int) -> int:
    """Rows of this host; ValueError for places that do not exist."""
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f"batch_size must be a multiple of {process_count} processes, got {batch_size}")
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index must be in [0, {process_count}), got {process_index}")
    if start_step < 0:
        raise ValueError(f"start_step must not be negative, got {start_step}")
    return batch_size // process_count


def _derived(seed: int, number: int) -> int:
    """A seed of 32 bits for one source, so that sources of one size are not shuffled alike."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "big")
