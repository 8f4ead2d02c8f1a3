"""Reads PyTorch's checkpoints without PyTorch, in both layouts of `torch.save`.

The zip file of today, and the stream of pickles and raw storages that releases before 1.6 wrote. Their pickles are data
(torch_pickle.py); nothing in a file is executed, and none makes the reader ask for more memory than its size warrants.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.interop.torch_pickle import BFLOAT16, Tensors, TorchFileError, read_pickle

OLD_MAGIC = 0x1950A86A20F9469CFC6C
OLD_PROTOCOL = 1001
PICKLE_START = b"\x80"
LONGEST_MESSAGE = 400
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    RecursionError, MemoryError, NotImplementedError, RuntimeError,
)  # fmt: skip


def _values(data: bytes, dtype: np.dtype, order: str) -> np.ndarray:
    """Raw bytes as numbers; numpy knows no byte order for bfloat16, so its bits are read as integers."""
    bits = np.dtype("u2") if dtype == BFLOAT16 else dtype
    stored = np.frombuffer(data[: len(data) - len(data) % dtype.itemsize], bits.newbyteorder(order))
    return stored.astype(bits.newbyteorder("="), copy=False).view(dtype)


def _load_zip(archive: zipfile.ZipFile, file_bytes: int) -> Any:
    pickled = _checked_members(archive, file_bytes)
    prefix = pickled[: -len("data.pkl")]
    names = archive.namelist()
    order = archive.read(f"{prefix}byteorder").decode() if f"{prefix}byteorder" in names else "little"
    storages: dict[tuple[str, np.dtype], np.ndarray] = {}

    def read(key: str, dtype: np.dtype, count: int) -> np.ndarray:
        if (key, dtype) not in storages:
            try:
                data = archive.read(f"{prefix}data/{key}")
            except KeyError as error:
                raise TorchFileError(f"the checkpoint lacks its storage {key}: the file is damaged") from error
            storages[key, dtype] = _values(data, dtype, ">" if order == "big" else "<")
        stored = storages[key, dtype]
        if stored.size < count:
            wanted = count * dtype.itemsize
            raise TorchFileError(f"storage {key} holds {stored.nbytes} bytes of {wanted}: damaged file")
        return stored[:count]

    return read_pickle(io.BytesIO(archive.read(pickled)), Tensors(read, file_bytes))


def _load_old(path: str | Path, file_bytes: int) -> Any:
    """The layout before PyTorch 1.6: magic, version, machine, object, list of storages, then their raw values.

    The object comes before its storages, so it is read twice: first for the types and sizes of the storages.
    """
    kinds: dict[str, tuple[np.dtype, int]] = {}

    def note(key: str, dtype: np.dtype, count: int) -> None:
        if kinds.setdefault(key, (dtype, count)) != (dtype, count):
            raise TorchFileError(f"storage {key} is described in two ways: the file is damaged")

    with open(path, "rb") as stream:
        containers = Tensors(note, file_bytes)
        if [read_pickle(stream, containers) for _ in range(2)] != [OLD_MAGIC, OLD_PROTOCOL]:
            raise TorchFileError("it is no PyTorch checkpoint")
        machine = read_pickle(stream, containers)
        if not isinstance(machine, dict) or machine.get("little_endian") is not True:
            raise TorchFileError("it was written on a big-endian machine: save it again with a recent torch.save")
        start = stream.tell()
        read_pickle(stream, containers)
        keys = read_pickle(stream, containers)
        if not isinstance(keys, list) or len(keys) != len(kinds) or {str(key) for key in keys} != set(kinds):
            raise TorchFileError("its list of storages does not fit its tensors: the file is damaged")
        storages: dict[str, np.ndarray] = {}
        for key in keys:
            dtype, count = kinds[key]
            stored = int.from_bytes(stream.read(8), "little")
            if stored != count or stream.tell() + count * dtype.itemsize > file_bytes:
                raise TorchFileError(f"storage {key} is cut short: the file is damaged")
            storages[key] = _values(stream.read(count * dtype.itemsize), dtype, "<")
        stream.seek(start)
        return read_pickle(stream, Tensors(lambda key, dtype, count: storages[key], file_bytes))


def _shortened(error: BaseException) -> str:
    # A file may name things at any length.
    text = str(error)
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}..."


def _checked_members(archive: zipfile.ZipFile, file_bytes: int) -> str:
    """Name of the one pickle; refuses what could unfold to more than the file holds."""
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise TorchFileError(
            "it is compressed, which torch.save never does: unpack it and save it again with torch.save"
        )
    if sum(member.file_size for member in members) > file_bytes:
        raise TorchFileError("its members claim more bytes than the file has: it is damaged")
    found = [member.filename for member in members if member.filename.rsplit("/", 1)[-1] == "data.pkl"]
    if len(found) != 1:
        raise TorchFileError("it is a zip file but no PyTorch checkpoint (no data.pkl)")
    return found[0]


def load_torch_file(path: str | Path) -> Any:
    """The object in a `torch.save` file, with every tensor as a numpy array.

    Raises:
      FileNotFoundError: if there is no such file.
      TorchFileError: naming the file, if it is no such file, is damaged, or holds anything but tensors, numbers and plain
        containers.
    """
    try:
        file_bytes = Path(path).stat().st_size
        with open(path, "rb") as stream:
            old = stream.read(1) == PICKLE_START
        if old:
            return _load_old(path, file_bytes)
        with zipfile.ZipFile(path) as archive:
            return _load_zip(archive, file_bytes)
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {_shortened(error)}") from error
    except zipfile.BadZipFile as error:
        raise TorchFileError(
            f"{path} is no zip file, or not a whole one ({error}): copy it again, or save it again with a recent torch.save"
        ) from error
    except _DAMAGE as error:
        raise TorchFileError(f"{path} cannot be read as a PyTorch checkpoint: {_shortened(error)}") from error
