"""Writes a listening test that runs in webMUSHRA, and checks one that was written.

OUT/configs/TEST.yaml and OUT/configs/TEST/ITEM/CONDITION.wav go into webMUSHRA's own `configs` folder; OUT/README.md
says how, OUT/plan.json keeps what was chosen. Files have two equal channels: webMUSHRA plays one channel on the left
side only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_pipeline.audio_files import AudioFileError, write_audio
from spresso_jax.evaluate.decoded import write_json
from spresso_jax.evaluate.mushra.pages import (
    MAX_CONDITIONS,
    MAX_SECONDS,
    NAME,
    SECONDS_PER_STIMULUS,
    check_config,
    minutes,
    test_config,
)
from spresso_jax.evaluate.mushra.results import REFERENCE, TRAINING, is_anchor
from spresso_jax.evaluate.mushra.stimuli import Item, match, read_item, sound_files
from spresso_jax.shapes import SAMPLE_RATE

ITEMS = 9
MOST_ITEMS = 30
LOUDNESS = (-60.0, -10.0)
MAX_YAML_BYTES = 1_000_000
LONG_MINUTES = 30.0


@dataclass(frozen=True)
class TestPlan:
    """What a listener will meet.

    Attributes:
      config: the YAML file.
      pages: rating pages without the one to practise on.
      conditions: on a page, the hidden reference included.
      seconds: length of every sound.
      megabytes: that a browser loads before the first page.
      minutes: shortest and longest plausible time.
    """

    __test__ = False  # not a class of tests, whatever its name

    config: Path
    pages: int
    conditions: tuple[str, ...]
    seconds: float
    megabytes: float
    minutes: tuple[float, float]

    def lines(self) -> list[str]:
        """The plan in words."""
        low, high = self.minutes
        lines = [
            f"{self.pages} pages in random order and one to practise, {len(self.conditions)} conditions of "
            f"{self.seconds:g} s on each: {', '.join(self.conditions)}",
            f"about {low:.0f} to {high:.0f} minutes a listener ({SECONDS_PER_STIMULUS[0]:g} to "
            f"{SECONDS_PER_STIMULUS[1]:g} s a condition), {self.megabytes:.0f} MB to load",
        ]
        if low > LONG_MINUTES:
            lines.append("that is long for one sitting: fewer items or systems keep listeners attentive")
        return lines


def export_test(
    reference: Path,
    systems: Mapping[str, Path],
    out: Path,
    *,
    items: int = ITEMS,
    chosen: Sequence[str] = (),
    anchor70: bool = False,
    seed: int = 0,
    title: str = "Listening test",
    loudness: float = -23.0,
    progress: Callable[[str], None] = lambda line: None,
) -> TestPlan:
    """Writes the test; everything is read and checked before the first file is written.

    Args:
      reference: folder of the references.
      systems: name of a system -> folder with files of the same names.
      out: folder to make; must be absent or empty.
      items: how many references to draw, if none are `chosen`.
      chosen: names of items (files without suffix).
      anchor70: add the 7 kHz anchor.
      seed: of the draw.
      title: shown to listeners; its letters and digits name the results' folder.
      loudness: of the references, LUFS.
      progress: gets a line for everything worth knowing.

    Raises:
      ValueError: for options that make no sense, folders that do not match and files that cannot be used.
    """
    anchors = ("anchor70", "anchor35") if anchor70 else ("anchor35",)
    test_id = _check_options(systems, anchors, items, chosen, title, loudness)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: is not an empty folder: give another --out")
    references = sound_files(reference)
    files = {name: sound_files(folder) for name, folder in systems.items()}
    notes = match(references, files, chosen)

    def read(name: str) -> Item:
        own = {system: found[name] for system, found in files.items()}
        return read_item(name, references[name], own, anchors=anchors, loudness=loudness)

    read_items, training = _read_items(references, files, chosen, items, seed, read, notes)
    notes += [f"{item.name}: {note}" for item in [*read_items, training] for note in item.notes]
    for note in dict.fromkeys(notes):
        progress(note)
    names = [f"{index:02d}-{_slug(item.name)}" for index, item in enumerate(read_items, 1)]
    for name, item in zip([*names, TRAINING], [*read_items, training], strict=True):
        folder = out / "configs" / test_id / name
        folder.mkdir(parents=True)
        for condition, audio in item.sounds.items():
            write_audio(folder / f"{condition}.wav", np.stack([audio, audio], axis=1), SAMPLE_RATE, subtype="PCM_24")

    def paths(name: str) -> dict[str, str]:
        return {condition: f"configs/{test_id}/{name}/{condition}.wav" for condition in training.sounds}

    config = test_config(title, test_id, paths(TRAINING), {name: paths(name) for name in names})
    _write_yaml(out / "configs" / f"{test_id}.yaml", config)
    plan = check_test(out)
    write_json(
        out / "plan.json",
        {
            "test_id": test_id,
            "reference": str(reference),
            "systems": {name: str(folder) for name, folder in systems.items()},
            "seed": seed,
            "loudness_lufs": loudness,
            "items": {name: _facts(item) for name, item in zip(names, read_items, strict=True)},
            "training": _facts(training),
            "notes": list(dict.fromkeys(notes)),
        },
    )
    (out / "README.md").write_text(_readme(test_id, title, plan), encoding="utf-8")
    return plan


def check_test(out: Path) -> TestPlan:
    """Reads a written test as webMUSHRA would, and says what a listener will meet.

    Raises:
      ValueError: naming file, page and key, for a YAML that webMUSHRA would not understand, sounds that are missing or
        differ in rate, length or channels on one page, and pages beyond webMUSHRA's limits.
    """
    import soundfile

    configs = sorted((out / "configs").glob("*.yaml"))
    if len(configs) != 1:
        raise ValueError(
            f"{out}: {len(configs)} files configs/*.yaml, one is needed: give the folder of a written test"
        )
    if configs[0].stat().st_size > MAX_YAML_BYTES:
        raise ValueError(f"{configs[0]}: larger than any listening test")
    try:
        # _PlainLoader is a SafeLoader: it makes dictionaries, lists and scalars only.
        config = yaml.load(configs[0].read_text(encoding="utf-8"), Loader=_PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{configs[0]}: not YAML ({error})") from error
    pages = check_config(config, str(configs[0]))
    size, lengths = 0, set()
    for page in pages:
        kinds = {}
        for name, relative in {REFERENCE: page["reference"], **page["stimuli"]}.items():
            path = out / str(relative)
            if ".." in Path(str(relative)).parts or Path(str(relative)).is_absolute() or not path.is_file():
                raise ValueError(f"{configs[0]}, page {page['id']}: {name}: no file {relative!r} inside {out}")
            try:
                info = soundfile.info(path)
            except soundfile.SoundFileError as error:
                raise ValueError(f"{path}: not a sound file ({error})") from error
            kinds[name] = (info.samplerate, info.frames, info.channels, info.format, info.subtype)
            size += path.stat().st_size
        odd = [name for name, kind in kinds.items() if kind != kinds[REFERENCE]]
        if odd:
            raise ValueError(
                f"{configs[0]}, page {page['id']}: {odd[0]} is {kinds[odd[0]]}, the reference {kinds[REFERENCE]} (rate, "
                "samples, channels, format): webMUSHRA needs them equal"
            )
        rate, frames, channels, kind, subtype = kinds[REFERENCE]
        seconds = frames / rate
        if rate != SAMPLE_RATE or channels != 2 or kind != "WAV" or subtype not in ("PCM_16", "PCM_24"):
            raise ValueError(f"{configs[0]}, page {page['id']}: needs 48 kHz wav of 16 or 24 bits and two channels")
        if seconds > MAX_SECONDS:
            raise ValueError(f"{configs[0]}, page {page['id']}: {seconds:g} s, webMUSHRA allows {MAX_SECONDS:g}")
        lengths.add(seconds)
    rated = [page for page in pages if page["id"] != TRAINING]
    conditions = (REFERENCE, *pages[0]["stimuli"])
    if any(set(page["stimuli"]) != set(pages[0]["stimuli"]) for page in pages):
        raise ValueError(f"{configs[0]}: pages have different stimuli, so their ratings could not be compared")
    return TestPlan(configs[0], len(rated), conditions, max(lengths), size / 1e6, minutes(len(rated), len(conditions)))


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases: nobody needs them here, and a few nested ones stand for more pages than any memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not accepted")
        return super().compose_node(parent, index)


def _check_options(
    systems: Mapping[str, Path], anchors: Sequence[str], items: int, chosen: Sequence[str], title: str, loudness: float
) -> str:
    """The test's id, made from its title, after checking what can be checked without reading a file."""
    if not systems:
        raise ValueError("no system: give --system NAME=FOLDER at least once")
    for name in systems:
        if not NAME.fullmatch(name) or name == REFERENCE or is_anchor(name):
            raise ValueError(
                f"--system {name!r}: use up to 50 letters, digits, '_', '.' and '-', beginning with a letter or digit, and "
                "not 'reference' or 'anchor' with a number"
            )
    conditions = len(systems) + len(anchors) + 1
    if conditions > MAX_CONDITIONS:
        raise ValueError(
            f"{conditions} conditions with the hidden reference and {len(anchors)} anchors: webMUSHRA and BS.1534 allow "
            f"{MAX_CONDITIONS} on a page"
        )
    count = len(chosen) or items
    if not 1 <= count <= MOST_ITEMS:
        raise ValueError(f"{count} items: choose 1 to {MOST_ITEMS} (about 15 fill one sitting)")
    if len(set(chosen)) != len(chosen):
        raise ValueError("--item: the same item was given twice")
    if not LOUDNESS[0] <= loudness <= LOUDNESS[1]:
        raise ValueError(f"--loudness {loudness:g}: give {LOUDNESS[0]:g} to {LOUDNESS[1]:g} LUFS")
    test_id = _slug(title).lower()
    if not title.isprintable() or len(title) > 100 or not test_id:
        raise ValueError("--title: give 1 to 100 printable characters with an unaccented letter or digit among them")
    return test_id


def _read_items(
    references: Mapping[str, Path],
    files: Mapping[str, Mapping[str, Path]],
    chosen: Sequence[str],
    items: int,
    seed: int,
    read: Callable[[str], Item],
    notes: list[str],
) -> tuple[list[Item], Item]:
    """The items of the test, and another one to practise on (the first of the test if there is no other).

    Silent references are skipped and noted when items are drawn, and refused when they were chosen.
    """
    everywhere = [name for name in references if all(name in found for found in files.values())]
    drawn = [everywhere[i] for i in np.random.default_rng(seed).permutation(len(everywhere))]
    found = [read(name) for name in chosen]
    needed = len(chosen) or items
    for name in (name for name in drawn if name not in chosen):
        if len(found) > needed:
            break
        try:
            found.append(read(name))
        except AudioFileError as error:
            if error.kind not in ("silent", "too_short"):
                raise
            notes.append(f"{name}: not used: {error.detail}")
    if len(found) < needed:
        raise ValueError(f"{len(found)} usable items for {needed} pages: give fewer --items, or more references")
    if len(found) == needed:
        notes.append(f"{found[0].name}: also the page to practise on, because there is no other reference")
        return found, found[0]
    return found[:needed], found[needed]


def _facts(item: Item) -> dict[str, Any]:
    return {"name": item.name, "gain_db": item.gain_db, "loudness_lufs": item.loudness, "notes": list(item.notes)}


def _slug(text: str) -> str:
    """Letters and digits of a name, the rest as single dashes: safe in paths, HTML, YAML and webMUSHRA's form."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-_")[:40]


def _write_yaml(path: Path, config: Mapping[str, Any]) -> None:
    # webMUSHRA's own reader of YAML is a small one: it takes no text folded over lines, and no list that begins on the
    # dash of the list around it.
    text = yaml.safe_dump(config, sort_keys=False, width=10**6, allow_unicode=True)
    path.write_text(text.replace("\n- - random\n", "\n-\n  - random\n"), encoding="utf-8")


def _readme(test_id: str, title: str, plan: TestPlan) -> str:
    plan_lines = "\n".join(f"- {line}" for line in plan.lines())
    return f"""# {title}

A listening test for [webMUSHRA](https://github.com/audiolabs/webMUSHRA) (its own licence applies; nothing of it is here).

{plan_lines}

## Host it

    git clone https://github.com/audiolabs/webMUSHRA
    cp -r configs webMUSHRA/
    cd webMUSHRA && docker compose up

Listeners open `http://HOST:8000/?config={test_id}.yaml`. Any web server with PHP 7 that may write into `results` will do.
With PHP 8, webMUSHRA's `service/write.php` (as of May 2025) stores the ratings and fails afterwards: listeners are then
shown an error, although nothing is lost.

Ask for headphones and a playback device that runs at 48 kHz (browsers resample otherwise), and go through the whole test
yourself first: ratings are sent only with the button on the last page, and should then stand in
`results/{test_id}/mushra.csv`.

Names of the conditions stand in the YAML and in the addresses of the sounds; pages do not show them, but somebody who
opens the browser's developer tools can read them.

## Score it

    spresso mushra score webMUSHRA/results/{test_id}/mushra.csv --out scores
"""
