"""Test sets: a seeded choice of clips from a folder of sounds or of shards, with every file that was left out and why.

A clip is the first 5 s of a file at 48 kHz, mono, without the zeros at its end. A set may be one of several; clips of all
sets together carry the set's name in theirs.

Source: S-PRESSO 4.3 (three sets, 500 random clips each, 5 s).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from spresso_jax.evaluate.decoded import Clip, cut
from spresso_jax.shapes import CLIP_SAMPLES

UNION = "union"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,59}")
_HELD_OUT = ("val", "test", "validation", "eval")


@dataclass(frozen=True)
class ClipSet:
    """One test set.

    Attributes:
      name: printed; no two sets share one.
      clips: in the order of their names.
      folder: where they came from.
      asked: how many were wanted.
      listed: how many files (or records) there were to choose from.
      exclusions: reason -> files that were drawn or listed and could not be used.
    """

    name: str
    clips: tuple[Clip, ...]
    folder: str = ""
    asked: int = 0
    listed: int = 0
    exclusions: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_json(self) -> dict:
        """What scores.json says about the set."""
        return {
            "name": self.name,
            "folder": self.folder,
            "clips": len(self.clips),
            "asked": self.asked,
            "listed": self.listed,
            "exclusions": {why: {"count": len(names), "names": list(names)} for why, names in self.exclusions.items()},
        }

    def without(self, gone: Mapping[str, Sequence[str]]) -> ClipSet:
        """The set without the clips named in reason -> names; they are counted."""
        names = {name for left in gone.values() for name in left}
        kept = tuple(clip for clip in self.clips if clip.name not in names)
        told = {why: list(left) for why, left in gone.items() if left}
        return dataclasses.replace(self, clips=kept, exclusions={**self.exclusions, **told})


def named_folders(asked: Iterable[str | Path]) -> list[tuple[str, Path]]:
    """(name, folder) of "NAME=FOLDER", or of "FOLDER", which is named after its last part.

    Raises:
      ValueError: for a folder that is not there, a name that cannot be printed, or two sets of one name.
    """
    found: list[tuple[str, Path]] = []
    for text in map(str, asked):
        name, equals, rest = text.partition("=")
        folder = Path(text).expanduser()
        if equals and not folder.is_dir():
            folder = Path(rest).expanduser()
        else:
            name = re.sub(r"[^A-Za-z0-9._+-]+", "-", folder.resolve().name).strip("-.")[:60] or "set"
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder: give a folder of sounds or of shards")
        if not _NAME.fullmatch(name) or name == UNION:
            raise ValueError(f"set name {name!r}: use up to 60 letters, digits and . _ + -, and not {UNION!r}")
        found.append((name, folder))
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two sets are called {twice!r}: name them, as in --reference first=FOLDER")
    return found


def joined(sets: Sequence[ClipSet]) -> list[Clip]:
    """The clips of all sets; those of several sets are called SET/CLIP."""
    if len(sets) == 1:
        return list(sets[0].clips)
    return [dataclasses.replace(clip, name=f"{part.name}/{clip.name}") for part in sets for clip in part.clips]


def read_set(name: str, folder: Path, count: int, seed: int) -> ClipSet:
    """A seeded choice of `count` clips of a folder of shards (val or test split) or of sounds, in the order of names.

    Of a folder of sounds whose table names a val or test split, only that split is taken. A file that cannot be used
    (missing, damaged, silent, too short, not finite) is counted, and another one is drawn instead.

    Raises:
      ValueError: fewer than two usable sounds (with the reasons), no held-out split, or an unreadable table.
    """
    from data_pipeline.records import splits_of

    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder: give a folder of sounds or of shards")
    splits = splits_of(folder)
    found = _from_shards(name, folder, splits, count, seed) if splits else _from_files(name, folder, count, seed)
    if len(found.clips) < 2:
        reasons = ", ".join(f"{len(names)} {why}" for why, names in found.exclusions.items())
        told = f" (left out: {reasons})" if reasons else ""
        raise ValueError(f"{folder}: {len(found.clips)} usable sounds found{told}, at least 2 are needed")
    return found


def _from_shards(name: str, folder: Path, splits: Mapping, count: int, seed: int) -> ClipSet:
    from data_pipeline.loader import Source, count_records, ordered_clips

    split = next((known for known in ("val", "test") if known in splits), None)
    if split is None:
        raise ValueError(f"{folder}: no val or test split (splits: {', '.join(splits)}): figures need held-out clips")
    source = Source(str(folder), split)
    total = count_records(source)
    wanted = set(np.random.default_rng(seed).permutation(total)[:count].tolist())
    clips, silent = [], []
    for index, clip in enumerate(ordered_clips(source, CLIP_SAMPLES, crop="most_active")):
        if index in wanted:
            audio = cut(clip["audio"][: clip["valid"], 0])
            if audio.any():
                clips.append(Clip(f"{clip['id']}", audio, clip["caption"]))
            else:
                silent.append(f"{clip['id']}")
    return ClipSet(name, tuple(clips), str(folder), count, total, {"silent": silent} if silent else {})


def _from_files(name: str, folder: Path, count: int, seed: int) -> ClipSet:
    from data_pipeline.audio_files import AudioFileError, check_clip, read_clip
    from data_pipeline.catalogues import catalogue, find_tables

    listed = catalogue(folder, find_tables(folder))
    exclusions: dict[str, list[str]] = {}
    if missing := [entry.uri for entry in listed if entry.error]:
        exclusions["missing"] = missing
    entries = [entry for entry in listed if not entry.error]
    entries = [entry for entry in entries if entry.split in _HELD_OUT] or entries
    clips: list[Clip] = []
    for index in np.random.default_rng(seed).permutation(len(entries)):
        if len(clips) == count:
            break
        entry = entries[index]
        try:
            audio = cut(read_clip(Path(entry.root) / entry.uri)[0])
        except AudioFileError as error:
            exclusions.setdefault(error.kind, []).append(entry.uri)
            continue
        # A sound that begins after the fifth second passes as a file and is silence as a clip.
        kind = check_clip(audio, min_active=0.0).kind if audio.any() else "silent"
        if kind is not None:
            exclusions.setdefault(f"{kind} within 5 s", []).append(entry.uri)
            continue
        captions = list(entry.captions)
        clips.append(Clip(Path(entry.uri).with_suffix("").as_posix(), audio, captions[0] if captions else ""))
    clips.sort(key=lambda clip: clip.name)
    return ClipSet(name, tuple(clips), str(folder), count, len(entries), exclusions)
