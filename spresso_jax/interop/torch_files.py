"""Reads PyTorch's zip checkpoints without PyTorch: a pickle taken as data, never as a program.

Python's own unpickler calls what a file names. This one is a table of the few operations that `torch.save` writes: plain
containers, and the one call that describes a tensor. It cannot reach a function, and asks for no more memory than the
file's own size warrants.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
import zlib
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
# Views may share a storage, and each becomes a copy: all tensors together may take so many times the file's size.
LARGEST_EXPANSION = 4
LONGEST_MESSAGE = 400
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING")
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT, _GET = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    RecursionError, MemoryError, NotImplementedError, RuntimeError,
)  # fmt: skip


class TorchFileError(ValueError):
    """The file is no PyTorch zip checkpoint, or it holds more than tensors and plain containers."""


class _Name(tuple):
    """(module, name) of something that the file wants to call; only compared, never looked up."""


_TENSOR = _Name(("torch._utils", "_rebuild_tensor_v2"))
_PARAMETER = _Name(("torch._utils", "_rebuild_parameter"))
_ORDERED = _Name(("collections", "OrderedDict"))


class _Archive:
    """The storages of one file, and how much its tensors may take."""

    def __init__(self, archive: zipfile.ZipFile, prefix: str, file_bytes: int):
        self._archive, self._prefix, self._storages = archive, prefix, {}
        self._left = LARGEST_EXPANSION * file_bytes
        names = archive.namelist()
        order = archive.read(f"{prefix}byteorder").decode() if f"{prefix}byteorder" in names else "little"
        self._order = ">" if order == "big" else "<"

    def storage(self, described: Any) -> np.ndarray:
        """The flat array that a persistent id names."""
        known = isinstance(described, tuple) and len(described) == 5 and described[0] == "storage"
        if not known or not isinstance(described[1], np.dtype) or not isinstance(described[2], str):
            raise TorchFileError("the checkpoint refers to something that is no tensor storage")
        _, dtype, key, _, count = described
        if not _is_count(count):
            raise TorchFileError(f"storage {key} has the impossible length {count!r}")
        if (key, dtype) not in self._storages:
            try:
                data = self._archive.read(f"{self._prefix}data/{key}")
            except KeyError as error:
                raise TorchFileError(f"the checkpoint lacks its storage {key}: the file is damaged") from error
            # numpy knows no byte order for bfloat16, so its bits are read as integers
            bits = np.dtype("u2") if dtype == BFLOAT16 else dtype
            whole = len(data) - len(data) % dtype.itemsize
            stored = np.frombuffer(data[:whole], bits.newbyteorder(self._order))
            self._storages[key, dtype] = stored.astype(bits.newbyteorder("="), copy=False).view(dtype)
        stored = self._storages[key, dtype]
        if stored.size < count:
            wanted = count * dtype.itemsize
            raise TorchFileError(f"storage {key} holds {stored.nbytes} bytes of {wanted}: damaged file")
        return stored[:count]

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
        """A copy of the view of `storage` that torch describes; sizes are checked before any memory is touched."""
        numbers = (offset, *size, *stride)
        if not isinstance(storage, np.ndarray) or len(size) != len(stride) or not all(map(_is_count, numbers)):
            raise TorchFileError(f"a tensor has the impossible size {size}, stride {stride}, offset {offset}")
        if 0 in size:
            return np.zeros(size, storage.dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if last >= storage.size:
            raise TorchFileError(f"a tensor of size {size} reaches entry {last} of a storage of {storage.size} entries")
        taken = storage.itemsize
        for n in size:
            taken *= n
        self._left -= taken
        if self._left < 0:
            raise TorchFileError(
                f"its tensors would take more than {LARGEST_EXPANSION} times the file's size: it repeats few numbers many"
                " times; save the tensors with .contiguous()"
            )
        strides = [step * storage.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()

    def called(self, function: Any, arguments: Any) -> Any:
        """What the three calls that describe tensors stand for; any other is refused."""
        if function == _TENSOR:
            return self.tensor(*arguments)
        if function == _PARAMETER and isinstance(arguments[0], np.ndarray):
            return arguments[0]
        if function == _ORDERED:
            return OrderedDict(*([(_key(name), value) for name, value in pairs] for pairs in arguments))
        raise TorchFileError("the checkpoint calls something other than a tensor: only tensors are loaded")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _key(value: Any) -> Any:
    # The hash of a deeply nested tuple would exhaust the C stack.
    if not isinstance(value, (str, int, float, bool, type(None))):
        raise TorchFileError(f"a {type(value).__name__} names an entry: only text and numbers may")
    return value


def _named(module: str, name: str) -> Any:
    if _Name((module, name)) in (_TENSOR, _PARAMETER, _ORDERED):
        return _Name((module, name))
    if module == "torch" and name in STORAGES:
        return np.dtype(STORAGES[name])
    raise TorchFileError(f"the checkpoint names {module}.{name}: only tensors and plain containers are loaded")


def _unpickled(data: bytes, archive: _Archive) -> Any:
    """The object that the pickle `data` describes, by the operations that `torch.save` writes."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        taken = stack[start:]
        del stack[start:]
        return taken

    def fill(pairs: list[Any]) -> None:
        if not isinstance(stack[-1], dict) or len(pairs) % 2:
            raise TorchFileError("an entry is set in something that is no dictionary")
        stack[-1].update((_key(name), value) for name, value in zip(pairs[::2], pairs[1::2], strict=True))

    def extend(values: list[Any]) -> None:
        if not isinstance(stack[-1], list):
            raise TorchFileError("an entry is added to something that is no list")
        stack[-1].extend(values)

    for operation, argument, _ in pickletools.genops(data):
        name = operation.name
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _PUT:
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in _GET:
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(since_mark()))
        elif name in _TUPLES:
            parts = [stack.pop() for _ in range(_TUPLES[name])]
            stack.append(tuple(reversed(parts)))
        elif name == "SETITEMS":
            fill(since_mark())
        elif name == "SETITEM":
            value = stack.pop()
            fill([stack.pop(), value])
        elif name == "APPENDS":
            extend(since_mark())
        elif name == "APPEND":
            extend([stack.pop()])
        elif name == "GLOBAL":
            stack.append(_named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute = stack.pop()
            stack.append(_named(stack.pop(), attribute))
        elif name == "BINPERSID":
            stack.append(archive.storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(archive.called(stack.pop(), arguments))
        elif name == "BUILD":
            stack.pop()  # attributes of a container, such as the versions of a state dict: not its entries
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise TorchFileError(f"the pickle operation {name} is nothing that torch.save writes for tensors")
    raise TorchFileError("its pickle does not end")


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
    """The object in a `torch.save` zip file, with every tensor as a numpy array.

    Raises:
      FileNotFoundError: if there is no such file.
      TorchFileError: naming the file, if it is no such file, is damaged, or holds anything but tensors and plain
        containers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            file_bytes = Path(path).stat().st_size
            pickled = _checked_members(archive, file_bytes)
            storages = _Archive(archive, pickled[: -len("data.pkl")], file_bytes)
            return _unpickled(archive.read(pickled), storages)
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {_shortened(error)}") from error
    except zipfile.BadZipFile as error:
        raise TorchFileError(
            f"{path} is no zip file, or not a whole one ({error}): copy it again, or save it again with a recent torch.save"
        ) from error
    except _DAMAGE as error:
        raise TorchFileError(f"{path} cannot be read as a PyTorch checkpoint: {_shortened(error)}") from error
