"""The contrastive stage on several devices: every clip of the global batch is a negative of every other, wherever it lies."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

PROGRAM = """
import sys, json
sys.path.insert(0, sys.argv[1])
import jax, numpy as np
from spresso_jax.configuration import load_config
from spresso_jax.stages import registry
from spresso_jax.train.mesh import make_mesh, place_batch, replicated
config = load_config("clap:tiny", ["data.batch_size=16", "data.seconds=1.0", "augmentation.token_dropout=0.3"])
with config.unlocked():
    config.model.update(dict(audio_depths=(1,), audio_heads=(1,), image_size=32, mel_bins=16, samples=48_000))
stage = registry.build("clap", config)
rng = np.random.default_rng(0)
tokens = rng.integers(3, 400, (16, 16)).astype(np.int32)
tokens[:, 0], tokens[5] = 0, tokens[12]
batch = {"audio": rng.normal(0, 0.1, (16, 48_000, 1)).astype(np.float32), "tokens": tokens,
         "valid": rng.integers(4_000, 48_000, 16).astype(np.int32), "text_mask": np.ones((16, 16), bool)}
networks = jax.jit(stage.init)(jax.random.key(0))
of = jax.jit(jax.value_and_grad(lambda n, b, k: stage.players[0].loss(n, None, b, k)[0]))
results = []
for count in (1, 8):
    mesh = make_mesh(devices=jax.devices()[:count])
    placed = place_batch(batch, mesh)
    loss, grads = of(jax.device_put(networks, replicated(mesh)), placed, jax.device_put(jax.random.key(1), replicated(mesh)))
    shards = len(placed["audio"].sharding.device_set)
    rows = {jax.tree_util.keystr(path): np.asarray(leaf).ravel()[:50].tolist() for path, leaf in jax.tree.leaves_with_path(grads)}
    results.append([shards, float(loss), rows])
print(json.dumps(results))
"""


def test_eight_devices_give_the_loss_and_the_gradients_of_one():
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root)], capture_output=True, text=True, timeout=280,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (one, loss, grads), (eight, global_loss, global_grads) = json.loads(done.stdout.strip().splitlines()[-1])
    assert (one, eight) == (1, 8)
    assert abs(global_loss - loss) < 1e-5 * loss
    largest = max(np.abs(rows).max() for rows in grads.values())
    assert len(grads) > 30 and largest > 1e-3
    for name, rows in grads.items():
        np.testing.assert_allclose(global_grads[name], rows, rtol=1e-3, atol=1e-5 * largest, err_msg=name)
