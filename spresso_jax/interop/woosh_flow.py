"""The public Woosh-Flow, a text-to-audio DiT trained by flow matching, turned into our DiT as an EDM denoiser.

It serves as it stands (`precond="flow"`, see diffusion/edm.py): nothing is fitted. Where it differs from S-PRESSO's DiT
it keeps its own form: text stays in the last blocks, at positions after the audio; a learned register token at the
middle of the rotary table; YaRN frequencies on seven eighths of each head; no pooled text.

Its weights are CC BY-NC 4.0. Source: Woosh (MIT code, names and layouts of its release v1.0.0).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.interop.foreign_tensors import ForeignTensors, read_tensors
from spresso_jax.interop.woosh import published_files

PRE, POST = "dit.preprocessing.", "dit.postprocessing."
# Of the right shape, but empty: the released model has no such tokens.
EMPTY = f"{PRE}memory_tokens_description"
STREAMS = {"audio": "x", "text": "description"}

# What config.yaml may say and still mean our DiT; what shapes tell is compared with them instead.
STATED = {
    "model_type": "mmmssflux",
    "fixed_timestep_features": False,
    "n_memory_tokens_description": 0,
    "beta_fast": 32,
    "beta_slow": 1,
    "adaln_last_layer": True,
    "adaln_last_layer_nomod": False,
    "mask_out_before": -1,
    "estimate_logvar": True,
    "no_description_mask": True,
    "patch_size": 1,
    "num_sinks": 0,
    "mlp_act": "gelu",
}
STATED_OUTSIDE = {"pred_type": "v_pred", "sigma_data": 1.0}
# Fields of `dit` in config.yaml that no shape tells; without them the network is not known.
ROTARY = (
    "max_seq_len", "rope_len_multiplier", "original_seq_len", "rope_theta", "rope_factor", "qk_rope_head_dim",
)  # fmt: skip


@dataclass(frozen=True)
class WooshFlow:
    """An imported Woosh-Flow.

    Attributes:
      config: fields of `DiT`.
      params: its parameters, float32.
      frames: length of the clips that it was trained on.
      dtypes: data types found in the file.
      weights_file: where it was read, or None.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    frames: int
    dtypes: tuple[str, ...]
    weights_file: Path | None = None

    def with_null_caption(self, states: np.ndarray, mask: np.ndarray) -> WooshFlow:
        """The same network, whose learned pads make Woosh's null caption out of ours.

        Ours masks every position; theirs is the empty caption, whose start and end tokens are not masked. No caption masks
        those two, so their pads are never used otherwise and take the states of the empty caption: nothing else changes.

        Args:
          states: [N, Dt] of the empty caption.
          mask: [N] bool, which of them are not padding.

        Raises:
          ValueError: if the states do not belong to this network.
        """
        pad = self.params["caption"]["pad"]
        if states.shape != pad.shape or mask.shape != pad.shape[:1]:
            raise ValueError(
                f"the text tower gives {states.shape[0]} states of width {states.shape[-1]}, the DiT was trained with "
                f"{pad.shape[0]} of width {pad.shape[1]}: they do not belong together"
            )
        filled = np.where(mask.astype(bool)[:, None], states, pad).astype(np.float32)
        params = {**self.params, "caption": {**self.params["caption"], "pad": filled}}
        return dataclasses.replace(self, params=params)


def flow_from_state(
    state: Mapping[str, np.ndarray], stated: Mapping[str, Any], source: str = "the Woosh-Flow weights"
) -> WooshFlow:
    """DiT of a Woosh-Flow state dict; sizes are read off the shapes, the rotary table off the config.

    Args:
      state: tensors by their published names.
      stated: contents of `config.yaml`; its `dit` must not contradict the shapes.
      source: what messages call the weights.

    Raises:
      ValueError: listing tensors that are missing, unexpected or of another shape, or naming the field of the config that
        is missing, contradicts the shapes, or describes another network.
    """
    tensors = ForeignTensors(state, source)
    stated_dit = stated.get("dit")
    if not isinstance(stated_dit, Mapping):
        raise ValueError(f"{source}: config.yaml has no section dit, which describes the network")
    config = _config(tensors, stated_dit, source)
    _check_stated(stated, stated_dit, config, source)
    if EMPTY in tensors:
        if np.prod(tensors.shape(EMPTY)):
            raise ValueError(f"{source}: {EMPTY!r} holds tokens, which our DiT has no place for")
        tensors.drop([EMPTY])
    tensors.require(_shapes(config))
    width, joint = config["width"], config["joint_blocks"]
    joints = [_joint(tensors, f"dit.layers.{i}.") for i in range(joint)]
    singles = [_single(tensors, f"dit.layers.{joint + i}.", width) for i in range(config["audio_blocks"])]
    params = {
        "audio_in": _dense(tensors, f"{PRE}project_in"),
        "caption": {"pad": tensors.take(f"{PRE}description_pad"), "mlp": _mlp(tensors, f"{PRE}to_cond_embed.", "0", "2")},
        "noise_level": _noise_level(tensors, "timestep_features", "to_timestep_embed"),
        "uncertainty_head": _noise_level(tensors, "timestep_logvar", "to_logvar"),
        "register": tensors.take(f"{PRE}memory_tokens_rope")[0],
        "joint_last": joints[-1],
        "output": {
            "modulation": {"linear": _dense(tensors, f"{POST}mod_proj")},
            "linear": _dense(tensors, f"{POST}linear"),
        },
    }
    if joint > 1:
        params["joint"] = _stacked(joints[:-1])
    if singles:
        params["single"] = _stacked(singles)
    tensors.finish()
    return WooshFlow(config, params, int(stated_dit["max_seq_len"]), tensors.dtypes)


def read_woosh_flow(folder: str | Path) -> WooshFlow:
    """DiT of a downloaded and unpacked `Woosh-Flow` folder.

    Reads `config.yaml` and `weights.safetensors` or, if that is absent, `weights.pt`.

    Raises:
      ValueError: if the folder, its config or its weights are missing or damaged, or as in `flow_from_state`.
    """
    file, stated = published_files(folder, "Woosh-Flow")
    if stated is None:
        raise ValueError(f"{file.parent / 'config.yaml'} is missing: it tells the rotary table, which no weight does")
    return dataclasses.replace(flow_from_state(read_tensors(file), stated, str(file)), weights_file=file)


def rotary_fields(stated: Mapping[str, Any], source: str = "Woosh-Flow") -> dict[str, Any]:
    """Fields of `DiT` for positions and the register's place, from the section `dit` of a config.

    Raises:
      ValueError: naming a field that is missing or no number.
    """
    for name in ROTARY:
        if not isinstance(stated.get(name), (int, float)):
            raise ValueError(f"{source}: dit.{name} of config.yaml must be a number, got {stated.get(name)!r}")
    table, original = int(stated["max_seq_len"] * stated["rope_len_multiplier"]), int(stated["original_seq_len"])
    return {
        "register_position": table // 2,
        "rope_theta": float(stated["rope_theta"]),
        "rope_dim": int(stated["qk_rope_head_dim"]),
        # The reference scales its frequencies as soon as the table is longer than the sequences were.
        "yarn_factor": float(stated["rope_factor"]) if table > original else 0.0,
        "yarn_length": original,
    }


def _config(tensors: ForeignTensors, stated: Mapping[str, Any], source: str) -> dict[str, Any]:
    layers = tensors.count("dit.layers.", "layer")
    joint = next((i for i in range(layers) if not tensors.any_with(f"dit.layers.{i}.attn.")), layers)
    width, channels = tensors.shape(f"{PRE}project_in.weight", 2)
    hidden, _ = tensors.shape(f"{PRE}to_cond_embed.0.weight", 2)
    tokens, text_width = tensors.shape(f"{PRE}description_pad", 2)
    features, _ = tensors.shape(f"{PRE}timestep_features.weight", 2)
    uncertainty, _ = tensors.shape(f"{PRE}to_logvar.0.weight", 2)
    _, registers, _ = tensors.shape(f"{PRE}memory_tokens_rope", 3)
    if joint == 0:
        raise ValueError(f"{source}: layer 0 is no joint block (no name begins with 'dit.layers.0.attn.')")
    (head,) = tensors.shape("dit.layers.0.attn.modalities.x.norm_q.weight", 1)
    if not head or width % head:
        raise ValueError(f"{source}: heads of {head} channels do not divide the width {width}")
    return {
        "width": width,
        "heads": width // head,
        "joint_blocks": joint,
        "audio_blocks": layers - joint,
        "text_width": text_width,
        "text_tokens": tokens,
        "latent_channels": channels,
        "mlp_ratio": hidden / width,
        "single_style": "parallel",
        "single_text": True,
        "registers": registers,
        **rotary_fields(stated, source),
        "noise_features": 2 * features,
        "learned_noise_features": True,
        "uncertainty_hidden": uncertainty,
        "precond": "flow",
    }


def _check_stated(
    stated: Mapping[str, Any], stated_dit: Mapping[str, Any], config: Mapping[str, Any], source: str
) -> None:
    """Compares a config.yaml with what is supported and with the sizes that the shapes gave; absent fields pass."""
    head = config["width"] // config["heads"]
    sizes = {
        "dim": config["width"],
        "inter_dim": round(config["width"] * config["mlp_ratio"]),
        "n_heads": config["heads"],
        "n_layers": config["joint_blocks"] + config["audio_blocks"],
        "n_multimodal_layers": config["joint_blocks"],
        "qk_nope_head_dim": head - config["rope_dim"],
        "qkv_head_dim": head,
        "n_memory_tokens_rope": config["registers"],
        "io_channels": config["latent_channels"],
        "cond_token_dim": config["text_width"],
        "max_description_length": config["text_tokens"],
        "timestep_features_dim": config["noise_features"],
    }
    for where, known, found in (("", STATED_OUTSIDE, stated), ("dit.", STATED, stated_dit), ("dit.", sizes, stated_dit)):
        for name, value in known.items():
            if found.get(name) is not None and found[name] != value:
                reason = "the weights have" if known is sizes else "supported is"
                raise ValueError(f"{source}: config.yaml states {where}{name} = {found[name]!r}, {reason} {value!r}")
    if not 0 < config["rope_dim"] <= head or config["rope_dim"] % 2:
        raise ValueError(f"{source}: dit.qk_rope_head_dim = {config['rope_dim']} must be even and at most {head}")


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every name of the published file but `EMPTY`."""
    width, hidden = config["width"], round(config["width"] * config["mlp_ratio"])
    features, uncertainty, channels = config["noise_features"], config["uncertainty_hidden"], config["latent_channels"]
    head = width // config["heads"]
    shapes = {
        f"{PRE}memory_tokens_rope": (1, config["registers"], width),
        f"{PRE}description_pad": (config["text_tokens"], config["text_width"]),
        f"{PRE}timestep_features.weight": (features // 2, 1),
        f"{PRE}timestep_logvar.weight": (features // 2, 1),
    }
    dense = {
        f"{PRE}to_timestep_embed.0": (hidden, features),
        f"{PRE}to_timestep_embed.2": (width, hidden),
        f"{PRE}project_in": (width, channels),
        f"{PRE}to_cond_embed.0": (hidden, config["text_width"]),
        f"{PRE}to_cond_embed.2": (width, hidden),
        f"{PRE}to_logvar.0": (uncertainty, features),
        f"{PRE}to_logvar.2": (1, uncertainty),
        f"{POST}mod_proj": (2 * width, width),
        f"{POST}linear": (channels, width),
    }
    normed = []
    for i in range(config["joint_blocks"]):
        for name in STREAMS.values():
            attention, mlp = f"dit.layers.{i}.attn.modalities.{name}.", f"dit.layers.{i}.ffns.{name}."
            normed.append(attention)
            dense |= {f"{attention}qkv": (3 * width, width), f"{attention}out_proj": (width, width)}
            dense |= {f"{attention}mod_proj": (3 * width, width), f"{mlp}mod_proj": (3 * width, width)}
            dense |= {f"{mlp}w1": (hidden, width), f"{mlp}w2": (width, hidden)}
    for i in range(config["joint_blocks"], config["joint_blocks"] + config["audio_blocks"]):
        block = f"dit.layers.{i}."
        normed.append(block)
        dense |= {f"{block}qkv_mlp": (3 * width + hidden, width), f"{block}out_proj": (width, width + hidden)}
        dense[f"{block}mod_proj"] = (3 * width, width)
    for name, shape in dense.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes | {f"{name}{norm}.weight": (head,) for name in normed for norm in ("norm_q", "norm_k")}


def _dense(tensors: ForeignTensors, *names: str) -> dict:
    """One dense layer from linear layers `[out, in]`, side by side when there are several."""
    weights, biases = ([tensors.take(f"{name}.{leaf}") for name in names] for leaf in ("weight", "bias"))
    if len(names) == 1:
        return {"kernel": weights[0].T, "bias": biases[0]}
    return {"kernel": np.concatenate(weights).T, "bias": np.concatenate(biases)}


def _split(layer: Mapping[str, np.ndarray], width: int) -> list[dict]:
    """A packed layer as layers of `width` outputs: queries, keys, values, and what is left."""
    parts = (np.split(layer[leaf], [width, 2 * width, 3 * width], axis=-1) for leaf in ("kernel", "bias"))
    return [{"kernel": kernel, "bias": bias} for kernel, bias in zip(*parts, strict=True)]


def _norms(tensors: ForeignTensors, root: str) -> dict:
    return {f"{name}_norm": {"scale": tensors.take(f"{root}norm_{name}.weight")} for name in ("q", "k")}


def _mlp(tensors: ForeignTensors, root: str, first: str, second: str) -> dict:
    return {"fc1": _dense(tensors, f"{root}{first}"), "fc2": _dense(tensors, f"{root}{second}")}


def _noise_level(tensors: ForeignTensors, features: str, mlp: str) -> dict:
    frequencies = tensors.take(f"{PRE}{features}.weight")[:, 0]
    return {"basis": {"frequencies": frequencies}, "mlp": _mlp(tensors, f"{PRE}{mlp}.", "0", "2")}


def _joint(tensors: ForeignTensors, block: str) -> dict:
    streams = {}
    for ours, theirs in STREAMS.items():
        attention, mlp = f"{block}attn.modalities.{theirs}.", f"{block}ffns.{theirs}."
        packed = _dense(tensors, f"{attention}qkv")
        q, k, v, _ = _split(packed, packed["kernel"].shape[0])
        streams[ours] = {
            "attention": {
                "q": q, "k": k, "v": v, "out": _dense(tensors, f"{attention}out_proj"), **_norms(tensors, attention)
            },
            "mlp": _mlp(tensors, mlp, "w1", "w2"),
            # Shift, scale and gate of the attention, then of the MLP.
            "modulation": {"linear": _dense(tensors, f"{attention}mod_proj", f"{mlp}mod_proj")},
        }  # fmt: skip
    return streams


def _single(tensors: ForeignTensors, block: str, width: int) -> dict:
    q, k, v, hidden = _split(_dense(tensors, f"{block}qkv_mlp"), width)
    return {
        "attention": {"q": q, "k": k, "v": v, **_norms(tensors, block)},
        "fc1": hidden,
        "out": _dense(tensors, f"{block}out_proj"),
        "modulation": {"linear": _dense(tensors, f"{block}mod_proj")},
    }


def _stacked(blocks: list[dict]) -> dict:
    """Blocks as one tree with a leading axis, which is how our scan keeps them."""
    first = blocks[0]
    if not isinstance(first, dict):
        return np.stack(blocks)
    return {name: _stacked([block[name] for block in blocks]) for name in first}
