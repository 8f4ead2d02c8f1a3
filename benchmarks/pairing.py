"""Runs the sides of a benchmark in turns: each in a process of its own, on the same two cores, never two at once.

A benchmark is one file that is started in two ways. Plainly, it is the parent: it starts one child a side, asks them in
turns, and prints one JSON line. With `--side NAME SETTINGS`, which only the parent does, it is that child: every line of its
standard input names a run, and it answers with one line of JSON. So our side and its peers are measured alike, and a peer
lives in another Python with packages that this project never imports. Needs Linux (`os.sched_setaffinity`, `/proc`) and
nothing but the standard library.

Peers are installed as each benchmark says. If torchaudio then cannot load its library (it was built for GPUs, torch was
not), delete `torchaudio/lib/*.so` in that environment: peers import torchaudio but nothing here runs what lies in there.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

THREADS = 2
# OpenMP's threads go on spinning for some milliseconds after their last work; nobody is measured meanwhile.
PAUSE_SECONDS = 0.5
LEAST_SECONDS = 1.0


class Side:
    """A child process that runs one side.

    Attributes:
      name: of the side.
      facts: its first answer, when it was ready.
    """

    def __init__(self, python: str, script: str, name: str, **settings: Any):
        """Starts `python script --side name settings` and waits until it is ready."""
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        command = [python, "-W", "ignore", script, "--side", name, json.dumps(settings)]
        pipe = subprocess.PIPE
        self.name = name
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.facts = self._answer()

    def ask(self, run: str) -> dict[str, Any]:
        """One repetition of a run, after a pause."""
        time.sleep(PAUSE_SECONDS)
        self.process.stdin.write(run + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """Lets the child end."""
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"the side {self.name} ended with status {self.process.wait()}; its messages are above")
        return json.loads(line)


def alternate(
    turns: Mapping[str, tuple[Side, str]], repetitions: int, clock: str = "seconds"
) -> dict[str, list[float]]:
    """Seconds of every turn in every repetition; every second repetition goes through the turns backwards.

    Args:
      turns: label -> (side, name of its run).
      repetitions: of all turns.
      clock: "seconds" on the wall, or "cpu_seconds" of all threads: with one thread, what other programs take is left out.
    """
    seconds: dict[str, list[float]] = {label: [] for label in turns}
    for repetition in range(repetitions):
        for label in list(turns)[:: -1 if repetition % 2 else 1]:
            side, run = turns[label]
            seconds[label].append(side.ask(run)[clock])
        latest = ", ".join(f"{label} {values[-1]:.3g} s" for label, values in seconds.items())
        print(f"repetition {repetition + 1} of {repetitions}: {latest}", file=sys.stderr, flush=True)
    return seconds


def median_ratio(above: list[float], below: list[float]) -> float:
    """Median over the repetitions of the ratio within each."""
    return rounded(median(a / b for a, b in zip(above, below, strict=True)))


def rounded(value: float, digits: int = 4) -> float:
    """To significant digits, for printing."""
    return float(f"{value:.{digits}g}")


def serve(facts: Mapping[str, Any], runs: Mapping[str, Callable[[], Any]], warm: bool = True) -> None:
    """A child's side: says `facts`, then runs what it is asked for and answers with the seconds that a call took, on the
    wall and of the processor.

    A repetition goes on until `LEAST_SECONDS` have passed; its figure is the mean over its calls.

    Args:
      facts: first answer.
      runs: by the names that `Side.ask` uses. A dict that a run returns is added to its answers.
      warm: call each run once before the first answer.
    """
    for run in runs.values() if warm else ():
        run()
    say(facts)
    for line in sys.stdin:
        run, calls, began, worked = runs[line.strip()], 0, time.perf_counter(), time.process_time()
        while not calls or time.perf_counter() - began < LEAST_SECONDS:
            result, calls = run(), calls + 1
        seconds, cpu_seconds = (time.perf_counter() - began) / calls, (time.process_time() - worked) / calls
        say({"seconds": seconds, "cpu_seconds": cpu_seconds, **(result if isinstance(result, dict) else {})})


def say(answer: Mapping[str, Any]) -> None:
    """A child's side: one line of JSON to the parent."""
    _to_parent.write(json.dumps(answer) + "\n")
    _to_parent.flush()


def resident_mib() -> dict[str, float]:
    """Resident memory of this process now, and its peak since the start or the last `forget_peak`."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) / 1024 for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}


def forget_peak() -> None:
    """Starts the peak of resident memory anew."""
    Path("/proc/self/clear_refs").write_text("5")


def give_back_freed() -> None:
    """Makes the C library give back freed memory that it keeps for later, where it can (glibc)."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)


def run(
    file: str,
    parent: Callable[..., dict[str, Any]],
    sides: Mapping[str, Callable[..., None]],
    sizes: Mapping[str, int] | None = None,
    texts: Mapping[str, str] | None = None,
    threads: int = THREADS,
) -> None:
    """Reads the command line and is either the parent or a side.

    Args:
      file: `__file__` of the benchmark.
      parent: (peer's Python, repetitions, **sizes) -> what to print.
      sides: what each child runs, with the settings that the parent gave it.
      sizes: name -> default of whole numbers that the command line may change.
      texts: name -> help of what the command line must say.
      threads: cores, and so threads, of every side.
    """
    if _is_side():
        sides[sys.argv[2]](**json.loads(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=f"{Path(file).stem}: its docstring says what it measures.")
    parser.add_argument("--peer-python", required=True, help="Python of the environment that holds the peers")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--cores", default="", help=f"{threads} CPU numbers, such as 0,2; by default the first")
    for name, default in (sizes or {}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, meaning in (texts or {}).items():
        parser.add_argument(f"--{name}", required=True, help=meaning)
    arguments = parser.parse_args()
    cores = [int(core) for core in arguments.cores.split(",") if core] or sorted(os.sched_getaffinity(0))[:threads]
    if len(cores) != threads:
        parser.error(f"each side runs {threads} threads, on as many cores, got the cores {cores}")
    os.sched_setaffinity(0, cores)  # inherited by the children; XLA takes as many threads
    load = os.getloadavg()[0]  # of other programs: figures count only where it is near 0
    chosen = {name: getattr(arguments, name) for name in (*(sizes or {}), *(texts or {}))}
    result = parent(os.path.abspath(arguments.peer_python), arguments.repetitions, **chosen)
    print(json.dumps({**result, "repetitions": arguments.repetitions, "load_before": rounded(load)}))


def _is_side() -> bool:
    return sys.argv[1:2] == ["--side"]


def _reserve_standard_output() -> Any:
    """The pipe to the parent; whatever else packages print goes to standard error."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return pipe


_to_parent = _reserve_standard_output() if _is_side() else None
