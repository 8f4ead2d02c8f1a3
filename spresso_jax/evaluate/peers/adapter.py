"""Runs a peer: another codec, in a Python of its own, as a child process that codes one file a request.

The parent resamples (one fixed resampler, `data_pipeline/audio_files.py`), the child codes at its native rate, and the
parent resamples back, takes off the peer's known delay and cuts or pads to the input's length. The child hands over every
symbol it would send; the parent counts the bits itself. `process.py` has the child, whose words go to OUT/child.log.
Nothing is downloaded: weights lie where the peer's package keeps them or where the settings say.

Source: evaluation.md sections 1 ("length contract") and 8.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from data_pipeline.audio_files import read_audio, resample, write_audio
from spresso_jax.evaluate.decoded import Clip, fit_length
from spresso_jax.evaluate.peers.process import Child, Peer, PeerError
from spresso_jax.evaluate.peers.record import RECORD, PeerRecord, samples_hash
from spresso_jax.shapes import SAMPLE_RATE

# In the order of the documentation; those without weights run in the project's own Python.
NAMES = ("dac", "encodec", "semanticodec", "stable_audio", "music2latent", "opus", "mp3", "lowpass")
PROGRAMS = ("opus", "mp3", "lowpass")
# SemantiCodec's window, the longest tail that a peer may add.
LONGEST_TAIL_SECONDS = 11.0


def module_of(name: str) -> ModuleType:
    """The file of a peer, for its ABOUT and describe; imports none of its packages.

    Raises:
      PeerError: for a name that is not a peer's.
    """
    if name not in NAMES:
        raise PeerError(f"no peer is called {name!r}: choose one of {', '.join(NAMES)}")
    return importlib.import_module(f"spresso_jax.evaluate.peers.{name}")


def make_peer(name: str, settings: Mapping[str, Any] | None = None, **options: Any) -> Peer:
    """A peer with its defaults filled in and its settings checked, before anything starts.

    Args:
      name: one of `NAMES`.
      settings: those that differ from the defaults.
      **options: other attributes of `Peer`; `python` must be given for peers with networks.

    Raises:
      PeerError: unknown peer or setting, a value that it does not have, or no Python.
    """
    module = module_of(name)
    defaults = module.ABOUT["settings"]
    unknown = sorted(set(settings or {}) - set(defaults))
    if unknown:
        known = ", ".join(defaults) or "none"
        raise PeerError(f"{name} has no setting {unknown[0]!r}: its settings are {known}")
    chosen = {**defaults, **(settings or {})}
    try:
        module.describe(chosen)
    except ValueError as error:
        raise PeerError(f"{name}: {error}") from error
    if name not in PROGRAMS and not options.get("python"):
        raise PeerError(f"{name} runs in a Python of its own: give its path with --python {name}=PATH (docs/peers.md)")
    if options.get("random_weights") and name in PROGRAMS:
        raise PeerError(f"{name} has no weights: run it without --random-weights")
    return Peer(name, chosen, **{key: value for key, value in options.items() if value is not None})


def code_clips(
    peer: Peer,
    clips: Sequence[Clip],
    out: str | Path,
    progress: Callable[[str, int, int], None] | None = None,
) -> PeerRecord:
    """Codes clips and writes OUT/NAME.wav (48 kHz, 32-bit float, each as long as its clip) and OUT/spresso-peer.json.

    A second call continues the first: files from the same peer, settings, weights and clip stay.

    Args:
      peer: from `make_peer`.
      clips: mono at 48 kHz.
      out: folder of this peer alone.
      progress: called with (peer, done, total).

    Returns:
      The record; its status is "weights unavailable" when there are none, and then nothing was coded.

    Raises:
      PeerError: a missing package, a crash, a time limit, or an answer that does not hold; names the clip.
    """
    out = Path(out).resolve()
    _check_names(clips, out)
    out.mkdir(parents=True, exist_ok=True)
    record = PeerRecord.new(peer.key, peer.name, peer.settings, peer.seed, peer.device, peer.random_weights)
    log = out / "child.log"
    log.write_bytes(b"")
    with tempfile.TemporaryDirectory(prefix="spresso-peer-") as exchange, Child(peer, Path(exchange), log) as child:
        if child.status == "package missing":
            install = f"; install it with: {module_of(peer.name).ABOUT['install']}" if peer.name in NAMES else ""
            raise PeerError(f"{peer.name} is not installed in {peer.python}: {child.detail}{install}")
        if child.status != "ready":
            record = record.unavailable(child.detail)
            record.write(out)
            return record
        record = record.started(child.facts, PeerRecord.read(out) if (out / RECORD).is_file() else None)
        for i, clip in enumerate(clips):
            path = out / f"{clip.name}.wav"
            made_from = {
                "source": samples_hash(clip.audio),
                "samples": clip.audio.size,
                "seed": (peer.seed + i) % 2**32,
            }
            known = record.files.get(clip.name, {})
            if {key: known.get(key) for key in made_from} != made_from or not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                audio, counted = _code_one(child, clip, Path(exchange), made_from["seed"])
                write_audio(path, audio, SAMPLE_RATE, subtype="FLOAT")
                record.files[clip.name] = {**made_from, **counted}
                record.write(out)
            if progress:
                progress(peer.key, i + 1, len(clips))
    wanted = {clip.name for clip in clips}
    record = record.finished({name: entry for name, entry in record.files.items() if name in wanted})
    record.write(out)
    return record


def _code_one(child: Child, clip: Clip, exchange: Path, seed: int) -> tuple[np.ndarray, dict]:
    """[S] at 48 kHz of the clip's length, and its bits."""
    rate = child.facts["native_rate"]
    sent, received = exchange / "sent.wav", exchange / "received.wav"
    for stale in exchange.glob("*.wav"):
        stale.unlink()
    native = resample(clip.audio, SAMPLE_RATE, rate)
    write_audio(sent, native, rate, subtype="FLOAT")
    request = {
        "input": str(sent),
        "output": str(received),
        "payload": str(exchange / "payload"),
        "rate": rate,
        "seed": seed,
    }
    answer = child.code(clip.name, request)
    peer = child.peer.name
    counted = {
        "payload_bits": _payload_bits(peer, clip.name, answer, exchange, child.facts),
        "container_bits": _whole(answer.get("container_bits")),
    }
    longest = native.size + round(LONGEST_TAIL_SECONDS * rate)
    # A megabyte more than the longest that would be accepted, so that the length and not the size is what is told.
    audio, info = read_audio(received, rate, max_bytes=4 * 2 * longest + 2**20)
    if info.sample_rate != rate:
        raise PeerError(f"{peer} wrote {clip.name!r} at {info.sample_rate} Hz, not at its {rate} Hz")
    delay = child.facts["delay"]
    if not native.size + delay <= audio.size <= longest + delay:
        raise PeerError(
            f"{peer} gave {audio.size} samples for {clip.name!r}, not {native.size + delay} to {longest + delay}: "
            "it must pad before coding, and the adapter cuts afterwards"
        )
    return fit_length(resample(audio[delay:], rate, SAMPLE_RATE), clip.audio.size), counted


def _payload_bits(peer: str, clip: str, answer: Mapping, exchange: Path, facts: Mapping) -> int | None:
    """Bits of the symbols that the child handed over; None for a peer that sends none.

    Raises:
      PeerError: symbols that do not fit their width, or another count than the child's.
    """
    payload = answer.get("payload")
    if not isinstance(payload, dict):
        raise PeerError(f"{peer} gave no payload for {clip!r}")
    counted = 0
    for name, entry in payload.items():
        try:
            path, width = entry
            if Path(path).parent != exchange or not isinstance(width, int) or not 1 <= width <= 64:
                raise ValueError("a file elsewhere or a width outside 1..64")
            symbols = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, TypeError) as error:
            raise PeerError(f"{peer}: payload {name!r} of {clip!r} cannot be read ({error})") from error
        if symbols.dtype.kind not in "iu":
            raise PeerError(f"{peer}: payload {name!r} of {clip!r} holds {symbols.dtype}, not whole numbers")
        if symbols.size and not (0 <= int(symbols.min()) and int(symbols.max()) < 2**width):
            raise PeerError(f"{peer}: payload {name!r} of {clip!r} holds symbols that do not fit {width} bits")
        counted += symbols.size * width
        del symbols
        Path(path).unlink()
    if counted != answer.get("payload_bits"):
        raise PeerError(
            f"{peer} says {answer.get('payload_bits')} bits for {clip!r}, but the symbols it gave hold {counted}"
        )
    if counted == 0 and facts["nominal_bits_per_second"] is None:
        return None
    if counted == 0:
        raise PeerError(f"{peer} gave no symbols for {clip!r}, though it sends bits")
    return counted


def _check_names(clips: Sequence[Clip], out: Path) -> None:
    if not clips:
        raise PeerError("no clips to code: give a folder with sounds")
    for clip in clips:
        inside = (out / f"{clip.name}.wav").resolve().is_relative_to(out)
        if not inside or clip.name == Path(RECORD).stem or clip.audio.ndim != 1 or not clip.audio.size:
            raise PeerError(f"clip {clip.name!r} cannot be coded: it needs samples and a name that stays in the folder")
    if len({clip.name for clip in clips}) < len(clips):
        raise PeerError("two clips have the same name: rename one of them")


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None
