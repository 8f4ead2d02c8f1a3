"""Turns blocks in the layouts of SD3, FLUX and Woosh (torch state dicts) into our parameter trees, for golden tests."""

import numpy as np


def dense(weights, name):
    """A torch Linear as our Dense."""
    out = {"kernel": weights[f"{name}.weight"].T}
    if f"{name}.bias" in weights:
        out["bias"] = weights[f"{name}.bias"]
    return out


def split_dense(weights, name, sizes):
    """A torch Linear whose outputs are several layers, as a list of our Dense layers."""
    cuts = np.cumsum(sizes)[:-1]
    kernels = np.split(weights[f"{name}.weight"].T, cuts, axis=1)
    biases = np.split(weights[f"{name}.bias"], cuts)
    return [{"kernel": k, "bias": b} for k, b in zip(kernels, biases, strict=True)]


def attention(weights, qkv, out=None, q_norm=None, k_norm=None, queries=True):
    """Projections from a packed qkv layer; `out`, norms and queries may be absent."""
    width = weights[f"{qkv}.weight"].shape[1]
    q, k, v = split_dense(weights, qkv, [width] * 3)
    tree = {"k": k, "v": v} | ({"q": q} if queries else {}) | ({"out": dense(weights, out)} if out else {})
    if q_norm and q_norm in weights:
        tree["k_norm"] = {"scale": weights[k_norm]}
        if queries:
            tree["q_norm"] = {"scale": weights[q_norm]}
    return tree


def modulation(weights, *names):
    """One modulation layer from one or more torch layers in a row."""
    layers = [dense(weights, name) for name in names]
    kernel = np.concatenate([layer["kernel"] for layer in layers], axis=1)
    return {"linear": {"kernel": kernel, "bias": np.concatenate([layer["bias"] for layer in layers])}}


def sd3_stream(weights, name, pre_only=False):
    """One half of an SD3 joint block."""
    tree = {
        "attention": attention(
            weights, f"{name}.attn.qkv", None if pre_only else f"{name}.attn.proj", f"{name}.attn.ln_q.weight",
            f"{name}.attn.ln_k.weight", queries=not pre_only,
        ),
        "modulation": modulation(weights, f"{name}.adaLN_modulation.1"),
    }
    return tree if pre_only else tree | {"mlp": {n: dense(weights, f"{name}.mlp.{n}") for n in ("fc1", "fc2")}}


def flux_stream(weights, name):
    """One half of a FLUX double block."""
    norm = f"{name}_attn.norm"
    return {
        "attention": attention(
            weights, f"{name}_attn.qkv", f"{name}_attn.proj", f"{norm}.query_norm.scale", f"{norm}.key_norm.scale"
        ),
        "modulation": modulation(weights, f"{name}_mod.lin"),
        "mlp": {"fc1": dense(weights, f"{name}_mlp.0"), "fc2": dense(weights, f"{name}_mlp.2")},
    }


def woosh_stream(weights, attn, ffn, modulated=True, keys_only=False):
    """One stream of a Woosh block; `keys_only` keeps what a last stream needs."""
    tree = {
        "attention": attention(
            weights, f"{attn}.qkv", None if keys_only else f"{attn}.out_proj", f"{attn}.norm_q.weight",
            f"{attn}.norm_k.weight", queries=not keys_only,
        )
    }
    if modulated:
        tree["modulation"] = modulation(weights, f"{attn}.mod_proj", f"{ffn}.mod_proj")
        if keys_only:
            width = tree["modulation"]["linear"]["kernel"].shape[0]
            tree["modulation"]["linear"] = {k: v[..., : 2 * width] for k, v in tree["modulation"]["linear"].items()}
    if not keys_only:
        tree["mlp"] = {"fc1": dense(weights, f"{ffn}.w1"), "fc2": dense(weights, f"{ffn}.w2")}
    return tree


def parallel(weights, packed, out, q_norm, k_norm, modulation_layer):
    """A FLUX single block (or Woosh's, which is the same)."""
    total, width = weights[f"{packed}.weight"].shape
    q, k, v, hidden = split_dense(weights, packed, [width] * 3 + [total - 3 * width])
    return {
        "attention": {
            "q": q, "k": k, "v": v, "q_norm": {"scale": weights[q_norm]}, "k_norm": {"scale": weights[k_norm]}
        },
        "fc1": hidden, "out": dense(weights, out), "modulation": modulation(weights, modulation_layer),
    }


def magnitude_joint_block(params, carry, y, tables, heads, last):
    """EDM2's rules on the streams of a joint block, in float64 NumPy and straight from the formulas.

    Args:
      params: {"text", "audio", "down": {layer: {"mp_kernel", "gain"}}, "down_bias": [H]}.
      carry, y, tables, last: as in our JointBlock; the third stream is not modulated.
    """

    def unit(x, axis=-1):
        return x / (1e-4 + np.sqrt(np.mean(np.square(x), axis=axis, keepdims=True)))

    def linear(layer, x):
        kernel = np.asarray(layer["mp_kernel"], np.float64)
        return float(layer.get("gain", 1.0)) * (x @ unit(kernel, 0)) / np.sqrt(len(kernel))

    def added(x, branch):
        return (0.7 * x + 0.3 * branch) / np.sqrt(0.58)

    def turned(x, table):  # complex multiplication of the interleaved pairs; x [B, L, H, head_dim]
        if table is None:
            return x
        z = (x[..., ::2] + 1j * x[..., 1::2]) * (table[..., 0] + 1j * table[..., 1]).astype(complex)[:, None]
        return np.stack([z.real, z.imag], axis=-1).reshape(x.shape)

    def split(x):
        return unit(x.reshape(*x.shape[:2], heads, -1))

    names = ("text", "audio", "down")
    x = {name: unit(np.asarray(carry[name], np.float64)) for name in names}
    quiet = {name: last and name != "audio" for name in names}
    scale = {
        name: [1.0, 1.0] if name == "down" else
        np.split(1.0 + linear(params[name]["modulation"], np.asarray(y))[:, None], 1 if quiet[name] else 2, -1)
        for name in names
    }
    u = {name: x[name] * scale[name][0] for name in names}
    k = np.concatenate([turned(split(linear(params[n]["k"], u[n])), tables.get(n)) for n in names], 1)
    v = np.concatenate([split(linear(params[n]["v"], u[n])) for n in names], 1)
    bias = np.concatenate([np.zeros((heads, k.shape[1] - x["down"].shape[1])),
                           np.repeat(np.asarray(params["down_bias"], np.float64)[:, None], x["down"].shape[1], 1)], 1)
    out = {}
    for name in names:
        if quiet[name]:
            out[name] = np.asarray(carry[name])
            continue
        q = turned(split(linear(params[name]["q"], u[name])), tables.get(name))
        logits = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1]) + bias[:, None]
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        attended = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v).reshape(x[name].shape)
        middle = added(x[name], linear(params[name]["out"], attended))
        hidden = linear(params[name]["fc1"], middle * scale[name][1])
        out[name] = added(middle, linear(params[name]["fc2"], hidden / (1.0 + np.exp(-hidden)) / 0.596))
    return out
