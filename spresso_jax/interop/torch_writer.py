"""Writes tensors and plain containers as a PyTorch zip checkpoint, without PyTorch.

The result loads with `torch.load(path, weights_only=True)` and with `torch_files.load_torch_file`. Equal contents give
equal bytes.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.interop.torch_pickle import BFLOAT16, STORAGES

_STORAGE_OF = {np.dtype(dtype): name for name, dtype in STORAGES.items()}
_ALIGNMENT = 64
# Operations of pickle's protocol 2, the one that torch.save writes.
_PROTOCOL, _STOP, _MARK, _TUPLE = b"\x80\x02", b".", b"(", b"t"
_EMPTY_TUPLE, _EMPTY_DICT, _SET_ITEMS, _EMPTY_LIST, _APPENDS = b")", b"}", b"u", b"]", b"e"
_CALL, _STORAGE_REFERENCE = b"R", b"Q"
_CONSTANTS = {None: b"N", True: b"\x88", False: b"\x89"}


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


class _Pickle:
    """Bytes of a pickle, and the storages that it refers to."""

    def __init__(self):
        self.parts: list[bytes] = [_PROTOCOL]
        self.storages: list[bytes] = []

    def add(self, value: Any, field: str) -> None:
        """Appends one value; `field` names it in messages."""
        write = self.parts.append
        value = np.asarray(value) if isinstance(value, np.generic) else value
        if value is None or isinstance(value, bool):
            write(_CONSTANTS[value])
        elif isinstance(value, int):
            self._integer(value, field)
        elif isinstance(value, float):
            write(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            text = value.encode()
            write(b"X" + struct.pack("<I", len(text)) + text)
        elif isinstance(value, (tuple, list)):
            write(_MARK if isinstance(value, tuple) else _EMPTY_LIST + _MARK)
            for index, item in enumerate(value):
                self.add(item, f"{field}[{index}]")
            write(_TUPLE if isinstance(value, tuple) else _APPENDS)
        elif isinstance(value, Mapping):
            write(_EMPTY_DICT + _MARK)
            for key, item in value.items():
                self.add(key, f"a key of {field}")
                self.add(item, f"{field}.{key}")
            write(_SET_ITEMS)
        elif isinstance(value, np.ndarray) and value.dtype.newbyteorder("=") in _STORAGE_OF:
            self._tensor(value)
        else:
            kind = f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__
            raise ValueError(f"{field} is {kind}, which a checkpoint of tensors cannot hold: convert it first")

    def _integer(self, value: int, field: str) -> None:
        if -(1 << 31) <= value < 1 << 31:
            self.parts.append(b"J" + struct.pack("<i", value))
        elif -(1 << 63) <= value < 1 << 63:
            self.parts.append(b"\x8a\x08" + struct.pack("<q", value))
        else:
            raise ValueError(f"{field} is an integer of more than 64 bits")

    def _tensor(self, array: np.ndarray) -> None:
        """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)` on a storage of its own."""
        dtype = array.dtype.newbyteorder("=")
        flat = np.ascontiguousarray(array, dtype)
        bits = flat.view("u2") if dtype == BFLOAT16 else flat
        strides = tuple(step // array.itemsize for step in np.empty(array.shape, dtype).strides)
        self.parts += [_name("torch._utils", "_rebuild_tensor_v2"), _MARK, _MARK]
        self.add("storage", "storage")
        self.parts.append(_name("torch", _STORAGE_OF[dtype]))
        for part in (str(len(self.storages)), "cpu", array.size):
            self.add(part, "storage")
        self.parts.append(_TUPLE + _STORAGE_REFERENCE)
        for part in (0, array.shape, strides, False):
            self.add(part, "tensor")
        self.parts += [_name("collections", "OrderedDict"), _EMPTY_TUPLE, _CALL, _TUPLE, _CALL]
        self.storages.append(bits.astype(bits.dtype.newbyteorder("<"), copy=False).tobytes())


def save_torch_file(path: str | Path, content: Any) -> Path:
    """Writes nested dicts, lists, tuples, numbers, text and numpy arrays; whole or not at all.

    Args:
      path: the file; replaced if it exists.
      content: what `torch.load` shall give back, with arrays as tensors.
    Raises:
      ValueError: naming the entry that is neither a tensor nor plain.
      OSError: if the file cannot be written.
    """
    path = Path(path)
    pickled = _Pickle()
    pickled.add(content, "content")
    members = {
        "data.pkl": b"".join([*pickled.parts, _STOP]),
        "byteorder": b"little",
        **{f"data/{index}": data for index, data in enumerate(pickled.storages)},
        "version": b"3\n",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream, zipfile.ZipFile(stream, "w") as archive:
            for name, data in members.items():
                _write_aligned(archive, stream.tell(), f"archive/{name}", data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(partial, 0o666 & ~umask)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    return path


def _write_aligned(archive: zipfile.ZipFile, offset: int, name: str, data: bytes) -> None:
    """One member whose bytes begin at a multiple of 64, so that torch can map them into memory."""
    member = zipfile.ZipInfo(name)  # with the earliest date a zip file knows, so that equal contents give equal bytes
    header = 30 + len(name.encode()) + 4
    padding = -(offset + header) % _ALIGNMENT
    member.extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
    archive.writestr(member, data)
