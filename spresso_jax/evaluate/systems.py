"""What produces each column of the report: source, linear codec, AudioAE bound, continuous z, discrete at each M."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.audio_files import AUDIO_SUFFIXES
from spresso_jax.bitrate import bitrate_kbps
from spresso_jax.checkpoints.fingerprint import json_sha256
from spresso_jax.evaluate.decoded import Clip, System
from spresso_jax.evaluate.peers.record import RECORD, refuse_untabled
from spresso_jax.shapes import FRAME_RATE, LATENT_CHANNELS, SAMPLE_RATE

if TYPE_CHECKING:
    from spresso_jax.codec.codec import Codec
    from spresso_jax.codec.latent_codec import LatentCodec


def linear_system(channels: int = LATENT_CHANNELS) -> System:
    """The yardstick: the lowest `channels` of the 480 MDCT coefficients a hop, kept exactly, nothing learned."""
    from spresso_jax.audio_ae.linear_start import linear_codec_decode, linear_codec_encode

    def produce(clips: Sequence[Clip], indices: Sequence[int]) -> list[np.ndarray]:
        length = max(clip.audio.size for clip in clips)
        whole = -(-length // SAMPLE_RATE) * SAMPLE_RATE  # few shapes, few compilations
        batch = np.stack([np.pad(clip.audio, (0, whole - clip.audio.size)) for clip in clips])[..., None]
        return list(np.asarray(linear_codec_decode(linear_codec_encode(batch, channels), whole))[..., 0])

    return System("linear", f"linear codec, {channels} of 480", "linear", produce, f"linear {channels}")


def bound_system(autoencoder: LatentCodec, name: str, label: str = "AudioAE bound") -> System:
    """What an AudioAE alone makes of the clips: the bound on every system that codes its latents."""

    def produce(clips: Sequence[Clip], indices: Sequence[int]) -> list[np.ndarray]:
        return [_mono(autoencoder.reconstruct(clip.audio, SAMPLE_RATE)) for clip in clips]

    return System(f"{name}.audio_ae", label, "audio_ae", produce, json_sha256(autoencoder.facts)[:16], name)


def codec_systems(
    codec: Codec,
    name: str,
    *,
    codebooks: Sequence[int] | None = None,
    steps: int = 64,
    seed: int = 0,
    sampler: str = "heun",
    short_label: bool = False,
) -> list[System]:
    """Continuous z and one discrete system for each number of codebooks (none without a quantizer) of one model folder.

    Every clip is decoded with its own seed, `seed` + its index, so that a column does not share one noise.

    Args:
      codec: the loaded model.
      name: short name of the model folder; part of keys, and of labels unless `short_label`.
      codebooks: numbers of codebooks M, rising; the model's own M by default.
      steps, sampler: of the decoder.
      short_label: leave the name out of the labels (one model only).

    Raises:
      ValueError: for a number of codebooks that the model was not trained for.
    """
    point = codec.facts["operating_point"]
    wanted = sorted(set(codebooks or [codec.codebooks])) if codec.trained_codebooks else []
    if wanted and (wanted[0] < 1 or wanted[-1] > codec.trained_codebooks):
        raise ValueError(
            f"codebooks must be within 1..{codec.trained_codebooks} for {name}, got {', '.join(map(str, wanted))}"
        )
    exact_rate = FRAME_RATE / point["downsample"]
    nominal_rate = point.get("frame_rate", exact_rate)
    told = "" if short_label else f"{name}: "
    made = json_sha256(codec.facts)[:16]
    drawn = f"{made} {sampler} {steps} steps seed {seed}"

    def each(decode: Callable[[Clip, int], np.ndarray]) -> Callable[[Sequence[Clip], Sequence[int]], list[np.ndarray]]:
        def produce(clips: Sequence[Clip], indices: Sequence[int]) -> list[np.ndarray]:
            return [_mono(decode(clip, (seed + i) % 2**32)) for clip, i in zip(clips, indices, strict=True)]

        return produce

    def continuous(clip: Clip, clip_seed: int) -> np.ndarray:
        z = codec.embed(clip.audio, SAMPLE_RATE)
        return codec.decode_embeddings(z, clip.audio.size, SAMPLE_RATE, seed=clip_seed, steps=steps, sampler=sampler)

    def discrete(clip: Clip, clip_seed: int, used: int) -> np.ndarray:
        encoded = codec.encode(clip.audio, SAMPLE_RATE, codebooks=used)
        return codec.decode(encoded, seed=clip_seed, steps=steps, sampler=sampler)

    systems = [
        System(
            key=f"{name}.continuous",
            label=f"{told}continuous z" if told else f"continuous z, {nominal_rate:.3g} Hz",
            kind="continuous",
            produce=each(continuous),
            fingerprint=drawn,
            model=name,
            frame_rate=exact_rate,
            batch=1,
        ),
    ]
    for used in wanted:
        kbps = bitrate_kbps(used, 2 ** point["codebook_bits"], nominal_rate)
        systems.append(
            System(
                key=f"{name}.m{used}",
                label=f"{told}{kbps:.3g} kbps",
                kind="discrete",
                produce=each(lambda clip, clip_seed, used=used: discrete(clip, clip_seed, used)),
                fingerprint=f"{drawn} M {used}",
                model=name,
                kbps=kbps,
                frame_rate=exact_rate,
                codebooks=used,
                batch=1,
            )
        )
    return systems


def decoded_files(folder: Path) -> dict[str, Path]:
    """Path below the folder without its suffix -> file; a sound goes before other files of its name.

    Raises:
      ValueError: if two sounds share a name but for the suffix.
    """
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".") and p.name != RECORD):
        name = path.relative_to(folder).with_suffix("").as_posix()
        before = found.get(name)
        sounds = [p.suffix.lower() in AUDIO_SUFFIXES for p in (path, before) if p]
        if before and all(sounds):
            raise ValueError(f"{folder}: {before.name} and {path.name} are two decoded sounds of one clip: keep one")
        if before is None or sounds[0]:
            found[name] = path
    return found


def folder_system(folder: str | Path, clips: Sequence[Clip], read: Callable[[Path], np.ndarray]) -> System:
    """A folder of sounds that some other program decoded, with the names of the references.

    Args:
      folder: holds one file for each clip, with the clip's name and any suffix.
      clips: the references.
      read: path -> [S] mono at 48 kHz.

    Raises:
      ValueError: naming the first reference without a decoded file, or for a peer's self-check (`refuse_untabled`).
    """
    folder = Path(folder)
    refuse_untabled(folder)
    found = decoded_files(folder)
    missing = [clip.name for clip in clips if clip.name not in found]
    if missing:
        names = {clip.name for clip in clips}
        others = next((f"; it holds {name!r} instead" for name in found if name not in names), "")
        raise ValueError(
            f"{folder}: {len(missing)} of {len(clips)} references have no decoded file, first {missing[0]!r}{others}: "
            "decode them, or leave such clips out of all systems with --incomplete"
        )
    stamp = [(clip.name, found[clip.name].stat().st_size, found[clip.name].stat().st_mtime_ns) for clip in clips]
    return System(
        key=f"folder-{folder.resolve().name}",
        label=folder.resolve().name,
        kind="folder",
        produce=lambda batch, indices: [read(found[clip.name]) for clip in batch],
        fingerprint=json_sha256([list(entry) for entry in stamp])[:16],
        batch=64,
    )


def _mono(audio: np.ndarray) -> np.ndarray:
    """[S, 1] -> [S]."""
    return np.asarray(audio, np.float32).reshape(audio.shape[0], -1)[:, 0]
