"""Folders of sounds and the tables beside them -> entries with captions, splits, groups and licences.

Knows plain folders, caption tables (CSV, TSV, JSON, JSON lines), sidecar files, and by their column names the public
collections: FSD50K (`fname,labels,split` and the clips-info JSON), ESC-50 (`filename,category,src_file`), Clotho
(`file_name,caption_1..5`), AudioCaps, WavCaps (`{"data": [...]}`), BBC (`location,description,category`), Freesound
(`id,name,description,tags,license,username`). Several tables may be given; a later one fills what earlier ones leave
open. Nothing after this module reads a data set's own files.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from data_pipeline.audio_files import AUDIO_SUFFIXES

TABLE_NAMES = ("manifest.csv", "metadata.csv", "captions.csv")

_FILE = ("path", "file", "filename", "file_name", "fname", "location", "audio", "uri")
_CAPTION = ("caption", "captions", "text")
_SECOND = ("description", "title", "name")
_LABELS = ("labels", "label", "category", "tags", "keywords")
_GROUP = ("group", "src_file", "uploader", "username")
_LICENCE = ("licence", "license")
_CATEGORY = ("category", "label", "labels")
_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
           "test": "test", "testing": "test", "eval": "test", "evaluation": "test"}
_PLAIN_FOLDERS = {"audio", "audios", "wav", "wavs", "flac", "mp3", "ogg", "sfx", "sounds", "sound", "clips", "data",
                  "samples", *_SPLITS} - {"eval"}
_CAPTION_LIMIT = 400
_SIDECAR_LIMIT = 2**16


class CatalogueError(ValueError):
    """A folder or table that cannot be used; the message names it."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One sound file, and what is known of it before it is opened.

    Attributes:
      root: folder that `uri` is relative to.
      uri: path below `root` with forward slashes, as the file system spells it.
      source: short name of the collection (the folder's name).
      captions: one or more, best first.
      captions_from: "table", "sidecar" or "path".
      split, group, category, licence, id: from tables, or None.
      error: why there is nothing to open, or None.
    """

    root: str
    uri: str
    source: str
    captions: tuple[str, ...]
    captions_from: str
    split: str | None = None
    group: str | None = None
    category: str | None = None
    licence: str | None = None
    id: str | None = None
    error: str | None = None


def scan_folder(folder: str | os.PathLike) -> list[str]:
    """Sound files below a folder by suffix (upper case too), dot files and dot folders skipped, sorted.

    Returns:
      paths relative to `folder` with forward slashes.

    Raises:
      CatalogueError: no such folder.
    """
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise CatalogueError(f"{folder}: no such folder: give a folder with sound files")
    found = []
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and pathlib.PurePath(name).suffix.lower() in AUDIO_SUFFIXES:
                found.append((pathlib.Path(here) / name).relative_to(folder).as_posix())
    return sorted(found)


def find_tables(folder: str | os.PathLike) -> list[pathlib.Path]:
    """A `manifest.csv`, `metadata.csv` or `captions.csv` at the top of a folder: the first that is there, or none."""
    tables = [pathlib.Path(folder) / name for name in TABLE_NAMES]
    return [table for table in tables if table.is_file()][:1]


def catalogue(folder: str | os.PathLike, tables: Sequence[str | os.PathLike] = (), source: str | None = None):
    """Lists a folder's sound files with captions from tables, else sidecar files, else the words of the path.

    A table row finds its file by the path from the table's folder or from `folder`, else by a name or stem that only
    one file has. Rows whose file is not there become entries with `error`.

    Args:
      folder: root of the collection.
      tables: caption tables; with none, those of `find_tables`.
      source: name of the collection, by default the folder's name.

    Returns:
      list of `Entry`, sorted by `uri`.

    Raises:
      CatalogueError: no such folder, no sound in it, or an unreadable table.
    """
    root = pathlib.Path(folder)
    uris = scan_folder(root)
    if not uris:
        raise CatalogueError(f"{root}: no sound files in it ({', '.join(AUDIO_SUFFIXES)}): give another folder")
    source = slug(source or root.resolve().name)
    known: dict[str, dict] = {}
    missing: dict[str, dict] = {}
    index = _Index(root, uris)
    for table in map(pathlib.Path, tables or find_tables(root)):
        for row in read_table(table):
            fields = _fields(row)
            if not fields["file"]:
                continue
            uri = index.find(fields["file"], table.resolve().parent)
            target = known.setdefault(uri, {}) if uri else missing.setdefault(fields["file"], {})
            for key, value in fields.items():
                if value and not target.get(key):
                    target[key] = value
    entries = [_entry(root, uri, source, known.get(uri, {})) for uri in uris]
    for name, fields in missing.items():
        entry = _entry(root, name, source, fields)
        entries.append(dataclasses.replace(entry, error="listed in a table, but no such file"))
    return sorted(entries, key=lambda entry: (entry.uri, entry.error or ""))


def read_table(path: str | os.PathLike) -> list[dict]:
    """Rows of a CSV, TSV, JSON or JSON lines file as dicts; UTF-8, or else Windows-1252.

    Raises:
      CatalogueError: missing or unreadable, or a CSV without a column that names files.
    """
    path = pathlib.Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CatalogueError(f"{path}: table cannot be opened ({error.strerror}): check the path") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")
    suffix = path.suffix.lower()
    try:
        if suffix in (".jsonl", ".ndjson"):
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        elif suffix == ".json":
            rows = _json_rows(json.loads(text))
        else:
            head = text.split("\n", 1)[0]
            delimiter = max(",\t;", key=head.count)
            rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter))
            columns = {(name or "").strip().lower() for name in (rows[0] if rows else {})}
            if rows and not columns & {*_FILE, "id"}:
                raise CatalogueError(
                    f"{path}: no column names the files, found {', '.join(sorted(columns))}: call one 'path'"
                )
    except (ValueError, csv.Error) as error:
        if isinstance(error, CatalogueError):
            raise
        raise CatalogueError(f"{path}: table cannot be read ({error}): save it as UTF-8 CSV") from error
    if not all(isinstance(row, Mapping) for row in rows):
        raise CatalogueError(f"{path}: rows must be JSON objects with a 'path' and a 'caption'")
    return [{str(key or "").strip().lower(): value for key, value in row.items()} for row in rows]


def path_words(uri: str) -> str:
    """A caption from a path: the last telling folder and the file name, without numbers, marks and hashes.

    >>> path_words("train/Dogs/BigBark_03.wav")
    'dogs big bark'
    """
    path = pathlib.PurePosixPath(uri)
    folder = next((part for part in reversed(path.parts[:-1]) if part.lower() not in _PLAIN_FOLDERS), "")
    words: list[str] = []
    for part in (folder, path.stem):
        part = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFC", part))
        for word in re.findall(r"[^\W_]+", part.lower()):
            word = re.sub(r"(?<=[^\W\d])\d+$", "", word)
            telling = not re.fullmatch(r"\d+|[0-9a-f]*\d[0-9a-f]*|[a-z]", word)
            if telling and word not in words:
                words.append(word)
    return " ".join(words)[:_CAPTION_LIMIT]


def split_in_path(uri: str) -> str | None:
    """The split that a folder of the path names (`train/`, `val/`, `validation/`, `test/` ...), or None."""
    for part in pathlib.PurePosixPath(uri).parts[:-1]:
        if part.lower() in _SPLITS:
            return _SPLITS[part.lower()]
    return None


def slug(text: str) -> str:
    """Letters, digits, '.', '-' and '_' only, for ids and file names."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "source"


class _Index:
    """Finds the file that a table row means."""

    def __init__(self, root: pathlib.Path, uris: Iterable[str]):
        self._root = root.resolve()
        self._by_uri, self._by_name, self._by_stem = {}, {}, {}
        for uri in uris:
            path = pathlib.PurePosixPath(_nfc(uri))
            self._by_uri[str(path)] = uri
            for table, key in ((self._by_name, path.name), (self._by_stem, path.stem)):
                table[key] = None if key in table else uri

    def find(self, name: str, table_folder: pathlib.Path) -> str | None:
        name = name.replace("\\", "/")
        for base in (table_folder, self._root):
            path = pathlib.Path(os.path.normpath(base / name))
            if path.is_relative_to(self._root):
                uri = self._by_uri.get(_nfc(path.relative_to(self._root).as_posix()))
                if uri:
                    return uri
        if (table_folder / name).is_file():
            return None  # The row means a file of another folder.
        last = _nfc(pathlib.PurePosixPath(name).name)
        return self._by_name.get(last) or self._by_stem.get(last) or self._by_stem.get(pathlib.PurePosixPath(last).stem)


def _fields(row: Mapping) -> dict:
    """One table row of any known collection -> file, captions, split, group, category, licence, id."""

    def first(names: Iterable[str]) -> str | None:
        return next((str(row[name]).strip() for name in names if row.get(name) not in (None, "", [])), None)

    captions = [text for name in _CAPTION for text in _texts(row.get(name))]
    captions += [text for name in sorted(row) if re.fullmatch(r"caption_\d+", name) for text in _texts(row[name])]
    if not captions:
        captions = [text for name in _SECOND for text in _texts(row.get(name))][:1]
    if not captions:
        captions = [_label_words(row[name]) for name in _LABELS if row.get(name)][:1]
    split = (first(("split", "set")) or "").lower()
    named = first(_FILE)
    return {
        "file": named or first(("id",)),
        "captions": tuple(dict.fromkeys(_clean(text) for text in captions if _clean(text))),
        "split": _SPLITS.get(split, slug(split)) if split else None,
        "group": first(_GROUP),
        "category": first(_CATEGORY),
        "licence": first(_LICENCE),
        "id": first(("id",)) if named else None,
    }


def _entry(root: pathlib.Path, uri: str, source: str, fields: Mapping) -> Entry:
    extra = {}
    origin = "table"
    captions = fields.get("captions")
    if not captions:
        extra = _sidecar(root / uri)
        captions, origin = extra.get("captions"), "sidecar"
    if not captions:
        words = path_words(uri)
        captions, origin = ((words,) if words else ()), "path"

    def pick(key: str) -> str | None:
        return fields.get(key) or extra.get(key)

    return Entry(
        root=str(root), uri=uri, source=source, captions=tuple(captions), captions_from=origin,
        split=pick("split") or split_in_path(uri), group=pick("group"), category=pick("category"),
        licence=pick("licence"), id=fields.get("id"),
    )  # fmt: skip


def _sidecar(path: pathlib.Path) -> dict:
    """Fields from `<stem>.json` or `<stem>.txt` (one caption a line) beside a sound file."""
    for suffix in (".json", ".txt"):
        beside = path.with_suffix(suffix)
        try:
            if not beside.is_file() or beside.stat().st_size > _SIDECAR_LIMIT:
                continue
            text = beside.read_bytes().decode("utf-8-sig", errors="replace")
            if suffix == ".txt":
                return {"captions": tuple(_clean(line) for line in text.splitlines() if _clean(line))}
            row = json.loads(text)
            if isinstance(row, Mapping):
                return _fields({str(key).lower(): value for key, value in row.items()})
        except (OSError, ValueError) as error:
            raise CatalogueError(f"{beside}: caption file cannot be read ({error}): correct or remove it") from error
    return {}


def _json_rows(data) -> list:
    if isinstance(data, Mapping):
        for key in ("data", "results", "clips"):
            if isinstance(data.get(key), list):
                return data[key]
        return [{"fname": key, **value} for key, value in data.items() if isinstance(value, Mapping)]
    return list(data)


def _texts(value) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]


def _label_words(value) -> str:
    parts = value if isinstance(value, (list, tuple)) else re.split(r"[,;|]", str(value))
    return ", ".join(str(part).replace("_", " ").strip().lower() for part in parts)


def _clean(text: str) -> str:
    return " ".join(text.split())[:_CAPTION_LIMIT]


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
