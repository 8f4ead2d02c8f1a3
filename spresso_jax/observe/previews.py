"""Previews of a running training: sounds as WAV, and one spectrogram picture a sound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np


class PreviewWriter:
    """Writes `{name: audio [S] at 48 kHz}` to `folder/step_<step>_<name>.wav` and `.png`.

    "decoded_3" is drawn in the colour range of "source_3", where there is one.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def __call__(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        from data_pipeline.audio_files import write_audio
        from spresso_jax.observe.pictures import colour_range, spectrogram_png

        self.folder.mkdir(parents=True, exist_ok=True)
        for name, audio in arrays.items():
            if audio.ndim != 1:
                raise ValueError(f"preview {name!r} must be one sound [S], got shape {audio.shape}")
            stem = f"step_{step:07d}_{name}"
            write_audio(self.folder / f"{stem}.wav", np.clip(np.nan_to_num(audio), -1.0, 1.0))
            partner = arrays.get("source_" + name.rpartition("_")[2], audio)
            (self.folder / f"{stem}.png").write_bytes(spectrogram_png(audio, levels=colour_range(partner)))
