"""What does sampling cost beyond the network? 64 steps of Heun's method against 127 forward passes of the same DiT.

    python benchmarks/dit_sampling.py --width 384 --heads 6 --joint-blocks 6 --audio-blocks 6

Both run at batch 1 on a clip of five seconds, in one process and in turns, with random weights, which do not change the
speed. The one side is the sampler of `spresso generate`: one program for all steps, whose modulation vectors, text tokens
and rotary tables were computed before its loop. The other is the bare network, jitted by itself and called once for every
evaluation; each call is put in line behind the last, and only the last is waited for. The claim is a ratio of at most 1.03.

Prints one JSON line: median seconds of both, the median over the repetitions of the ratio within each, how many programs
were compiled while measuring (0), and how often the host waited for the device in one sampling (1). Waits are counted as
calls of `jax.device_get`; on an accelerator, a transfer guard refuses every other transfer meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from statistics import median

import jax
import numpy as np
from pairing import median_ratio, rounded

from spresso_jax.codec.latent_sampler import LatentSampler, Settings
from spresso_jax.codec.windows import Windows
from spresso_jax.diffusion.sampler import evaluations
from spresso_jax.diffusion_autoencoder.model import null_caption
from spresso_jax.dit.model import DiT
from spresso_jax.shapes import CLIP_FRAMES, LATENT_CHANNELS

SIGMA_DATA = 0.5


def main() -> None:
    arguments = _arguments()
    dit = DiT(
        width=arguments.width, heads=arguments.heads, joint_blocks=arguments.joint_blocks,
        audio_blocks=arguments.audio_blocks, patch=arguments.patch, text_width=arguments.width, dtype=arguments.dtype,
    )  # fmt: skip
    text = null_caption(dit, 1)
    x, c_noise = np.zeros((1, CLIP_FRAMES, LATENT_CHANNELS), np.float32), np.zeros(1, np.float32)
    shapes = jax.eval_shape(dit.init, jax.random.key(0), x, c_noise, *text)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda v: jax.device_put(rng.normal(scale=0.02, size=v.shape).astype(np.float32)), shapes)
    on_device = jax.device_put((x, c_noise))
    forward = jax.jit(lambda params, x, c_noise: dit.apply({"params": params}, x, c_noise, *text))
    sampler, settings = LatentSampler(dit, params), Settings(steps=arguments.steps)
    fetches = 0

    def sample() -> None:
        nonlocal fetches
        with jax.transfer_guard_device_to_host("disallow_explicit"):
            drawn = sampler.draw((*text, None), settings, Windows(1, 100), 1, 1, SIGMA_DATA)
        jax.device_get(drawn)
        fetches += 1

    def passes() -> None:
        for _ in range(evaluations(arguments.steps)):
            out = forward(params, *on_device)
        jax.block_until_ready(out)

    sides = {"sampling": sample, "forward_passes": passes}
    for run in sides.values():
        run()
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _seconds, **_: compiled.append(name) if "backend_compile" in name else None
    )
    load, fetches = os.getloadavg()[0], 0
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repetition in range(arguments.repetitions):
        for name in list(sides)[:: -1 if repetition % 2 else 1]:
            began = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - began)
    result = {
        **{f"{name}_seconds": rounded(median(values)) for name, values in seconds.items()},
        "ratio": median_ratio(seconds["sampling"], seconds["forward_passes"]),
        "evaluations": evaluations(arguments.steps),
        "compilations": len(compiled),
        "host_syncs": fetches / arguments.repetitions,
        "parameters": sum(v.size for v in jax.tree.leaves(params)),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "load_before": rounded(load),
        **vars(arguments),
    }
    print(json.dumps(result))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Sampling against bare forward passes; the docstring says how.")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--joint-blocks", type=int, default=6)
    parser.add_argument("--audio-blocks", type=int, default=6)
    parser.add_argument("--patch", type=int, default=1, help="latent frames of an audio token")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
