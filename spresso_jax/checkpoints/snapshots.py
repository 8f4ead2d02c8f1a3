"""Snapshots of a run's averages, one safetensors file a step, from which averages of other lengths are made afterwards.

```
RUN/snapshots/step_0000250.safetensors   tensors "<average>/<parameter path>"; step and relative lengths as JSON metadata
```

A file appears under its name only when it is complete, and nothing is ever unpickled. Knows no model and no JAX.
Source: EDM2 section 3.2 (post-hoc reconstruction from stored averages).
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = ("float32", "float16")
_NAME = re.compile(r"step_(\d{7,})\.safetensors")
_LARGEST_FLOAT16 = 65504.0


class SnapshotError(ValueError):
    """A snapshot cannot be written or read; the message names the file and a remedy."""


@dataclass(frozen=True)
class Snapshot:
    """One file of averages.

    Attributes:
      path: the file.
      step: updates that its averages end at.
      lengths: name of the average -> its relative length sigma_rel.
    """

    path: Path
    step: int
    lengths: Mapping[str, float]

    @cached_property
    def _stream(self) -> Any:
        return _opened(self.path)

    def parameters(self) -> list[str]:
        """Paths of the averaged parameters, sorted.

        Raises:
          SnapshotError: if the averages of the file do not hold the same parameters.
        """
        names: dict[str, set[str]] = {name: set() for name in self.lengths}
        for key in self._stream.keys():
            name, _, path = key.partition("/")
            names.setdefault(name, set()).add(path)
        first, *others = names.values()
        if set(names) != set(self.lengths) or any(other != first for other in others):
            raise SnapshotError(f"{self.path}: its averages do not hold the same parameters: delete the file")
        return sorted(first)

    def parameter(self, average: str, path: str) -> np.ndarray:
        """One parameter under one average, float32 whatever the storage."""
        return self._stream.get_tensor(f"{average}/{path}").astype(np.float32)


class SnapshotStore:
    """The snapshots of one run.

    Args:
      folder: made with the first snapshot.
      dtype: storage, "float32" or "float16". bfloat16 is not offered: the coefficients of a reconstruction are signed, and
        would make its rounding as large as the error of the method (EDM2, appendix C).

    Raises:
      SnapshotError: for another dtype.
    """

    def __init__(self, folder: str | Path, dtype: str = "float32"):
        if dtype not in DTYPES:
            raise SnapshotError(f"loop.snapshot_dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        self.folder, self.dtype = Path(folder), dtype

    def steps(self) -> list[int]:
        """Steps with a snapshot, oldest first."""
        return sorted(self._files())

    def save(self, step: int, averages: Mapping[str, Mapping[str, np.ndarray]], lengths: Mapping[str, float]) -> None:
        """Writes one snapshot, unless the step has one already.

        Args:
          step: updates done.
          averages: name -> {parameter path: array}.
          lengths: name -> relative length.

        Raises:
          SnapshotError: if the disk refuses.
        """
        from safetensors.numpy import save_file

        if step in self._files():
            return
        tensors = {
            f"{name}/{path}": self._stored(leaf) for name, leaves in averages.items() for path, leaf in leaves.items()
        }
        about = json.dumps({"step": step, "lengths": dict(lengths)}, sort_keys=True)
        target, part = self.folder / f"step_{step:07d}.safetensors", None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".part")
            os.close(handle)
            save_file(tensors, part, metadata={"spresso": about})
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(part, 0o666 & ~umask)
            os.replace(part, target)
        except Exception as error:
            if part is not None:
                Path(part).unlink(missing_ok=True)
            raise SnapshotError(
                f"{target} could not be written ({error}); free some disk space and run again with --resume, or take fewer"
                " snapshots (loop.snapshot_every, loop.snapshot_dtype=float16)"
            ) from error

    def drop_after(self, step: int) -> None:
        """Removes snapshots later than `step`, and what a killed write has left."""
        for found, path in self._files().items():
            if found > step:
                path.unlink()
        for path in self.folder.glob(".*.part"):
            path.unlink()

    def read(self, until: int | None = None) -> list[Snapshot]:
        """The snapshots up to step `until` (all by default), oldest first; arrays are read when they are asked for.

        Raises:
          SnapshotError: naming the file that is damaged or not a snapshot.
        """
        return [
            _described(path, step) for step, path in sorted(self._files().items()) if until is None or step <= until
        ]

    def _files(self) -> dict[int, Path]:
        if not self.folder.is_dir():
            return {}
        matches = {path: _NAME.fullmatch(path.name) for path in self.folder.iterdir()}
        return {int(match[1]): path for path, match in matches.items() if match}

    def _stored(self, leaf: Any) -> np.ndarray:
        array = np.asarray(leaf, np.float32, order="C")
        # A leaf that float16 cannot hold stays whole: one large value must not end a run of days.
        fits = self.dtype == "float16" and (not array.size or float(np.abs(array).max()) <= _LARGEST_FLOAT16)
        return array.astype(np.float16) if fits else array


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(str(path), framework="np")
    except (SafetensorError, OSError) as error:
        raise SnapshotError(
            f"{path} is not a complete snapshot ({error}): delete it, the others can do without"
        ) from error


def _described(path: Path, step: int) -> Snapshot:
    try:
        about = json.loads((_opened(path).metadata() or {})["spresso"])
        lengths = {str(name): float(value) for name, value in about["lengths"].items()}
        fits = about["step"] == step and bool(lengths)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, SnapshotError):
            raise
        raise SnapshotError(
            f"{path} has no step and lengths in its metadata: it is not a snapshot, move it away"
        ) from error
    if not fits:
        raise SnapshotError(f"{path} says step {about['step']} and lengths {lengths}: was it renamed? Move it away")
    return Snapshot(path, step, lengths)
