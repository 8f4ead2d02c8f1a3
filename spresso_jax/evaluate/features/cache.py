"""Rows on disk, found again by what they were made from: the samples of the clip and the fingerprint of the embedding.

A file that changed has other samples, hence other rows; names and dates play no part (toolkits that cache by name or
folder serve stale rows in silence). What is done is kept in parts, each written whole or not at all, so that a killed
run goes on where it was, and several processes may share a folder.

```
folder/NAME-FINGERPRINT/PART.safetensors     keys [n, 32], counts [n], padded [n], values [sum of counts, d]
```
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spresso_jax.evaluate.features.extractor import Extractor, FeatureError, Progress, Rows, check_clip
from spresso_jax.shapes import SAMPLE_RATE

PART_CLIPS = 64
SUFFIX = ".safetensors"
Entry = tuple[np.ndarray, bool]


def clip_key(clip: np.ndarray, sample_rate: int) -> bytes:
    """SHA-256 over the rate, the length and the samples `[S]` as float32, 32 bytes."""
    samples = np.ascontiguousarray(clip, "<f4")
    return hashlib.sha256(f"{sample_rate} {samples.size}\n".encode() + samples.tobytes()).digest()


def cached_rows(
    folder: str | Path,
    extractor: Extractor,
    clips: Sequence[np.ndarray],
    sample_rate: int = SAMPLE_RATE,
    progress: Progress | None = None,
) -> Rows:
    """What `extractor.embed` gives, computing only clips whose rows are not in `folder` yet.

    Args:
      folder: made when missing; one may serve any number of sets and embeddings.
      extractor: the embedding.
      clips: as for `Extractor.embed`.
      sample_rate: Hz.
      progress: called with (name, clips done, clips in all), those from the cache included.

    Raises:
      FeatureError: as `Extractor.embed`, or if a part of the cache is damaged (with its path).
    """
    if not clips:
        raise FeatureError(f"{extractor.name}: there are no clips to embed")
    for index, clip in enumerate(clips):
        check_clip(clip, index)
    keys = [clip_key(clip, sample_rate) for clip in clips]
    place = Path(folder) / f"{extractor.name}-{extractor.fingerprint}"
    place.mkdir(parents=True, exist_ok=True)
    known = _read(place, extractor, set(keys))
    missing = list({key: index for index, key in reversed(list(enumerate(keys))) if key not in known}.values())[::-1]
    done = sum(key in known for key in keys)
    for start in range(0, len(missing), PART_CLIPS):
        if progress:
            progress(extractor.name, done, len(clips))
        part = missing[start : start + PART_CLIPS]
        rows = extractor.embed([clips[i] for i in part], sample_rate)
        _write(place, extractor, [keys[i] for i in part], rows)
        values = np.split(rows.values, np.cumsum(rows.counts)[:-1])
        known |= {keys[i]: (values[j], bool(rows.padded[j])) for j, i in enumerate(part)}
        done = sum(key in known for key in keys)
    if progress:
        progress(extractor.name, done, len(clips))
    found = [known[key] for key in keys]
    return Rows(
        values=np.concatenate([values for values, _ in found]),
        clips=np.repeat(np.arange(len(clips)), [len(values) for values, _ in found]),
        padded=np.array([padded for _, padded in found]),
    )


def _write(place: Path, extractor: Extractor, keys: Sequence[bytes], rows: Rows) -> None:
    from safetensors.numpy import save

    tensors = {
        "keys": np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), 32),
        "counts": rows.counts.astype(np.int64),
        "padded": rows.padded.astype(np.uint8),
        "values": np.ascontiguousarray(rows.values, np.float32),
    }
    name = hashlib.sha256(b"".join(keys)).hexdigest()[:16]
    partial = place / f".{name}.{os.getpid()}.partial"
    try:
        partial.write_bytes(save(tensors, metadata={"spresso": json.dumps(extractor.to_json(), sort_keys=True)}))
        os.replace(partial, place / f"{name}{SUFFIX}")
    finally:
        partial.unlink(missing_ok=True)


def _read(place: Path, extractor: Extractor, wanted: set[bytes]) -> dict[bytes, Entry]:
    """Rows of the wanted keys, from every part in `place`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    known: dict[bytes, Entry] = {}
    for path in sorted(place.glob(f"*{SUFFIX}")):
        try:
            part = load_file(path)
            keys, counts, padded, values = (part[name] for name in ("keys", "counts", "padded", "values"))
            sizes = keys.shape[0], int(counts.sum())
            fits = (
                keys.shape == (sizes[0], 32) and keys.dtype == np.uint8 and counts.shape == padded.shape == (sizes[0],)
                and counts.dtype == np.int64 and (counts > 0).all() and values.dtype == np.float32
                and values.shape == (sizes[1], extractor.dimension) and np.isfinite(values).all()
            )  # fmt: skip
        except (SafetensorError, KeyError, IndexError, OSError) as error:
            raise FeatureError(f"{path} is damaged ({error}): delete it, its rows will be made again") from error
        if not fits:
            raise FeatureError(f"{path} does not hold rows of {extractor.name}: delete it, its rows will be made again")
        ends = np.cumsum(counts)
        for index, row in enumerate(keys):
            key = row.tobytes()
            if key in wanted:
                known[key] = values[ends[index] - counts[index] : ends[index]].copy(), bool(padded[index])
    return known
