"""VGGish: the log-mel front end that YAMNet shares, the network, and the embedding for the Frechet audio distance.

The distance is measured before the last ReLU and without the PCA and 8-bit postprocessing, as the toolkits do it
(`use_activation=False`, `use_pca=False`).

Source: Hershey et al. (arXiv:1609.09430); AudioSet's vggish_params; torchvggish.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from spresso_jax.audio.mel import mel_filters, safe_magnitude
from spresso_jax.audio.stft import hann_window, stft
from spresso_jax.checkpoints.weights import ModelFolderError, check_shapes, load_model
from spresso_jax.evaluate.features.extractor import Extractor, FeatureError, sliding_windows

SAMPLE_RATE = 16_000
FRAME, HOP, N_FFT = 400, 160, 512
MEL_BANDS, MEL_RANGE = 64, (125.0, 7500.0)
LOG_OFFSET = 0.01
PATCH_FRAMES = 96
PATCH_SAMPLES = (PATCH_FRAMES - 1) * HOP + FRAME
PATCH_HOP = PATCH_FRAMES * HOP
# Convolutions before each of the four poolings.
DEPTHS = (1, 1, 2, 2)
HOW_TO_GET = (
    "VGGish needs its weights: download vggish-10086976.pth from the releases of github.com/harritaylor/torchvggish, run "
    "`spresso import vggish vggish-10086976.pth --out FOLDER` and name FOLDER"
)


def mel_bank() -> np.ndarray:
    """The 64 HTK triangles, straight in mel and without area normalisation, float32 `[257, 64]`."""
    return mel_filters(SAMPLE_RATE, N_FFT, MEL_BANDS, *MEL_RANGE, "htk", False, "mel")


def log_mel_frames(audio: Array, offset: float = LOG_OFFSET) -> Array:
    """ln(mel + offset) of magnitudes: `[B, S]` at 16 kHz -> float32 `[B, 1 + (S - 400) // 160, 64]`.

    Frames of 400 samples under a periodic Hann window, filled up to 512 with zeros; the signal itself is not padded.
    """
    window = np.zeros(N_FFT, np.float32)
    window[:FRAME] = hann_window(FRAME)
    spectrum = stft(jnp.pad(audio, ((0, 0), (0, N_FFT - FRAME))), N_FFT, HOP, window=window, padding="none")
    magnitude = safe_magnitude(spectrum.real, spectrum.imag)
    return jnp.log(jnp.matmul(magnitude, mel_bank(), precision="highest") + offset)


def cut_patches(clip: np.ndarray, hop: int = PATCH_HOP) -> tuple[np.ndarray, bool]:
    """Windows of 15 600 samples (96 frames): `[S]` -> (`[R, 15600]`, whether the clip was padded to give one).

    An incomplete tail is dropped: a 5 s clip gives 5 rows with the hop of 96 frames.
    """
    count = (clip.size - PATCH_SAMPLES) // hop + 1 if clip.size >= PATCH_SAMPLES else 0
    return sliding_windows(clip, PATCH_SAMPLES, hop, max(count, 1)), count == 0


class Vggish(nn.Module):
    """Six 3x3 convolutions in four pooled blocks, then three dense layers.

    Attributes:
      widths: channels of each convolution, in the blocks `DEPTHS`.
      hidden: widths of the dense layers but the last.
      dimension: d.
    """

    widths: tuple[int, ...] = (64, 128, 256, 256, 512, 512)
    hidden: tuple[int, ...] = (4096, 4096)
    dimension: int = 128

    def setup(self):
        """Layers by their place: conv_0 .. conv_5, dense_0 .. dense_2."""
        self.conv = [nn.Conv(width, (3, 3), padding=1) for width in self.widths]
        self.dense = [nn.Dense(width) for width in (*self.hidden, self.dimension)]

    def pools(self, patches: Array, blocks: int = len(DEPTHS)) -> list[Array]:
        """Log-mel patches `[P, 96, 64]` -> the maps after the first `blocks` poolings, `[P, H, W, C]` each."""
        hidden, maps, layers = patches[..., None], [], iter(self.conv)
        for depth in DEPTHS[:blocks]:
            for _ in range(depth):
                hidden = jax.nn.relu(next(layers)(hidden))
            hidden = nn.max_pool(hidden, (2, 2), (2, 2))
            maps.append(hidden)
        return maps

    def __call__(self, patches: Array) -> Array:
        """Log-mel patches `[P, 96, 64]` -> `[P, d]` before the last ReLU; the flatten is time, mel, channel."""
        hidden = self.pools(patches)[-1].reshape(patches.shape[0], -1)
        for layer in self.dense[:-1]:
            hidden = jax.nn.relu(layer(hidden))
        return self.dense[-1](hidden)


def vggish_extractor(folder: str | Path | None, batch: int = 8) -> Extractor:
    """The embedding of a model folder that `spresso import vggish` wrote.

    Raises:
      FeatureError: if no folder is given, or it holds no VGGish.
      ModelFolderError: if the folder is damaged, or its parameters do not belong to its config.
    """
    if folder is None:
        raise FeatureError(HOW_TO_GET)
    try:
        model = load_model(folder, only=["vggish"])
    except ModelFolderError as error:
        raise FeatureError(f"{error}. {HOW_TO_GET}") from error
    network = model.networks["vggish"]
    module = Vggish(**{name: _tuple(value) for name, value in network.config.items()})
    example = jax.ShapeDtypeStruct((1, PATCH_FRAMES, MEL_BANDS), np.float32)
    check_shapes(
        network.params, jax.eval_shape(module.init, jax.random.key(0), example)["params"], "vggish.safetensors"
    )

    def embed(params: Any, windows: Array) -> Array:
        return module.apply({"params": params}, log_mel_frames(windows))

    return Extractor(
        name="vggish",
        sample_rate=SAMPLE_RATE,
        dimension=module.dimension,
        window=PATCH_SAMPLES,
        cut=cut_patches,
        network=embed,
        params=network.params,
        settings={"hop_samples": PATCH_HOP, "last_relu": False, "pca": False, "short_clips": "zeros"},
        weights=model.facts["fingerprints"]["vggish.safetensors"],
        licence=str(model.facts.get("licence", "unknown")),
        batch=batch,
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
