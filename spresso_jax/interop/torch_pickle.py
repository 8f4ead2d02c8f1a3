"""A pickle taken as data, never as a program: what `torch.save` writes, and nothing else.

Python's own unpickler calls what a file names. This one is a table of the few operations that `torch.save` writes: plain
containers, numbers (NumPy's single ones among them), and the one call that describes a tensor. It cannot reach a function,
and its tensors take no more memory than the file's own size warrants.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

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
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_VALUES = (
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "SHORT_BINSTRING",
    "SHORT_BINBYTES", "BINBYTES",
)  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT, _GET = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")


class TorchFileError(ValueError):
    """The file is no PyTorch checkpoint, or it holds more than tensors, numbers and plain containers."""


class _Name(tuple):
    """(module, name) of something that the file wants to call; only compared, never looked up."""


_TENSOR = _Name(("torch._utils", "_rebuild_tensor_v2"))
_PARAMETER = _Name(("torch._utils", "_rebuild_parameter"))
_ORDERED = _Name(("collections", "OrderedDict"))
_NUMBER_KIND = _Name(("numpy", "dtype"))
_NUMBERS = (_Name(("numpy.core.multiarray", "scalar")), _Name(("numpy._core.multiarray", "scalar")))
_LATIN_BYTES = _Name(("_codecs", "encode"))
_CALLS = (_TENSOR, _PARAMETER, _ORDERED, _NUMBER_KIND, *_NUMBERS, _LATIN_BYTES)
NUMBERS = ("i8", "i4", "i2", "i1", "u1", "f8", "f4", "b1")


class _NumberKind:
    """Type of a pickled NumPy number: a code, and the byte order that its state tells."""

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or code not in NUMBERS:
            raise TorchFileError(f"the checkpoint holds numbers of type {code!r}: only plain ones are loaded")
        self.code, self.order = code, "<"

    def build(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|")):
            raise TorchFileError("the checkpoint holds a number of a strange kind")
        self.order = state[1]

    def number(self, data: Any) -> int | float | bool:
        if not isinstance(data, bytes) or len(data) != int(self.code[1]):
            raise TorchFileError("the checkpoint holds a damaged number")
        return np.frombuffer(data, self.order + self.code)[0].item()


class Tensors:
    """What the calls and storages of one file stand for.

    Args:
      read: (key, type, count) -> the `[count]` values of a storage; None in place of them reads the containers alone.
      file_bytes: size of the file, which bounds what its tensors may take.
    """

    def __init__(self, read: Callable[[str, np.dtype, int], np.ndarray | None], file_bytes: int):
        self._read, self._left = read, LARGEST_EXPANSION * file_bytes

    def storage(self, described: Any) -> np.ndarray | None:
        """The flat array that a persistent id names."""
        # Five parts in a zip file; the older layout has a sixth, for a view of another storage, which no tensor needs.
        known = isinstance(described, tuple) and len(described) in (5, 6) and described[0] == "storage"
        if not known or not isinstance(described[1], np.dtype) or not isinstance(described[2], str):
            raise TorchFileError("the checkpoint refers to something that is no tensor storage")
        if described[5:] not in ((), (None,)):
            raise TorchFileError("a storage is a view of another one: save the file again with a recent torch.save")
        _, dtype, key, _, count = described[:5]
        if not _is_count(count):
            raise TorchFileError(f"storage {key} has the impossible length {count!r}")
        return self._read(key, dtype, count)

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray | None:
        """A copy of the view of `storage` that torch describes; sizes are checked before any memory is touched."""
        if storage is None:
            return None
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
        """What the few calls that describe tensors and numbers stand for; any other is refused."""
        if function == _TENSOR:
            return self.tensor(*arguments)
        if function == _PARAMETER and isinstance(arguments[0], np.ndarray | None):
            return arguments[0]
        if function == _ORDERED:
            return OrderedDict(*([(_key(name), value) for name, value in pairs] for pairs in arguments))
        if function == _NUMBER_KIND:
            return _NumberKind(*arguments)
        if function in _NUMBERS and isinstance(arguments[0], _NumberKind):
            return arguments[0].number(arguments[1])
        if function == _LATIN_BYTES and isinstance(arguments[0], str) and arguments[1:] == ("latin1",):
            return arguments[0].encode("latin1")
        raise TorchFileError("the checkpoint calls something other than a tensor: only tensors are loaded")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _key(value: Any) -> Any:
    # The hash of a deeply nested tuple would exhaust the C stack.
    if not isinstance(value, (str, int, float, bool, type(None))):
        raise TorchFileError(f"a {type(value).__name__} names an entry: only text and numbers may")
    return value


def _named(module: str, name: str) -> Any:
    if _Name((module, name)) in _CALLS:
        return _Name((module, name))
    if module == "torch" and name in STORAGES:
        return np.dtype(STORAGES[name])
    raise TorchFileError(f"the checkpoint names {module}.{name}: only tensors and plain containers are loaded")


def read_pickle(stream: BinaryIO, tensors: Tensors) -> Any:
    """The object that the pickle at the stream's position describes; leaves the stream behind it.

    Raises:
      TorchFileError: if it holds an operation that `torch.save` does not write for tensors, or names anything else.
      ValueError, IndexError, KeyError, TypeError, OverflowError, EOFError, MemoryError, RecursionError: if it is damaged.
    """
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

    for operation, argument, _ in pickletools.genops(stream):
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
            stack.append(tensors.storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(tensors.called(stack.pop(), arguments))
        elif name == "BUILD":
            state = stack.pop()
            # Attributes of a container, such as the versions of a state dict, are none of its entries.
            if isinstance(stack[-1], _NumberKind):
                stack[-1].build(state)
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise TorchFileError(f"the pickle operation {name} is nothing that torch.save writes for tensors")
    raise TorchFileError("its pickle does not end")
