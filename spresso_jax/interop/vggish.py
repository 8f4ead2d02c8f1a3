"""VGGish's weights in torchvggish's layout, turned into ours.

Source: torchvggish (a VGG of `features`, convolutions OIHW, and `embeddings`, dense layers out x in), whose release file
is AudioSet's TensorFlow checkpoint converted. The dense layers count their inputs time, mel, channel, as we do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.interop.foreign_tensors import ForeignTensors, read_tensors

LICENCE = "Apache-2.0"
CONVOLUTIONS = (0, 3, 6, 8, 11, 13)
DENSE = (0, 2, 4)
LAST_MAP = (6, 4)


@dataclass(frozen=True)
class FoundVggish:
    """Fields of `Vggish`, its parameters, and the file they were read from."""

    config: dict[str, Any]
    params: dict[str, Any]
    dtypes: tuple[str, ...]
    weights_file: Path


def vggish_from_state(
    state: Mapping[str, np.ndarray], source: str = "the weights"
) -> tuple[dict, dict, tuple[str, ...]]:
    """Config, parameters and data types from a state dict; widths are read from the shapes.

    Raises:
      ValueError: listing tensors that are missing, unexpected or of another shape.
    """
    tensors = ForeignTensors(state, source)
    # The matrix and means of the 8-bit postprocessing, which distances do not use.
    tensors.drop(["pproc."])
    widths = [tensors.shape(f"features.{i}.weight", 4)[0] for i in CONVOLUTIONS]
    dense = [tensors.shape(f"embeddings.{i}.weight", 2)[0] for i in DENSE]
    expected: dict[str, tuple[int, ...]] = {}
    for i, inputs, outputs in zip(CONVOLUTIONS, [1, *widths[:-1]], widths, strict=True):
        expected |= {f"features.{i}.weight": (outputs, inputs, 3, 3), f"features.{i}.bias": (outputs,)}
    flat = LAST_MAP[0] * LAST_MAP[1] * widths[-1]
    for i, inputs, outputs in zip(DENSE, [flat, *dense[:-1]], dense, strict=True):
        expected |= {f"embeddings.{i}.weight": (outputs, inputs), f"embeddings.{i}.bias": (outputs,)}
    tensors.require(expected)
    params = {}
    for place, i in enumerate(CONVOLUTIONS):
        kernel = tensors.take(f"features.{i}.weight").transpose(2, 3, 1, 0)
        params[f"conv_{place}"] = {"kernel": kernel, "bias": tensors.take(f"features.{i}.bias")}
    for place, i in enumerate(DENSE):
        kernel = tensors.take(f"embeddings.{i}.weight").T
        params[f"dense_{place}"] = {"kernel": kernel, "bias": tensors.take(f"embeddings.{i}.bias")}
    config = {"widths": widths, "hidden": dense[:-1], "dimension": dense[-1]}
    return config, params, tensors.dtypes


def read_vggish(path: str | Path) -> FoundVggish:
    """VGGish from torchvggish's release file (or a safetensors file with the same names); nothing in it is executed.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is damaged or holds another network.
    """
    path = Path(path).expanduser()
    config, params, dtypes = vggish_from_state(read_tensors(path), str(path))
    return FoundVggish(config, params, dtypes, path)
