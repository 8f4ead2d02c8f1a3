"""ArrayRecord shards of named arrays: sound clips and cached latents, with fingerprints.

`record_format` has the bytes of one record. A folder holds

  <split>-00000-of-00002.array_record ...   shards of one split, records sorted
  meta.json                                 kind, counts by split, settings, fingerprints of what the records come from
  manifest.jsonl                            clips only: one row a source file (see `manifest`)

Shards are written under a temporary name and renamed when complete, uncompressed and in groups of one record, which
makes random reads about seven times faster than the defaults.
"""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from data_pipeline.record_format import Record, ShardError, pack_record

FORMAT = 1
META = "meta.json"
__all__ = [
    "FORMAT", "META", "Record", "ShardError", "ShardReader", "check_fingerprint", "fingerprint_of", "open_split",
    "pack_record", "read_meta", "remove_split", "shard_name", "split_in_name", "splits_of", "write_arrays",
    "write_meta", "write_shard", "write_text",
]  # fmt: skip

_WRITER_OPTIONS = "group_size:1,uncompressed"
_READER_OPTIONS = "readahead_buffer_size:0"
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.array_record")


class ShardReader:
    """Random access over the shards of one split, in shard order; safe to share between threads.

    `len(reader)`, `reader[i] -> Record`.
    """

    def __init__(self, paths: Sequence[str | os.PathLike]):
        """Opens the shards.

        Raises:
          ShardError: a shard is missing or damaged; the message names it.
        """
        self.paths = [pathlib.Path(path) for path in paths]
        if not self.paths:
            raise ShardError("no shards were given: name at least one .array_record file")
        self._readers = [_open(path) for path in self.paths]
        self._ends = list(itertools.accumulate(reader.num_records() for reader in self._readers))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Record:
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        number = bisect.bisect_right(self._ends, index)
        position = index - (self._ends[number - 1] if number else 0)
        where = f"{self.paths[number]} (record {position})"
        try:
            blob = self._readers[number].read([position])[0]
        except (RuntimeError, IndexError, ValueError) as error:
            raise ShardError(f"{where}: cannot be read ({error or 'damaged block'}): make the shards again") from error
        return Record(blob, where)

    def close(self) -> None:
        for reader in self._readers:
            reader.close()


def _open(path: pathlib.Path) -> ArrayRecordReader:
    if not path.is_file():
        raise ShardError(f"{path}: no such shard: copy it there or make the shards again")
    try:
        reader = ArrayRecordReader(str(path), options=_READER_OPTIONS, file_reader_buffer_size=32768)
        if reader.ok():
            return reader
        # A damaged file opens quietly with no records; only closing it says what is wrong, and not always.
        reader.close()
        raise RuntimeError("cut short or damaged")
    except (RuntimeError, ValueError) as error:
        detail = " ".join(str(error).split(";")[0].split())[:200] or "cut short or damaged"
        raise ShardError(
            f"{path}: not a complete shard, {path.stat().st_size} bytes ({detail}): copy it again or make it again"
        ) from error


def shard_name(split: str, number: int, total: int) -> str:
    """`train-00012-of-00200.array_record`."""
    return f"{split}-{number:05d}-of-{total:05d}.array_record"


def split_in_name(name: str) -> str | None:
    """The split that a shard's file name begins with; None for other files."""
    match = _SHARD.fullmatch(name)
    return match["split"] if match else None


def splits_of(folder: str | os.PathLike) -> dict[str, list[pathlib.Path]]:
    """All shards in a folder by split, sorted.

    Raises:
      ShardError: no such folder, or a split whose numbered shards are not all there.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise ShardError(f"{folder}: no such folder of shards: make it with `data prepare`")
    found: dict[str, dict[int, list[tuple[int, pathlib.Path]]]] = {}
    for path in sorted(folder.iterdir()):
        if match := _SHARD.fullmatch(path.name):
            totals = found.setdefault(match["split"], {})
            totals.setdefault(int(match["total"]), []).append((int(match["number"]), path))
    result = {}
    for split, totals in found.items():
        if len(totals) > 1:
            counts = " and ".join(f"-of-{total:05d}" for total in totals)
            raise ShardError(f"{folder}: split {split!r} mixes shards {counts}: delete the older ones")
        ((total, shards),) = totals.items()
        missing = sorted(set(range(total)) - {number for number, _ in shards})
        if missing:
            first = folder / shard_name(split, missing[0], total)
            raise ShardError(f"{first}: missing ({len(missing)} of {total} shards are): copy it there or make it again")
        result[split] = [path for _, path in sorted(shards)]
    return result


def open_split(folder: str | os.PathLike, split: str) -> ShardReader:
    """Opens one split of a folder of shards.

    Raises:
      ShardError: no such folder or split, or missing or damaged shards.
    """
    splits = splits_of(folder)
    if split not in splits:
        there = ", ".join(sorted(splits)) or "no shards at all"
        raise ShardError(f"{pathlib.Path(folder)}: no split {split!r}, there is: {there}")
    return ShardReader(splits[split])


def write_shard(path: str | os.PathLike, blobs: Iterable[bytes]) -> int:
    """Writes one shard under a temporary name and renames it when complete; returns the number of records.

    Raises:
      ShardError: the folder is missing, not writable, or full.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with _named(path):
        writer = ArrayRecordWriter(str(partial), _WRITER_OPTIONS)
    count = 0
    try:
        for blob in blobs:
            with _named(path):
                writer.write(blob)
            count += 1
        with _named(path):
            writer.close()
            os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(Exception):
            writer.close()
        partial.unlink(missing_ok=True)
        raise
    return count


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    """Turns the writer's errors, which name no file, into a `ShardError` that does."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        detail = str(error).split(";")[0] or type(error).__name__
        raise ShardError(f"{path}: cannot be written ({detail}): check the folder and the space on the disk") from error


def read_meta(folder: str | os.PathLike) -> dict:
    """The folder's `meta.json`.

    Raises:
      ShardError: it is missing or unreadable.
    """
    path = pathlib.Path(folder) / META
    try:
        meta = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ShardError(f"{path}: missing, so this folder of shards is not complete: make it again") from error
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: unreadable ({error}): make the shards again") from error
    if meta.get("format") != FORMAT:
        raise ShardError(f"{path}: format {meta.get('format')!r}, this version reads {FORMAT}: make the shards again")
    return meta


def write_meta(folder: str | os.PathLike, meta: Mapping) -> None:
    """Writes `meta.json` (sorted keys, so that equal contents are equal bytes), by rename."""
    write_text(pathlib.Path(folder) / META, json.dumps({"format": FORMAT, **meta}, indent=1, sort_keys=True) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file by temporary name and rename."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def fingerprint_of(folder: str | os.PathLike) -> str:
    """sha256 of `meta.json`, which itself holds the hash of every row: names the contents of a folder of shards."""
    read_meta(folder)
    return hashlib.sha256((pathlib.Path(folder) / META).read_bytes()).hexdigest()


def check_fingerprint(folder: str | os.PathLike, expected: Mapping[str, str]) -> None:
    """Refuses a cache that was made from something else.

    Args:
      folder: a folder of cached arrays.
      expected: name -> fingerprint of what the caller uses now, for example {"audio_ae": "..."}.

    Raises:
      ShardError: names the first entry which is absent or differs.
    """
    found = read_meta(folder).get("fingerprints", {})
    for name, value in expected.items():
        if found.get(name) != value:
            raise ShardError(
                f"{pathlib.Path(folder)}: was made with {name} {str(found.get(name))[:12]}, not with {value[:12]}: "
                "extract it again with the present one"
            )


def write_arrays(
    folder: str | os.PathLike,
    split: str,
    records: Iterable[tuple[Mapping, Mapping[str, np.ndarray]]],
    fingerprints: Mapping[str, str],
    facts: Mapping | None = None,
    shard_bytes: int = 2**28,
) -> int:
    """Writes cached arrays of one split as shards of about `shard_bytes`, in the order given, and updates `meta.json`.

    The shards appear under their names, and older shards of the split go, only when all are complete.

    Args:
      folder: made if needed; may already hold other splits with the same fingerprints.
      split: name of the split.
      records: pairs of meta ({"id": ..., "caption": [...]}) and named arrays.
      fingerprints: what the arrays were made with; `check_fingerprint` compares them.
      facts: further JSON-able entries of `meta.json`, for example statistics.
      shard_bytes: a new shard starts beyond this size.

    Returns:
      the number of records.

    Raises:
      ShardError: the folder holds other splits with other fingerprints.
      ValueError: no records, or a split name that cannot be a file name.
    """
    folder = pathlib.Path(folder)
    if not re.fullmatch(r"[\w.-]+", split):
        raise ValueError(f"split {split!r} cannot be part of a file name: use letters, digits, '.', '_' and '-'")
    folder.mkdir(parents=True, exist_ok=True)
    meta = read_meta(folder) if (folder / META).exists() else {"kind": "arrays", "splits": {}}
    others = set(meta["splits"]) - {split}
    if others and meta.get("fingerprints") != dict(fingerprints):
        raise ShardError(f"{folder}: holds {', '.join(sorted(others))} with other fingerprints: use another folder")
    stream = _blobs_by_size(records, shard_bytes)
    parts: list[pathlib.Path] = []
    count = 0
    try:
        for number, blobs in enumerate(stream):
            parts.append(folder / f".{split}-{number:05d}.part")
            count += write_shard(parts[-1], blobs)
        if not parts:
            raise ValueError(f"no records for split {split!r}: nothing was written to {folder}")
        remove_split(folder, split)
        for number, part in enumerate(parts):
            os.replace(part, folder / shard_name(split, number, len(parts)))
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    meta["splits"][split] = {"records": count, "shards": len(parts)}
    write_meta(folder, {**meta, **(facts or {}), "fingerprints": dict(fingerprints)})
    return count


def remove_split(folder: str | os.PathLike, split: str) -> None:
    """Deletes the shards of one split, and nothing else."""
    for path in pathlib.Path(folder).iterdir():
        if split_in_name(path.name) == split:
            path.unlink()


def _blobs_by_size(records: Iterable, limit: int) -> Iterator[Iterator[bytes]]:
    """Packs records and cuts the stream into groups of about `limit` bytes; each group is used up before the next."""
    stream = (pack_record(meta, arrays) for meta, arrays in records)
    for first in stream:

        def group(first: bytes = first) -> Iterator[bytes]:
            size = len(first)
            yield first
            while size < limit and (blob := next(stream, None)) is not None:
                size += len(blob)
                yield blob

        yield group()
