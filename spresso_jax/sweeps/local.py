"""Runs commands one after another, each in a process of its own: memory is freed, and one failure stops no other."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

# What `spresso train` exits with after it has saved a checkpoint because it was asked to stop.
STOPPED = 130


@dataclass
class Outcome:
    """What became of the commands.

    Attributes:
      done: names that ended well.
      failed: name -> exit status.
      interrupted: name of the command that was stopped, or None; later ones were not started.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    interrupted: str | None = None


def run_all(commands: Iterable[tuple[str, list[str]]], say: Callable[[str], None]) -> Outcome:
    """Runs (name, command) pairs in order and tells each with `say`.

    SIGINT, SIGTERM and SIGHUP are handed to the running command, which ends after its step with a checkpoint; a second one
    ends it at once. Nothing is started after that. Each command is in a session of its own, so that a Ctrl-C in the terminal
    reaches it once and not twice.
    """
    commands, outcome = list(commands), Outcome()
    with _Forwarder() as forwarder:
        for number, (name, command) in enumerate(commands, start=1):
            if forwarder.asked:
                break
            say(f"=== {number} of {len(commands)}: {name}")
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
            status = forwarder.wait(process)
            if status == 0:
                outcome.done.append(name)
            elif forwarder.asked or status == STOPPED:
                outcome.interrupted = name
                break
            else:
                outcome.failed[name] = status
                say(f"=== {name} failed with exit status {status}; going on with the others")
        if forwarder.asked and outcome.interrupted is None and len(outcome.done) + len(outcome.failed) < len(commands):
            outcome.interrupted = commands[len(outcome.done) + len(outcome.failed)][0]
    return outcome


class _Forwarder:
    """Hands signals on to the running command and remembers that there was one."""

    def __init__(self) -> None:
        self.asked = False
        self._process: subprocess.Popen | None = None
        self._previous: dict[int, object] = {}

    def wait(self, process: subprocess.Popen) -> int:
        self._process = process
        if self.asked:  # between the last look and the start
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait()
        finally:
            self._process = None

    def __enter__(self) -> _Forwarder:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            try:
                self._previous[number] = signal.signal(number, self._on_signal)
            except ValueError:
                break  # not the main thread (tests, notebooks): signals stay as they are
        return self

    def _on_signal(self, number: int, frame: object) -> None:
        self.asked = True
        if self._process is not None:
            self._process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
