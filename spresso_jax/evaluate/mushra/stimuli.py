"""Sounds of a listening test: read, matched by name, brought to one length, and levelled item by item.

A page holds the reference, its anchors and one sound of every system, all of one length. Levels are set once an item,
from its reference, and the same gain goes to every condition: a system that is too loud or too quiet stays so.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.audio_files import AUDIO_SUFFIXES, AudioFileError, check_clip, read_audio, read_clip
from spresso_jax.audio.loudness import FLOOR_LUFS, integrated_loudness, peak
from spresso_jax.evaluate.decoded import fit_length
from spresso_jax.evaluate.mushra.anchor import ANCHORS, low_pass_anchor
from spresso_jax.evaluate.mushra.results import REFERENCE
from spresso_jax.shapes import CLIP_SAMPLES, SAMPLE_RATE

PEAK_DB = -1.0
# A system's file that is shorter than its reference by more than this is reported: it may be another sound.
SHORTER_SECONDS = 0.1


@dataclass(frozen=True)
class Item:
    """One page of the test.

    Attributes:
      name: of the reference's file, without its suffix.
      sounds: condition -> [S] float32 at 48 kHz, the reference first, levelled.
      gain_db: what every condition was raised by.
      loudness: of the levelled reference, LUFS.
      notes: what the experimenter should know.
    """

    name: str
    sounds: dict[str, np.ndarray]
    gain_db: float
    loudness: float
    notes: tuple[str, ...]


def sound_files(folder: Path) -> dict[str, Path]:
    """Name (path inside the folder, without suffix) -> sound file, sorted by name.

    Raises:
      ValueError: if the folder is missing, holds no sound, or holds two files of one name.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder: give a folder of sound files")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in AUDIO_SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise ValueError(f"{path}: {found[name].name} has the same name: keep one of the two")
        found[name] = path
    if not found:
        raise ValueError(f"{folder}: no sound file in it ({', '.join(AUDIO_SUFFIXES[:4])}, ...)")
    return dict(sorted(found.items()))


def match(
    references: Mapping[str, Path], systems: Mapping[str, Mapping[str, Path]], wanted: Sequence[str]
) -> list[str]:
    """Notes about files that no reference has, after checking that every wanted item is everywhere.

    Args:
      references: name -> file.
      systems: system -> name -> file.
      wanted: items that must be there; all references when empty.

    Raises:
      ValueError: naming the system and the first missing item.
    """
    for name in wanted:
        if name not in references:
            near = difflib.get_close_matches(name, references, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"the first is {next(iter(references))!r}"
            raise ValueError(f"no reference is called {name!r}: {hint}")
    needed = list(wanted) or list(references)
    notes = []
    for system, files in systems.items():
        missing = [name for name in needed if name not in files]
        if missing:
            raise ValueError(
                f"system {system}: {len(missing)} of {len(needed)} references have no file of the same name, first "
                f"{missing[0]!r}: add them, or choose items that exist with --item"
            )
        extra = [name for name in files if name not in references]
        if extra:
            notes.append(f"{len(extra)} files of {system} have no reference and are not used, first {extra[0]!r}")
    return notes


def read_item(
    name: str,
    reference: Path,
    systems: Mapping[str, Path],
    *,
    anchors: Sequence[str] = ("anchor35",),
    loudness: float = -23.0,
    samples: int = CLIP_SAMPLES,
) -> Item:
    """Reads, cuts or pads, adds anchors and levels one item.

    Args:
      name: of the item.
      reference: its file; a silent one is refused.
      systems: system -> its file for this item.
      anchors: keys of `ANCHORS`.
      loudness: of the reference, LUFS; less where a peak of any condition would pass -1 dBFS.
      samples: length of every sound.

    Raises:
      AudioFileError: for a reference that is silent, and any file that cannot be read.
    """
    whole, info, _ = read_clip(reference)
    notes = [f"{reference.name}: {info.channels} channels, mixed to one"] if info.channels > 1 else []
    sounds = {REFERENCE: fit_length(whole, samples)}
    if check_clip(sounds[REFERENCE], min_active=0.0).reject:
        raise AudioFileError(
            reference, "silent", f"its first {samples / SAMPLE_RATE:g} s are silent: choose another item"
        )
    for system, path in systems.items():
        audio, info = read_audio(path)
        if info.channels > 1:
            notes.append(f"{system}: {info.channels} channels, mixed to one")
        gap = (min(whole.size, samples) - audio.size) / SAMPLE_RATE
        if gap > SHORTER_SECONDS:
            notes.append(f"{system}: {gap:.2f} s shorter than its reference, filled with silence")
        sounds[system] = fit_length(audio, samples)
        if peak(sounds[system]) < 1e-3:
            notes.append(f"{system}: silent (its peak is below -60 dBFS)")
    for anchor in anchors:
        sounds[anchor] = low_pass_anchor(sounds[REFERENCE], ANCHORS[anchor]).astype(np.float32)
    before = integrated_loudness(sounds[REFERENCE])
    gain_db = loudness - before if before > FLOOR_LUFS else np.inf
    highest = max(peak(audio) for audio in sounds.values())
    room = PEAK_DB - 20.0 * float(np.log10(highest))
    if gain_db > room:
        gain_db = room
        notes.append(f"{before + gain_db:.1f} LUFS instead of {loudness:g}: its peaks leave no more room")
    gain = np.float32(10.0 ** (gain_db / 20.0))
    levelled = {condition: audio * gain for condition, audio in sounds.items()}
    return Item(name, levelled, float(gain_db), float(before + gain_db), tuple(notes))
