"""The AudioAE in torch, of the parts of the vocos package; imported by the peers' side of a benchmark alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from vocos.heads import ISTFTHead
from vocos.models import VocosBackbone

LOG_FLOOR = 1e-5


class Encoder(torch.nn.Module):
    """Audio `[B, S]` -> latent `[B, T, C]`: log magnitude and phase of an STFT, Vocos' backbone, a linear layer."""

    def __init__(self, dim: int, intermediate: int, blocks: int, latent_channels: int, n_fft: int, hop: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.backbone = VocosBackbone(3 * (n_fft // 2 + 1), dim, intermediate, blocks)
        self.projection = torch.nn.Linear(dim, latent_channels)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        side = (self.n_fft - self.hop) // 2
        padded = torch.nn.functional.pad(audio, (side, side), mode="reflect")
        spectrum = torch.stft(padded, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)
        magnitude = spectrum.abs()
        phase = torch.where(magnitude == 0, 1.0, spectrum / magnitude)
        features = torch.cat([magnitude.clamp(min=LOG_FLOOR).log(), phase.real, phase.imag], dim=1)
        return self.projection(self.backbone(features))


class Decoder(torch.nn.Module):
    """Latent `[B, T, C]` -> audio `[B, S]`: Vocos' backbone and head."""

    def __init__(self, dim: int, intermediate: int, blocks: int, latent_channels: int, n_fft: int, hop: int):
        super().__init__()
        self.backbone = VocosBackbone(latent_channels, dim, intermediate, blocks)
        self.head = ISTFTHead(dim, n_fft, hop, padding="same")

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(latent.transpose(1, 2)))


class Autoencoder(torch.nn.Module):
    """Audio `[B, S]` -> audio; `sizes` are the fields of `AudioAutoencoder` with these names."""

    def __init__(self, sizes: Mapping[str, int], n_fft: int, hop: int):
        super().__init__()
        shared = sizes["dim"], sizes["intermediate"]
        self.encoder = Encoder(*shared, sizes["encoder_blocks"], sizes["latent_channels"], n_fft, hop)
        self.decoder = Decoder(*shared, sizes["decoder_blocks"], sizes["latent_channels"], n_fft, hop)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(audio))


def disturb(module: torch.nn.Module, size: float = 0.02) -> None:
    """Adds noise to every parameter: biases and norms that start at 0 and 1 would hide a mistake in copying them."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn_like(parameter))


def save(path: str, modules: Mapping[str, torch.nn.Module], **arrays: np.ndarray) -> None:
    """Writes the states of modules, each under its prefix, and further arrays into one .npz file."""
    states = {p + name: tensor for p, module in modules.items() for name, tensor in module.state_dict().items()}
    np.savez(path, **{name: tensor.numpy() for name, tensor in states.items()}, **arrays)
