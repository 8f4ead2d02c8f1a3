"""The `.spresso` container: a header of 16 bytes, then the codes, bit-packed.

Header, 128 bits, every field with its most significant bit first:

| field | bits | meaning |
|---|---|---|
| magic | 12 | 0x535 (the first byte is an ASCII "S") |
| version | 3 | 1 to 7; this module writes and reads 1 |
| rate | 4 | index into `SAMPLE_RATES`: the rate of the original sound, and of what is decoded |
| channels | 3 | number of channels less 1 |
| mid_side | 1 | channels 1 and 2 are (left + right) / 2 and (left - right) / 2 |
| bits | 4 | bits of a code less 1: log2 of the number of codewords K |
| codebooks | 6 | codebooks M that were sent, less 1 |
| downsample | 7 | latent frames (10 ms) of a compressed frame less 1: t |
| model | 24 | model id, see `checkpoints/fingerprint.py` |
| samples | 32 | true length at the original rate |
| checksum | 32 | CRC-32 of the 12 bytes before it and of the payload |

Payload: the codes [channels, F, M], last axis fastest, `bits` bits each with the most significant bit first, and zero
bits up to the next whole byte. F is not stored: it is ceil(frames / t), where frames = ceil(S / 480) and S is the
length at 48 kHz, round(samples * 48000 / rate). So the header alone fixes the size of the file, which is compared
before anything is allocated.

Every field uses all of its values and no bit is spare; what does not fit comes with a new version number.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spresso_jax.shapes import CLIP_FRAMES, CLIP_SECONDS, FRAME_RATE, SAMPLE_RATE, frames_of

HEADER_BYTES = 16
VERSION = 1
SUFFIX = ".spresso"
SAMPLE_RATES = (
    48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 37_800, 50_000, 64_000, 88_200, 96_000,
    176_400, 192_000,
)  # fmt: skip
MAX_CHANNELS, MAX_BITS, MAX_CODEBOOKS, MAX_DOWNSAMPLE = 8, 16, 64, 128
MAX_SAMPLES = 2**32 - 1

_MAGIC = 0x535
_FIELDS = (
    ("magic", 12), ("version", 3), ("rate", 4), ("channels", 3), ("mid_side", 1), ("bits", 4), ("codebooks", 6),
    ("downsample", 7), ("model", 24), ("samples", 32),
)  # fmt: skip
_CHECKED_BYTES = HEADER_BYTES - 4


class BitstreamError(ValueError):
    """Bytes that are no whole, undamaged `.spresso` file of a known version, or contents that no such file can hold."""


@dataclass(frozen=True)
class Header:
    """What a `.spresso` file says about itself.

    Attributes:
      sample_rate: Hz, one of `SAMPLE_RATES`.
      channels: 1 to 8.
      mid_side: the first two channels are mid and side.
      bits: log2 of the number of codewords, 1 to 16.
      codebooks: M, 1 to 64.
      downsample: t, 1 to 128.
      model_id: three bytes.
      samples: length of every channel at `sample_rate`.
    """

    sample_rate: int
    channels: int
    mid_side: bool
    bits: int
    codebooks: int
    downsample: int
    model_id: bytes
    samples: int

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate

    @property
    def latent_frames(self) -> int:
        """Latent frames (100 a second) that cover the sound."""
        return frames_of(samples_at_48_khz(self.samples, self.sample_rate))

    @property
    def frames(self) -> int:
        """F, compressed frames of a channel."""
        return -(-self.latent_frames // self.downsample)

    @property
    def payload_bits(self) -> int:
        return self.channels * self.frames * self.codebooks * self.bits

    @property
    def file_bytes(self) -> int:
        return HEADER_BYTES + -(-self.payload_bits // 8)

    def bitrates(self) -> dict[str, float]:
        """Bitrates in kbit/s, all channels together.

        `nominal` is the paper's M log2(K) f with f full frames of a 5 s clip per second (25, 11, 5, 1 Hz); `payload`
        counts the bits of the codes and `file` every byte of the file, both over the true duration.
        """
        nominal_rate = (CLIP_FRAMES // self.downsample) / CLIP_SECONDS
        return {
            "nominal": self.channels * self.codebooks * self.bits * nominal_rate / 1000.0,
            "payload": self.payload_bits / self.seconds / 1000.0,
            "file": 8 * self.file_bytes / self.seconds / 1000.0,
        }


@dataclass(frozen=True, eq=False)
class EncodedAudio:
    """A sound as codes; `bytes(encoded)` is the `.spresso` file.

    Attributes:
      codes: int [channels, F, M].
      header: everything else.

    Raises:
      BitstreamError: on construction, if the header or the codes cannot be stored.
    """

    codes: np.ndarray
    header: Header

    def __post_init__(self):
        _check_header(self.header)
        codes = np.asarray(self.codes)
        wanted = (self.header.channels, self.header.frames, self.header.codebooks)
        if codes.dtype.kind not in "iu" or codes.shape != wanted:
            raise BitstreamError(f"codes must be integers of shape {wanted}, got {codes.dtype} {codes.shape}")
        if int(codes.min()) < 0 or int(codes.max()) >= 2**self.header.bits:
            raise BitstreamError(f"codes must lie within 0..{2**self.header.bits - 1}, as {self.header.bits} bits hold")
        object.__setattr__(self, "codes", codes.astype(np.int32))

    def __bytes__(self) -> bytes:
        return pack(self)

    def __eq__(self, other) -> bool:
        if not isinstance(other, EncodedAudio):
            return NotImplemented
        return self.header == other.header and np.array_equal(self.codes, other.codes)

    @classmethod
    def from_bytes(cls, data: bytes) -> EncodedAudio:
        """Reads a `.spresso` file; see `unpack`."""
        return unpack(data)

    def save(self, path: str | Path) -> None:
        """Writes a `.spresso` file; it appears only when it is complete.

        Raises:
          OSError: if it cannot be written.
        """
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(bytes(self))
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> EncodedAudio:
        """Reads a `.spresso` file, comparing its size with its header before the rest is read.

        Raises:
          BitstreamError: as `unpack`.
          OSError: if it cannot be read.
        """
        with open(path, "rb") as stream:
            start = stream.read(HEADER_BYTES)
            size = os.fstat(stream.fileno()).st_size
            read_header(start, size)
            return unpack(start + stream.read(size - len(start)))

    def bitrates(self) -> dict[str, float]:
        """`nominal`, `payload` and `file` bitrates in kbit/s; see `Header.bitrates`."""
        return self.header.bitrates()


def samples_at_48_khz(samples: int, sample_rate: int) -> int:
    """Length after resampling to 48 kHz, at least 1 sample."""
    return max(1, round(samples * SAMPLE_RATE / sample_rate))


def samples_of_frames(frames: int, sample_rate: int) -> int:
    """Most samples at `sample_rate` that `frames` latent frames (10 ms each) hold whole, at least 1."""
    return max(1, frames * sample_rate // FRAME_RATE)


def pack(encoded: EncodedAudio) -> bytes:
    """The bytes of a `.spresso` file."""
    header = encoded.header
    values = {
        "magic": _MAGIC,
        "version": VERSION,
        "rate": SAMPLE_RATES.index(header.sample_rate),
        "channels": header.channels - 1,
        "mid_side": int(header.mid_side),
        "bits": header.bits - 1,
        "codebooks": header.codebooks - 1,
        "downsample": header.downsample - 1,
        "model": int.from_bytes(header.model_id, "big"),
        "samples": header.samples,
    }
    word = 0
    for name, width in _FIELDS:
        word = word << width | values[name]
    start = word.to_bytes(_CHECKED_BYTES, "big")
    payload = _pack_codes(encoded.codes, header.bits)
    return start + zlib.crc32(payload, zlib.crc32(start)).to_bytes(4, "big") + payload


def unpack(data: bytes) -> EncodedAudio:
    """Reads the bytes of a `.spresso` file.

    Raises:
      BitstreamError: in one sentence, for bytes that are foreign, of a later version, truncated, too long or damaged.
    """
    data = bytes(data)
    header = read_header(data, len(data))
    payload = data[HEADER_BYTES:]
    checksum = zlib.crc32(payload, zlib.crc32(data[:_CHECKED_BYTES]))
    if checksum != int.from_bytes(data[_CHECKED_BYTES:HEADER_BYTES], "big"):
        raise BitstreamError("this .spresso file is damaged (its checksum does not match): get it again")
    used = header.payload_bits
    if used % 8 and payload[-1] & ((1 << (-used % 8)) - 1):
        raise BitstreamError("this .spresso file has stray bits after its last code: it was not written by this codec")
    return EncodedAudio(_unpack_codes(payload, header), header)


def read_header(data: bytes, file_bytes: int) -> Header:
    """Reads the first 16 bytes and compares the size they imply with the size of the file; checks no checksum.

    Args:
      data: at least the first 16 bytes.
      file_bytes: size of the whole file.

    Raises:
      BitstreamError: if the bytes are foreign, of a later version, or belong to a file of another size.
    """
    if len(data) == 0:
        raise BitstreamError("an empty file is not a .spresso file")
    if len(data) < HEADER_BYTES:
        raise BitstreamError(f"{len(data)} bytes are too few for a .spresso file, whose header has {HEADER_BYTES}")
    word = int.from_bytes(data[:_CHECKED_BYTES], "big")
    values = {}
    for name, width in reversed(_FIELDS):
        values[name] = word & ((1 << width) - 1)
        word >>= width
    if values["magic"] != _MAGIC:
        raise BitstreamError("this is not a .spresso file (its first bytes differ)")
    if values["version"] != VERSION:
        raise BitstreamError(
            f"this .spresso file has format version {values['version']}, this program reads version {VERSION}:"
            " update spresso_jax"
        )
    if values["samples"] < 1:
        raise BitstreamError("this .spresso file claims to hold no samples: it is damaged")
    header = Header(
        sample_rate=SAMPLE_RATES[values["rate"]],
        channels=values["channels"] + 1,
        mid_side=bool(values["mid_side"]),
        bits=values["bits"] + 1,
        codebooks=values["codebooks"] + 1,
        downsample=values["downsample"] + 1,
        model_id=values["model"].to_bytes(3, "big"),
        samples=values["samples"],
    )
    if file_bytes != header.file_bytes:
        raise BitstreamError(
            "this .spresso file is truncated or damaged: its header asks for"
            f" {header.file_bytes} bytes, it has {file_bytes}"
        )
    _check_header(header)
    return header


def _check_header(header: Header) -> None:
    ranges = {
        "channels": (header.channels, MAX_CHANNELS),
        "bits": (header.bits, MAX_BITS),
        "codebooks": (header.codebooks, MAX_CODEBOOKS),
        "downsample": (header.downsample, MAX_DOWNSAMPLE),
        "samples": (header.samples, MAX_SAMPLES),
    }
    for name, (value, most) in ranges.items():
        if not 1 <= value <= most:
            raise BitstreamError(f"{name} must be within 1..{most} in a .spresso file, got {value}")
    if header.sample_rate not in SAMPLE_RATES:
        known = ", ".join(str(rate) for rate in sorted(SAMPLE_RATES))
        raise BitstreamError(f"a .spresso file knows the sample rates {known} Hz, not {header.sample_rate}")
    if header.mid_side and header.channels < 2:
        raise BitstreamError("a .spresso file of one channel cannot be coded as mid and side")
    if len(header.model_id) != 3:
        raise BitstreamError(f"a model id has 3 bytes, got {len(header.model_id)}")


def _pack_codes(codes: np.ndarray, bits: int) -> bytes:
    shifts = np.arange(bits - 1, -1, -1)
    return np.packbits((codes.reshape(-1, 1) >> shifts & 1).astype(np.uint8)).tobytes()


def _unpack_codes(payload: bytes, header: Header) -> np.ndarray:
    stream = np.unpackbits(np.frombuffer(payload, np.uint8), count=header.payload_bits).reshape(-1, header.bits)
    codes = np.zeros(len(stream), np.int32)
    for column in range(header.bits):
        codes = codes << 1 | stream[:, column]
    return codes.reshape(header.channels, header.frames, header.codebooks)
