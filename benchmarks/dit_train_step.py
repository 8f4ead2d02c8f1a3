"""How fast is the DiT? Forward pass and training step with its third stream, beside the same in torch, two threads each.

    python -m venv peers
    peers/bin/pip install torch==2.13.0
    python benchmarks/dit_train_step.py --peer-python peers/bin/python

Batch 2, 500 audio, 77 text and 125 down tokens, 6 + 6 blocks, width 384 (`--width 1024 --heads 8` for the paper's). Weights and
inputs are the same on both sides (`dit_torch.py`), and the run fails if the outputs differ. A step is forward, backward and
AdamW on every weight, against a fixed target; `lora` is the same network with adapters, of which only adapters and third
stream are trained, as in step 1 of S-PRESSO (without g_psi and f_phi, which are the same in both).

Prints one JSON line: median seconds; how many times as fast as torch we are (medians over the repetitions of the ratio within
each); the LoRA step's share of the full step's seconds, and of its bytes of gradients and moments; GFLOP/s by matrix products
alone (`gflop`: three forward passes a step), and `share_of_peak`, beside the best of float32 products of 512 to 4096 in the same
turns.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from pairing import THREADS, Side, alternate, median_ratio, rounded, run, serve

BATCH, FRAMES, TOKENS, DOWNSAMPLE = 2, 500, 77, 4
MATRICES = (512, 1024, 2048, 4096)
SIZES = dict(
    joint_blocks=6,
    audio_blocks=6,
    mlp_ratio=4.0,
    latent_channels=128,
    text_width=512,
    text_tokens=TOKENS,
    noise_features=256,
)
TRAINED_IN_STEP_1 = r"(/|_)down|lora_[ab]$"
LARGEST_DIFFERENCE = 1e-3  # in standard deviations of the output
RATE = 1e-4


def gflop(width: int) -> float:
    """Of one forward pass: products of blocks and attention, two a multiplication."""
    audio, text, down, ratio = FRAMES, TOKENS, FRAMES // DOWNSAMPLE, SIZES["mlp_ratio"]
    joint, single = SIZES["joint_blocks"], SIZES["audio_blocks"]
    layer = (4 + 2 * ratio) * width**2
    stream = (joint + single) * audio * layer + (joint - 1) * (text + down) * layer + (text + down) * 2 * width**2
    every = audio + text + down
    attended = 2 * width * ((joint - 1) * every * every + audio * every + single * audio**2)
    return 2e-9 * BATCH * (stream + attended)


def ours(weights: str, width: int, heads: int) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from spresso_jax.checkpoints.trees import flatten
    from spresso_jax.dit.model import DiT
    from spresso_jax.nn.fourier import fixed_features
    from spresso_jax.train.state import combine, select

    keys = iter(jax.random.split(jax.random.key(0), 64))
    x, target = (jax.random.normal(next(keys), (BATCH, FRAMES, SIZES["latent_channels"])) for _ in range(2))
    c_noise = jnp.asarray([-0.3, 0.2])
    text = jax.random.normal(next(keys), (BATCH, TOKENS, SIZES["text_width"]))
    down = jax.random.normal(next(keys), (BATCH, FRAMES // DOWNSAMPLE, width))
    told = (text, jnp.ones((BATCH, TOKENS), bool), None, down, DOWNSAMPLE)

    def made(rank: int) -> tuple[DiT, Any]:
        module = DiT(width=width, heads=heads, third_stream=True, lora_rank=rank, **SIZES)
        tree = jax.jit(lambda key: module.init(key, x, c_noise, *told)["params"])(jax.random.key(0))
        # Layers that start at zero would hide differences.
        return module, jax.tree.map(lambda leaf: leaf + 0.02 * jax.random.normal(jax.random.key(1), leaf.shape), tree)

    def step_of(module: DiT, params: Any, owned: Any) -> tuple[Any, Any]:
        optimizer = optax.adamw(RATE)

        def loss(leaves: Any, params: Any) -> jax.Array:
            out = module.apply({"params": combine(params, leaves)}, x, c_noise, *told)
            return jnp.mean(jnp.square(out - target))

        def step(leaves: Any, state: Any, params: Any) -> tuple[Any, Any]:
            updates, state = optimizer.update(jax.grad(loss)(leaves, params), state, leaves)
            return optax.apply_updates(leaves, updates), state

        compiled = jax.jit(step, donate_argnums=(0, 1))
        held = {"leaves": jax.tree.map(jnp.array, owned), "state": optimizer.init(owned)}

        def once() -> None:
            held["leaves"], held["state"] = compiled(held["leaves"], held["state"], params)
            jax.block_until_ready(held["leaves"])

        return once, sum(leaf.nbytes for leaf in jax.tree.leaves((owned, held["state"])))

    module, params = made(0)
    forward = jax.jit(lambda params, x: module.apply({"params": params}, x, c_noise, *told))
    features = fixed_features(c_noise, SIZES["noise_features"])
    arrays = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    given = {"x": x, "features": features, "text": text, "down": down, "target": target, "out": forward(params, x)}
    np.savez(weights, **{f"params/{name}": leaf for name, leaf in arrays.items()}, **given)
    full, full_bytes = step_of(module, params, params)
    adapted, adapted_params = made(32)
    lora, lora_bytes = step_of(adapted, adapted_params, select(adapted_params, TRAINED_IN_STEP_1))
    matrices = {size: jax.random.normal(jax.random.key(size), (size, size)) for size in MATRICES}
    multiply = jax.jit(jnp.matmul)
    products = {
        f"matmul {size}": lambda matrix=matrix: multiply(matrix, matrix).block_until_ready()
        for size, matrix in matrices.items()
    }
    facts = {
        "versions": {"jax": jax.__version__},
        "parameters": sum(leaf.size for leaf in arrays.values()),
        "bytes": {"full": full_bytes, "lora": lora_bytes},
    }
    runs = {"forward": lambda: forward(params, x).block_until_ready(), "step": full, "lora": lora}
    serve(facts, runs | products)


def theirs(weights: str, width: int, heads: int) -> None:
    import numpy as np
    import torch
    from dit_torch import DiT, load

    torch.set_num_threads(THREADS)
    with np.load(weights) as file:
        given = {name: torch.from_numpy(file[name]) for name in file.files if not name.startswith("params/")}
        flat = {name.removeprefix("params/"): file[name] for name in file.files if name.startswith("params/")}
    model = DiT({"width": width, "heads": heads, **SIZES})
    load(model, flat)
    positions = np.arange(FRAMES)
    tables = {
        "audio": _table(positions, width // heads),
        "down": _table(positions[DOWNSAMPLE // 2 :: DOWNSAMPLE], width // heads),
    }
    inputs = (given["x"], given["features"], given["text"], given["down"], tables)
    with torch.inference_mode():
        difference = float((model(*inputs) - given["out"]).abs().max() / given["out"].std())
    assert difference < LARGEST_DIFFERENCE, f"outputs differ by {difference} standard deviations"
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-4)

    def forward() -> None:
        with torch.inference_mode():
            model(*inputs)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.mse_loss(model(*inputs), given["target"]).backward()
        optimizer.step()

    serve({"versions": {"torch": torch.__version__}, "difference": difference}, {"forward": forward, "step": step})


def _table(positions: Any, dim: int) -> Any:
    import numpy as np
    import torch

    angles = positions[:, None] * 10_000.0 ** (-np.arange(0, dim, 2) / dim)
    return torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], axis=-1)).float()


def compare(peer_python: str, repetitions: int, width: int, heads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        settings = dict(weights=str(Path(folder) / "weights.npz"), width=width, heads=heads)
        own = Side(sys.executable, __file__, "ours", **settings)
        peer = Side(peer_python, __file__, "theirs", **settings)
    turns = {"forward": (own, "forward"), "torch forward": (peer, "forward"), "step": (own, "step")}
    turns |= {"torch step": (peer, "step"), "lora": (own, "lora")}
    turns |= {f"matmul {size}": (own, f"matmul {size}") for size in MATRICES}
    seconds = alternate(turns, repetitions)
    own.close()
    peer.close()
    products = [[2e-9 * size**3 / value for value in seconds[f"matmul {size}"]] for size in MATRICES]
    peaks = [max(rates) for rates in zip(*products, strict=True)]
    work = {"forward": gflop(width), "step": 3 * gflop(width)}
    held = own.facts["bytes"]
    return {
        "width": width,
        "parameters": own.facts["parameters"],
        "seconds": {label: rounded(median(values)) for label, values in seconds.items() if "matmul" not in label},
        "times_torch": {name: median_ratio(seconds[f"torch {name}"], seconds[name]) for name in work},
        "lora_of_full": {
            "seconds": median_ratio(seconds["lora"], seconds["step"]),
            "gradient_and_moment_bytes": rounded(held["lora"] / held["full"]),
        },
        "gflop": {name: rounded(value) for name, value in work.items()},
        "peak_gflops": rounded(median(peaks)),
        "share_of_peak": {
            name: median_ratio([value / second for second in seconds[name]], peaks) for name, value in work.items()
        },
        "torch_share_of_peak": {
            name: median_ratio([value / second for second in seconds[f"torch {name}"]], peaks)
            for name, value in work.items()
        },
        "difference": rounded(peer.facts["difference"], 2),
        "versions": own.facts["versions"] | peer.facts["versions"],
    }


if __name__ == "__main__":
    run(__file__, compare, {"ours": ours, "theirs": theirs}, sizes=dict(width=384, heads=6))
