"""Continuous embeddings or AudioAE latents on disk: an uncompressed `.npz`, for studies of the codec in parts."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

EMBEDDING, LATENT = KINDS = ("embedding", "latent")

_KEYS = ("z", "samples", "sample_rate", "mid_side", "model_id")


class EmbeddingFileError(ValueError):
    """A file that holds no embeddings of this codec."""


@dataclass(frozen=True, eq=False)
class EmbeddedAudio:
    """A sound as continuous embeddings, or as standardised latents of its AudioAE.

    Attributes:
      z: float32 [channels, F, 64] of embeddings, [channels, T, 128] of latents.
      samples: true length at `sample_rate`.
      sample_rate: Hz, of the sound that decoding returns.
      mid_side: the first two channels are mid and side.
      model_id: three bytes, as in a `.spresso` file; for latents `latent_id` of the model.
      kind: "embedding" or "latent".
    """

    z: np.ndarray
    samples: int
    sample_rate: int
    mid_side: bool
    model_id: bytes
    kind: str = EMBEDDING

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
                    kind=self.kind,
                )
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> EmbeddedAudio:
        """Reads the file; nothing is unpickled, and nothing larger than the file is allocated.

        A file without `kind` is from before there were two, and holds embeddings.

        Raises:
          EmbeddingFileError: if the file is damaged or was not written by `save`.
        """
        path = Path(path)
        with _told(path), _stored(path) as stored:
            return cls(
                z=np.asarray(stored["z"], np.float32),
                samples=int(stored["samples"]),
                sample_rate=int(stored["sample_rate"]),
                mid_side=bool(stored["mid_side"]),
                model_id=stored["model_id"].astype(np.uint8).tobytes(),
                kind=_kind(path, stored),
            )


def describe_embedded(path: str | Path) -> dict[str, object]:
    """Kind, shape and length of a file that `EmbeddedAudio.save` wrote, as rows of a table; reads no values of z.

    Raises:
      EmbeddingFileError: if the file is damaged or was not written by `save`.
    """
    path = Path(path)
    with _told(path), _stored(path) as stored:
        samples, rate = int(stored["samples"]), int(stored["sample_rate"])
        kind = _kind(path, stored)
        with zipfile.ZipFile(path) as archive, archive.open("z.npy") as stream:
            shape = _shape(stream)
        if len(shape) != 3 or rate < 1:
            raise EmbeddingFileError(f"{path} holds z of shape {shape} at {rate} Hz: it holds no sound of this codec")
        return {
            "kind": kind,
            "duration": f"{samples / rate:.3f} s",
            "samples": samples,
            "sample rate": f"{rate} Hz",
            "channels": f"{shape[0]} (mid/side)" if bool(stored["mid_side"]) else str(shape[0]),
            "values": f"{shape[0]} channels x {shape[1]} frames x {shape[2]}",
            "file": f"{path.stat().st_size} bytes",
            "model": stored["model_id"].astype(np.uint8).tobytes().hex(),
        }


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns whatever a damaged file provokes into one error that names it."""
    try:
        yield
    except EmbeddingFileError:
        raise
    except (zipfile.BadZipFile, EOFError, KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise EmbeddingFileError(f"{path} is not a readable file of embeddings ({error})") from error


@contextlib.contextmanager
def _stored(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise EmbeddingFileError(f"{path} is compressed: it was not written by spresso encode --continuous")
    with np.load(path, allow_pickle=False) as stored:
        missing = [key for key in _KEYS if key not in stored]
        if missing:
            raise EmbeddingFileError(f"{path} lacks {missing[0]!r}: it holds no embeddings of this codec")
        yield stored


def _kind(path: Path, stored: np.lib.npyio.NpzFile) -> str:
    kind = str(stored["kind"]) if "kind" in stored else EMBEDDING
    if kind not in KINDS:
        raise EmbeddingFileError(f"{path} holds {kind!r}, this version reads {' and '.join(KINDS)}: update spresso_jax")
    return kind


def _shape(stream: BinaryIO) -> tuple[int, ...]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return readers[np.lib.format.read_magic(stream)](stream)[0]
