"""What a folder of clip shards holds: counts, durations, bandwidth, captions; reads records as a proof."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from data_pipeline.audio_files import SAMPLE_RATE
from data_pipeline.records import Record, ShardError, fingerprint_of, open_split, read_meta, splits_of

_FULL_BAND = 16_000


def inspect(folder: str | os.PathLike, limit: int = 500, progress: Callable[[int, int], None] | None = None) -> dict:
    """Opens every shard of a folder and reads up to `limit` records of each split, evenly spread.

    Args:
      folder: shards of clips.
      limit: records of each split to read in full.
      progress: called with (records read, records to read).

    Returns:
      JSON-able: "fingerprint", "read" and, by split, "records", "shards", "hours", "seconds" (5, 50, 95%),
      "full_band" (share with sound above 16 kHz), "captioned" (share with a caption), "words" (mean), "peak" (median),
      "examples" (pairs of id and caption). All but the counts and hours are of the records read.

    Raises:
      ShardError: missing or damaged shards, counts that differ from `meta.json`, or shards of arrays.
    """
    meta = read_meta(folder)
    if meta.get("kind") != "clips":
        raise ShardError(f"{os.fspath(folder)}: holds shards of {meta.get('kind')}, not of clips: give another folder")
    there = splits_of(folder)
    readers = {}
    for split, facts in meta["splits"].items():
        readers[split] = open_split(folder, split)
        if len(readers[split]) != facts["records"]:
            raise ShardError(
                f"{os.fspath(folder)}: split {split!r} has {len(readers[split])} records, meta.json says "
                f"{facts['records']}: run `data prepare` again"
            )
    chosen = {split: _spread(len(reader), limit) for split, reader in readers.items()}
    total, done, result = sum(map(len, chosen.values())), 0, {}
    for split, reader in readers.items():
        seen = []
        for index in chosen[split]:
            seen.append(_facts(reader[int(index)]))
            done += 1
            if progress:
                progress(done, total)
        result[split] = {**_summary(seen), "records": len(reader), "shards": len(there[split]),
                         "hours": meta["splits"][split]["hours"]}  # fmt: skip
        reader.close()
    return {"fingerprint": fingerprint_of(folder), "read": done, "splits": result}


def _facts(record: Record) -> dict:
    audio = record.array("audio")
    peak = int(np.abs(audio.astype(np.int32)).max()) / 2**15
    return {**record.meta, "seconds": len(audio) / SAMPLE_RATE, "peak": peak}


def _summary(seen: list[dict]) -> dict:
    captions = [caption for item in seen for caption in item.get("caption") or [] if caption]
    return {
        "seconds": [round(float(value), 3) for value in np.percentile([item["seconds"] for item in seen], [5, 50, 95])],
        "full_band": float(np.mean([item.get("bandwidth", 0) >= _FULL_BAND for item in seen])),
        "captioned": float(np.mean([any(item.get("caption") or []) for item in seen])),
        "words": float(np.mean([len(caption.split()) for caption in captions])) if captions else 0.0,
        "peak": round(float(np.median([item["peak"] for item in seen])), 4),
        "examples": [(item["id"], (item.get("caption") or [""])[0]) for item in seen[:3]],
    }


def _spread(count: int, limit: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, limit)).astype(int))
