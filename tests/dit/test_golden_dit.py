"""Whole small networks, text-to-audio and with the third stream, against the reference assembly."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_blocks as ref
from golden_files import families

from spresso_jax.dit.model import DiT
from spresso_jax.nn.rope import rope_table

pytestmark = pytest.mark.golden


def noise_head(w, features, mlp):
    return {
        "basis": {"frequencies": w[f"pre.{features}.weight"][:, 0]},
        "mlp": {"fc1": ref.dense(w, f"pre.{mlp}.0"), "fc2": ref.dense(w, f"pre.{mlp}.2")},
    }


def joint(w, layer, third, last):
    attn, ffn = f"layers.{layer}.attn.modalities", f"layers.{layer}.ffns"
    tree = {
        "audio": ref.woosh_stream(w, f"{attn}.x", f"{ffn}.x"),
        "text": ref.woosh_stream(w, f"{attn}.description", f"{ffn}.description", keys_only=last),
    }
    if third:
        tree["down"] = ref.woosh_stream(w, f"{attn}.down", f"{ffn}.down", modulated=False, keys_only=last)
    return tree


def stack(trees):
    if isinstance(trees[0], dict):
        return {k: stack([t[k] for t in trees]) for k in trees[0]}
    return np.stack(trees)


@pytest.mark.parametrize("path", families("diffusion", "dit_"), ids=lambda p: p.stem)
def test_whole_network_matches_the_reference(path):
    golden = np.load(path)
    w = {k.removeprefix("net/w/"): golden[k] for k in golden.files if k.startswith("net/w/")}
    config, third = json.loads(str(golden["config_json"])), "z" in golden.files
    multimodal, layers, frames = config["n_multimodal_layers"], config["n_layers"], golden["x_in"].shape[-1]
    length = config["original_seq_len"]
    scaled = config["max_seq_len"] * config["rope_len_multiplier"] > length
    net = DiT(
        width=config["dim"], heads=config["n_heads"], joint_blocks=multimodal, audio_blocks=layers - multimodal,
        text_width=config["cond_token_dim"], text_tokens=config["max_description_length"],
        latent_channels=config["io_channels"], mlp_ratio=config["inter_dim"] / config["dim"], third_stream=third,
        registers=config["n_memory_tokens_rope"], register_position=length * config["rope_len_multiplier"] // 2,
        rope_theta=config["rope_theta"], rope_dim=config["qk_rope_head_dim"],
        yarn_factor=config["rope_factor"] if scaled else 0.0, yarn_length=length,
        noise_features=config["timestep_features_dim"], learned_noise_features=not config["fixed_timestep_features"],
        uncertainty_hidden=w["pre.to_logvar.0.bias"].size,
    )
    table = rope_table(
        [net.register_position, *range(frames)], net.width // net.heads, net.rope_theta, net.rope_dim, net.yarn_factor,
        net.yarn_length,
    )
    np.testing.assert_allclose(table, golden["freqs_cis"][: frames + 1, : net.rope_dim // 2], atol=1e-5)
    params = {
        "audio_in": ref.dense(w, "pre.project_in"),
        "caption": {
            "pad": w["pre.description_pad"],
            "mlp": {"fc1": ref.dense(w, "pre.to_cond_embed.0"), "fc2": ref.dense(w, "pre.to_cond_embed.2")},
        },
        "noise_level": noise_head(w, "timestep_features", "to_timestep_embed"),
        "uncertainty_head": noise_head(w, "timestep_logvar", "to_logvar"),
        "register": w["pre.memory_tokens_rope"][0],
        "joint": stack([joint(w, i, third, False) for i in range(multimodal - 1)]),
        "joint_last": joint(w, multimodal - 1, third, True),
        "single": stack(
            [{"audio": ref.woosh_stream(w, f"layers.{i}.attn", f"layers.{i}.ffn")} for i in range(multimodal, layers)]
        ),
        "output": {"modulation": ref.modulation(w, "post.mod_proj"), "linear": ref.dense(w, "post.linear")},
    }
    condition, downsample = None, None
    if third:
        condition = jnp.asarray(golden["z"] @ w["f_phi.weight"].T)
        downsample = int(golden["down_pos"][1] - golden["down_pos"][0])
    inputs = [jnp.asarray(golden[n]) for n in ("x_in", "c_noise", "text", "text_mask")]
    x, mask = inputs[0].transpose(0, 2, 1), inputs[3].astype(bool)
    run = jax.jit(net.apply, static_argnums=7)
    out = run({"params": params}, x, *inputs[1:3], mask, None, condition, downsample)
    np.testing.assert_allclose(out.transpose(0, 2, 1), golden["F_x"], atol=2e-5, rtol=0)
    u = net.apply({"params": params}, inputs[1], method="uncertainty")
    np.testing.assert_allclose(u, golden["logvar"], atol=2e-5, rtol=0)
    print(f"{path.name}: 1 network")
