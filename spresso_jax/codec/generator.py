"""Text to audio: sounds from a caption alone, with the AudioAE, the text tower and the DiT of one model folder.

```
generator = Generator.load("runs/text_to_audio/model")
sounds = generator.generate("glass breaking on stone", seconds=3.0, count=4)     # [4, 144000] at 48 kHz
```

The third stream and the adapters of a whole codec belong to its decoder, which was trained to follow embeddings. They are
left out here, and what remains is the text-to-audio network that they were added to.
Source: S-PRESSO 3.2 (text-to-audio prior); Karras et al. 2024 (autoguidance: a weaker model as the reference).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from spresso_jax.checkpoints.fingerprint import latent_id
from spresso_jax.checkpoints.weights import Model, ModelFolderError, load_facts, load_model
from spresso_jax.codec.captions import Captions
from spresso_jax.codec.latent_codec import LatentCodec
from spresso_jax.codec.latent_sampler import LatentSampler, Settings
from spresso_jax.codec.networks import prepared, without_decoder_parts
from spresso_jax.codec.windows import Windows
from spresso_jax.shapes import FRAME_RATE, SAMPLE_RATE, frames_of

NETWORKS = ("audio_ae", "clap", "dit")
LONGEST_SECONDS = 600.0
# Every frame may begin a window; two windows share a second.
WINDOWS = Windows(1, FRAME_RATE)


class Generator:
    """A loaded text-to-audio model.

    Attributes:
      facts: the model's `model.json`.
      latent_codec: its AudioAE.
    """

    def __init__(self, model: Model, weaker: Model | None = None, window_batch: int | None = None):
        """Builds the networks of models that are in memory; `Generator.load` reads them from folders.

        Args:
          model: networks "audio_ae" and "dit", and "clap" for captions.
          weaker: model whose DiT is the reference of autoguidance, a smaller or less trained one over the same latents.
          window_batch: as in `Codec`.

        Raises:
          ModelFolderError: if a network or a fact is missing, malformed or outdated.
          ValueError: if the weaker model denoises other latents.
        """
        self.facts = dict(model.facts)
        self._folder = model.folder
        self.latent_codec = LatentCodec(model)
        dit = _text_to_audio(model)
        self._captions = Captions(model, dit[0])
        reference = None if weaker is None else _text_to_audio(weaker)
        self._weaker_captions = None if weaker is None else Captions(weaker, reference[0])
        if weaker is not None and latent_id(weaker.facts) != latent_id(model.facts):
            raise ValueError(
                f"{_name(weaker)} denoises the latents of another AudioAE than {self.name}: a weaker model must have been"
                " trained on the same latents"
            )
        self._sampler = LatentSampler(*dit, weaker=reference, window_batch=window_batch)

    @classmethod
    def load(cls, folder: str | Path, weaker: str | Path | None = None, window_batch: int | None = None) -> Generator:
        """Reads a model folder, or a model of the package by its name; the text tower with the first caption.

        Raises:
          ModelFolderError: naming the file and the fault.
          ValueError: if the weaker model denoises other latents.
        """
        return cls(_load(folder, ("audio_ae", "dit")), None if weaker is None else _load(weaker, ("dit",)), window_batch)

    @property
    def name(self) -> str:
        """The model's name, as its facts give it."""
        return str(self.facts.get("name", self._folder.name if self._folder else "unnamed"))

    def check(
        self,
        caption: str | None,
        seconds: float = 5.0,
        count: int = 1,
        guidance: float = 1.0,
        interval: tuple[float, float] | None = None,
    ) -> None:
        """Refuses what `generate` could not do, before any work; arguments as there.

        Raises:
          ValueError: naming the argument.
        """
        if not math.isfinite(seconds) or not 0.01 <= seconds <= LONGEST_SECONDS:
            raise ValueError(f"seconds must be within 0.01..{LONGEST_SECONDS:g}, got {seconds:g}")
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        guided, weaker = guidance != 1.0, self._weaker_captions
        if caption is not None:
            self._captions.check(caption)
            if weaker is not None:
                weaker.check(caption)
        elif guided and weaker is None:
            raise ValueError("guidance needs a reference: give a caption to lead towards, or a weaker model to lead away from")
        if weaker is not None and not guided:
            raise ValueError("a weaker model changes nothing at guidance 1: give a larger guidance, about 2")
        if interval is not None and not guided:
            raise ValueError("a guidance interval changes nothing at guidance 1: give a larger guidance")

    def generate(
        self,
        caption: str | None,
        seconds: float = 5.0,
        count: int = 1,
        *,
        seed: int = 0,
        steps: int = 64,
        sampler: str = "heun",
        guidance: float = 1.0,
        interval: tuple[float, float] | None = None,
    ) -> np.ndarray:
        """Sounds that a caption describes.

        Args:
          caption: words; None for sounds of any kind.
          seconds: length, 0.01 to 600. Up to 5 s are the beginning of a clip of 5 s, which is what the model knows; longer
            sounds are windows of 5 s whose estimates are cross-faded at every step.
          count: number of sounds; sound k depends on the seed and on k, not on how many there are.
          seed: 0 to 2^32 - 1.
          steps: of the sampler, at least 2 (64 in the paper).
          sampler: "heun", "euler" or "dpm_solver_pp_2m".
          guidance: 1 is none; above 1 leads further away from the reference, which is the weaker model with the same
            caption if there is one, else the same model without caption. Twice the work.
          interval: noise levels (low, high) within which to guide; None means all.

        Returns:
          float32 [count, samples] at 48 kHz.

        Raises:
          ValueError: for an argument out of range, and for a caption that is empty or longer than the model reads.
        """
        settings = Settings(seed, steps, sampler, guidance, interval)
        settings.check()
        self.check(caption, seconds, count, guidance, interval)
        samples = max(1, round(seconds * SAMPLE_RATE))
        used = WINDOWS.count(frames_of(samples))
        weaker = self._weaker_captions
        latents = self._sampler.draw(
            self._captions.read(caption), settings, WINDOWS, used, count, self.latent_codec.sigma_data,
            reference_text=weaker.read(caption) if weaker else self._captions.null(),
        )  # fmt: skip
        return np.stack(self.latent_codec.drawn_audio(latents, WINDOWS.frames(used), samples))


def _load(folder: str | Path, needed: tuple[str, ...]) -> Model:
    present = load_facts(folder)["fingerprints"]
    missing = [name for name in needed if f"{name}.safetensors" not in present]
    if missing:
        raise ModelFolderError(
            f"{folder} holds no {', '.join(missing)}, which text-to-audio needs: train text_to_audio, or choose another model"
        )
    return load_model(folder, only=needed)


def _text_to_audio(model: Model) -> tuple[Any, Any]:
    """The DiT of a model without what belongs to a codec's decoder, and its parameters."""
    if "dit" not in model.networks:
        raise ModelFolderError(f"{_name(model)} has no network 'dit', which text-to-audio needs")
    if "dit" in (model.facts.get("outdated") or ()):
        raise ModelFolderError("dit: trained before other networks of this model changed; train text_to_audio again")
    return prepared("dit", without_decoder_parts(model.networks["dit"]), jax.default_backend() == "cpu")


def _name(model: Model) -> str:
    return str(model.facts.get("name", model.folder.name if model.folder else "unnamed"))
