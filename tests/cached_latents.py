"""A folder of made-up cached latents with captions, as `spresso train` makes it of shards of sounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.records import write_arrays
from spresso_jax.cli.upstream_data import made_by


def write_latent_cache(folder: Path, model: Any, clips: int = 6, deviation: float = 0.5, frames: int = 500) -> Path:
    """Latents of a given standard deviation, fingerprinted as made by `model`; the last fifth of every clip is padding."""
    rng = np.random.default_rng(0)
    clap = model.networks["clap"].config
    tokens = model.facts["text_tokens"]
    weight = np.arange(frames) < frames * 4 // 5

    def record(index: int) -> tuple[dict, dict[str, np.ndarray]]:
        latent = np.where(weight[:, None], deviation * rng.normal(size=(frames, 128)), 0.0)
        return {"id": f"clip {index}", "caption": ["rain"]}, {
            "latent": latent.astype(np.float16),
            "weight": weight.astype(np.float16),
            "text": rng.normal(size=(1, tokens, clap["text_width"])).astype(np.float16),
            "text_mask": np.ones((1, tokens), np.uint8),
            "pooled_text": rng.normal(size=(1, clap["channels"])).astype(np.float16),
        }

    for split in ("train", "val"):
        write_arrays(folder, split, (record(index) for index in range(clips)), made_by(model, "audio_ae", "clap"))
    return folder
