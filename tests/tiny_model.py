"""A whole model folder with random parameters and tiny widths, for tests of everything that reads such a folder."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from spresso_jax.checkpoints.weights import Network, save_model
from spresso_jax.codec.networks import build, network_class, parameter_shapes

CAPTIONS = ("a dog barks twice", "rain on a tin roof", "a short metallic click")


def tiny_networks(downsample: int = 9, codebooks: int = 3, bits: int = 4, seed: int = 0) -> dict[str, Network]:
    """The six networks of a model, drawn with numpy (nothing compiles); no layer is zero, so all inputs matter."""
    configs = {
        "audio_ae": dict(dim=16, intermediate=24, encoder_blocks=1, decoder_blocks=1),
        "clap": dict(
            audio_width=8, audio_depths=[1, 1], audio_heads=[1, 2], image_size=64, mel_bins=16, samples=48_000,
            hop=480, vocabulary=300, text_width=16, text_layers=1, text_heads=2, text_mlp_width=32, text_positions=32,
            channels=8,
        ),
        "dit": dict(
            width=16, heads=2, joint_blocks=1, audio_blocks=1, text_width=16, text_tokens=16, pooled_text_width=8,
            mlp_ratio=2.0, patch=10, third_stream=True, lora_rank=2, noise_features=16, uncertainty_hidden=8,
        ),
        "latent_encoder": dict(width=16, heads=2, depth=1, downsample=downsample, mlp_ratio=2.0, patch=10),
        "projector": dict(width=16),
        "quantizer": dict(
            codebooks=codebooks, codewords=2**bits, hidden_width=8, blocks=1, preselect=4, beam=2, embedding_width=8
        ),
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    networks = {}
    for name, config in configs.items():
        described = Network(config, {}, network_class(name).__name__)
        shapes = parameter_shapes(name, build(name, described))
        params = jax.tree_util.tree_map_with_path(lambda path, leaf: _random(path[-1].key, leaf.shape, rng), shapes)
        networks[name] = Network(config, params, described.class_name)
    return networks


def silent_velocity(network: Network) -> Network:
    """A DiT that says zero to everything, and means a velocity by it."""
    zero = jax.tree.map(np.zeros_like, network.params["output"]["linear"])
    output = {**network.params["output"], "linear": zero}
    return Network({**network.config, "precond": "flow"}, {**network.params, "output": output}, network.class_name)


def build_tiny_model(
    folder: str | Path,
    downsample: int = 9,
    codebooks: int = 3,
    bits: int = 4,
    seed: int = 0,
    dtype: str = "float32",
    overwrite: bool = False,
    facts: dict | None = None,
) -> Path:
    """Writes a model folder that `Codec.load` reads; the whole thing compiles in seconds.

    Args:
      folder: where.
      downsample: t (4, 9, 20 or 100).
      codebooks: M, both trained and default.
      bits: log2 of the codewords.
      seed: other seeds give other models, with other model ids.
      dtype: storage.
      overwrite: replace a folder.
      facts: changes of the facts.

    Returns:
      the folder.
    """
    from spresso_jax.clap.tokenizer import train_tokenizer

    rng = np.random.default_rng(seed)
    tokens = 500 // downsample
    complete = {
        "name": "tiny",
        "operating_point": {
            "frame_rate": tokens // 5,
            "downsample": downsample,
            "codebook_bits": bits,
            "codebooks": codebooks,
            "trained_codebooks": codebooks,
        },
        "latent_statistics": {
            "mean": rng.normal(0.0, 0.1, 128).tolist(),
            "std": rng.uniform(0.5, 1.5, 128).tolist(),
            "sigma_data": 0.5,
        },
        "embedding_statistics": {"mean": [0.1] * 64, "std": [0.5] * 64},
        "silence_embedding": rng.normal(0.0, 0.5, (tokens, 64)).tolist(),
        "tokenizer": train_tokenizer(CAPTIONS, 300).to_json(),
        "licence": "CC0",
        "provenance": [{"stage": "none", "data": ["random parameters of a test"]}],
        **(facts or {}),
    }
    return save_model(folder, tiny_networks(downsample, codebooks, bits, seed), complete, dtype, overwrite)


def build_tiny_text_to_audio(folder: str | Path, seed: int = 0) -> Path:
    """Writes what the stage diffusion_ae starts from: AudioAE, CLAP and a DiT without third stream or adapters."""
    from spresso_jax.checkpoints.trees import flatten, unflatten
    from spresso_jax.checkpoints.weights import load_model

    whole = load_model(build_tiny_model(folder, seed=seed, facts={"text_tokens": 16}))
    dit = whole.networks["dit"]
    plain = Network({**dit.config, "third_stream": False, "lora_rank": 0}, {}, dit.class_name)
    have, wanted = flatten(dit.params), flatten(parameter_shapes("dit", build("dit", plain)))
    networks = {name: whole.networks[name] for name in ("audio_ae", "clap")}
    networks["dit"] = Network(plain.config, unflatten({path: have[path] for path in wanted}), dit.class_name)
    facts = {k: v for k, v in whole.facts.items() if k not in ("embedding_statistics", "silence_embedding")}
    return save_model(folder, networks, facts, overwrite=True)


def _random(leaf: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    values = rng.normal(size=shape)
    if leaf in ("scale", "data_std", "var") or leaf.endswith("_gain"):
        values = 1.0 + 0.1 * np.tanh(values)
    elif "codebook" not in leaf and leaf != "preselection":
        values = values / np.sqrt(max(1, np.prod(shape[-2:-1]))) if "kernel" in leaf else 0.1 * values
    return values.astype(np.float32)
