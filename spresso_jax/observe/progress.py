"""Progress of a run: a bar on a terminal, one plain line a log event elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any


class TrainingProgress:
    """Shows steps, rate, time left and the last losses.

    Args:
      title: shown before the bar.
      total: last step of the run.
      start: step at which this process begins.
      enabled: False silences everything (processes other than 0).
    """

    def __init__(self, title: str, total: int, start: int = 0, enabled: bool = True):
        self.title, self.total, self.start, self.enabled = title, total, start, enabled
        self._began: float | None = None
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> TrainingProgress:
        if self.enabled and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[values]}"),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.start, rate="", values="")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str) -> None:
        """Prints one line without disturbing the bar."""
        if not self.enabled:
            return
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, soft_wrap=True, markup=False)
        else:
            print(text, flush=True)

    def advance(self, step: int) -> None:
        """Moves the bar to `step`; call after every update."""
        if self._began is None:
            self._began = time.monotonic()
            self.start = step
        if self._bar is not None:
            self._bar.update(self._task, completed=step, rate=f"{self._rate(step):.2f} steps/s")

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """Shows the values of a log event."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.update(self._task, values=text)
        elif self.enabled:
            rate = self._rate(step)
            left = f"{(self.total - step) / rate / 60:.1f} min left" if rate > 0 else ""
            print(f"{self.title} step {step}/{self.total}  {rate:.2f} steps/s  {left}  {text}", flush=True)

    def _rate(self, step: int) -> float:
        if self._began is None or step <= self.start:
            return 0.0
        return (step - self.start) / max(time.monotonic() - self._began, 1e-9)
