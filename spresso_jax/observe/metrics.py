"""Metrics as JSON lines: one object a log event, numbers only; the file is the source of truth for every curve."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsWriter:
    """Appends `{"step", "split", "time", name: value, ...}` lines to `metrics.jsonl`.

    Args:
      path: the file; created if missing.
      resume_step: events after this step, left by a run that went further than its last checkpoint, are cut off.
        None keeps everything.
    """

    def __init__(self, path: str | Path, resume_step: int | None = None):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resume_step is not None and self.path.exists():
            kept = [event for event in read_metrics(self.path) if event["step"] <= resume_step]
            self.path.write_text("".join(json.dumps(event) + "\n" for event in kept), encoding="utf-8")
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        """Appends one event; values that are not finite become null, as JSON has no NaN."""
        event: dict[str, Any] = {"step": int(step), "split": split, "time": round(time.time(), 3)}
        for name, value in values.items():
            number = float(value)
            event[name] = float(f"{number:.6g}") if math.isfinite(number) else None
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All events of a metrics file, in order; a last line that a kill cut short is left out.

    Raises:
      ValueError: if another line is not JSON, naming the file and the line.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: not a JSON object ({error})") from error
    return events
