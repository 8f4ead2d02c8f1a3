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
