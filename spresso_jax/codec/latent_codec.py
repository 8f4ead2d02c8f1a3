"""The AudioAE alone: sounds to latents and back, at any length, in chunks of constant shape.

```
codec = LatentCodec.load("runs/ae/model")         # any folder with audio_ae and latent_statistics
latents = codec.encode(audio, 48_000)             # [channels, frames, 128], 100 frames a second
audio = codec.decode(latents, len(audio))         # [samples, channels], exactly as long
```

Latents are standardised (x0 of the diffusion stages: mean 0 and standard deviation 0.5 in every channel), not the
network's raw outputs: this is what the DiT and the latent encoder read, so `Codec` runs these same programs, and a
number means the same for every autoencoder. `unstandardise` with the model's `latent_statistics` gives raw ones.

Every length gives what the network makes of the whole sound at once, followed by silence up to 5 s if it is shorter
(as in training). So two shapes are compiled each way, one for short and one for long sounds, and a third for several
short sounds in one call. Source: S-PRESSO 3.2, 4.2.1 (AudioAE).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spresso_jax.audio_ae.autoencoder import decode_frames, encode_hops
from spresso_jax.audio_ae.statistics import SIGMA_DATA, standardise, unstandardise
from spresso_jax.checkpoints.fingerprint import check_identity, latent_id
from spresso_jax.checkpoints.weights import Model, ModelFolderError, load_facts, load_model
from spresso_jax.codec import signal
from spresso_jax.codec.bitstream import samples_at_48_khz, samples_of_frames
from spresso_jax.codec.networks import prepared
from spresso_jax.codec.windows import map_chunks
from spresso_jax.shapes import CLIP_FRAMES, HOP, SAMPLE_RATE, frames_of

ROWS_A_CALL = 8


def latent_frames(samples: int) -> int:
    """Latent frames T of a sound of `samples` samples at 48 kHz.

    ceil(samples / 480), and one more for sounds shorter than 5 s: silence follows them, and its first frame holds the
    other half of the overlap with the sound's last one.

    Raises:
      ValueError: if `samples` is not positive.
    """
    frames = frames_of(samples)
    return frames + 1 if frames < CLIP_FRAMES else frames


class LatentCodec:
    """A loaded AudioAE.

    Attributes:
      facts: the model's `model.json`.
      latent_channels: width of the latents (128).
      sigma_data: standard deviation of a standardised channel.
      latent_id: three bytes that files of its latents carry.
    """

    def __init__(self, model: Model):
        """Builds the AudioAE of a model that is in memory; `LatentCodec.load` reads one from a folder.

        Raises:
          ModelFolderError: if the network or `latent_statistics` is missing, malformed or outdated.
        """
        self.facts = dict(model.facts)
        self._folder = model.folder
        if "audio_ae" not in model.networks:
            raise ModelFolderError("the model has no network 'audio_ae', which its latents need: train or import one")
        if "audio_ae" in (self.facts.get("outdated") or ()):
            raise ModelFolderError("audio_ae: trained before other networks of this model changed; train it again")
        on_cpu = jax.default_backend() == "cpu"
        self._module, self._params = prepared("audio_ae", model.networks["audio_ae"], on_cpu)
        self.latent_channels = self._module.latent_channels
        self._statistics = measured_statistics(self.facts, self.latent_channels)
        self.sigma_data = float(self.facts["latent_statistics"].get("sigma_data", SIGMA_DATA))
        self.latent_id = latent_id(self.facts)
        # Kernels of 7 reach 3 frames a layer (the embedding and every block); spectra and last layers a few more.
        self._halo = 3 * (max(self._module.encoder_blocks, self._module.decoder_blocks) + 1) + 4
        self._encode_chunk = jax.jit(self._encode_chunk_program)
        self._decode_chunk = jax.jit(self._decode_chunk_program)

    @classmethod
    def load(cls, folder: str | Path) -> LatentCodec:
        """Reads the AudioAE of a model folder, or of a model of the package by its name; other networks stay unread.

        Raises:
          ModelFolderError: naming the file and the fault.
        """
        if "audio_ae.safetensors" not in load_facts(folder)["fingerprints"]:
            raise ModelFolderError(f"{folder} holds no audio_ae, which its latents need: train or import one")
        return cls(load_model(folder, only=["audio_ae"]))

    @property
    def sounds_a_call(self) -> int:
        """Short sounds that are worth encoding in one call: 1 on a CPU."""
        return 1 if jax.default_backend() == "cpu" else ROWS_A_CALL

    @property
    def name(self) -> str:
        """The model's name, as its facts give it."""
        return str(self.facts.get("name", self._folder.name if self._folder else "unnamed"))

    def encode(self, audio: np.ndarray, sample_rate: int, mid_side: bool = False) -> np.ndarray:
        """Standardised latents of a sound.

        Args:
          audio: float [S] or [S, C], C up to 8, any S >= 1.
          sample_rate: Hz.
          mid_side: code the first two channels as (left + right) / 2 and (left - right) / 2.

        Returns:
          float32 [C, T, 128], T = `latent_frames` of the samples at 48 kHz.

        Raises:
          ValueError: for audio that is empty, not finite or of another shape, and for mid and side of one channel.
        """
        channels = signal.to_coded_channels(signal.checked(audio, sample_rate), sample_rate, mid_side)
        frames = latent_frames(channels.shape[1])
        return np.stack([self.channel_latents(channel, frames) for channel in channels])

    def encode_many(
        self, sounds: Sequence[np.ndarray], sample_rate: int, mid_side: bool = False
    ) -> list[np.ndarray]:
        """Standardised latents of several sounds; channels of short ones share calls of `ROWS_A_CALL` rows.

        Pays on accelerators, which one short sound does not fill; a CPU gains nothing. Sounds longer than 5 s are
        encoded one by one. Results equal those of `encode` up to rounding.

        Args:
          sounds: float [S] or [S, C] each.
          sample_rate: Hz, of all of them.
          mid_side: code the first two channels as mid and side where there are two.

        Returns:
          float32 [C, T, 128] for each sound, in order.

        Raises:
          ValueError: as `encode`.
        """
        results: list[np.ndarray] = []
        rows: list[tuple[np.ndarray, np.ndarray]] = []
        for sound in sounds:
            audio = signal.checked(sound, sample_rate)
            channels = signal.to_coded_channels(audio, sample_rate, mid_side and audio.shape[1] > 1)
            frames = latent_frames(channels.shape[1])
            results.append(np.empty((len(channels), frames, self.latent_channels), np.float32))
            for channel, latent in zip(channels, results[-1], strict=True):
                if frames > CLIP_FRAMES:
                    latent[:] = self.channel_latents(channel, frames)
                else:
                    rows.append((channel, latent))
        for first in range(0, len(rows), ROWS_A_CALL):
            together = rows[first : first + ROWS_A_CALL]
            batch = np.zeros((ROWS_A_CALL, CLIP_FRAMES * HOP, 1), np.float32)
            for row, (channel, _) in zip(batch, together, strict=False):
                row[: len(channel), 0] = channel
            encoded = np.asarray(self._encode_chunk(self._params, self._statistics, self.sigma_data, batch))
            for row, (_, latent) in zip(encoded, together, strict=False):
                latent[:] = row[: len(latent)]
        return results

    def decode(
        self,
        latents: np.ndarray,
        samples: int | None = None,
        sample_rate: int = SAMPLE_RATE,
        mid_side: bool = False,
    ) -> np.ndarray:
        """A sound from standardised latents.

        Args:
          latents: [C, T, 128] as `encode` returns them; without the frame that `latent_frames` adds they pass too.
          samples: true length at `sample_rate`; None means T whole frames.
          sample_rate: Hz, of the result.
          mid_side: the first two channels are mid and side.

        Returns:
          float32 [samples, C].

        Raises:
          ValueError: for latents of another shape or length, or that are not finite.
        """
        latents = np.asarray(latents, np.float32)
        if latents.ndim != 3 or latents.shape[2] != self.latent_channels or not latents.size:
            raise ValueError(f"latents must be [channels, frames, {self.latent_channels}], got shape {latents.shape}")
        if not np.isfinite(latents).all():
            raise ValueError("latents hold NaN or infinite values")
        if mid_side and len(latents) < 2:
            raise ValueError("mid and side need at least two channels, the latents have one")
        signal.check_rate(sample_rate)
        if samples is None:
            samples = samples_of_frames(latents.shape[1], sample_rate)
        at_48 = samples_at_48_khz(samples, sample_rate)
        if latents.shape[1] not in (frames_of(at_48), latent_frames(at_48)):
            raise ValueError(f"{latents.shape[1]} latent frames do not belong to {samples} samples at {sample_rate} Hz")
        channels = [self.channel_audio(self._followed_by_silence(latent), at_48) for latent in latents]
        return signal.from_coded_channels(channels, mid_side, samples, sample_rate)

    def reconstruct(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """What the AudioAE makes of a sound: the bound on what any code could give.

        Unlike `decode` of `encode`, the latents of the silence after a short sound are those of that very sound.

        Args:
          audio: float [S] or [S, C], any S >= 1.
          sample_rate: Hz.

        Returns:
          float32 [S, C].

        Raises:
          ValueError: as `encode`.
        """
        audio = signal.checked(audio, sample_rate)
        channels = signal.to_coded_channels(audio, sample_rate, mid_side=False)
        frames = max(CLIP_FRAMES, frames_of(channels.shape[1]))
        rebuilt = [self.channel_audio(self.channel_latents(channel, frames), len(channel)) for channel in channels]
        return signal.from_coded_channels(rebuilt, False, len(audio), sample_rate)

    def check_latent_id(self, identity: bytes) -> None:
        """Raises ValueError if latents with this id were made by another AudioAE."""
        check_identity(identity, self.latent_id, self.name)

    def channel_latents(self, channel: np.ndarray, frames: int) -> np.ndarray:
        """Standardised latent [frames, C] of one channel [S] at 48 kHz; zeros follow the sound."""
        encode = partial(self._encode_chunk, self._params, self._statistics, self.sigma_data)
        return map_chunks(encode, channel[:, None], HOP, 1, self._halo, frames)

    def channel_audio(self, latent: np.ndarray, samples: int) -> np.ndarray:
        """Audio [samples] at 48 kHz of a standardised latent [frames, C]."""
        decode = partial(self._decode_chunk, self._params, self._statistics, self.sigma_data)
        return map_chunks(decode, latent, 1, HOP, self._halo)[:samples, 0]

    def drawn_audio(self, latents: Sequence[jax.Array], frames: int, samples: int) -> list[np.ndarray]:
        """Audio [samples] at 48 kHz of several latents that lie on the device.

        Clips are decoded there and fetched in one transfer; the latents of longer sounds are fetched in one, and decoded
        in chunks, so that memory stays bounded.

        Args:
          latents: [1, at least `frames`, C] each.
          frames: that count, at least `CLIP_FRAMES`.
          samples: of every sound.
        """
        if frames > CLIP_FRAMES:
            return [self.channel_audio(latent[0, :frames], samples) for latent in jax.device_get(list(latents))]
        audio = [self._decode_chunk(self._params, self._statistics, self.sigma_data, latent) for latent in latents]
        return [clip[0, :samples, 0] for clip in jax.device_get(audio)]

    @cached_property
    def _silence(self) -> np.ndarray:
        """Standardised latent [C] of silence, far from any edge."""
        return self.channel_latents(np.zeros(1, np.float32), CLIP_FRAMES)[CLIP_FRAMES // 2]

    def _followed_by_silence(self, latent: np.ndarray) -> np.ndarray:
        missing = CLIP_FRAMES - len(latent)
        if missing <= 0:
            return latent
        return np.concatenate([latent, np.broadcast_to(self._silence, (missing, self.latent_channels))])

    def _encode_chunk_program(
        self, params: Any, statistics: tuple[np.ndarray, np.ndarray], sigma_data: float, audio: jax.Array
    ) -> jax.Array:
        return standardise(encode_hops(self._module, params, audio), *statistics, sigma_data)

    def _decode_chunk_program(
        self, params: Any, statistics: tuple[np.ndarray, np.ndarray], sigma_data: float, latent: jax.Array
    ) -> jax.Array:
        return decode_frames(self._module, params, unstandardise(latent, *statistics, sigma_data))


def measured_statistics(facts: Mapping[str, Any], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every latent channel; those of z lie in the quantizer's own parameters.

    Raises:
      ModelFolderError: if they are missing or malformed.
    """
    try:
        stored = facts["latent_statistics"]
        mean, std = (np.asarray(stored[key], np.float32) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFolderError("model.json: latent_statistics must hold lists 'mean' and 'std'") from error
    fits = mean.shape == std.shape == (channels,)
    if not fits or not (np.isfinite(mean) & np.isfinite(std) & (std > 0)).all():
        raise ModelFolderError(
            f"model.json: latent_statistics must hold {channels} finite means and positive deviations"
        )
    return mean, std
