"""Published Vocos weights, a decoder from features to sound, turned into the decoder side of an AudioAE.

The feature extractor is not needed and left out. The model for EnCodec tokens normalises with a bandwidth-dependent
scale and is refused.

Source: Vocos (arXiv:2306.00814), names and layouts of its published files (MIT).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.interop.foreign_tensors import ForeignTensors, read_tensors, read_yaml
from spresso_jax.nn.convnext import KERNEL

LICENCE = "MIT"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
WINDOW = "head.istft.window"


@dataclass(frozen=True)
class BackboneSizes:
    """Sizes of a Vocos backbone: input channels, width, hidden width of the blocks, number of blocks."""

    channels: int
    dim: int
    intermediate: int
    blocks: int


@dataclass(frozen=True)
class VocosDecoder:
    """Features -> sound.

    Attributes:
      config: the fields of `AudioAutoencoder` that its decoder side has (dim, intermediate, decoder_blocks,
        latent_channels, head, padding).
      params: {"decoder_backbone", "head_out"}, as in an `AudioAutoencoder`.
      n_fft: window, samples; only with 960 do the params fit an `AudioAutoencoder`.
      hop: samples.
      dtypes: data types found in the file.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    n_fft: int
    hop: int
    dtypes: tuple[str, ...]


def backbone_sizes(tensors: ForeignTensors, prefix: str) -> BackboneSizes:
    """Reads the sizes of the backbone under `prefix` (ends with a dot) off its shapes.

    Raises:
      ValueError: if a tensor that tells a size is missing, or a block is.
    """
    dim, channels, _ = tensors.shape(f"{prefix}embed.weight", 3)
    blocks = tensors.count(f"{prefix}convnext.", "the block")
    intermediate, _ = tensors.shape(f"{prefix}convnext.0.pwconv1.weight", 2)
    return BackboneSizes(channels, dim, intermediate, blocks)


def backbone_shapes(sizes: BackboneSizes, prefix: str) -> dict[str, tuple[int, ...]]:
    """Every name under `prefix` with the shape that a backbone of these sizes has."""
    dim, hidden = sizes.dim, sizes.intermediate
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (dim, sizes.channels, KERNEL), "embed.bias": (dim,)}
    norms = ["norm", "final_layer_norm", *(f"convnext.{i}.norm" for i in range(sizes.blocks))]
    shapes |= {f"{norm}.{leaf}": (dim,) for norm in norms for leaf in ("weight", "bias")}
    for i in range(sizes.blocks):
        block = f"convnext.{i}"
        shapes |= {
            f"{block}.gamma": (dim,),
            f"{block}.dwconv.weight": (dim, 1, KERNEL),
            f"{block}.dwconv.bias": (dim,),
            f"{block}.pwconv1.weight": (hidden, dim),
            f"{block}.pwconv1.bias": (hidden,),
            f"{block}.pwconv2.weight": (dim, hidden),
            f"{block}.pwconv2.bias": (dim,),
        }
    return {prefix + name: shape for name, shape in shapes.items()}


def backbone_params(tensors: ForeignTensors, prefix: str, blocks: int) -> dict[str, Any]:
    """Parameters of `ConvNeXtBackbone` from the tensors under `prefix`, each taken once."""

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"scale": tensors.take(f"{prefix}{name}.weight"), "bias": tensors.take(f"{prefix}{name}.bias")}

    def dense(name: str) -> dict[str, np.ndarray]:
        return {"kernel": tensors.take(f"{prefix}{name}.weight").T, "bias": tensors.take(f"{prefix}{name}.bias")}

    tree: dict[str, Any] = {
        "embed": convolution(tensors, f"{prefix}embed"),
        "norm": norm("norm"),
        "final_norm": norm("final_layer_norm"),
    }
    for i in range(blocks):
        block = f"convnext.{i}"
        tree[f"block_{i}"] = {
            "depthwise_kernel": tensors.take(f"{prefix}{block}.dwconv.weight")[:, 0].T,
            "depthwise_bias": tensors.take(f"{prefix}{block}.dwconv.bias"),
            "norm": norm(f"{block}.norm"),
            "expand": dense(f"{block}.pwconv1"),
            "contract": dense(f"{block}.pwconv2"),
            "scale": tensors.take(f"{prefix}{block}.gamma"),
        }
    return tree


def convolution(tensors: ForeignTensors, name: str) -> dict[str, np.ndarray]:
    """Kernel `[k, in, out]` and bias of the convolution `name`, stored as `[out, in, k]`."""
    return {"kernel": tensors.take(f"{name}.weight").transpose(2, 1, 0), "bias": tensors.take(f"{name}.bias")}


def decoder_from_state(
    state: Mapping[str, np.ndarray], hop: int | None = None, padding: str = "center", source: str = "the Vocos weights"
) -> VocosDecoder:
    """Decoder of a Vocos state dict.

    Args:
      state: tensors by their published names.
      hop: samples; a quarter of the window by default, as in the published mel model.
      padding: 'center' (published mel model) or 'same'.
      source: what messages call the weights.

    Raises:
      ValueError: listing tensors that are missing, unexpected or of another shape; or for another kind of model.
    """
    tensors = ForeignTensors(state, source)
    tensors.drop(["feature_extractor."])
    if "backbone.norm.scale.weight" in tensors:
        raise ValueError(f"{source} is a Vocos for EnCodec tokens (backbone.norm.scale): only plain norms are supported")
    sizes = backbone_sizes(tensors, "backbone.")
    outputs, _ = tensors.shape("head.out.weight", 2)
    n_fft = outputs - 2
    expected = backbone_shapes(sizes, "backbone.")
    expected |= {"head.out.weight": (outputs, sizes.dim), "head.out.bias": (outputs,)}
    if WINDOW in tensors:
        expected[WINDOW] = (n_fft,)
    tensors.require(expected)
    params = {
        "decoder_backbone": backbone_params(tensors, "backbone.", sizes.blocks),
        "head_out": {"kernel": tensors.take("head.out.weight").T[None], "bias": tensors.take("head.out.bias")},
    }
    if WINDOW in tensors:
        tensors.take_hann(WINDOW)
    tensors.finish()
    config = {
        "dim": sizes.dim,
        "intermediate": sizes.intermediate,
        "decoder_blocks": sizes.blocks,
        "latent_channels": sizes.channels,
        "head": "magnitude_phase",
        "padding": padding,
    }
    return VocosDecoder(config, params, n_fft, hop or n_fft // 4, tensors.dtypes)


def read_vocos_folder(folder: str | Path) -> VocosDecoder:
    """Decoder of a downloaded folder: `config.yaml` and `pytorch_model.bin` (or `model.safetensors`).

    Raises:
      ValueError: if a file is missing or damaged, or config and weights contradict each other.
    """
    folder = Path(folder)
    present = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not present:
        raise ValueError(f"{folder} holds neither {' nor '.join(WEIGHT_FILES)}: download the whole model folder")
    stated: Mapping[str, Any] = {}
    if (folder / "config.yaml").is_file():
        head = read_yaml(folder / "config.yaml").get("head")
        stated = (head.get("init_args") if isinstance(head, Mapping) else None) or {}
    decoder = decoder_from_state(
        read_tensors(present[0]), stated.get("hop_length"), stated.get("padding", "center"), str(present[0])
    )
    if stated.get("n_fft", decoder.n_fft) != decoder.n_fft:
        raise ValueError(
            f"{folder}: config.yaml states n_fft {stated['n_fft']}, the head's outputs say {decoder.n_fft}"
        )
    return decoder
