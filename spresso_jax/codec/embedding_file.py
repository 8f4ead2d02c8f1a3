"""Continuous embeddings on disk: an uncompressed `.npz`, for studies of the codec without its quantizer."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_KEYS = ("z", "samples", "sample_rate", "mid_side", "model_id")


class EmbeddingFileError(ValueError):
    """A file that holds no embeddings of this codec."""


@dataclass(frozen=True, eq=False)
class EmbeddedAudio:
    """A sound as continuous embeddings.

    Attributes:
      z: float32 [channels, F, 64].
      samples: true length at `sample_rate`.
      sample_rate: Hz, of the sound that decoding returns.
      mid_side: the first two channels are mid and side.
      model_id: three bytes, as in a `.spresso` file.
    """

    z: np.ndarray
    samples: int
    sample_rate: int
    mid_side: bool
    model_id: bytes

    def save(self, path: str | Path) -> None:
        """Writes the file; it appears only when it is complete."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with open(partial, "wb") as stream:
                np.savez(
                    stream,
                    z=self.z,
                    samples=self.samples,
                    sample_rate=self.sample_rate,
                    mid_side=self.mid_side,
                    model_id=np.frombuffer(self.model_id, np.uint8),
                )
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> EmbeddedAudio:
        """Reads the file; nothing is unpickled, and nothing larger than the file is allocated.

        Raises:
          EmbeddingFileError: if the file is damaged or was not written by `save`.
        """
        path = Path(path)
        try:
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
                    raise EmbeddingFileError(f"{path} is compressed: it was not written by spresso encode --continuous")
            with np.load(path, allow_pickle=False) as stored:
                missing = [key for key in _KEYS if key not in stored]
                if missing:
                    raise EmbeddingFileError(f"{path} lacks {missing[0]!r}: it holds no embeddings of this codec")
                return cls(
                    z=np.asarray(stored["z"], np.float32),
                    samples=int(stored["samples"]),
                    sample_rate=int(stored["sample_rate"]),
                    mid_side=bool(stored["mid_side"]),
                    model_id=stored["model_id"].astype(np.uint8).tobytes(),
                )
        except (zipfile.BadZipFile, EOFError, KeyError, TypeError, ValueError, NotImplementedError) as error:
            if isinstance(error, EmbeddingFileError):
                raise
            raise EmbeddingFileError(f"{path} is not a readable file of embeddings ({error})") from error
