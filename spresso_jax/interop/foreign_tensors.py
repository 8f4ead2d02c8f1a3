"""Foreign state dicts: read from a file, compared with the names and shapes that are expected, handed out once in float32.

A loader that skips what it does not know gives a network that runs and is wrong. Here every tensor is taken exactly once
or dropped by name, and what does not fit is listed before any parameter is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from spresso_jax.interop.torch_files import BFLOAT16, load_torch_file

LISTED = 12
# A tokenizer of a quarter of a million tokens has 20 MB; what is larger is no file of settings.
LARGEST_TEXT = 64 << 20


class ForeignTensors:
    """The tensors of one foreign file by name.

    Attributes:
      source: what messages call the file.
      dtypes: names of the data types found, sorted.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], source: str = "the weights"):
        """Checks that everything is a floating tensor.

        Raises:
          ValueError: naming the first entry that is not.
        """
        self.source = source
        self._left = {}
        for name, tensor in tensors.items():
            array = np.asarray(tensor)
            if array.dtype.kind != "f" and array.dtype != BFLOAT16:
                raise ValueError(
                    f"{source}: {name!r} holds {array.dtype}, not a floating tensor: is this a state dict?"
                )
            self._left[name] = array
        self.dtypes = tuple(sorted({array.dtype.name for array in self._left.values()}))

    def drop(self, prefixes: Iterable[str]) -> None:
        """Forgets tensors whose names begin with one of `prefixes`: their knowledge is not needed."""
        self._left = {name: array for name, array in self._left.items() if not name.startswith(tuple(prefixes))}

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def any_with(self, prefix: str) -> bool:
        """Whether a name begins with `prefix`."""
        return any(name.startswith(prefix) for name in self._left)

    def shape(self, name: str, axes: int | None = None) -> tuple[int, ...]:
        """Shape of `name`, from which sizes are read.

        Raises:
          ValueError: if there is no such tensor, or it has another number of axes.
        """
        if name not in self._left:
            raise ValueError(f"{self.source} lacks {name!r}, from which sizes are read: is this the right model?")
        shape = self._left[name].shape
        if axes is not None and len(shape) != axes:
            raise ValueError(f"{self.source}: {name!r} has shape {shape}, expected {axes} axes")
        return shape

    def count(self, prefix: str, what: str) -> int:
        """How many numbered parts `prefix`0., `prefix`1., .. there are.

        Raises:
          ValueError: if there are none, or the numbers have a gap.
        """
        pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
        numbers = sorted({int(found[1]) for found in map(pattern.match, self._left) if found})
        if not numbers:
            raise ValueError(f"{self.source} holds no {what} (names beginning with {prefix!r})")
        if numbers != list(range(len(numbers))):
            missing = next(i for i, number in enumerate(numbers) if i != number)
            raise ValueError(f"{self.source} lacks {what} {missing} (names beginning with '{prefix}{missing}.')")
        return len(numbers)

    def require(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Compares with the whole list of expected names and shapes.

        Raises:
          ValueError: listing what is missing, unexpected and of another shape.
        """
        told = []
        missing, unexpected = sorted(set(expected) - set(self._left)), sorted(set(self._left) - set(expected))
        wrong = [
            f"{name} {self._left[name].shape} instead of {tuple(expected[name])}"
            for name in sorted(set(expected) & set(self._left))
            if self._left[name].shape != tuple(expected[name])
        ]
        for title, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong)):
            if names:
                more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
                told.append(f"{len(names)} {title}: {', '.join(names[:LISTED])}{more}")
        if told:
            raise ValueError(f"{self.source} does not fit the layout; {'; '.join(told)}")

    def take(self, name: str) -> np.ndarray:
        """Hands `name` out in float32; a second request, or one for an unknown name, is a ValueError."""
        if name not in self._left:
            raise ValueError(f"{self.source} lacks {name!r}, or it was used already")
        return self._left.pop(name).astype(np.float32, copy=False)

    def take_hann(self, name: str) -> None:
        """Takes a stored window and compares it with the periodic Hann window of its length, up to its precision.

        Raises:
          ValueError: if it is another window.
        """
        epsilon = float(ml_dtypes.finfo(self._left[name].dtype).eps) if name in self._left else 0.0
        window = self.take(name)
        hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(window.size) / window.size)
        if not np.abs(window - hann).max(initial=0.0) <= max(1e-6, epsilon):
            raise ValueError(
                f"{self.source}: {name!r} is not the periodic Hann window: such weights cannot be imported"
            )

    def finish(self) -> None:
        """ValueError if a tensor was neither taken nor dropped."""
        if self._left:
            raise ValueError(f"{self.source} holds tensors that nothing used: {', '.join(sorted(self._left)[:LISTED])}")


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file, or of a PyTorch state dict (read without running anything in it).

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is damaged, or no file of tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a valid safetensors file ({error}): download it again") from error
    state = load_torch_file(path)
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"{path} holds no state dict, a mapping of names to tensors")
    strangers = sorted(name for name, value in state.items() if not isinstance(value, np.ndarray))
    if strangers:
        raise ValueError(f"{path} is no plain state dict: {', '.join(strangers[:LISTED])} hold no tensor")
    return dict(state)


def read_text(path: str | Path) -> str:
    """A text file of other people's.

    Raises:
      ValueError: if it is missing, no UTF-8 text, or too large to be one of settings.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing: download the whole folder")
    if path.stat().st_size > LARGEST_TEXT:
        raise ValueError(f"{path} is larger than {LARGEST_TEXT >> 20} MiB: it is no file of settings")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text ({error}): download it again") from error


def read_json(path: str | Path) -> dict:
    """A config file of names and values.

    Raises:
      ValueError: as `read_text`, or if it is no JSON or holds no mapping.
    """
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}): download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold names and values, not {type(content).__name__}")
    return content


def read_yaml(path: str | Path) -> dict:
    """A config file of plain values.

    Raises:
      ValueError: if it is no YAML, names code, or holds no mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold names and values, not {type(content).__name__}")
    return content
