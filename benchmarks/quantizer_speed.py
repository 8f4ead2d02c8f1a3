"""How fast is the quantizer? Encoding, decoding and a training step of QINCo2, beside its reference, one thread each.

    git clone https://github.com/facebookresearch/Qinco qinco && git -C qinco checkout 5a324954
    python -m venv peers
    peers/bin/pip install torch==2.13.0 accelerate==1.15.0 einops
    python benchmarks/quantizer_speed.py --peer-python peers/bin/python --reference qinco

Encoding and decoding: K 1024, M 10, A = B = 16, L 2, de 128, dh 256, 64 dimensions, against the reference's TorchScript
inference, in whole and in smaller batches, which need less memory. Training step: K 256, M 8, A = B = 8, L 2, de 64, dh 128,
1000 rows: choice of the codes, loss, gradient, clipping by value and AdamW. Weights, rows and codes are the same on both sides
(`quantizer_torch.py` builds the reference from its checkout), and the run fails if more codes than near ties explain, or
reconstructions, or the loss differ.

Prints one JSON line: median seconds of the processor, which other programs disturb less than the clock on the wall; vectors
(steps) in such a second; how many times as fast as the reference's faster way we are, medians over the repetitions of the
ratio within each; and GFLOP/s of a large float32 product on both sides.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from pairing import Side, alternate, median_ratio, rounded, run, serve

DIMENSION = 64
CODING = {"K": 1024, "M": 10, "L": 2, "de": 128, "dh": 256, "A": 16, "B": 16, "D": DIMENSION}
TRAINING = {"K": 256, "M": 8, "L": 2, "de": None, "dh": 128, "A": 8, "B": 8, "D": DIMENSION}
CHUNK = 32
BATCH = 1000
RATE, DECAY, CLIP = 8e-4, 0.1, 0.1
MATRIX = 1024
DECODED = 4096
LEAST_SAME = 0.99  # share of rows; the others are near ties, which rounding decides
LARGEST_LOSS_DIFFERENCE = 1e-4


def made_state(sizes: dict[str, int | None], seed: int) -> tuple[dict[str, Any], Any]:
    """Random weights under the reference's names, with codewords that shrink from step to step as trained ones do, and a
    function that draws rows of the distribution that they code."""
    import numpy as np

    rng = np.random.default_rng(seed)
    dimension, width = sizes["D"], sizes["de"] or sizes["D"]
    spectrum = np.exp(-np.arange(dimension) / 16)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    state = {"data_mean": normal(dimension), "data_std": np.float32(1.3).reshape(())}
    for step in range(sizes["M"]):
        # With de = D a codeword counts twice: through the network, and past it.
        gain = 1.0 if step == 0 or sizes["de"] else 2.0
        table = normal(sizes["K"], dimension) * (0.8**step / gain * spectrum).astype(np.float32)
        name = f"steps.{step}."
        state[name + "codebook.weight"] = table
        if step == 0:
            continue
        state[name + "substep.codebook.weight"] = gain * table
        state[name + "concat.mlp.weight"] = normal(width, width + dimension, scale=0.02)
        state[name + "concat.mlp.bias"] = normal(width, scale=0.02)
        for block in range(sizes["L"]):
            state[name + f"residual_blocks.{block}.up_proj.weight"] = normal(sizes["dh"], width, scale=width**-0.5)
            down = normal(width, sizes["dh"], scale=0.1 * sizes["dh"] ** -0.5)
            state[name + f"residual_blocks.{block}.down_proj.weight"] = down
        if sizes["de"]:
            state[name + "in_proj.weight"] = normal(width, dimension, scale=dimension**-0.5)
            state[name + "out_proj.weight"] = normal(dimension, width, scale=0.1 * width**-0.5)
    mean = state["data_mean"]
    return state, lambda count: 1.3 * normal(count, dimension) * (1.5 * spectrum).astype(np.float32) + mean


def ours(coding: str, training: str, rows: int) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from spresso_jax.interop.qinco import params_from_state, quantizer_from_params
    from spresso_jax.quantizer import assign

    def made(sizes: dict[str, int | None], seed: int) -> tuple[Any, Any, Any, Any]:
        state, draw = made_state(sizes, seed)
        params = params_from_state(state)
        return quantizer_from_params(params, sizes["A"], sizes["B"]), jax.tree.map(jnp.asarray, params), state, draw

    quantizer, params, state, draw = made(CODING, 0)
    z = jnp.asarray(draw(rows))
    codes = assign.encode(quantizer, params, z)
    many = jnp.asarray(np.random.default_rng(1).integers(0, CODING["K"], (DECODED, CODING["M"])))
    decoded = quantizer.decode(params, many)
    np.savez(coding, z=z, codes=codes, many=many, decoded=decoded, **_under("state/", state))

    learner, start, state, draw = made(TRAINING, 2)
    batch = jnp.asarray(draw(BATCH))
    update = optax.chain(optax.clip(CLIP), optax.adamw(RATE, weight_decay=DECAY))
    frozen = ("data_mean", "data_std")

    def step(trained: Any, state: Any, fixed: Any, batch: jax.Array) -> tuple[Any, Any, jax.Array]:
        codes = assign.encode(learner, {**fixed, **trained}, batch)
        (loss, _), gradient = jax.value_and_grad(
            lambda trained: learner.training_loss({**fixed, **trained}, batch, codes), has_aux=True
        )(trained)
        change, state = update.update(gradient, state, trained)
        return optax.apply_updates(trained, change), state, loss

    compiled = jax.jit(step, donate_argnums=(0, 1))
    fixed = {name: start[name] for name in frozen}
    held = {"trained": {name: leaf for name, leaf in start.items() if name not in frozen}}
    held["state"] = update.init(held["trained"])

    def once() -> None:
        held["trained"], held["state"], held["loss"] = compiled(held["trained"], held["state"], fixed, batch)
        held["loss"].block_until_ready()

    once()
    np.savez(training, z=batch, loss=held["loss"], **_under("state/", state))
    matrix, multiply = jax.random.normal(jax.random.key(0), (MATRIX, MATRIX)), jax.jit(jnp.matmul)
    runs = {
        "encode": lambda: assign.encode(quantizer, params, z).block_until_ready(),
        "decode": lambda: quantizer.decode(params, many).block_until_ready(),
        "step": once,
        "matmul": lambda: multiply(matrix, matrix).block_until_ready(),
    }
    serve({"versions": {"jax": jax.__version__}}, runs)


def theirs(coding: str, training: str, reference: str) -> None:
    import numpy as np
    import torch
    from quantizer_torch import model, scripted

    torch.set_num_threads(1)
    with np.load(coding) as file:
        given = {name: torch.from_numpy(file[name]) for name in ("z", "codes", "many", "decoded")}
        made = model(reference, CODING, _without("state/", file)).eval()
    z, many = given["z"], given["many"].T.long().contiguous()
    inference = scripted(made, CODING, len(z))
    codes = torch.cat([inference(part, step="encode") for part in z.split(CHUNK)], dim=1).T
    same = float((codes == given["codes"]).all(dim=1).double().mean())
    assert same > LEAST_SAME, f"only {same} of the rows have the same codes"
    errors = [((made(part.T.long(), step="decode") - z) ** 2).sum(1).mean().item() for part in (codes, given["codes"])]
    decoded = inference(many, step="decode")
    assert torch.allclose(decoded, given["decoded"], rtol=1e-4, atol=1e-4), "reconstructions differ"

    with np.load(training) as file:
        batch, loss = torch.from_numpy(file["z"]), float(file["loss"])
        learner = model(reference, TRAINING, _without("state/", file)).train()
    optimizer = torch.optim.AdamW(learner.parameters(), RATE, weight_decay=DECAY)

    def step() -> dict[str, float]:
        total = sum(learner(batch, step="train")[2].values())
        total.backward()
        torch.nn.utils.clip_grad_value_(learner.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": float(total)}

    first = step()["loss"]
    assert abs(first / loss - 1) < LARGEST_LOSS_DIFFERENCE, f"the loss is {first}, ours {loss}"
    matrix = torch.randn(MATRIX, MATRIX)

    def multiply() -> None:
        with torch.inference_mode():
            matrix @ matrix

    def encode(size: int) -> None:
        for part in z.split(size):
            inference(part, step="encode")

    runs = {
        "encode": lambda: encode(len(z)),
        f"encode by {CHUNK}": lambda: encode(CHUNK),
        "decode": lambda: inference(many, step="decode"),
        f"decode by {CODING['K']}": lambda: [inference(part, step="decode") for part in many.split(CODING["K"], dim=1)],
        "step": step,
        "matmul": multiply,
    }
    facts = {"same_codes": same, "errors": errors, "loss_difference": abs(first / loss - 1)}
    serve({"versions": {"torch": torch.__version__}, **facts}, runs)


def _under(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: array for name, array in arrays.items()}


def _without(prefix: str, file: Any) -> dict[str, Any]:
    return {name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)}


def compare(peer_python: str, repetitions: int, rows: int, reference: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        files = {name: str(Path(folder) / f"{name}.npz") for name in ("coding", "training")}
        own = Side(sys.executable, __file__, "ours", **files, rows=rows)
        peer = Side(peer_python, __file__, "theirs", **files, reference=str(Path(reference).resolve()))
    turns = {f"ours {name}": (own, name) for name in ("encode", "decode", "step", "matmul")}
    theirs = ("encode", f"encode by {CHUNK}", "decode", f"decode by {CODING['K']}", "step", "matmul")
    turns |= {f"reference {name}": (peer, name) for name in theirs}
    seconds = alternate(turns, repetitions, "cpu_seconds")
    own.close()
    peer.close()
    work = {"encode": rows, "decode": DECODED, "step": 1}
    counted = {label: work.get(turns[label][1].split()[0]) for label in turns}
    return {
        "rows": rows,
        "cpu_seconds": {label: rounded(median(values)) for label, values in seconds.items()},
        "per_cpu_second": {
            label: rounded(count / median(seconds[label])) for label, count in counted.items() if count is not None
        },
        "times_reference": {
            name: min(
                median_ratio(seconds[label], seconds[f"ours {name}"])
                for label in seconds
                if label.startswith(f"reference {name}")
            )
            for name in work
        },
        "matmul_gflops": {
            side: rounded(2e-9 * MATRIX**3 / median(seconds[f"{side} matmul"])) for side in ("ours", "reference")
        },
        "same_codes": rounded(peer.facts["same_codes"]),
        "errors": {
            side: rounded(value, 6) for side, value in zip(("reference", "ours"), peer.facts["errors"], strict=True)
        },
        "loss_difference": rounded(peer.facts["loss_difference"], 2),
        "versions": own.facts["versions"] | peer.facts["versions"],
    }


if __name__ == "__main__":
    texts = {"reference": "checkout of facebookresearch/Qinco"}
    run(__file__, compare, {"ours": ours, "theirs": theirs}, sizes={"rows": 256}, texts=texts, threads=1)
