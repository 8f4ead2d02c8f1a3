"""The bytes of one record: a JSON header and named arrays. There is no pickle.

`SPR1`, the length of the header (uint32, little endian), the header, and the arrays one after the other, raw in C order
or (16-bit sound only) as FLAC.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Mapping

import numpy as np
import soundfile

_MAGIC = b"SPR1"
_DTYPES = ("float32", "float16", "int16", "int32", "int64", "uint8", "uint16", "bool")


class ShardError(ValueError):
    """Shards that are missing, damaged, incomplete or made from something else; the message names the path."""


class Record:
    """One record: `meta` (a dict from the header) and arrays that are decoded when asked for."""

    def __init__(self, blob: bytes, where: str = "record"):
        """Reads the header only.

        Raises:
          ShardError: if `blob` is no record of ours or is cut short; `where` names it.
        """
        self.where = where
        try:
            if blob[:4] != _MAGIC:
                raise ValueError("does not start like a record")
            (size,) = struct.unpack_from("<I", blob, 4)
            header = json.loads(blob[8 : 8 + size])
            self.meta: dict = header["meta"]
            self._entries: dict[str, dict] = {}
            position = 8 + size
            for entry in header["arrays"]:
                self._entries[entry["name"]] = {**entry, "at": position}
                position += entry["bytes"]
            if position != len(blob):
                raise ValueError(f"{position} bytes announced, {len(blob)} there")
        except (ValueError, KeyError, TypeError, struct.error) as error:
            raise ShardError(f"{where}: damaged record ({error}): make the shards again") from error
        self._blob = blob

    @property
    def names(self) -> list[str]:
        """Names of the arrays, in the order in which they were stored."""
        return list(self._entries)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, without decoding it."""
        return tuple(self._entry(name)["shape"])

    def array(self, name: str) -> np.ndarray:
        """A whole array; raw arrays are read-only views of the record."""
        return self.window(name, 0, None)

    def window(self, name: str, start: int, stop: int | None) -> np.ndarray:
        """Rows `start:stop` of an array, without decoding more than needed."""
        entry = self._entry(name)
        at, size = entry["at"], entry["bytes"]
        if entry["codec"] == "flac":
            with soundfile.SoundFile(io.BytesIO(self._blob[at : at + size])) as file:
                file.seek(start)
                return file.read(-1 if stop is None else stop - start, dtype="int16")
        array = np.frombuffer(self._blob, entry["dtype"], int(np.prod(entry["shape"], dtype=np.int64)), at)
        return array.reshape(entry["shape"])[start:stop] if entry["shape"] else array.reshape(())

    def _entry(self, name: str) -> dict:
        if name not in self._entries:
            raise ShardError(f"{self.where}: no array {name!r} in it, only {', '.join(self._entries)}")
        return self._entries[name]


def pack_record(meta: Mapping, arrays: Mapping[str, np.ndarray], codec: str = "raw") -> bytes:
    """Turns `meta` (JSON-able) and named arrays into the bytes of one record; the same input gives the same bytes.

    Args:
      meta: at least {"id": str}.
      arrays: name -> array; float32, float16, int16, int32, int64, uint8, uint16 or bool.
      codec: "raw", or "flac" for one-dimensional int16 arrays at 48 kHz (lossless, about 0.4 of the size).

    Raises:
      ValueError: for another dtype or codec.
    """
    entries, payloads = [], []
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.dtype.name not in _DTYPES:
            raise ValueError(f"array {name!r} is {array.dtype.name}: records hold {', '.join(_DTYPES)}")
        kind = "raw"
        if codec == "flac" and array.dtype == np.int16 and array.ndim == 1 and array.size:
            kind, payload = "flac", _flac(array)
        elif codec in ("raw", "flac"):
            payload = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        else:
            raise ValueError(f"codec must be 'raw' or 'flac', got {codec!r}")
        payloads.append(payload)
        entries.append(
            {"name": name, "dtype": array.dtype.name, "shape": array.shape, "codec": kind, "bytes": len(payload)}
        )
    header = json.dumps({"meta": dict(meta), "arrays": entries}, separators=(",", ":"), ensure_ascii=False)
    header = header.encode()
    return b"".join([_MAGIC, struct.pack("<I", len(header)), header, *payloads])


def _flac(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 48_000, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
