"""The published layout of Woosh-AE as names and shapes, seeded weights in it, and its network in float64 numpy.

Written from the description of the network alone, so that importer and test share nothing but the format.
"""

from __future__ import annotations

import numpy as np
from scipy.special import erf


def woosh_shapes(
    dim: int = 2048, hidden: int = 3072, encoder_blocks: int = 8, decoder_blocks: int = 8, channels: int = 128
) -> dict[str, tuple[int, ...]]:
    """Name -> shape; the defaults are the published sizes."""
    shapes: dict[str, tuple[int, ...]] = {"z_mean": (channels,), "z_std": (channels,)}
    for side, inputs, blocks in (("encoder", 962, encoder_blocks), ("decoder", channels, decoder_blocks)):
        root = f"autoencoder.{side}.backbone"
        shapes |= {f"{root}.embed.weight": (dim, inputs, 7), f"{root}.embed.bias": (dim,)}
        for norm in ("norm", "final_layer_norm"):
            shapes |= {f"{root}.{norm}.weight": (dim,), f"{root}.{norm}.bias": (dim,)}
        for i in range(blocks):
            block = f"{root}.convnext.{i}"
            shapes |= {f"{block}.{name}": (dim,) for name in ("gamma", "dwconv.bias", "norm.weight", "norm.bias")}
            shapes |= {f"{block}.dwconv.weight": (dim, 1, 7), f"{block}.pwconv2.bias": (dim,)}
            shapes |= {f"{block}.pwconv1.weight": (hidden, dim), f"{block}.pwconv1.bias": (hidden,)}
            shapes[f"{block}.pwconv2.weight"] = (dim, hidden)
    shapes |= {"autoencoder.encoder.proj.weight": (channels, dim, 3), "autoencoder.encoder.proj.bias": (channels,)}
    shapes |= {"autoencoder.decoder.head.out.weight": (1443, dim, 1), "autoencoder.decoder.head.out.bias": (1443,)}
    shapes |= {f"autoencoder.{name}.window": (960,) for name in ("encoder.spec_embed", "decoder.head.istft")}
    return shapes


def woosh_state(seed: int = 0, **sizes: int) -> dict[str, np.ndarray]:
    """Seeded float32 weights in the published layout."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in woosh_shapes(**sizes).items():
        values = rng.standard_normal(shape)
        if name.endswith("window"):
            values = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(960) / 960)
        elif name == "z_std":
            values = 0.5 + np.abs(values)
        elif "norm.weight" in name or name.endswith("gamma"):
            values = 1.0 + 0.2 * values
        elif len(shape) > 1:
            values = values / np.sqrt(np.prod(shape[1:]))
        else:
            values = 0.1 * values
        state[name] = values.astype(np.float32)
    return state


TINY = dict(dim=12, hidden=20, encoder_blocks=2, decoder_blocks=1, channels=6)


def reference_encode(state: dict[str, np.ndarray], audio: np.ndarray) -> np.ndarray:
    """Audio `[S]` -> raw latent `[C, 1 + S // 480]` in float64."""
    padded = np.pad(audio.astype(np.float64), 480, mode="reflect")
    frames = np.stack([padded[start : start + 960] for start in range(0, len(padded) - 959, 480)])
    spectrum = np.fft.rfft(frames * _hann()).T
    hidden = _backbone(state, "autoencoder.encoder.backbone.", np.concatenate([spectrum.real, spectrum.imag]))
    return _convolution(hidden, state["autoencoder.encoder.proj.weight"], state["autoencoder.encoder.proj.bias"])


def reference_decode(state: dict[str, np.ndarray], latent: np.ndarray) -> np.ndarray:
    """Raw latent `[C, F]` -> audio `[480 (F - 1)]` in float64."""
    hidden = _backbone(state, "autoencoder.decoder.backbone.", latent.astype(np.float64))
    output = _convolution(
        hidden, state["autoencoder.decoder.head.out.weight"], state["autoencoder.decoder.head.out.bias"]
    )
    m, a, b = np.split(output, 3)
    scale = np.logaddexp(0.0, m) / np.sqrt(np.clip(a * a + b * b, 1e-8, 1e3))
    frames = np.fft.irfft((scale * (a + 1j * b)).T, 960) * _hann()
    total, weight = np.zeros((2, 480 * (len(frames) + 1)))
    for i, frame in enumerate(frames):
        total[480 * i : 480 * i + 960] += frame
        weight[480 * i : 480 * i + 960] += _hann() ** 2
    return total[480:-480] / weight[480:-480]


def _hann() -> np.ndarray:
    return np.sin(np.pi * np.arange(960) / 960) ** 2


def _convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    half = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (half, half)))
    taps = [weight[:, :, j].astype(np.float64) @ padded[:, j : j + x.shape[1]] for j in range(weight.shape[2])]
    return np.sum(taps, 0) + bias[:, None]


def _backbone(state: dict[str, np.ndarray], root: str, x: np.ndarray) -> np.ndarray:
    def norm(name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(0)
        normal = centred / np.sqrt((centred**2).mean(0) + 1e-6)
        return normal * state[f"{root}{name}.weight"][:, None] + state[f"{root}{name}.bias"][:, None]

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        return state[f"{root}{name}.weight"].astype(np.float64) @ x + state[f"{root}{name}.bias"][:, None]

    h = norm("norm", _convolution(x, state[f"{root}embed.weight"], state[f"{root}embed.bias"]))
    i = 0
    while f"{root}convnext.{i}.gamma" in state:
        block = f"convnext.{i}"
        kernel = state[f"{root}{block}.dwconv.weight"][:, 0].astype(np.float64)
        padded = np.pad(h, ((0, 0), (3, 3)))
        u = sum(kernel[:, j : j + 1] * padded[:, j : j + h.shape[1]] for j in range(7))
        u = dense(f"{block}.pwconv1", norm(f"{block}.norm", u + state[f"{root}{block}.dwconv.bias"][:, None]))
        u = dense(f"{block}.pwconv2", 0.5 * u * (1.0 + erf(u / np.sqrt(2.0))))
        h = h + state[f"{root}{block}.gamma"][:, None] * u
        i += 1
    return norm("final_layer_norm", h)
