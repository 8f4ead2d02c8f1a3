"""The trunk of aisfx's checkpoint, batch normalisations folded into the convolutions; the class heads are left out.

Source: aisfx 0.1.2 (`EmbeddingNet`: conv_block{1..4}.conv{1,2} without bias, bn{1,2}), eps 1e-5.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spresso_jax.interop.foreign_tensors import ForeignTensors
from spresso_jax.interop.torch_files import load_torch_file

LICENCE = "CC-BY-4.0"
WIDTHS = (64, 128, 256, 512)
NORM_EPS = 1e-5
_NORM = ("weight", "bias", "running_mean", "running_var")


def read_aisfx(path: str | Path) -> list[dict[str, np.ndarray]]:
    """Eight layers {"kernel" `[3, 3, in, out]`, "bias" `[out]`} in order, from the package's checkpoint.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is damaged, or holds another network.
    """
    content = load_torch_file(path)
    if not (isinstance(content, (tuple, list)) and len(content) == 2 and isinstance(content[0], dict)):
        raise ValueError(f"{path} is no aisfx checkpoint, a pair of weights and data sets: install aisfx again")
    trunk = {
        name.removeprefix("embedding_net."): value
        for name, value in content[0].items()
        if isinstance(name, str) and name.startswith("embedding_net.") and not name.endswith(".num_batches_tracked")
    }
    tensors = ForeignTensors(trunk, str(path))
    places = [(f"conv_block{block}", layer) for block in range(1, 5) for layer in (1, 2)]
    inputs, expected = 1, {}
    for (block, layer), outputs in zip(places, np.repeat(WIDTHS, 2).tolist(), strict=True):
        expected[f"{block}.conv{layer}.weight"] = (outputs, inputs, 3, 3)
        expected |= {f"{block}.bn{layer}.{part}": (outputs,) for part in _NORM}
        inputs = outputs
    tensors.require(expected)
    layers = []
    for block, layer in places:
        kernel = tensors.take(f"{block}.conv{layer}.weight").astype(np.float64).transpose(2, 3, 1, 0)
        scale, bias, mean, variance = (tensors.take(f"{block}.bn{layer}.{part}").astype(np.float64) for part in _NORM)
        factor = scale / np.sqrt(variance + NORM_EPS)
        layers.append({
            "kernel": (kernel * factor).astype(np.float32),
            "bias": (bias - mean * factor).astype(np.float32),
        })  # fmt: skip
    tensors.finish()
    return layers
