"""CLAP's audio tower as an embedding: a LAION-CLAP that was imported, or the CLAP of one of our own model folders.

The toolkits disagree about one checkpoint, and their distances with them, so both ways are here and the name says which:

  * `windows = "clip"`: one row a clip, tiled by the front end's own rule (frequent in frechet-audio-distance, and the
    sensible default);
  * `windows = "kadtk"`: windows of the tower's length every second from every start, zero-padded, after truncation to 16
    bits: a 5 s clip becomes 5 rows that hold its last 5, 4, 3, 2 and 1 s, as kadtk and fadtk do it.

Our own towers learned clips that were repeated and cut at the window's end, so "clip" does that for them.

Source: LAION-CLAP (arXiv:2211.06687); the loaders of kadtk 1.1.0 and fadtk 1.1.0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from spresso_jax.checkpoints.weights import ModelFolderError, load_model
from spresso_jax.clap.front_ends import FrontEnd, fit_length
from spresso_jax.codec.networks import prepared
from spresso_jax.evaluate.features.extractor import Extractor, FeatureError, sliding_windows
from spresso_jax.shapes import SAMPLE_RATE

WINDOWS = ("clip", "kadtk")
IMPORTED = "LAION-CLAP"
HOW_TO_GET = (
    "CLAP needs a model folder: one that `spresso train clap` wrote, or download laion/clap-htsat-unfused from Hugging Face, "
    "run `spresso import clap DOWNLOADED --out FOLDER` and name FOLDER"
)
Cut = Callable[[np.ndarray], tuple[np.ndarray, bool]]


def cut_clip(front_end: FrontEnd) -> Cut:
    """One window a clip, by the front end's rule for clips that are shorter or longer than it."""

    def cut(clip: np.ndarray) -> tuple[np.ndarray, bool]:
        return fit_length(np.asarray(clip, np.float32)[None], front_end), clip.size < front_end.samples

    return cut


def cut_kadtk(samples: int, hop: int = SAMPLE_RATE) -> Cut:
    """Windows of `samples` from every second on, zero-padded, of audio truncated to 16 bits."""

    def cut(clip: np.ndarray) -> tuple[np.ndarray, bool]:
        sixteen_bits = np.trunc(np.clip(clip, -1.0, 1.0) * np.float32(32767.0)) / np.float32(32767.0)
        return sliding_windows(sixteen_bits, samples, hop, -(-clip.size // hop)), clip.size < samples

    return cut


def clap_extractor(folder: str | Path | None, windows: str = "clip", batch: int = 4) -> Extractor:
    """The audio tower of a model folder.

    Args:
      folder: with a network "clap" that has an audio tower.
      windows: "clip" or "kadtk".
      batch: windows a call.

    Raises:
      FeatureError: for an unknown `windows`, no folder, no CLAP in it, or one that reads captions only.
      ModelFolderError: if its parameters do not belong to its config.
    """
    if windows not in WINDOWS:
        raise FeatureError(f"windows must be one of {', '.join(WINDOWS)}, got {windows!r}")
    if folder is None:
        raise FeatureError(HOW_TO_GET)
    try:
        model = load_model(folder, only=["clap"])
    except ModelFolderError as error:
        raise FeatureError(f"{error}. {HOW_TO_GET}") from error
    network = model.networks["clap"]
    if network.class_name == "TextConditioner":
        raise FeatureError(f"{folder}: its CLAP reads captions only and knows no sounds. {HOW_TO_GET}")
    module, params = prepared("clap", network, on_cpu=jax.default_backend() == "cpu")
    imported = any(step.get("imported") == IMPORTED for step in model.facts.get("provenance") or [])
    front_end = module.front_end()
    if not imported:
        front_end = dataclasses.replace(front_end, short_clips="repeat")

    def embed(params: Any, audio: Array) -> Array:
        return module.apply({"params": params}, audio[..., None], method="encode_audio")

    settings: dict[str, Any] = {"windows": windows}
    if windows == "clip":
        cut = cut_clip(front_end)
        settings |= {"short_clips": front_end.short_clips, "crop": front_end.crop, "sixteen_bits": False}
    else:
        cut = cut_kadtk(front_end.samples)
        settings |= {"short_clips": "zeros", "hop_samples": SAMPLE_RATE, "sixteen_bits": True}
    return Extractor(
        name=("clap-laion" if imported else "clap-own") + ("" if windows == "clip" else f"-{windows}"),
        sample_rate=SAMPLE_RATE,
        dimension=module.channels,
        window=front_end.samples,
        cut=cut,
        network=embed,
        params=params,
        settings=settings,
        weights=model.facts["fingerprints"]["clap.safetensors"],
        licence=str(model.facts.get("licence", "unknown")),
        batch=batch,
    )
