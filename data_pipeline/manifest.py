"""The manifest: one row a sound file, with a stable id, a split, measures, or the reason why it was left out.

Kept as JSON lines, sorted by id. Rows of files that failed stay, with `error`: a job that drops files silently cannot
be audited.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterable, Sequence

from data_pipeline.catalogues import Entry

MANIFEST = "manifest.jsonl"
GROUPINGS = ("file", "name", "folder")


class ManifestError(ValueError):
    """A manifest that cannot be built or read."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One sound file.

    Attributes:
      id: the table's own id, or source name and first ten hex digits of the content hash.
      uri: path below the collection's folder.
      source: name of the collection.
      split: "train", "val", "test" ...
      group: files of one group are never in two splits.
      captions, captions_from, category, licence: as in `catalogues.Entry`.
      sha256: of the file.
      records: [[record id, first sample, samples], ...] at 48 kHz; more than one for a long file.
      seconds, sample_rate, channels, format: of the original file.
      peak, rms, active, clipped, dc: as in `audio_files.Findings`; linear.
      bandwidth: highest frequency within 70 dB of the spectral peak, Hz.
      flags: "clipped", "dc", "over_range", "narrow" (bandwidth under 8 kHz), "skipped_part".
      error: why it is not in the shards, or None; `kind` is one word for counts.
    """

    id: str
    uri: str
    source: str
    split: str
    group: str
    captions: tuple[str, ...] = ()
    captions_from: str = "path"
    category: str | None = None
    licence: str | None = None
    sha256: str | None = None
    records: tuple[tuple[str, int, int], ...] = ()
    seconds: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    format: str | None = None
    peak: float | None = None
    rms: float | None = None
    active: float | None = None
    clipped: float | None = None
    dc: float | None = None
    bandwidth: int | None = None
    flags: tuple[str, ...] = ()
    error: str | None = None
    kind: str | None = None

    def failed(self, kind: str, error: str) -> Row:
        """The same row, left out for a reason."""
        return dataclasses.replace(self, error=error, kind=kind, records=())


def build_rows(
    entries: Iterable[Entry],
    val_fraction: float = 0.05,
    licences: Sequence[str] | None = None,
    group_by: str = "file",
) -> list[Row]:
    """Gives every entry an id, a group and a split, and marks duplicates and unwanted licences.

    The split is the table's or the folder's own where there is one, else a hash of the group decides: adding files
    moves no old file, and a larger `val_fraction` only moves files out of "train".

    Args:
      entries: from one or more catalogues.
      val_fraction: share of groups that go to "val".
      licences: keep only these (upper and lower case are the same); a file without a licence is then left out.
      group_by: group of files whose table names none: "file" (each its own), "name" (same folder and same name up to
        digits: hit1, hit2) or "folder".

    Returns:
      rows sorted by id; those left out have `error`.

    Raises:
      ManifestError: two files with one id in the tables, or a fraction or grouping that makes no sense.
    """
    if not 0 <= val_fraction < 1:
        raise ManifestError(f"val_fraction must be in [0, 1), got {val_fraction}")
    if group_by not in GROUPINGS:
        raise ManifestError(f"group_by must be one of {', '.join(GROUPINGS)}, got {group_by!r}")
    wanted = {licence.strip().lower() for licence in licences} if licences else None
    rows: dict[str, Row] = {}
    first: dict[str, str] = {}
    for entry in sorted(entries, key=lambda entry: (entry.source, entry.uri)):
        row = _row(entry, val_fraction, group_by)
        if not row.error and row.sha256 in first:
            row = row.failed("duplicate", f"same content as {first[row.sha256]}")
        if row.id in rows and (not row.error or row.kind in ("missing", "duplicate")):
            if entry.id and not row.error:
                raise ManifestError(f"{entry.uri}: id {row.id!r} is also that of {rows[row.id].uri}: make ids unique")
            row = dataclasses.replace(row, id=f"{row.id}-{hashlib.sha256(entry.uri.encode()).hexdigest()[:6]}")
        if not row.error:
            first[row.sha256] = row.uri
            if wanted is not None and (row.licence or "").lower() not in wanted:
                row = row.failed("licence", f"licence {row.licence or 'unknown'} was not asked for")
        rows[row.id] = row
    return [rows[key] for key in sorted(rows)]


def split_of(group: str, val_fraction: float) -> str:
    """ "val" or "train" by a hash of the group's name."""
    number = int.from_bytes(hashlib.sha256(f"split:{group}".encode()).digest()[:8], "big")
    return "val" if number < val_fraction * 2**64 else "train"


def write_rows(path: str | os.PathLike, rows: Iterable[Row], head: dict | None = None) -> str:
    """Writes rows as JSON lines by rename, after an optional first line `head`; returns the sha256 of the text."""
    path = pathlib.Path(path)
    objects = ([head] if head else []) + [dataclasses.asdict(row) for row in rows]
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in objects)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
    return hashlib.sha256(text.encode()).hexdigest()


def read_rows(path: str | os.PathLike) -> list[Row]:
    """Reads rows back; a first line without "uri" (a head) is skipped.

    Raises:
      ManifestError: missing or damaged; names the file and line.
    """
    path = pathlib.Path(path)
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read ({error}): run `data prepare` again") from error
    for number, line in enumerate(lines, 1):
        try:
            fields = json.loads(line)
            if "uri" not in fields and number == 1:
                continue
            for name in ("captions", "flags"):
                fields[name] = tuple(fields[name])
            fields["records"] = tuple(tuple(record) for record in fields["records"])
            rows.append(Row(**fields))
        except (ValueError, TypeError, KeyError) as error:
            raise ManifestError(f"{path}: line {number} is damaged ({error}): run `data prepare` again") from error
    return rows


def summary(rows: Sequence[Row]) -> dict:
    """Counts for the report: files, records and hours by split, reasons, flags, licences, origin of captions."""
    good = [row for row in rows if not row.error]

    def count(items: Iterable) -> dict:
        return dict(sorted(collections.Counter(items).items()))

    splits = {}
    for split in sorted({row.split for row in good}):
        part = [row for row in good if row.split == split]
        samples = sum(length for row in part for _, _, length in row.records)
        splits[split] = {
            "files": len(part),
            "records": sum(len(row.records) for row in part),
            "hours": round(samples / 48_000 / 3600, 5),
        }
    return {
        "files": len(rows),
        "accepted": len(good),
        "left_out": count(row.kind for row in rows if row.error),
        "splits": splits,
        "flags": count(flag for row in good for flag in row.flags),
        "licences": count(row.licence or "unknown" for row in good),
        "captions_from": count(row.captions_from if row.captions else "none" for row in good),
        "reasons": [{"uri": row.uri, "kind": row.kind, "error": row.error} for row in rows if row.error],
    }


def _row(entry: Entry, val_fraction: float, group_by: str) -> Row:
    """A row before measures; reads the file once for its hash."""
    digest, error, kind = None, entry.error, "missing" if entry.error else None
    if not error:
        try:
            with open(pathlib.Path(entry.root) / entry.uri, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as problem:
            error, kind = f"cannot be opened: {problem.strerror}", "missing"
    name = digest or hashlib.sha256(entry.uri.encode()).hexdigest()
    group = entry.group or _group(entry, name, group_by)
    return Row(
        id=entry.id or f"{entry.source}_{name[:10]}",
        uri=entry.uri,
        source=entry.source,
        split=entry.split or split_of(f"{entry.source}/{group}", val_fraction),
        group=group,
        captions=entry.captions,
        captions_from=entry.captions_from,
        category=entry.category,
        licence=entry.licence,
        sha256=digest,
        error=error,
        kind=kind,
    )


def _group(entry: Entry, digest: str, group_by: str) -> str:
    path = pathlib.PurePosixPath(entry.uri)
    if group_by == "folder":
        return str(path.parent)
    if group_by == "name":
        return str(path.parent / (re.sub(r"[\W\d_]+$", "", path.stem) or path.stem))
    return digest[:16]
