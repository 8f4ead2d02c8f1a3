"""Read and write sound files: decode, down-mix, resample to one rate, and checks of level.

A leaf: numpy, soundfile and soxr only. Every problem of a file is one `AudioFileError` whose message is one sentence
that names the file, what is wrong with it and what to do.

Rules that the rest relies on:
  * the kind of a file is found from its content, never from its suffix;
  * lengths come from decoded blocks, never from a header, and memory stays under `max_bytes`; checks and writing go
    piece by piece, so that a long file is in memory once;
  * down-mix is the plain mean of all channels (the low-frequency channel of 5.1 included); where the mean nearly
    cancels (antiphase stereo) the strongest single channel is taken instead;
  * `n` samples at rate `r` become exactly `round(n * rate / r)` samples (soxr VHQ, padded or cut by a sample).
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterator

import numpy as np
import soundfile
import soxr

SAMPLE_RATE = 48_000
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".w64", ".caf", ".au")
MAX_BYTES = 2**30
MAX_CHANNELS = 64
SILENCE = 1e-3
FRAME_SECONDS = 0.02
MIN_SECONDS = 0.02

_PIECE = 2**22
_RATES = (1_000, 768_000)
_CANCELLED = 0.25
_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"fLaC", b"OggS", b"ID3", b"caff", b".snd", b"wvpk")
_SUBTYPES = {".wav": "PCM_16", ".flac": "PCM_16", ".ogg": "VORBIS", ".opus": "OPUS", ".mp3": "MPEG_LAYER_III",
             ".aiff": "PCM_16", ".aif": "PCM_16"}
_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".opus": "OGG", ".mp3": "MP3", ".aiff": "AIFF",
            ".aif": "AIFF"}


class AudioFileError(ValueError):
    """A sound file that cannot be used.

    Attributes:
      path: the file.
      kind: one word for counts: missing, empty, unrecognised, damaged, too_large, non_finite, too_short, silent,
        unwritable.
      detail: what is wrong, without the file name.
    """

    def __init__(self, path: str | os.PathLike, kind: str, detail: str):
        super().__init__(f"{os.fspath(path)}: {detail}")
        self.path = os.fspath(path)
        self.kind = kind
        self.detail = detail

    def __reduce__(self):
        return type(self), (self.path, self.kind, self.detail)


@dataclasses.dataclass(frozen=True)
class AudioInfo:
    """What a file was before down-mix and resampling.

    Attributes:
      sample_rate: rate of the file, Hz.
      channels: channels of the file.
      samples: decoded samples a channel, at the file's own rate.
      format: container and coding, for example "WAV/PCM_16".
    """

    sample_rate: int
    channels: int
    samples: int
    format: str

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate


@dataclasses.dataclass(frozen=True)
class Findings:
    """Level checks of one clip; every measure is taken after the mean (DC) is removed.

    Attributes:
      reject: why the clip is unusable, or None.
      kind: one word for the reason (`too_short`, `silent`, `non_finite`), or None.
      flags: things to count but accept: "clipped", "dc", "over_range".
      peak, rms: linear, full scale 1.
      active: share of 20 ms frames above -60 dBFS.
      clipped: share of samples at full scale.
      dc: the mean that was removed from the measures.
    """

    reject: str | None
    kind: str | None
    flags: list[str]
    peak: float
    rms: float
    active: float
    clipped: float
    dc: float


def read_audio(
    path: str | os.PathLike,
    sample_rate: int = SAMPLE_RATE,
    channels: str = "mono",
    max_bytes: int = MAX_BYTES,
) -> tuple[np.ndarray, AudioInfo]:
    """Decodes a sound file to float32 at `sample_rate`.

    Levels are the file's own: float files may exceed 1, an offset stays. Use `check_clip` for silence and levels.

    Args:
      path: the file; wav, flac, ogg (Vorbis, Opus), mp3, aiff and whatever else libsndfile knows, by content.
      sample_rate: rate of the result, Hz.
      channels: "mono" for the down-mix, "keep" for all channels.
      max_bytes: refuse what decodes to more bytes of float32 than this.

    Returns:
      audio float32 [S] ("mono") or [S, C] ("keep"), and the `AudioInfo` of the file.

    Raises:
      AudioFileError: missing, empty, unrecognised, damaged, too large, without samples, or with non-finite samples.
      ValueError: for an unknown `channels`.
    """
    if channels not in ("mono", "keep"):
        raise ValueError(f"channels must be 'mono' or 'keep', got {channels!r}")
    path = pathlib.Path(path)
    _recognise(path)
    audio, info = _decode(path, max_bytes)
    bad = audio.size - sum(int(np.count_nonzero(np.isfinite(piece))) for piece in _pieces(audio))
    if bad:
        raise AudioFileError(
            path, "non_finite", f"{bad} of {audio.size} samples are NaN or infinite: export it again from its source"
        )
    length = round(len(audio) * sample_rate / info.sample_rate)
    if length * 4 * (1 if channels == "mono" else info.channels) > max_bytes:
        raise AudioFileError(path, "too_large", f"{length} samples at {sample_rate} Hz: cut it into shorter files")
    if channels == "mono":
        audio = down_mix(audio)
    return resample(audio, info.sample_rate, sample_rate), info


def read_clip(path: str | os.PathLike, sample_rate: int = SAMPLE_RATE, channels: str = "mono"):
    """`read_audio`, and an `AudioFileError` as well for what `check_clip` rejects outright.

    A file needs a peak of -60 dBFS and 20 ms of length; unlike in a training set, one short sound in a long silence is
    welcome here.

    Returns:
      audio float32 [S] or [S, C], `AudioInfo`, `Findings`.

    Raises:
      AudioFileError: as `read_audio`, and for silent or too short files.
    """
    audio, info = read_audio(path, sample_rate, channels)
    findings = check_clip(audio, sample_rate, min_active=0.0)
    if findings.reject:
        raise AudioFileError(path, findings.kind, findings.reject)
    return audio, info, findings


def check_clip(audio: np.ndarray, sample_rate: int = SAMPLE_RATE, min_active: float = 0.05) -> Findings:
    """Measures a clip and says whether it can be used.

    Rejects: fewer than 20 ms; non-finite samples; a peak under -60 dBFS; fewer than `min_active` of the 20 ms frames
    above -60 dBFS (RMS). Flags: "clipped" (over 1% of the samples at full scale), "dc" (|mean| over 0.05),
    "over_range" (samples beyond 1.1; resampling alone may overshoot 1 a little).

    Args:
      audio: float [S] or [S, C].
      sample_rate: Hz.
      min_active: smallest share of active frames.
    """
    audio = np.asarray(audio, np.float32)
    if audio.ndim == 1:
        audio = audio[:, None]
    if len(audio) < MIN_SECONDS * sample_rate:
        reason = f"{len(audio)} sample{'s' if len(audio) != 1 else ''} is too short: {MIN_SECONDS * 1000:.0f} ms needed"
        return Findings(reason, "too_short", [], 0.0, 0.0, 0.0, 0.0, 0.0)
    if not all(np.isfinite(piece).all() for piece in _pieces(audio)):
        return Findings("samples are NaN or infinite", "non_finite", [], 0.0, 0.0, 0.0, 0.0, 0.0)
    offset = audio.mean(0, dtype=np.float64)
    dc = float(offset[np.argmax(np.abs(offset))])
    over = peak = energy = 0.0
    at_full_scale, levels = 0, []
    for piece in _pieces(audio, _frame(sample_rate)):
        magnitude = np.abs(piece)
        over = max(over, float(magnitude.max()))
        at_full_scale += int(np.count_nonzero(magnitude >= 0.99))
        centred = piece - offset.astype(np.float32)
        peak = max(peak, float(np.abs(centred).max()))
        energy += float(np.square(centred, dtype=np.float64).sum())
        levels.append(frame_levels(centred, sample_rate))
    clipped = at_full_scale / audio.size
    active = float(np.mean(np.concatenate(levels) > SILENCE))
    rms = float(np.sqrt(energy / audio.size))
    flags = []
    if clipped > 0.01:
        flags.append("clipped")
    if abs(dc) > 0.05:
        flags.append("dc")
    if over > 1.1:
        flags.append("over_range")
    reject = None
    if peak < SILENCE:
        reject = f"silent, its peak is {_decibels(peak)}: use a file with a peak above -60 dBFS"
    elif active < min_active:
        reject = (
            f"silent, only {active:.1%} of its 20 ms frames are above -60 dBFS: cut the silence away "
            f"({min_active:.0%} needed)"
        )
    return Findings(reject, "silent" if reject else None, flags, peak, rms, active, clipped, dc)


def frame_levels(audio: np.ndarray, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """RMS of consecutive 20 ms frames, the strongest channel of each; the last frame may be short.

    Args:
      audio: float [S] or [S, C], S at least 1.

    Returns:
      float32 [ceil(S / frame)].
    """
    audio = audio[:, None] if audio.ndim == 1 else audio
    frame = _frame(sample_rate)
    starts = np.arange(0, len(audio), frame)
    counts = np.minimum(frame, len(audio) - starts)[:, None]
    power = np.add.reduceat(np.square(audio, dtype=np.float32), starts, axis=0) / counts
    return np.sqrt(power.max(1)).astype(np.float32)


def down_mix(audio: np.ndarray) -> np.ndarray:
    """Mean of the channels, or the strongest channel where the mean cancels; [S, C] -> [S].

    Cancels: the RMS of the mean (offsets removed) is under a quarter of the RMS of the channels.
    """
    if audio.shape[1] == 1:
        return audio[:, 0]
    mean = audio.mean(1, dtype=np.float32)
    spread = audio.std(0, dtype=np.float64)
    if mean.std(dtype=np.float64) < _CANCELLED * np.sqrt(np.mean(spread**2)):
        return np.ascontiguousarray(audio[:, int(np.argmax(spread))])
    return mean


def resample(audio: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """soxr VHQ along the first axis to exactly `round(S * new_rate / rate)` samples, float32."""
    audio = np.ascontiguousarray(audio, np.float32)
    if rate == new_rate:
        return audio
    length = round(len(audio) * new_rate / rate)
    out = soxr.resample(audio, rate, new_rate, quality="VHQ")[:length]
    if len(out) < length:
        out = np.concatenate([out, np.zeros((length - len(out), *out.shape[1:]), np.float32)])
    return np.ascontiguousarray(out, np.float32)


def write_audio(path: str | os.PathLike, audio: np.ndarray, sample_rate: int = SAMPLE_RATE, subtype: str | None = None):
    """Writes [S] or [S, C] by the suffix of `path`: wav, flac, ogg, opus, mp3, aiff.

    The file appears only when it is complete (temporary name, then rename). Samples beyond full scale are clipped,
    except for the subtypes FLOAT and DOUBLE.

    Args:
      path: the file to make; its folder must exist.
      audio: float array.
      sample_rate: Hz.
      subtype: libsndfile's name, for example "PCM_24" or "FLOAT"; by default 16-bit, or what the suffix implies.

    Raises:
      AudioFileError: unknown suffix, missing folder, or a rate or subtype which the format cannot hold.
      ValueError: audio of another shape, empty, or not finite.
    """
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        known = ", ".join(_FORMATS)
        raise AudioFileError(path, "unwritable", f"cannot write suffix {path.suffix!r}: use one of {known}")
    audio = np.asarray(audio, np.float32)
    if audio.ndim not in (1, 2) or not audio.size:
        raise ValueError(f"audio must be [S] or [S, C] with samples, got shape {audio.shape}")
    if not all(np.isfinite(piece).all() for piece in _pieces(audio)):
        raise ValueError("audio holds NaN or infinite samples: nothing was written")
    channels = 1 if audio.ndim == 1 else audio.shape[1]
    subtype = subtype or _SUBTYPES[suffix]
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with soundfile.SoundFile(partial, "w", sample_rate, channels, subtype, format=_FORMATS[suffix]) as file:
            for piece in _pieces(audio):
                file.write(piece if subtype in ("FLOAT", "DOUBLE") else np.clip(piece, -1.0, 1.0))
        os.replace(partial, path)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        partial.unlink(missing_ok=True)
        what = "its folder does not exist" if not path.parent.is_dir() else _one_line(error)
        raise AudioFileError(path, "unwritable", f"could not be written: {what}") from error


def _recognise(path: pathlib.Path) -> None:
    """Looks at the first bytes, so that a web page named .mp3 never reaches a decoder."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except FileNotFoundError as error:
        raise AudioFileError(path, "missing", "no such file: check the path") from error
    except OSError as error:
        raise AudioFileError(path, "missing", f"cannot be opened: {error.strerror}") from error
    if not head:
        raise AudioFileError(path, "empty", "0 bytes, an empty file: get it again")
    mpeg = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0
    if head.startswith(_MAGIC) or mpeg:
        return
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    guess = ""
    if text[:1] == b"<":
        guess = " (it looks like a web page)"
    elif all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        guess = " (it looks like text)"
    raise AudioFileError(path, "unrecognised", f"audio format not recognised{guess}: use wav, flac, ogg, mp3 or aiff")


def _decode(path: pathlib.Path, max_bytes: int) -> tuple[np.ndarray, AudioInfo]:
    """All channels as float32 [S, C] at the file's own rate, read in blocks so that no header size is believed."""
    blocks: list[np.ndarray] = []
    done = rate = 0
    try:
        with soundfile.SoundFile(path) as file:
            rate, channels, kind = file.samplerate, file.channels, f"{file.format}/{file.subtype}"
            if not _RATES[0] <= rate <= _RATES[1] or not 1 <= channels <= MAX_CHANNELS:
                raise AudioFileError(
                    path, "damaged", f"its header says {rate} Hz and {channels} channels: export it again"
                )
            size = max(1, 2**20 // channels)
            while len(block := file.read(size, dtype="float32", always_2d=True)):
                blocks.append(block.copy() if len(block) < size else block)
                done += len(block)
                if done * channels * 4 > max_bytes:
                    raise AudioFileError(
                        path,
                        "too_large",
                        f"decodes to more than {max_bytes / 2**20:.0f} MiB ({done / rate / 60:.0f} min so far): "
                        "cut it into shorter files",
                    )
    except (soundfile.SoundFileError, RuntimeError, OSError, TypeError) as error:
        if rate:
            detail = f"damaged or cut short after {done / rate:.2f} s ({_one_line(error)}): get it again"
        else:
            detail = f"cannot be decoded ({_one_line(error)}): get it again or convert it"
        raise AudioFileError(path, "damaged", detail) from error
    if not done:
        raise AudioFileError(path, "empty", "holds no samples: record or export it again")
    return _joined(blocks, done), AudioInfo(rate, channels, done, kind)


def _joined(blocks: list[np.ndarray], rows: int) -> np.ndarray:
    """Blocks one after another; each is dropped as soon as it is copied, so that a long file is not held twice."""
    if len(blocks) == 1:
        return blocks[0]
    audio = np.empty((rows, blocks[0].shape[1]), np.float32)
    end = rows
    while blocks:
        block = blocks.pop()
        audio[end - len(block) : end] = block
        end -= len(block)
    return audio


def _frame(sample_rate: int) -> int:
    return max(1, round(FRAME_SECONDS * sample_rate))


def _pieces(audio: np.ndarray, multiple: int = 1) -> Iterator[np.ndarray]:
    """Views of consecutive rows, a whole multiple of `multiple` of them in all but the last."""
    rows = multiple * max(1, _PIECE // multiple)
    return (audio[start : start + rows] for start in range(0, len(audio), rows))


def _one_line(error: BaseException) -> str:
    """The library's own words, without the path and on one line."""
    text = " ".join(str(getattr(error, "error_string", "") or error).split())
    return text.removeprefix("Error : ").rstrip(".") or type(error).__name__


def _decibels(level: float) -> str:
    return f"{20 * np.log10(level):.0f} dBFS" if level > 0 else "digital zero"
