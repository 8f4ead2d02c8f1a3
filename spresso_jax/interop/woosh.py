"""The public Woosh-AE (48 kHz, 100 frames of 128 channels a second) turned into our AudioAE.

Its weights are CC BY-NC 4.0: whatever is trained on their latents stays non-commercial. Its latents are whitened with the
statistics of its own file, never with ours: networks trained on Woosh latents know no other scale.

Source: Woosh (MIT code, names and layouts of its release v1.0.0). The reference loads strictly and, when that fails, in
part and in silence; here whatever does not fit is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.audio_ae.statistics import SIGMA_DATA
from spresso_jax.interop.foreign_tensors import ForeignTensors, read_tensors, read_yaml
from spresso_jax.interop.vocos import backbone_params, backbone_shapes, backbone_sizes, convolution
from spresso_jax.nn.convnext import KERNEL
from spresso_jax.shapes import HOP, N_FFT, SAMPLE_RATE

LICENCE = "CC-BY-NC-4.0 (made from Woosh weights: these and all weights derived from them are non-commercial)"
WEIGHT_FILES = ("weights.safetensors", "weights.pt")
BINS = N_FFT // 2 + 1
PROJECTION_KERNEL = 3
ENCODER, DECODER = "autoencoder.encoder.", "autoencoder.decoder."
WINDOWS = (f"{ENCODER}spec_embed.window", f"{DECODER}head.istft.window")

# What a config.yaml may say and still mean the network that the shapes describe.
STATED = {
    "n_fft": N_FFT,
    "hop_length": HOP,
    "sample_rate": SAMPLE_RATE,
    "channels": 1,
    "spec_embed": "stft-complex",
    "stft_normalized": False,
    "input_layer_norm": True,
    "final_layer_norm": True,
}
STATED_HEAD = {"padding": "center", "softclip": "softplus", "conv_kernel": 1}


@dataclass(frozen=True)
class WooshAutoencoder:
    """An imported Woosh-AE.

    Attributes:
      config: fields of `AudioAutoencoder`.
      params: its parameters, float32.
      z_mean, z_std: `[C]`, statistics of raw latents as the file has them.
      dtypes: data types found in the file.
      weights_file: where it was read, or None.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    z_mean: np.ndarray
    z_std: np.ndarray
    dtypes: tuple[str, ...]
    weights_file: Path | None = None

    def latent_statistics(self) -> dict[str, Any]:
        """`latent_statistics` of a model folder: x0 = 0.5 (latent - z_mean) / z_std; what was not measured is None."""
        channels = self.config["latent_channels"]
        return {
            "mean": [float(value) for value in self.z_mean],
            "std": [float(value) for value in self.z_std],
            "sigma_data": SIGMA_DATA,
            "frames": 0,
            "kurtosis": [None] * channels,
            "share_beyond_5_std": None,
            "effective_channels": None,
            "strongest_correlation": None,
            "dead_channels": [],
            "heavy_channels": [],
            "warnings": ["z_mean and z_std of the imported file, averages over batches; nothing was measured here"],
        }


def autoencoder_from_state(
    state: Mapping[str, np.ndarray], stated: Mapping[str, Any] | None = None, source: str = "the Woosh-AE weights"
) -> WooshAutoencoder:
    """Autoencoder of a Woosh-AE state dict; every size is read off the shapes.

    Args:
      state: tensors by their published names.
      stated: `config.yaml`, which must not contradict the shapes, or None.
      source: what messages call the weights.

    Raises:
      ValueError: listing tensors that are missing, unexpected or of another shape; if the sides do not belong together,
        z_std is not positive, a window is no Hann window, or the config describes another network.
    """
    tensors = ForeignTensors(state, source)
    encoder = backbone_sizes(tensors, f"{ENCODER}backbone.")
    decoder = backbone_sizes(tensors, f"{DECODER}backbone.")
    channels, _, _ = tensors.shape(f"{ENCODER}proj.weight", 3)
    (means,) = tensors.shape("z_mean", 1)
    if not channels == decoder.channels == means:
        raise ValueError(
            f"{source}: the encoder gives {channels} latent channels, the decoder reads {decoder.channels}, z_mean has "
            f"{means}: they do not belong together"
        )
    if (encoder.dim, encoder.intermediate) != (decoder.dim, decoder.intermediate):
        raise ValueError(
            f"{source}: the encoder has widths {encoder.dim} and {encoder.intermediate}, the decoder {decoder.dim} and "
            f"{decoder.intermediate}; only equal widths are supported"
        )
    config = {
        "dim": encoder.dim,
        "intermediate": encoder.intermediate,
        "encoder_blocks": encoder.blocks,
        "decoder_blocks": decoder.blocks,
        "latent_channels": channels,
        "encoder_input": "complex",
        "padding": "center",
        "head": "circle",
        "projection_kernel": PROJECTION_KERNEL,
    }
    _check_stated(stated or {}, config, source)
    expected = backbone_shapes(encoder, f"{ENCODER}backbone.") | backbone_shapes(decoder, f"{DECODER}backbone.")
    expected |= {
        f"{ENCODER}backbone.embed.weight": (encoder.dim, 2 * BINS, KERNEL),
        f"{ENCODER}proj.weight": (channels, encoder.dim, PROJECTION_KERNEL),
        f"{ENCODER}proj.bias": (channels,),
        f"{DECODER}head.out.weight": (3 * BINS, decoder.dim, 1),
        f"{DECODER}head.out.bias": (3 * BINS,),
        "z_mean": (channels,),
        "z_std": (channels,),
        **{window: (N_FFT,) for window in WINDOWS},
    }
    tensors.require(expected)
    for window in WINDOWS:
        tensors.take_hann(window)
    z_mean, z_std = tensors.take("z_mean"), tensors.take("z_std")
    _check_statistics(z_mean, z_std, source)
    params = {
        "encoder_backbone": backbone_params(tensors, f"{ENCODER}backbone.", encoder.blocks),
        "projection": convolution(tensors, f"{ENCODER}proj"),
        "decoder_backbone": backbone_params(tensors, f"{DECODER}backbone.", decoder.blocks),
        "head_out": convolution(tensors, f"{DECODER}head.out"),
    }
    tensors.finish()
    return WooshAutoencoder(config, params, z_mean, z_std, tensors.dtypes)


def read_woosh_autoencoder(folder: str | Path) -> WooshAutoencoder:
    """Autoencoder of a downloaded and unpacked `Woosh-AE` folder.

    Reads `weights.safetensors` or, if that is absent, `weights.pt`, and `config.yaml` if there is one.

    Raises:
      ValueError: if the folder or its weights are missing or damaged, or as in `autoencoder_from_state`.
    """
    file, stated = published_files(folder, "Woosh-AE")
    made = autoencoder_from_state(read_tensors(file), stated, str(file))
    return WooshAutoencoder(made.config, made.params, made.z_mean, made.z_std, made.dtypes, file)


def published_files(folder: str | Path, asset: str) -> tuple[Path, dict[str, Any] | None]:
    """The weights file of an unpacked asset of the release, and its `config.yaml` (None if there is none).

    Raises:
      ValueError: if there is no such folder, no weights in it, or the config cannot be read.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; unpack the asset {asset} of Woosh's release v1.0.0 and give its folder")
    present = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
    if not present:
        raise ValueError(f"{folder} holds neither {' nor '.join(WEIGHT_FILES)}: is this an unpacked {asset}?")
    config = folder / "config.yaml"
    return present[0], read_yaml(config) if config.is_file() else None


def _check_stated(stated: Mapping[str, Any], config: Mapping[str, Any], source: str) -> None:
    """Compares a config.yaml with what is supported and with the sizes that the shapes gave; absent fields pass."""
    sizes = {
        "z_dim": config["latent_channels"],
        "d_model": config["dim"],
        "intermediate_dim": config["intermediate"],
        "num_layers": config["decoder_blocks"],
        "enc_num_layers": config["encoder_blocks"],
    }
    head = stated.get("istft_head") or {}
    if not isinstance(head, Mapping):
        raise ValueError(f"{source}: istft_head of config.yaml must hold names and values, got {head!r}")
    target = head.get("_target_")
    if target is not None and not str(target).endswith("ISTFTCircleHead"):
        raise ValueError(f"{source}: config.yaml names the head {target}, only ISTFTCircleHead is supported")
    for where, known, found in (("", STATED, stated), ("istft_head.", STATED_HEAD, head), ("", sizes, stated)):
        for name, value in known.items():
            if found.get(name) is not None and found[name] != value:
                reason = "the weights have" if known is sizes else "supported is"
                raise ValueError(f"{source}: config.yaml states {where}{name} = {found[name]!r}, {reason} {value!r}")


def _check_statistics(mean: np.ndarray, std: np.ndarray, source: str) -> None:
    """The reference starts both buffers at zero, so a load that went wrong shows here first."""
    bad = np.flatnonzero(~(np.isfinite(mean) & np.isfinite(std) & (std > 0.0)))
    if bad.size:
        first = int(bad[0])
        raise ValueError(
            f"{source}: z_mean and z_std must be finite and z_std positive, {bad.size} of {std.size} channels are not "
            f"(channel {first}: mean {mean[first]}, std {std[first]}): the statistics were never stored in this file"
        )
