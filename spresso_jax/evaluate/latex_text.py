"""Any text as LaTeX that prints it."""

from __future__ import annotations

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "−": r"$-$", "–": "--", "±": r"$\pm$",
    # A bracket at the start of a row would be read as an argument of the line break before it.
    "[": "{[}", "]": "{]}",
}  # fmt: skip


def escaped(text: str) -> str:
    """Text on one line in which no character means anything to LaTeX."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))
