"""Manifest rows -> shards, manifest, `meta.json` and report, with a pool of processes and without doing work twice.

Knows nothing of sound: what a row becomes is the business of the `read` function that it is given.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from data_pipeline import records
from data_pipeline.manifest import MANIFEST, Row, read_rows, summary, write_rows

VERSION = 1
PARTS = "manifest_parts"
REPORT = "report.json"

Progress = Callable[[int, int], None]


class IngestError(ValueError):
    """A job that cannot start or go on; the message says why."""


def write_shards(
    out: str | os.PathLike,
    rows: Sequence[Row],
    read: Callable[[Row], tuple[Row, list[bytes]]],
    settings: dict,
    shards: int,
    workers: int = 1,
    progress: Progress | None = None,
) -> dict:
    """Reads every row without `error` and writes shards, manifest, `meta.json` and `report.json`.

    Args:
      out: folder of the result.
      rows: manifest rows; a row's split names its shards.
      read: picklable, pure: row -> (row with measures, records).
      settings: JSON-able; a shard made under other settings is made again.
      shards: how many in all; each split gets its share by number of files, at least one.
      workers: processes.
      progress: called with (files done, files).

    Returns:
      the report.

    Raises:
      IngestError: no row without error, nothing accepted, or a process that died.
    """
    out = pathlib.Path(out)
    todo = [row for row in rows if not row.error]
    if not todo:
        reasons = collections.Counter(row.kind for row in rows)
        raise IngestError(f"{out}: nothing to store, all {len(rows)} files were left out ({_listed(reasons)})")
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    plan = _plan(todo, shards)
    finished: list[Row] = [row for row in rows if row.error]
    kept, pending = 0, {}
    keys = {name: _key(part, settings) for name, part in plan.items()}
    for name, part in plan.items():
        done = _finished_part(out, name, keys[name])
        if done is None:
            pending[name] = part
        else:
            finished += done
            kept += len(part)
    results = _in_order(read, itertools.chain.from_iterable(pending.values()), workers)
    count = kept
    if progress:
        progress(count, len(todo))
    for name, part in pending.items():
        done = []

        def blobs(size: int = len(part), done: list = done) -> Iterator[bytes]:
            nonlocal count
            for row, packed in itertools.islice(results, size):
                done.append(row)
                yield from packed
                count += 1
                if progress:
                    progress(count, len(todo))

        records.write_shard(out / name, blobs())
        write_rows(out / PARTS / f"{name}.jsonl", done, {"key": keys[name]})
        finished += done
    return _finish(out, sorted(finished, key=lambda row: row.id), plan, settings)


def _finish(out: pathlib.Path, rows: list[Row], plan: dict[str, list[Row]], settings: dict) -> dict:
    """Drops shards of an older plan and of splits without records, then writes manifest, meta and report."""
    report = summary(rows)
    good = report["splits"]
    if not good:
        raise IngestError(f"{out}: nothing was accepted ({_listed(report['left_out'])}): see {MANIFEST} there")
    wanted = {name for name in plan if records.split_in_name(name) in good}
    for path in out.iterdir():
        if records.split_in_name(path.name) and path.name not in wanted:
            path.unlink()
    for path in (out / PARTS).glob("*.jsonl"):
        if path.name.removesuffix(".jsonl") not in wanted:
            path.unlink()
    digest = write_rows(out / MANIFEST, rows)
    splits = {
        split: {**facts, "shards": sum(records.split_in_name(name) == split for name in wanted)}
        for split, facts in good.items()
    }
    meta = {"kind": "clips", "sample_rate": 48_000, "splits": splits, "settings": settings,
            "manifest_sha256": digest, "version": VERSION}  # fmt: skip
    records.write_meta(out, meta)
    records.write_text(out / REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return report


def _plan(rows: Sequence[Row], shards: int) -> dict[str, list[Row]]:
    """Shard name -> its rows sorted by id."""
    by_split: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        by_split.setdefault(row.split, []).append(row)
    plan: dict[str, list[Row]] = {}
    for split, part in sorted(by_split.items()):
        total = max(1, min(round(shards * len(part) / len(rows)), len(part)))
        for number in range(total):
            plan[records.shard_name(split, number, total)] = []
        for row in part:
            number = int(hashlib.sha256(f"shard:{row.id}".encode()).hexdigest()[:8], 16) % total
            plan[records.shard_name(split, number, total)].append(row)
    return plan


def _key(rows: Sequence[Row], settings: dict) -> str:
    text = json.dumps([VERSION, settings, [dataclasses.asdict(row) for row in rows]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _finished_part(out: pathlib.Path, name: str, key: str) -> list[Row] | None:
    """Rows of a shard that is already there and was made from the same input, else None."""
    part = out / PARTS / f"{name}.jsonl"
    if not part.is_file() or not (out / name).is_file():
        return None
    try:
        with open(part, encoding="utf-8") as file:
            if json.loads(file.readline()).get("key") != key:
                return None
        rows = read_rows(part)
        reader = records.ShardReader([out / name])
        complete = len(reader) == sum(len(row.records) for row in rows)
        reader.close()
        return rows if complete else None
    except ValueError:
        return None


def _in_order(read: Callable, rows: Iterable[Row], workers: int) -> Iterator:
    """`map`, over processes when there are several, with a bounded number of results in flight."""
    if workers <= 1:
        yield from map(read, rows)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for row in rows:
                waiting.append(pool.submit(read, row))
                if len(waiting) >= 4 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except concurrent.futures.BrokenExecutor as error:
            raise IngestError(
                "a worker process died (memory, or a file that its decoder cannot survive): run again with one worker, "
                "finished shards are kept"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def _listed(counts: dict) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.items())
