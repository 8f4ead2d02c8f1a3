"""`.npy` files of plain numbers, mapped into memory; whatever else such a file may hold is refused, and nothing unpickled."""

from __future__ import annotations

import math
import os
import pathlib
import tokenize

import numpy as np

from data_pipeline.record_format import ShardError

# What numpy's reader raises for a mangled header besides ValueError: it reads the header as a Python literal, in two ways.
_HEADER_ERRORS = (EOFError, MemoryError, OverflowError, RecursionError, SyntaxError, TypeError, tokenize.TokenError)


def map_npy(path: str | os.PathLike) -> np.ndarray:
    """The array of a `.npy` file, memory-mapped; only its header is read.

    Returns:
      any shape, any type but Python objects.

    Raises:
      ShardError: it is missing, damaged, cut short, or holds pickled objects; the message names it.
    """
    path = pathlib.Path(path)
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in headers:
                raise ValueError(f"version {version[0]}.{version[1]} of the format, which holds no plain numbers")
            shape, fortran, dtype = headers[version](file)
            offset = file.tell()
            size = os.fstat(file.fileno()).st_size - offset
    except (OSError, ValueError, *_HEADER_ERRORS) as error:
        detail = (
            error.strerror if isinstance(error, OSError) and error.strerror else f"{error or 'damaged'}".splitlines()[0]
        )
        raise ShardError(
            f"{path}: not a readable .npy file ({detail}): write it with numpy.save, or extract it again"
        ) from error
    if dtype.hasobject:
        raise ShardError(
            f"{path}: holds pickled Python objects, which are never loaded: save numbers, such as "
            "numpy.save(path, array.astype(numpy.float32))"
        )
    if min(shape, default=0) < 0:
        raise ShardError(f"{path}: is empty, with the impossible shape {shape}: write it with numpy.save")
    announced = math.prod(shape) * dtype.itemsize
    if announced > size:
        wanted = f"{shape[0]} rows of {shape[1]} take" if len(shape) == 2 else f"the shape {shape} takes"
        raise ShardError(f"{path}: cut short, {size} bytes of data where {wanted} {announced}: copy it again")
    try:
        if not announced:
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", offset, shape, "F" if fortran else "C")
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: cannot be mapped ({error}): copy it to a local disk") from error
