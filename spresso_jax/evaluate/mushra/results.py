"""Reads webMUSHRA's mushra.csv into an array of scores; every row is used, refused with its line, or counted.

write.php appends one row a rated stimulus to one file, a listener at a time:
`session_test_id, <questionnaire fields>, session_uuid, trial_id, rating_stimulus, rating_score, rating_time,
rating_comment`. It writes a header once. A later participant may have answered another questionnaire, so rows are read
by position: the first field, and six from the end.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

REFERENCE = "reference"
TRAINING = "training"
LAST_FIELDS = ("session_uuid", "trial_id", "rating_stimulus", "rating_score", "rating_time", "rating_comment")
MAX_BYTES = 16_000_000
MAX_RATINGS = 2_000_000
MAX_NAME = 100


@dataclass(frozen=True)
class Ratings:
    """A complete table: every listener rated every condition of every item.

    Attributes:
      test_id: webMUSHRA's testId.
      listeners, items, conditions: names along the three axes of `scores`; `reference` is the first condition, anchors
        are the last.
      scores: [L, I, C] float64, 0 to 100.
      seconds: [L, I] float64, time on the page.
      counts: what was read and what was not used, by name.
      left_out: listeners that were left out as incomplete.
    """

    test_id: str
    listeners: tuple[str, ...]
    items: tuple[str, ...]
    conditions: tuple[str, ...]
    scores: np.ndarray
    seconds: np.ndarray
    counts: dict[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def systems(self) -> tuple[str, ...]:
        """Conditions under test: neither the hidden reference nor an anchor."""
        return tuple(c for c in self.conditions if c != REFERENCE and not is_anchor(c))

    def of(self, listeners: Sequence[str]) -> Ratings:
        """The same table with some of the listeners."""
        rows = [self.listeners.index(name) for name in listeners]
        return Ratings(
            self.test_id, tuple(listeners), self.items, self.conditions, self.scores[rows], self.seconds[rows]
        )


@dataclass(frozen=True)
class _Row:
    place: str
    width: int
    listener: str
    item: str
    condition: str
    score: float
    seconds: float


def is_anchor(condition: str) -> bool:
    """Whether a condition is a low-pass anchor (anchor35, anchor70)."""
    return condition.startswith("anchor") and condition.removeprefix("anchor").isdigit()


def read_results(
    paths: Sequence[str | Path], *, training: Sequence[str] = (TRAINING,), leave_out_incomplete: bool = False
) -> Ratings:
    """Reads result files of one test.

    Args:
      paths: files that webMUSHRA's write.php made.
      training: trial_ids that are no test items; their rows are counted and not used.
      leave_out_incomplete: leave out, and count, listeners that lack a rating; otherwise they are an error.

    Raises:
      ValueError: naming file and line, for anything that is not such a file: wrong header or width, scores that are no
        numbers within 0..100, names that are empty, overlong or formulas, a stimulus rated twice, ratings that are
        missing, rows of two tests, no hidden reference, no rating at all.
    """
    counts = {
        "files": len(paths),
        "rows": 0,
        "repeated_headers": 0,
        "training_rows": 0,
        "listeners_with_other_fields": 0,
    }
    table: dict[str, dict[tuple[str, str], _Row]] = {}
    tests: dict[str, str] = {}
    other_fields: set[str] = set()
    for path in map(Path, paths):
        expected = 0
        for place, cells in _lines(path):
            if _is_header(cells):
                counts["repeated_headers"] += expected > 0
                expected = len(cells)
                continue
            if not expected:
                raise ValueError(
                    f"{place}: no header of webMUSHRA (session_test_id, ..., {', '.join(LAST_FIELDS)}): give the file "
                    "results/TEST/mushra.csv as webMUSHRA 1.4 or later wrote it"
                )
            row = _parse(place, cells)
            tests.setdefault(_name(cells[0], "session_test_id", place), place)
            if len(tests) > 1:
                (first, where), (second, _) = tests.items()
                raise ValueError(
                    f"{place}: test {second!r}, but {where} belongs to {first!r}: score one test at a time"
                )
            counts["rows"] += 1
            own = table.setdefault(row.listener, {})
            before = own.setdefault((row.item, row.condition), row)
            if before is not row:
                raise ValueError(
                    f"{place}: listener {row.listener} rates {row.condition!r} of {row.item!r} a second time "
                    f"(first at {before.place}): delete one of the two rows, or name each file only once"
                )
            first = next(iter(own.values()))
            if first.width != row.width:
                raise ValueError(
                    f"{place}: {row.width} fields, but {first.width} in the same listener's row at {first.place}: a row "
                    "was damaged"
                )
            if row.width != expected:
                other_fields.add(row.listener)
    counts["listeners_with_other_fields"] = len(other_fields)
    if not table:
        raise ValueError(f"{', '.join(map(str, paths))}: no ratings in it: nobody has finished the test yet")
    for own in table.values():
        for key in [key for key in own if key[0] in training]:
            del own[key]
            counts["training_rows"] += 1
    return _complete(table, next(iter(tests)), counts, leave_out_incomplete, ", ".join(map(str, paths)))


def _complete(table: dict, test_id: str, counts: dict[str, int], leave_out: bool, source: str) -> Ratings:
    items = sorted({item for own in table.values() for item, _ in own})
    found = {condition for own in table.values() for _, condition in own}
    if not items:
        raise ValueError(f"{source}: only training rows in it: nothing to score")
    if REFERENCE not in found:
        raise ValueError(f"{source}: no stimulus is called {REFERENCE!r}: MUSHRA needs the hidden reference")
    ordered = [REFERENCE, *sorted(c for c in found if c != REFERENCE and not is_anchor(c))]
    ordered += sorted((c for c in found if is_anchor(c)), key=lambda c: int(c.removeprefix("anchor")), reverse=True)
    if len(table) * len(items) * len(ordered) > MAX_RATINGS:
        raise ValueError(
            f"{source}: {len(table)} listeners, {len(items)} items and {len(ordered)} conditions are no listening test: "
            "are the columns in webMUSHRA's order?"
        )
    cells = [(item, condition) for item in items for condition in ordered]
    missing = {name: [cell for cell in cells if cell not in own] for name, own in table.items()}
    incomplete = tuple(name for name, gaps in missing.items() if gaps)
    if incomplete and not leave_out:
        item, condition = missing[incomplete[0]][0]
        raise ValueError(
            f"{source}: {len(incomplete)} of {len(table)} listeners lack ratings, first {incomplete[0]}: "
            f"{len(missing[incomplete[0]])} missing, such as {condition!r} of {item!r}. Mend the file, or give "
            "--leave-out-incomplete to leave these listeners out"
        )
    kept = [name for name in table if not missing[name]]
    if not kept:
        raise ValueError(f"{source}: no listener rated all of {len(items)} items and {len(ordered)} conditions")
    shape = (len(kept), len(items), len(ordered))
    rows = [table[name][cell] for name in kept for cell in cells]
    return Ratings(
        test_id,
        tuple(kept),
        tuple(items),
        tuple(ordered),
        np.array([row.score for row in rows]).reshape(shape),
        np.array([row.seconds for row in rows]).reshape(shape).max(axis=2),
        counts,
        incomplete,
    )


def _lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(file and line, fields) of every line that is not empty."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file: give webMUSHRA's results/TEST/mushra.csv")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{path}: {size / 1e6:.0f} MB is no listening test (limit {MAX_BYTES / 1e6:.0f} MB)")
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            for cells in reader:
                if cells:
                    yield f"{path}, line {reader.line_num}", cells
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: not readable as CSV ({error})") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, after line {reader.line_num}: not UTF-8 text ({error.reason})") from error


def _is_header(cells: Sequence[str]) -> bool:
    return len(cells) > len(LAST_FIELDS) and cells[0] == "session_test_id" and tuple(cells[-6:]) == LAST_FIELDS


def _parse(place: str, cells: Sequence[str]) -> _Row:
    if len(cells) < len(LAST_FIELDS) + 1:
        raise ValueError(f"{place}: {len(cells)} fields, at least {len(LAST_FIELDS) + 1} needed: the row is cut off")
    listener, item, condition, score, milliseconds, _ = cells[-6:]
    value = _number(score, "rating_score", place)
    if not 0.0 <= value <= 100.0:
        raise ValueError(f"{place}: rating_score {score!r} is not within 0 to 100")
    time = _number(milliseconds, "rating_time", place)
    if time < 0.0:
        raise ValueError(f"{place}: rating_time {milliseconds!r} is negative")
    return _Row(
        place,
        len(cells),
        _name(listener, "session_uuid", place),
        _name(item, "trial_id", place),
        _name(condition, "rating_stimulus", place),
        value,
        time / 1000.0,
    )


def _number(text: str, what: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{place}: {what} {text[:40]!r} is not a number")
    return value


def _name(text: str, what: str, place: str) -> str:
    """A name that may be written into tables: a cell that begins like a formula would run in a spreadsheet."""
    if not text or len(text) > MAX_NAME or not text.isprintable() or text[0] in "=+-@" or text.strip() != text:
        raise ValueError(
            f"{place}: {what} {text[:40]!r} is no name (1 to {MAX_NAME} printable characters, not beginning with =, +, - "
            "or @)"
        )
    return text
