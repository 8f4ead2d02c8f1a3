"""The published layouts of Woosh-Flow and TextConditionerA as names and shapes, seeded weights in them, and the DiT in numpy.

Written from the description of the network alone, so that importer and test share nothing but the format.
"""

from __future__ import annotations

import numpy as np

EMPTY = "dit.preprocessing.memory_tokens_description"
TINY = dict(width=16, heads=2, hidden=24, joint=2, single=2, channels=6, tokens=5, text_width=10, features=4, logvar=3)
TINY_ROTARY = dict(
    max_seq_len=9, rope_len_multiplier=2, original_seq_len=9, rope_theta=100.0, rope_factor=4.0, qk_rope_head_dim=6
)
RELEASED_ROTARY = dict(
    max_seq_len=501, rope_len_multiplier=2, original_seq_len=501, rope_theta=10000.0, rope_factor=40.0,
    qk_rope_head_dim=112,
)  # fmt: skip


def flow_shapes(
    width: int = 1024, heads: int = 8, hidden: int = 4096, joint: int = 6, single: int = 6, channels: int = 128,
    tokens: int = 77, text_width: int = 1024, features: int = 128, logvar: int = 128,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Name -> shape of Woosh-Flow; the defaults are the published sizes. `features` counts frequencies."""
    pre, post, head = "dit.preprocessing.", "dit.postprocessing.", width // heads
    shapes = {
        f"{pre}memory_tokens_rope": (1, 1, width),
        EMPTY: (1, 0, width),
        f"{pre}description_pad": (tokens, text_width),
        f"{pre}timestep_features.weight": (features, 1),
        f"{pre}timestep_logvar.weight": (features, 1),
    }
    linear = {
        f"{pre}to_timestep_embed.0": (hidden, 2 * features), f"{pre}to_timestep_embed.2": (width, hidden),
        f"{pre}project_in": (width, channels),
        f"{pre}to_cond_embed.0": (hidden, text_width), f"{pre}to_cond_embed.2": (width, hidden),
        f"{pre}to_logvar.0": (logvar, 2 * features), f"{pre}to_logvar.2": (1, logvar),
        f"{post}mod_proj": (2 * width, width), f"{post}linear": (channels, width),
    }  # fmt: skip
    for i in range(joint):
        for stream in ("x", "description"):
            attention, mlp = f"dit.layers.{i}.attn.modalities.{stream}", f"dit.layers.{i}.ffns.{stream}"
            linear |= {f"{attention}.qkv": (3 * width, width), f"{attention}.out_proj": (width, width)}
            linear |= {f"{attention}.mod_proj": (3 * width, width), f"{mlp}.mod_proj": (3 * width, width)}
            linear |= {f"{mlp}.w1": (hidden, width), f"{mlp}.w2": (width, hidden)}
            shapes |= {f"{attention}.norm_{name}.weight": (head,) for name in "qk"}
    for i in range(joint, joint + single):
        block = f"dit.layers.{i}"
        linear |= {f"{block}.qkv_mlp": (3 * width + hidden, width), f"{block}.out_proj": (width, width + hidden)}
        linear[f"{block}.mod_proj"] = (3 * width, width)
        shapes |= {f"{block}.norm_{name}.weight": (head,) for name in "qk"}
    return shapes | _with_biases(linear)


def text_shapes(
    vocabulary: int = 50265, width: int = 1024, positions: int = 514, layers: int = 24, hidden: int = 4096,
    shared: int = 1024,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Name -> shape of TextConditionerA; the defaults are the published sizes."""
    root = "sentence_frontend"
    tables = {"word": (vocabulary, width), "position": (positions, width), "token_type": (1, width)}
    shapes = {f"{root}.embeddings.{name}_embeddings.weight": shape for name, shape in tables.items()}
    norms, linear = [f"{root}.embeddings.LayerNorm"], {f"{root}.pooler.dense": (width, width)}
    linear["sentence_head.0"] = (shared, width)
    for i in range(layers):
        layer = f"{root}.encoder.layer.{i}"
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        linear |= {f"{layer}.attention.self.{name}": (width, width) for name in ("query", "key", "value")}
        linear |= {f"{layer}.attention.output.dense": (width, width), f"{layer}.intermediate.dense": (hidden, width)}
        linear[f"{layer}.output.dense"] = (width, hidden)
    shapes |= {f"{name}.{leaf}": (width,) for name in norms for leaf in ("weight", "bias")}
    return shapes | _with_biases(linear)


def seeded(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded float32 weights of given names; nothing is zero, so that every part matters."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape)
        if "norm" in name.lower() and name.endswith("weight"):
            values = 1.0 + 0.2 * values
        elif len(shape) == 2 and "_features" not in name and "timestep_logvar" not in name and "embeddings" not in name:
            values = values / np.sqrt(shape[1])
        elif len(shape) == 1:
            values = 0.2 * values
        state[name] = values.astype(np.float32)
    return state


def reference_velocity(state, x, t, text, mask, rotary):
    """Velocity [T, C] and logvar of one clip x [T, C] at t, caption text [N, Dt] with mask [N], in float64."""
    w = {name.removeprefix("dit."): value.astype(np.float64) for name, value in state.items()}
    y = silu(noise_features(w, "timestep_features", "to_timestep_embed", t))
    pad = w["preprocessing.description_pad"]
    filled = np.where(mask[:, None], text, pad)
    c = dense(w, "preprocessing.to_cond_embed.2", silu(dense(w, "preprocessing.to_cond_embed.0", filled)))
    audio = np.concatenate([w["preprocessing.memory_tokens_rope"][0], dense(w, "preprocessing.project_in", x)])
    length, middle = len(x), rotary["max_seq_len"] * rotary["rope_len_multiplier"] // 2
    places = np.array([middle, *range(length)])
    i = 0
    while f"layers.{i}.attn.modalities.x.qkv.weight" in w:
        audio, c = _joint(w, f"layers.{i}.", audio, c, y, (places, np.zeros(len(c))), rotary)
        i += 1
    s, places = np.concatenate([audio, c]), np.concatenate([places, length + np.arange(len(c))])
    while f"layers.{i}.qkv_mlp.weight" in w:
        s = _single(w, f"layers.{i}.", s, y, places, rotary)
        i += 1
    shift, scale = np.split(dense(w, "postprocessing.mod_proj", y), 2)
    v = dense(w, "postprocessing.linear", layer_norm(s[1 : 1 + length]) * (1 + scale) + shift)
    return v, noise_features(w, "timestep_logvar", "to_logvar", t)[0]


def _with_biases(linear):
    return {
        f"{name}.{leaf}": shape if leaf == "weight" else shape[:1]
        for name, shape in linear.items()
        for leaf in ("weight", "bias")
    }


def dense(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def silu(x):
    return x / (1.0 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def layer_norm(x):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def noise_features(w, features, mlp, t):
    angles = 2.0 * np.pi * t * w[f"preprocessing.{features}.weight"][:, 0]
    basis = np.concatenate([np.cos(angles), np.sin(angles)])
    return dense(w, f"preprocessing.{mlp}.2", silu(dense(w, f"preprocessing.{mlp}.0", basis)))


def turned(x, places, rotary):
    """Heads [L, H, D], normalised, rotated in interleaved pairs by YaRN's frequencies."""
    dim, base, span = x.shape[-1], rotary["rope_theta"], rotary["original_seq_len"]
    j = np.arange(dim // 2)
    plain = base ** (-2.0 * j / dim)

    def column(turns):
        return dim * np.log(span / (2.0 * np.pi * turns)) / (2.0 * np.log(base))

    low, high = max(np.floor(column(32)), 0), min(np.ceil(column(1)), dim - 1)
    ramp = np.clip((j - low) / max(high - low, 1e-3), 0, 1)
    used = (plain * (1 - ramp) + plain / rotary["rope_factor"] * ramp)[: rotary["qk_rope_head_dim"] // 2]
    turn = np.exp(1j * places[:, None] * used)[:, None]
    size = 2 * len(used)
    pairs = (x[..., 0:size:2] + 1j * x[..., 1:size:2]) * turn
    out = x.copy()
    out[..., 0:size:2], out[..., 1:size:2] = pairs.real, pairs.imag
    return out


def heads_of(w, name, q, k, v, places, rotary):
    head = len(w[f"{name}norm_q.weight"])
    q, k, v = (part.reshape(len(part), -1, head) for part in (q, k, v))
    normed = (
        part / np.sqrt((part**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}norm_{letter}.weight"]
        for part, letter in ((q, "q"), (k, "k"))
    )
    return [turned(part, places, rotary) for part in normed] + [v]


def attend(q, k, v):
    logits = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hqk,khd->qhd", weights, v).reshape(len(q), -1)


def _joint(w, block, audio, text, y, places, rotary):
    streams, gates, parts = {"x": audio, "description": text}, {}, []
    for (name, m), where in zip(streams.items(), places, strict=True):
        root = f"{block}attn.modalities.{name}."
        shift, scale, gates[name] = np.split(dense(w, f"{root}mod_proj", y), 3)
        packed = dense(w, f"{root}qkv", layer_norm(m) * (1 + scale) + shift)
        parts.append(heads_of(w, root, *np.split(packed, 3, axis=1), where, rotary))
    attended = attend(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    out, start = [], 0
    for name, m in streams.items():
        m = m + gates[name] * dense(w, f"{block}attn.modalities.{name}.out_proj", attended[start : start + len(m)])
        start += len(m)
        mlp = f"{block}ffns.{name}."
        shift, scale, gate = np.split(dense(w, f"{mlp}mod_proj", y), 3)
        u = layer_norm(m) * (1 + scale) + shift
        out.append(m + gate * dense(w, f"{mlp}w2", gelu(dense(w, f"{mlp}w1", u))))
    return out


def _single(w, block, s, y, places, rotary):
    shift, scale, gate = np.split(dense(w, f"{block}mod_proj", y), 3)
    packed = dense(w, f"{block}qkv_mlp", layer_norm(s) * (1 + scale) + shift)
    width = s.shape[1]
    q, k, v, h = np.split(packed, [width, 2 * width, 3 * width], axis=1)
    attended = attend(*heads_of(w, block, q, k, v, places, rotary))
    return s + gate * dense(w, f"{block}out_proj", np.concatenate([attended, gelu(h)], axis=1))
