"""Reads PyTorch's zip checkpoints without PyTorch: an unpickler that builds tensors and plain containers only.

A pickle may name any callable; here only the three that `torch.save` needs for tensors are known, and they are ours.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": BFLOAT16,
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


class TorchFileError(ValueError):
    """The file is no PyTorch zip checkpoint, or it holds more than tensors and plain containers."""


def _tensor(storage: np.ndarray, offset: int, size: tuple, stride: tuple, *_: Any) -> np.ndarray:
    """A copy of the view of `storage` that torch describes; sizes are checked before any memory is touched."""
    if len(size) != len(stride) or min((*size, *stride, offset), default=0) < 0:
        raise TorchFileError(f"a tensor has the impossible size {size}, stride {stride}, offset {offset}")
    if 0 in size:
        return np.zeros(size, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if last >= storage.size:
        raise TorchFileError(f"a tensor of size {size} reaches entry {last} of a storage of {storage.size} entries")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()


def _parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    return data


class _TensorUnpickler(pickle.Unpickler):
    """Knows tensors, ordered dicts and storages; everything else in the file is refused."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str, data: bytes):
        super().__init__(io.BytesIO(data))
        self._archive, self._prefix, self._storages = archive, prefix, {}
        names = archive.namelist()
        order = archive.read(f"{prefix}byteorder").decode() if f"{prefix}byteorder" in names else "little"
        self._order = ">" if order == "big" else "<"

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in STORAGES:
            return np.dtype(STORAGES[name])
        raise TorchFileError(f"the checkpoint names {module}.{name}: only tensors and plain containers are loaded")

    def persistent_load(self, pid: Any) -> np.ndarray:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], np.dtype)):
            raise TorchFileError("the checkpoint refers to something that is no tensor storage")
        _, dtype, key, _, count = pid
        if key not in self._storages:
            try:
                data = self._archive.read(f"{self._prefix}data/{key}")
            except KeyError as error:
                raise TorchFileError(f"the checkpoint lacks its storage {key}: the file is damaged") from error
            if len(data) < count * dtype.itemsize:
                raise TorchFileError(f"storage {key} holds {len(data)} bytes of {count * dtype.itemsize}: damaged file")
            # numpy knows no byte order for bfloat16, so its bits are read as integers
            bits = np.dtype("u2") if dtype == BFLOAT16 else dtype
            stored = np.frombuffer(data, bits.newbyteorder(self._order), count)
            self._storages[key] = stored.astype(bits.newbyteorder("=")).view(dtype)
        return self._storages[key]


def load_torch_file(path: str | Path) -> Any:
    """The object in a `torch.save` zip file, with every tensor as a numpy array.

    Raises:
      FileNotFoundError: if there is no such file.
      TorchFileError: if it is no such file, is damaged, or holds anything but tensors and plain containers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = [name for name in archive.namelist() if name.rsplit("/", 1)[-1] == "data.pkl"]
            if len(found) != 1:
                raise TorchFileError(f"{path} is a zip file but no PyTorch checkpoint (no data.pkl)")
            prefix = found[0][: -len("data.pkl")]
            return _TensorUnpickler(archive, prefix, archive.read(found[0])).load()
    except zipfile.BadZipFile as error:
        raise TorchFileError(f"{path} is no zip file: save it again with a recent torch.save") from error
    except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, KeyError, TypeError) as error:
        raise TorchFileError(f"{path} cannot be read as a PyTorch checkpoint: {error}") from error
