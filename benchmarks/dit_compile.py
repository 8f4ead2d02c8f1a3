"""How long does the paper-size DiT's training step compile, how does that grow with its depth, and what memory does it need?

    python benchmarks/dit_compile.py

The step is the stage's own (`text_to_audio:paper`: width 1024, loss, AdamW, two averages), compiled from shapes alone at 8 clips
of 5 s a device; no weight exists. Blocks are compiled once whatever their number, as on accelerators (on a CPU a trained
network's blocks are unrolled instead, which `--unrolled` shows). Each depth compiles in a process of its own, with no cache.

Prints one JSON line: processor seconds to trace and to compile with 2 + 1 and 6 + 6 blocks, their ratio, and the bytes that the
compiler plans for state (arguments, reused for results) and activations (temporary) at the paper's depth. The planner is
that of the CPU backend, in float32; an accelerator's may fuse more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

DEPTHS = {"2 + 1": (2, 1), "6 + 6": (6, 6)}
CLIPS = 8
TEXT_WIDTH, POOLED_WIDTH, TEXT_TOKENS = 1024, 512, 77


def paper_step(joint: int, audio: int) -> tuple[Any, tuple]:
    """The update of `text_to_audio:paper` at another depth, jitted, and the shapes of its arguments."""
    import jax
    import numpy as np

    from spresso_jax.checkpoints.weights import Model, Network
    from spresso_jax.codec.networks import build, parameter_shapes
    from spresso_jax.configuration import load_config, to_plain
    from spresso_jax.stages import registry
    from spresso_jax.train.loop import abstract_state
    from spresso_jax.train.mesh import make_mesh
    from spresso_jax.train.update import make_update

    autoencoder = Network(to_plain(load_config("audio_ae:tiny").model), {}, "AudioAutoencoder")
    shapes = parameter_shapes("audio_ae", build("audio_ae", autoencoder))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    upstream = Model(
        {
            "audio_ae": Network(autoencoder.config, zeros, autoencoder.class_name),
            "clap": Network(dict(text_width=TEXT_WIDTH, channels=POOLED_WIDTH), {}, "Clap"),
        },
        {
            "text_tokens": TEXT_TOKENS,
            "latent_statistics": {"mean": [0.0] * 128, "std": [1.0] * 128, "sigma_data": 0.5},
        },
    )
    depth = [f"model.joint_blocks={joint}", f"model.audio_blocks={audio}", f"data.batch_size={CLIPS}"]
    stage = registry.build("text_to_audio", load_config("text_to_audio:paper", depth), upstream)
    state, frozen = abstract_state(stage, 0, make_mesh())
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, frozen))
    return jax.jit(make_update(stage), donate_argnums=0), (*shapes, dict(stage.batch_spec))


def compile_once(joint: int, audio: int, unrolled: bool) -> dict[str, Any]:
    """Processor seconds and planned bytes of one depth; also lowers for GPU and TPU."""
    import jax

    if not unrolled:
        # `stacked` unrolls on CPUs only; what is asked for is the program of every other backend.
        from spresso_jax.nn import transformer

        scan = transformer.nn.scan

        def rolled(target: Any, methods: dict[str, dict[str, Any]]) -> Any:
            return scan(target, methods={name: {**options, "unroll": 1} for name, options in methods.items()})

        transformer.nn.scan = rolled
    step, shapes = paper_step(joint, audio)
    began = time.process_time()
    traced = step.trace(*shapes)
    traced_at = time.process_time()
    traced.lower(lowering_platforms=("cuda", "tpu"))
    lowered_at = time.process_time()
    memory = traced.lower().compile().memory_analysis()
    return {
        "trace": traced_at - began,
        "lower_for_cuda_and_tpu": lowered_at - traced_at,
        "compile": time.process_time() - lowered_at,
        "state_gib": memory.argument_size_in_bytes / 2**30,
        "activation_gib": memory.temp_size_in_bytes / 2**30,
        "jax": jax.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--unrolled", action="store_true", help="compile what a CPU runs")
    parser.add_argument("--depth", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.depth:
        print(json.dumps(compile_once(*arguments.depth, arguments.unrolled)))
        return
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    results = {}
    for name, depth in DEPTHS.items():
        command = [
            sys.executable,
            __file__,
            "--depth",
            *map(str, depth),
            *(["--unrolled"] if arguments.unrolled else []),
        ]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
    shallow, deep = results.values()
    ratios = {name: round(deep[name] / shallow[name], 2) for name in ("trace", "compile")}
    rounded = {
        name: {key: round(value, 2) if isinstance(value, float) else value for key, value in result.items()}
        for name, result in results.items()
    }
    print(json.dumps({"clips": CLIPS, "unrolled": arguments.unrolled, "depths": rounded, "ratio": ratios}))


if __name__ == "__main__":
    main()
