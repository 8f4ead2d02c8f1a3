"""A picture a metric: every system's value with its interval, a colour a test set."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from spresso_jax.evaluate.record_tables import record_tables
from spresso_jax.observe.pictures import interval_rows_png


def write_plots(scores: Mapping, folder: Path) -> list[Path]:
    """Writes FOLDER/METRIC.png for every metric of every embedding, and takes older pictures away.

    Returns:
      The files, none for scores without records.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.png"):
        stale.unlink()
    paths = []
    for table in record_tables(scores):
        for index, column in enumerate(table.columns):
            rows: dict[str, dict[str, tuple[float, float, float]]] = {}
            for system, part, cells in table.rows:
                cell = cells[index]
                if cell is not None and math.isfinite(cell.value):
                    rows.setdefault(system, {})[part] = (cell.value, cell.low, cell.high)
            if not rows:
                continue
            told = {"higher": ", higher is better", "lower": ", lower is better"}.get(column.better, "")
            path = folder / f"{re.sub(r'[^A-Za-z0-9.+-]+', '-', column.label).strip('-')}.png"
            path.write_bytes(interval_rows_png(rows, title=f"{column.label}{told}", x_label=column.unit))
            paths.append(path)
    return paths
