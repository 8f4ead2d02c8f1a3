"""The codec: sounds to codes and back, with the networks of one model folder.

```
codec = Codec.load("spresso-nano")
encoded = codec.encode(audio, sample_rate)        # bytes(encoded) is a .spresso file
audio = codec.decode(encoded, seed=0)             # [samples, channels] at the original rate, exactly as long as the
original
```

Channels are coded one by one (or as mid and side), windows of 5 s one after another, and every window by a program
whose shape does not depend on its neighbours: what comes out depends on the sound, the model and the seed alone.
Source: S-PRESSO 3 (the whole way), 3.4 (codes), 4.2 (sampler).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.checkpoints.fingerprint import check_identity, model_id
from spresso_jax.checkpoints.weights import Model, ModelFolderError, load_facts, load_model
from spresso_jax.codec import signal
from spresso_jax.codec.bitstream import SAMPLE_RATES, EncodedAudio, Header, samples_at_48_khz, samples_of_frames
from spresso_jax.codec.captions import Captions, Text
from spresso_jax.codec.completeness import CODEC_NETWORKS, check_up_to_date
from spresso_jax.codec.latent_codec import LatentCodec
from spresso_jax.codec.latent_sampler import Settings
from spresso_jax.codec.programs import Programs
from spresso_jax.codec.windows import Windows, bucket
from spresso_jax.shapes import CLIP_FRAMES, HOP, SAMPLE_RATE, frames_of

DEFAULT_MODEL = "spresso-nano"


class Codec:
    """A loaded model that encodes and decodes sounds.

    A model whose quantizer is still to be trained (step 1's) embeds sounds and decodes embeddings, but makes no codes.

    Attributes:
      facts: the model's `model.json`.
      windows: how sounds are cut into clips.
      model_id: three bytes that its `.spresso` files carry.
      latent_codec: its AudioAE alone.
    """

    def __init__(self, model: Model, window_batch: int | None = None):
        """Builds the networks of a model that is in memory; `Codec.load` reads one from a folder.

        Args:
          model: networks and facts.
          window_batch: decode windows that one network call evaluates, a power of two; None chooses 1 on a CPU, where
            larger calls gain nothing, and 8 elsewhere. Changes speed and memory, and results only by rounding.

        Raises:
          ModelFolderError: if a network or a fact is missing or malformed, or a network is outdated by another.
        """
        self.facts = dict(model.facts)
        check_up_to_date(self.facts)
        self._folder = model.folder
        self.latent_codec = LatentCodec(model)
        unusable = self.facts.get("outdated") or ()
        usable = {name: network for name, network in model.networks.items() if name not in unusable}
        self._programs = Programs(usable, window_batch)
        self._read_operating_point(self.facts.get("operating_point") or {})
        self.model_id = model_id(self.facts)
        self._embedding_channels = self._programs.modules["latent_encoder"].embedding_channels
        self._captions = Captions(model, self._programs.modules["dit"])

    @classmethod
    def load(cls, folder: str | Path = DEFAULT_MODEL, window_batch: int | None = None) -> Codec:
        """Reads a model folder, or a model of the package by its name.

        The text tower is read only when `decode` is given its first caption.

        Raises:
          ModelFolderError: naming the file and the fault.
        """
        facts = load_facts(folder)
        present = [name.removesuffix(".safetensors") for name in facts["fingerprints"]]
        return cls(load_model(folder, only=[name for name in CODEC_NETWORKS if name in present]), window_batch)

    @property
    def name(self) -> str:
        """The model's name, as its facts give it."""
        return str(self.facts.get("name", self._folder.name if self._folder else "unnamed"))

    def encode(
        self, audio: np.ndarray, sample_rate: int, codebooks: int | None = None, mid_side: bool = False
    ) -> EncodedAudio:
        """Codes of a sound.

        Args:
          audio: float [S] or [S, C], C up to 8, any S >= 1.
          sample_rate: Hz. Decoding returns this rate if it is a common one (`SAMPLE_RATES`), else 48 kHz.
          codebooks: M, fewer means a lower bitrate; None means the model's default.
          mid_side: code the first two channels as (left + right) / 2 and (left - right) / 2.

        Returns:
          the codes; `bytes()` of it is a `.spresso` file, `.bitrates()` says what it costs.

        Raises:
          ValueError: for audio that is empty, not finite or of another shape, and for codebooks the model lacks.
        """
        codebooks = self.codebooks if codebooks is None else codebooks
        self._check_codebooks(codebooks)
        audio = signal.checked(audio, sample_rate)
        codes = self._programs.codes(self.embed(audio, sample_rate, mid_side), codebooks)
        known = sample_rate in SAMPLE_RATES
        header = Header(
            sample_rate=sample_rate if known else SAMPLE_RATE,
            channels=audio.shape[1],
            mid_side=mid_side,
            bits=self.codebook_bits,
            codebooks=codebooks,
            downsample=self.windows.downsample,
            model_id=self.model_id,
            samples=len(audio) if known else samples_at_48_khz(len(audio), sample_rate),
        )
        return EncodedAudio(codes, header)

    def decode(
        self,
        encoded: EncodedAudio | bytes,
        seed: int = 0,
        steps: int = 64,
        variations: int = 1,
        caption: str | None = None,
        codebooks: int | None = None,
        sampler: str = "heun",
        guidance: float = 1.0,
    ) -> np.ndarray:
        """A sound from its codes.

        Args:
          encoded: what `encode` returned, or the bytes of a `.spresso` file.
          seed: 0 to 2^32 - 1; the same codes and seed always give the same sound.
          steps: of the sampler, at least 2 (64 in the paper; fewer are faster and rougher).
          variations: number of sounds to draw; variation 0 is what a single one gives.
          caption: words that guide the decoder, or None (the paper's bitrates count no text).
          codebooks: use only the first few of the codes that were sent.
          sampler: "heun" (two network calls a step), "euler" or "dpm_solver_pp_2m" (one).
          guidance: how far to follow the caption; 1 is no guidance, above 1 goes further away from what the same codes
            give without a caption, at twice the work.

        Returns:
          float32 [S, C] at the original rate, exactly as long as the original; [V, S, C] for V > 1 variations.

        Raises:
          BitstreamError: if the bytes are not an undamaged `.spresso` file.
          ValueError: if the codes belong to another model, or an argument is out of range.
        """
        encoded = EncodedAudio.from_bytes(encoded) if isinstance(encoded, (bytes, bytearray)) else encoded
        header = encoded.header
        self._check_header(header)
        used = header.codebooks if codebooks is None else codebooks
        if not 1 <= used <= header.codebooks:
            raise ValueError(f"codebooks must be within 1..{header.codebooks}, the number sent, got {used}")
        return self.decode_embeddings(
            self._programs.quantized(encoded.codes[..., :used]),
            header.samples,
            header.sample_rate,
            mid_side=header.mid_side,
            seed=seed,
            steps=steps,
            variations=variations,
            caption=caption,
            sampler=sampler,
            guidance=guidance,
        )

    def embed(self, audio: np.ndarray, sample_rate: int, mid_side: bool = False) -> np.ndarray:
        """Continuous embeddings z of a sound: float32 [C, F, 64], F = ceil(frames / t).

        Arguments and errors as in `encode`.
        """
        channels = signal.to_coded_channels(signal.checked(audio, sample_rate), sample_rate, mid_side)
        return np.stack([self._embed_channel(channel) for channel in channels])

    def decode_embeddings(
        self,
        z: np.ndarray,
        samples: int | None = None,
        sample_rate: int = SAMPLE_RATE,
        *,
        mid_side: bool = False,
        seed: int = 0,
        steps: int = 64,
        variations: int = 1,
        caption: str | None = None,
        sampler: str = "heun",
        guidance: float = 1.0,
    ) -> np.ndarray:
        """A sound from embeddings, continuous or quantized.

        Args:
          z: [C, F, 64] as `embed` returns it.
          samples: true length at `sample_rate`; None means F whole compressed frames.
          sample_rate: rate of the result.
          mid_side: the first two channels are mid and side.
          seed, steps, variations, caption, sampler, guidance: as in `decode`.

        Returns:
          as `decode`.

        Raises:
          ValueError: for embeddings of another shape or length, or an argument out of range.
        """
        z = np.asarray(z, np.float32)
        width = self._embedding_channels
        if z.ndim != 3 or z.shape[2] != width or not z.size:
            raise ValueError(f"embeddings must be [channels, frames, {width}], got shape {z.shape}")
        if not np.isfinite(z).all():
            raise ValueError("embeddings hold NaN or infinite values")
        signal.check_rate(sample_rate)
        if samples is None:
            samples = samples_of_frames(z.shape[1] * self.windows.downsample, sample_rate)
        at_48 = samples_at_48_khz(samples, sample_rate)
        if -(-frames_of(at_48) // self.windows.downsample) != z.shape[1]:
            raise ValueError(f"{z.shape[1]} embeddings do not belong to {samples} samples at {sample_rate} Hz")
        settings = Settings(seed, steps, sampler, guidance)
        settings.check()
        if variations < 1:
            raise ValueError(f"need at least 1 variation, got {variations}")
        self.check_caption(caption, guidance)
        # Every channel starts from the same noise: equal channels stay equal, and a stereo image does not blur.
        channels = [self._draws(channel, at_48, self._captions.read(caption), settings, variations) for channel in z]
        sounds = [
            signal.from_coded_channels([draws[variation] for draws in channels], mid_side, samples, sample_rate)
            for variation in range(variations)
        ]
        return sounds[0] if variations == 1 else np.stack(sounds)

    def check_caption(self, caption: str | None, guidance: float = 1.0) -> None:
        """Refuses a caption that this model cannot read whole, before any work.

        Raises:
          ValueError: for an empty or too long caption, a model without a text tower, or guidance without a caption.
        """
        if caption is not None:
            self._captions.check(caption)
        elif guidance != 1.0:
            raise ValueError(f"guidance {guidance:g} leads towards a caption, and there is none: give one, or guidance 1")

    def reconstruct_audio_ae(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
        """What the AudioAE alone makes of a sound: the bound on what any code could give. [S, C] like the input."""
        return self.latent_codec.reconstruct(audio, sample_rate)

    def check_model_id(self, identity: bytes) -> None:
        """Raises ValueError if a sound with this model id was encoded with another model."""
        check_identity(identity, self.model_id, self.name)

    @cached_property
    def silence_embedding(self) -> np.ndarray:
        """Embedding of a silent clip, [tokens, 64]: from the model's facts, or computed if they have none."""
        shape = (self.windows.tokens, self._embedding_channels)
        stored = self.facts.get("silence_embedding")
        if stored is None:
            return self._embed_channel(np.zeros(CLIP_FRAMES * HOP, np.float32))[: shape[0]]
        stored = np.asarray(stored, np.float32)
        if stored.shape != shape or not np.isfinite(stored).all():
            raise ModelFolderError(f"model.json: silence_embedding must be finite and {shape}, it is {stored.shape}")
        return stored

    def _read_operating_point(self, point: Mapping[str, Any]) -> None:
        modules = self._programs.modules
        for name in ("downsample", "codebook_bits", "codebooks"):
            if not isinstance(point.get(name), int) or point[name] < 1:
                raise ModelFolderError(f"model.json: operating_point.{name} is {point.get(name)!r}, not a whole number")
        self.codebook_bits, self.codebooks, self.trained_codebooks = point["codebook_bits"], point["codebooks"], 0
        if modules["latent_encoder"].downsample != point["downsample"]:
            raise ModelFolderError("model.json: operating_point.downsample differs from the latent encoder's")
        if "quantizer" in modules:
            most, codewords = modules["quantizer"].codebooks, modules["quantizer"].codewords
            self.trained_codebooks = min(point.get("trained_codebooks", most), most)
            if 2**self.codebook_bits != codewords:
                raise ModelFolderError(
                    f"model.json: codebook_bits {self.codebook_bits} do not fit the quantizer's {codewords} codewords"
                )
            if self.codebooks > self.trained_codebooks:
                raise ModelFolderError(
                    f"model.json: {self.codebooks} codebooks, {self.trained_codebooks} of them trained"
                )
        try:
            self.windows = Windows(point["downsample"], point.get("overlap"))
        except (TypeError, ValueError) as error:
            raise ModelFolderError(f"model.json: operating_point: {error}") from error

    def _check_codebooks(self, codebooks: int) -> None:
        if not self.trained_codebooks:
            raise ModelFolderError(
                f"{self.name} has no quantizer of its embeddings, so it can neither make nor read codes: train the stage"
                " quantizer on it, or use continuous embeddings"
            )
        if not 1 <= codebooks <= self.trained_codebooks:
            raise ValueError(f"codebooks must be within 1..{self.trained_codebooks} for {self.name}, got {codebooks}")

    def _check_header(self, header: Header) -> None:
        self.check_model_id(header.model_id)
        if (header.bits, header.downsample) != (self.codebook_bits, self.windows.downsample):
            raise ValueError(f"the codes have {header.bits} bits at t = {header.downsample}, unlike {self.name}")
        self._check_codebooks(header.codebooks)

    def _embed_channel(self, channel: np.ndarray) -> np.ndarray:
        frames, windows = frames_of(len(channel)), self.windows
        latents = self.latent_codec.channel_latents(channel, windows.encode_frames(frames))
        starts = range(0, windows.encode_count(frames) * windows.encode_stride, windows.encode_stride)
        pieces = [self._programs.embedding(latents[start : start + CLIP_FRAMES]) for start in starts]
        return np.concatenate(pieces)[: -(-frames // windows.downsample)]

    def _draws(self, z: np.ndarray, samples: int, text: Text, settings: Settings, count: int) -> list[np.ndarray]:
        """Audio [samples] at 48 kHz of `count` draws of one channel."""
        used = self.windows.count(frames_of(samples))
        conditions = self.windows.conditions(z, self.silence_embedding, bucket(used))
        latents = self._programs.sampler.draw(
            text, settings, self.windows, used, count, self.latent_codec.sigma_data, conditions, self._captions.null()
        )
        return self.latent_codec.drawn_audio(latents, self.windows.frames(used), samples)
