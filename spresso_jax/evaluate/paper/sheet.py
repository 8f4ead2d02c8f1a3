"""A table as data, and its two printed forms: Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from spresso_jax.evaluate.latex_text import escaped

_MARKDOWN = {"\\": "\\\\", "|": "\\|", "*": "\\*", "`": "\\`", "[": "\\[", "<": "&lt;"}


@dataclass(frozen=True)
class Sheet:
    """A table with its title and notes.

    Attributes:
      title: above it.
      head: column titles; the first columns are text.
      rows: cells, each row as long as the head.
      notes: sentences below it, one a line.
      texts: number of columns from the left that hold text; the others are set to the right.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    texts: int = 1


def markdown(sheets: Sequence[Sheet]) -> str:
    """All sheets as one page."""
    parts = []
    for sheet in sheets:
        rule = "|" + "---|" * sheet.texts + "---:|" * (len(sheet.head) - sheet.texts)
        parts += [f"## {_plain(sheet.title)}", ""]
        if sheet.rows:
            parts += [_line(sheet.head), rule, *map(_line, sheet.rows), ""]
        parts += [f"- {_plain(note)}" for note in sheet.notes]
        parts += [""] if sheet.notes else []
    return "\n".join(parts).rstrip() + "\n"


def latex(sheets: Sequence[Sheet]) -> str:
    """All sheets as `table*` environments for a paper that uses booktabs."""
    parts = ["% needs \\usepackage{booktabs}; printed by `spresso paper`"]
    for sheet in sheets:
        if not sheet.rows:
            continue
        columns = "l" * sheet.texts + "r" * (len(sheet.head) - sheet.texts)
        parts += [
            r"\begin{table*}[t]", r"\centering\small", rf"\caption{{{escaped(sheet.title)}}}",
            rf"\begin{{tabular}}{{{columns}}}", r"\toprule", _tex_line(sheet.head), r"\midrule",
            *map(_tex_line, sheet.rows), r"\bottomrule", r"\end{tabular}",
        ]  # fmt: skip
        if sheet.notes:
            parts += [r"", r"\smallskip\raggedright\footnotesize", *(escaped(note) + r"\\" for note in sheet.notes)]
        parts += [r"\end{table*}", ""]
    return "\n".join(parts)


def figure(value: float | None, digits: int = 3, zeros: bool = False) -> str:
    """A number with so many significant digits, without exponent where a table can hold it; a dash for none.

    Args:
      zeros: keep those at the end, for measured figures.
    """
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:#.{digits}g}".rstrip(".") if zeros else f"{value:.{digits}g}"
    return minus(f"{value:.0f}" if "e+" in text else text)


def interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """A number with its interval, as in 0.52 [0.47, 0.58]; the number alone where there is none."""
    if not all(map(math.isfinite, (value, low, high))):
        return figure(value, digits, zeros=True)
    return f"{figure(value, digits, True)} [{figure(low, digits, True)}, {figure(high, digits, True)}]"


def minus(text: str) -> str:
    """A number's text with the sign that is as wide as a plus."""
    return text.replace("-", "−")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_plain, cells)) + " |"


def _plain(text: str) -> str:
    """Text whose letters mean themselves in Markdown."""
    return "".join(_MARKDOWN.get(letter, letter) for letter in " ".join(text.split()))


def _tex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"
