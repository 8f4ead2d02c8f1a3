"""The DiT with its third stream in torch, as the peer of `dit_train_step.py`: SD3's joint blocks and audio-only blocks.

Written as those models write them: one packed projection for queries, keys and values, rotary tables applied in float32,
`scaled_dot_product_attention`, GELU in its tanh form. Weights come from our parameter tree, so that both sides compute the
same function.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

EPSILON = 1e-6


def layer_norm(x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON)


def modulate(x: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return layer_norm(x) * (1 + scale[:, None]) + shift[:, None]


def rotate(x: torch.Tensor, table: torch.Tensor | None) -> torch.Tensor:
    """x [B, H, L, D], table [L, D / 2, 2]."""
    if table is None:
        return x
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = table[..., 0], table[..., 1]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)


class Stream(nn.Module):
    """One stream's half of a block; a `last` one gives keys and values only."""

    def __init__(self, width: int, heads: int, ratio: float, modulated: bool = True, last: bool = False):
        super().__init__()
        self.heads, self.last, self.modulated = heads, last, modulated
        self.qkv = nn.Linear(width, (2 if last else 3) * width)
        self.k_norm = nn.RMSNorm(width // heads, eps=EPSILON)
        if not last:
            self.q_norm = nn.RMSNorm(width // heads, eps=EPSILON)
            self.out = nn.Linear(width, width)
            self.fc1, self.fc2 = nn.Linear(width, int(ratio * width)), nn.Linear(int(ratio * width), width)
        if modulated:
            self.modulation = nn.Linear(width, (2 if last else 6) * width)

    def before(self, x: torch.Tensor, y: torch.Tensor, table: torch.Tensor | None) -> tuple:
        vectors = self.modulation(y).chunk(2 if self.last else 6, dim=-1) if self.modulated else None
        u = modulate(x, *vectors[:2]) if vectors else layer_norm(x)
        parts = self.qkv(u).unflatten(-1, (2 if self.last else 3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        k, v = parts[-2], parts[-1]
        q = None if self.last else rotate(self.q_norm(parts[0]), table)
        return q, rotate(self.k_norm(k), table), v, vectors[2:] if vectors else None

    def after(self, x: torch.Tensor, attended: torch.Tensor, vectors: tuple | None) -> torch.Tensor:
        attended = self.out(attended.transpose(1, 2).flatten(2))
        if vectors is None:
            x = x + attended
            return x + self.fc2(F.gelu(self.fc1(layer_norm(x)), approximate="tanh"))
        gate, shift, scale, mlp_gate = vectors
        x = x + gate[:, None] * attended
        hidden = F.gelu(self.fc1(modulate(x, shift, scale)), approximate="tanh")
        return x + mlp_gate[:, None] * self.fc2(hidden)


class JointBlock(nn.Module):
    """Text, audio and down; the last one keeps audio alone."""

    def __init__(self, width: int, heads: int, ratio: float, last: bool = False):
        super().__init__()
        self.text = Stream(width, heads, ratio, last=last)
        self.audio = Stream(width, heads, ratio)
        self.down = Stream(width, heads, ratio, modulated=False, last=last)

    def forward(self, carry: dict, y: torch.Tensor, tables: dict) -> dict:
        names = ("text", "audio", "down")
        parts = {name: getattr(self, name).before(carry[name], y, tables.get(name)) for name in names}
        k, v = (torch.cat([parts[name][i] for name in names], dim=2) for i in (1, 2))
        asking = [name for name in names if parts[name][0] is not None]
        q = torch.cat([parts[name][0] for name in asking], dim=2)
        attended = F.scaled_dot_product_attention(q, k, v).split([carry[name].shape[1] for name in asking], dim=2)
        out = dict(carry)
        for name, values in zip(asking, attended, strict=True):
            out[name] = getattr(self, name).after(carry[name], values, parts[name][3])
        return out


class Mlp(nn.Module):
    """Linear, SiLU, Linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.silu(self.fc1(x)))


class DiT(nn.Module):
    """The whole network; every caption is full, so that no position is padded."""

    def __init__(self, sizes: Mapping[str, int]):
        super().__init__()
        width, heads, ratio = sizes["width"], sizes["heads"], sizes["mlp_ratio"]
        hidden = int(ratio * width)
        self.audio_in = nn.Linear(sizes["latent_channels"], width)
        self.caption = Mlp(sizes["text_width"], hidden, width)
        self.noise_level = Mlp(sizes["noise_features"], hidden, width)
        blocks = range(sizes["joint_blocks"])
        self.joint = nn.ModuleList(JointBlock(width, heads, ratio, last=i == blocks[-1]) for i in blocks)
        self.single = nn.ModuleList(Stream(width, heads, ratio) for _ in range(sizes["audio_blocks"]))
        self.output_modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, sizes["latent_channels"])

    def forward(
        self, x: torch.Tensor, features: torch.Tensor, text: torch.Tensor, down: torch.Tensor, tables: dict
    ) -> torch.Tensor:
        """x [B, T, C], Fourier features of the noise level [B, 256], text [B, N, Dt], down [B, F, width] -> [B, T, C]."""
        y = F.silu(self.noise_level(features))
        carry = {"text": self.caption(text), "audio": self.audio_in(x), "down": down}
        for block in self.joint:
            carry = block(carry, y, tables)
        audio = carry["audio"]
        for block in self.single:
            q, k, v, vectors = block.before(audio, y, tables["audio"])
            audio = block.after(audio, F.scaled_dot_product_attention(q, k, v), vectors)
        shift, scale = self.output_modulation(y).chunk(2, dim=-1)
        return self.output(modulate(audio, shift, scale))


def load(model: DiT, flat: Mapping[str, np.ndarray]) -> None:
    """Fills the model from our parameters: path with slashes -> array, repeated blocks stacked on axis 0."""

    def fill(layer: nn.Linear, *names: str, index: int | None = None) -> None:
        def leaf(name: str, kind: str) -> np.ndarray:
            value = flat[f"{name}/{kind}"]
            return value if index is None else value[index]

        kernel = np.concatenate([leaf(name, "kernel") for name in names], axis=1)
        layer.weight.copy_(torch.from_numpy(kernel.T.copy()))
        layer.bias.copy_(torch.from_numpy(np.concatenate([leaf(name, "bias") for name in names])))

    def fill_stream(stream: Stream, name: str, index: int | None) -> None:
        queries = () if stream.last else ("q",)
        fill(stream.qkv, *(f"{name}/attention/{part}" for part in (*queries, "k", "v")), index=index)
        for part in (*queries, "k"):
            scale = flat[f"{name}/attention/{part}_norm/scale"]
            getattr(stream, f"{part}_norm").weight.copy_(torch.from_numpy(scale if index is None else scale[index]))
        if not stream.last:
            fill(stream.out, f"{name}/attention/out", index=index)
            fill(stream.fc1, f"{name}/mlp/fc1", index=index)
            fill(stream.fc2, f"{name}/mlp/fc2", index=index)
        if stream.modulated:
            fill(stream.modulation, f"{name}/modulation/linear", index=index)

    with torch.no_grad():
        fill(model.audio_in, "audio_in")
        for ours, mlp in (("caption", model.caption), ("noise_level", model.noise_level)):
            fill(mlp.fc1, f"{ours}/mlp/fc1")
            fill(mlp.fc2, f"{ours}/mlp/fc2")
        last = len(model.joint) - 1
        for index, block in enumerate(model.joint):
            where, at = ("joint_last", None) if index == last else ("joint", index)
            for name in ("text", "audio", "down"):
                fill_stream(getattr(block, name), f"{where}/{name}", at)
        for index, block in enumerate(model.single):
            fill_stream(block, "single/audio", index)
        fill(model.output_modulation, "output/modulation/linear")
        fill(model.output, "output/linear")
