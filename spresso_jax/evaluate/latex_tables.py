"""The tables of an evaluation for a paper: booktabs, one `table` environment each, everything escaped."""

from __future__ import annotations

from collections.abc import Mapping

from spresso_jax.evaluate.latex_text import escaped
from spresso_jax.evaluate.record_tables import Cell, Column, RecordTable, record_tables, set_notes


def latex_document(scores: Mapping) -> str:
    """All tables, to be read by \\input; what has to stand in the preamble is in the first line."""
    several = len(scores.get("sets") or []) > 1
    tables = [_table(table, several) for table in record_tables(scores)]
    notes = [f"% {' '.join(note.split())}" for note in set_notes(scores)]
    return "\n".join(["% \\usepackage{booktabs}", *notes, "", *tables])


def _table(table: RecordTable, several: bool) -> str:
    head = ["system", *(["set"] if several else []), *(_head(column) for column in table.columns)]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(table.title)}.}}",
        rf"\begin{{tabular}}{{{'l' * (2 if several else 1)}{'r' * len(table.columns)}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
    ]
    before = None
    for system, part, cells in table.rows:
        if before not in (None, part):
            lines.append(r"\midrule")
        before = part
        first = [escaped(system), *([escaped(part)] if several else [])]
        lines.append(" & ".join([*first, *(_cell(cell) for cell in cells)]) + r" \\")
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        *(f"% {' '.join(note.split())}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _head(column: Column) -> str:
    arrow = {"higher": r" $\uparrow$", "lower": r" $\downarrow$"}.get(column.better, "")
    return escaped(f"{column.label} ({column.unit})" if column.unit else column.label) + arrow


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    interval = rf" {{\scriptsize {escaped(cell.interval)}}}" if cell.interval else ""
    number = f"${cell.text}$" if cell.text.startswith("-") else escaped(cell.text)
    return number + interval
