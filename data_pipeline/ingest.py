"""Sound files -> shards: the offline job, on this machine with a pool of processes.

The work on one file, `read_file`, is a pure function of the file and the settings, so that any other runner may call
it. Shard number = hash(id) mod shards, records sorted by id within a shard: the same input gives the same bytes,
whatever the number of processes. A shard whose inputs and settings are unchanged is not made again, which is also how
a stopped job goes on.

What is stored: one channel (see `audio_files`), 48 kHz, 16 bit, at the file's own level. An offset over 0.05 is
removed, and a peak over full scale is scaled down to it, never wrapped. Files beyond `segment_seconds` become
consecutive records; a last part under half a second and silent parts are left out.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from data_pipeline import records
from data_pipeline.audio_files import SAMPLE_RATE, AudioFileError, check_clip, read_audio, write_audio
from data_pipeline.catalogues import CatalogueError, catalogue, slug
from data_pipeline.clips import to_int16
from data_pipeline.manifest import Row, build_rows, split_of
from data_pipeline.shard_job import IngestError, Progress, write_shards


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the bytes of a record, beside the file itself.

    Attributes:
      codec: "raw" (int16, fast) or "flac" (about 0.4 of the size, half the speed).
      segment_seconds: longer files are cut into records of this length.
      last_seconds: a last part shorter than this is left out.
      min_active: smallest share of 20 ms frames above -60 dBFS.
      min_bandwidth: leave out files with nothing above this frequency, Hz.
    """

    codec: str = "raw"
    segment_seconds: float = 30.0
    last_seconds: float = 0.5
    min_active: float = 0.05
    min_bandwidth: float = 0.0

    def __post_init__(self):
        if self.codec not in ("raw", "flac"):
            raise IngestError(f"codec must be 'raw' or 'flac', got {self.codec!r}")
        if self.segment_seconds < 1:
            raise IngestError(f"segment_seconds must be at least 1, got {self.segment_seconds}")


def prepare(
    folders: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    tables: Sequence[str | os.PathLike] = (),
    licences: Sequence[str] | None = None,
    val_fraction: float = 0.05,
    group_by: str = "file",
    settings: Settings | None = None,
    workers: int = 1,
    shard_bytes: int = 2**28,
    progress: Progress | None = None,
) -> dict:
    """Makes shards, manifest and report from folders of sound files.

    Args:
      folders: collections; each is one source, named like its folder.
      out: folder of the result, made if needed; files that are not ours are left alone.
      tables: caption tables (see `catalogues`), matched against every folder.
      licences, val_fraction, group_by: see `manifest.build_rows`.
      settings: what is stored.
      workers: processes; 1 works in this one.
      shard_bytes: rough size of a shard.
      progress: called with (files done, files).

    Returns:
      the report, also written to `report.json`.

    Raises:
      CatalogueError, ManifestError, IngestError: nothing to do, or contradictory input.
    """
    settings = settings or Settings()
    roots = _sources(folders)
    entries = []
    for source, root in roots.items():
        found = catalogue(root, tables, source)
        # With several folders one table covers them all: a row that another folder holds is not missing here.
        entries += [entry for entry in found if not entry.error or len(roots) == 1]
    rows = build_rows(entries, val_fraction, licences, group_by)
    size = sum(_stored_bytes(roots[row.source] / row.uri) for row in rows if not row.error)
    read = functools.partial(read_file, roots={name: str(root) for name, root in roots.items()}, settings=settings)
    shards = max(1, round(size / shard_bytes))
    return write_shards(out, rows, read, dataclasses.asdict(settings), shards, workers, progress)


def read_file(row: Row, roots: dict[str, str], settings: Settings) -> tuple[Row, list[bytes]]:
    """Decodes, checks, cuts and packs one file; pure.

    Args:
      row: its manifest row, without measures.
      roots: folder of each source.
      settings: what to store.

    Returns:
      the row with measures (or `error`), and its records.
    """
    path = pathlib.Path(roots[row.source]) / row.uri
    try:
        audio, info = read_audio(path)
    except AudioFileError as error:
        return row.failed(error.kind, error.detail), []
    except MemoryError:
        return row.failed("too_large", "does not fit into memory: cut it into shorter files"), []
    row = dataclasses.replace(
        row, seconds=round(info.seconds, 6), sample_rate=info.sample_rate, channels=info.channels, format=info.format
    )
    return read_sound(row, audio, settings)


def read_sound(row: Row, audio: np.ndarray, settings: Settings) -> tuple[Row, list[bytes]]:
    """The part of `read_file` after decoding: checks, level, segments, records.

    Args:
      row: manifest row.
      audio: float32 [S], 48 kHz.
      settings: what to store.
    """
    found = check_clip(audio, min_active=0.0)
    flags = list(found.flags)
    row = dataclasses.replace(
        row, peak=_short(found.peak), rms=_short(found.rms), active=_short(found.active), clipped=_short(found.clipped),
        dc=_short(found.dc),
    )  # fmt: skip
    if found.reject:
        return row.failed(found.kind, found.reject), []
    if "dc" in flags:
        audio = audio - np.float32(found.dc)
    audio = audio / max(1.0, float(np.abs(audio).max()))
    bandwidth = measure_bandwidth(audio)
    if bandwidth < 8000:
        flags.append("narrow")
    row = dataclasses.replace(row, bandwidth=bandwidth, flags=tuple(flags))
    if bandwidth < settings.min_bandwidth:
        return row.failed("bandwidth", f"nothing above {bandwidth} Hz, {settings.min_bandwidth:.0f} Hz asked for"), []
    length = round(settings.segment_seconds * SAMPLE_RATE)
    blobs, parts, reason = [], [], None
    for start in range(0, len(audio), length):
        part = audio[start : start + length]
        if start and len(part) < settings.last_seconds * SAMPLE_RATE:
            continue
        finding = check_clip(part, min_active=settings.min_active)
        if finding.reject:
            reason = reason or finding
            continue
        name = row.id if len(audio) <= length else f"{row.id}@{start}"
        meta = {"id": name, "parent": row.id, "start": start, "caption": list(row.captions), "group": row.group,
                "category": row.category, "licence": row.licence, "bandwidth": bandwidth}  # fmt: skip
        blobs.append(records.pack_record(meta, {"audio": to_int16(part)}, settings.codec))
        parts.append((name, start, len(part)))
    if not blobs:
        return row.failed(reason.kind, reason.reject), []
    if reason:
        row = dataclasses.replace(row, flags=(*row.flags, "skipped_part"))
    return dataclasses.replace(row, records=tuple(parts)), blobs


def measure_bandwidth(audio: np.ndarray, floor_db: float = -70.0) -> int:
    """Highest frequency whose mean power is within 70 dB of the spectrum's peak, to 100 Hz.

    Args:
      audio: float [S], 48 kHz.
    """
    size = 2048
    if len(audio) < size:
        audio = np.pad(audio, (0, size - len(audio)))
    window = np.hanning(size).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(audio, size)[:: size // 2]
    power = np.zeros(size // 2 + 1)
    for start in range(0, len(frames), 256):
        power += np.sum(np.abs(np.fft.rfft(frames[start : start + 256] * window)) ** 2, axis=0)
    loud = np.flatnonzero(power[1:] >= power[1:].max() * 10 ** (floor_db / 10))
    return int(round((loud[-1] + 1) * SAMPLE_RATE / size, -2)) if len(loud) else 0


def write_synthetic(
    out: str | os.PathLike,
    clips: int,
    seed: int = 0,
    *,
    val_fraction: float = 0.1,
    synthesise: Callable | None = None,
    settings: Settings | None = None,
    workers: int = 1,
    shard_bytes: int = 2**28,
    progress: Progress | None = None,
) -> dict:
    """Makes shards of procedural sounds, in the same form as `prepare`.

    Args:
      out: folder of the result.
      clips: how many; clip i is a pure function of (i, seed), so more clips keep the first ones.
      seed: of the synthesis.
      val_fraction: share of clips in "val".
      synthesise: (index, seed) -> object with `audio` float32 [S] at 48 kHz, `caption`, `family`; by default that of
        `data_pipeline.synth`.
      settings, workers, shard_bytes, progress: as in `prepare`.

    Returns:
      the report.

    Raises:
      IngestError: fewer than one clip.
    """
    rows = _synthetic_rows(clips, seed, val_fraction)
    if synthesise is None:
        from data_pipeline.synth import synthesise
    settings = settings or Settings()
    read = functools.partial(_read_synthetic, seed=seed, synthesise=synthesise, settings=settings)
    shards = max(1, round(clips * 5 * SAMPLE_RATE * 2 / shard_bytes))
    facts = {**dataclasses.asdict(settings), "synth_seed": seed}
    return write_shards(out, rows, read, facts, shards, workers, progress)


def write_synthetic_files(
    out: str | os.PathLike,
    clips: int,
    seed: int = 0,
    *,
    val_fraction: float = 0.1,
    synthesise: Callable | None = None,
    progress: Progress | None = None,
) -> None:
    """The sounds of `write_synthetic` as FLAC files and a `manifest.csv`, ready for `prepare`.

    Args:
      out: folder of the result.
      clips, seed, val_fraction, synthesise, progress: as in `write_synthetic`.

    Raises:
      IngestError: fewer than one clip.
      AudioFileError: a file cannot be written.
    """
    if synthesise is None:
        from data_pipeline.synth import synthesise
    out = pathlib.Path(out)
    lines = []
    for index, row in enumerate(_synthetic_rows(clips, seed, val_fraction)):
        clip = synthesise(index, seed)
        path = f"{row.split}/{row.id}.flac"
        (out / row.split).mkdir(parents=True, exist_ok=True)
        write_audio(out / path, clip.audio)
        lines.append([row.id, path, row.split, clip.caption, clip.family, row.licence])
        if progress:
            progress(index + 1, clips)
    with open(out / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "path", "split", "caption", "category", "licence"])
        writer.writerows(lines)


def _synthetic_rows(clips: int, seed: int, val_fraction: float) -> list[Row]:
    if clips < 1:
        raise IngestError(f"clips must be at least 1, got {clips}")
    rows = []
    for index in range(clips):
        name = f"synth_{seed}_{index:07d}"
        rows.append(Row(
            id=name, uri=f"{index:07d}", source="synth", split=split_of(name, val_fraction), group=name,
            captions_from="synth", licence="CC0-1.0", sha256=hashlib.sha256(name.encode()).hexdigest(),
        ))  # fmt: skip
    return rows


def _read_synthetic(row: Row, seed: int, synthesise: Callable, settings: Settings) -> tuple[Row, list[bytes]]:
    clip = synthesise(int(row.uri), seed)
    row = dataclasses.replace(
        row, captions=(clip.caption,), category=clip.family, seconds=round(len(clip.audio) / SAMPLE_RATE, 6),
        sample_rate=SAMPLE_RATE, channels=1, format="synth",
    )  # fmt: skip
    return read_sound(row, np.asarray(clip.audio, np.float32), settings)


def _sources(folders: Sequence[str | os.PathLike]) -> dict[str, pathlib.Path]:
    """Source name -> folder; two folders of one name get a number."""
    if not folders:
        raise CatalogueError("no folder was given: name at least one folder with sound files")
    roots: dict[str, pathlib.Path] = {}
    for folder in map(pathlib.Path, folders):
        name = slug(folder.resolve().name)
        names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
        roots[next(candidate for candidate in names if candidate not in roots)] = folder
    return roots


def _stored_bytes(path: pathlib.Path) -> int:
    """A rough, repeatable guess at what a file will take, from its size alone."""
    packed = {".flac": 2.5, ".ogg": 8, ".oga": 8, ".opus": 10, ".mp3": 8}
    return int(path.stat().st_size * packed.get(path.suffix.lower(), 1))


def _short(value: float) -> float:
    return float(f"{value:.5g}")
