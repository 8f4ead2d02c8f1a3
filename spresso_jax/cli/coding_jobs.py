"""Jobs of `encode` and `decode`: which file becomes which, what may not be overwritten, and a loop over them that tells
what fails, goes on, and sums up a folder.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from spresso_jax.cli.errors import user_errors

Job = tuple[Path, Path]


def pair_files(source: Path, out: Path | None, suffixes: tuple[str, ...], new_suffix: str) -> list[Job]:
    """Pairs of input and output; a folder's tree is kept.

    Raises:
      ValueError: if there is nothing to do, or two inputs would be written to one file.
    """
    if source.is_dir():
        root = out or source
        if root.exists() and not root.is_dir():
            raise ValueError(f"{root} is a file, but {source} is a folder: give a folder to --out")
        found = (p for p in sorted(source.rglob("*")) if p.suffix.lower() in suffixes and p.is_file())
        inputs = [path for path in found if not path.name.startswith(".")]
        if not inputs:
            raise ValueError(f"{source} holds no file with a suffix of {', '.join(suffixes)}")
        jobs = [(path, (root / path.relative_to(source)).with_suffix(new_suffix)) for path in inputs]
    elif source.exists():
        if out is not None and out.is_dir():
            jobs = [(source, out / source.with_suffix(new_suffix).name)]
        else:
            jobs = [(source, out or source.with_suffix(new_suffix))]
    else:
        raise ValueError(f"{source}: no such file or folder")
    taken: dict[Path, Path] = {}
    for path, target in jobs:
        if target in taken:
            raise ValueError(f"{taken[target]} and {path} would both be written to {target}: rename one")
        taken[target] = path
        if target.resolve() == path.resolve():
            raise ValueError(f"{path} would overwrite itself: give another file to --out")
    return jobs


def check_targets(targets: list[Path], force: bool) -> None:
    """Raises ValueError if a target exists and may not be overwritten."""
    present = [target for target in targets if target.exists()]
    if present and not force:
        more = f" (and {len(present) - 1} more)" if len(present) > 1 else ""
        raise ValueError(f"{present[0]} exists{more}: add --force to overwrite, or choose another --out")


class Coding:
    """One run over many files; a file that fails is told on standard error, and the exit code is 2 in the end.

    Args:
      jobs: all of them.
      folder: they come from a folder: number the lines and sum up at the end.
    """

    def __init__(self, jobs: list[Job], folder: bool):
        self._jobs = jobs
        self._folder = folder
        self._failed = self._done = 0
        self._seconds = 0.0
        self._began = time.monotonic()

    def each(self, work: Callable[[Path, Path], tuple[float, str]]) -> None:
        """Does every job by itself; `work` returns seconds of sound and what to tell."""
        for job in self._jobs:
            self._attempt(job, work)
        self._finish()

    def together(
        self,
        read: Callable[[Path], Any],
        code: Callable[[list[Any]], list[Any]],
        write: Callable[[Any, Any, Path], tuple[float, str]],
        group: int,
        fits: Callable[[Any], bool],
    ) -> None:
        """Does up to `group` jobs in one call.

        Args:
          read: input file -> sound.
          code: sounds -> their codes, in order.
          write: (sound, codes, output file) -> seconds of sound and what to tell.
          group: most sounds of a call.
          fits: whether a sound may wait for others; any other one is coded at once, so that memory stays small.
        """
        waiting: list[tuple[Job, Any]] = []
        for job in self._jobs:
            sound = self._read(job[0], read)
            if sound is None:
                continue
            if fits(sound):
                waiting.append((job, sound))
                if len(waiting) < group:
                    continue
                batch, waiting = waiting, []
            else:
                batch = [(job, sound)]
            self._code(batch, code, write)
            del batch, sound  # or a long one would be held while the next is read
        if waiting:
            self._code(waiting, code, write)
        self._finish()

    def _read(self, path: Path, read: Callable[[Path], Any]) -> Any:
        try:
            with user_errors():
                return _named(path, lambda: read(path))
        except typer.Exit:
            self._failed += 1
            return None

    def _code(
        self,
        batch: list[tuple[Job, Any]],
        code: Callable[[list[Any]], list[Any]],
        write: Callable[[Any, Any, Path], tuple[float, str]],
    ) -> None:
        made: list[Any] = [None] * len(batch)
        if len(batch) > 1:
            # Of a batch that is refused, each sound is coded alone, which tells the one that is at fault.
            with contextlib.suppress(ValueError):
                made = code([sound for _, sound in batch])
        for (job, sound), codes in zip(batch, made, strict=True):

            def work(_: Path, target: Path, sound: Any = sound, codes: Any = codes) -> tuple[float, str]:
                return write(sound, code([sound])[0] if codes is None else codes, target)

            self._attempt(job, work)

    def _attempt(self, job: Job, work: Callable[[Path, Path], tuple[float, str]]) -> None:
        path, target = job
        try:
            with user_errors():
                target.parent.mkdir(parents=True, exist_ok=True)
                seconds, told = _named(path, lambda: work(path, target))
                self._done += 1
                self._seconds += seconds
                count = f"[{self._done + self._failed}/{len(self._jobs)}] " if self._folder else ""
                typer.echo(f"{count}{path} -> {target}: {told}")
        except typer.Exit:
            self._failed += 1

    def _finish(self) -> None:
        if self._folder and self._done:
            elapsed = max(time.monotonic() - self._began, 1e-6)
            typer.echo(
                f"{self._done} file{'s' if self._done != 1 else ''}, {self._seconds:.1f} s of sound in {elapsed:.1f} s:"
                f" {self._done / elapsed:.2f} clips/s, {self._seconds / elapsed:.3g} x real time"
            )
        if self._failed:
            if len(self._jobs) > 1:
                typer.echo(f"error: {self._failed} of {len(self._jobs)} files failed, the others are done", err=True)
            raise typer.Exit(2)


def _named(path: Path, work: Callable[[], Any]) -> Any:
    """Does one job; an error that does not begin with the file's name gets it."""
    try:
        return work()
    except (ValueError, OSError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
