"""The mesh: partitions of leaves, and the same training on one device and on eight."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from spresso_jax.train.mesh import leaf_spec, make_mesh, place_batch

SIZES = {"data": 2, "fsdp": 4, "tensor": 2}
PROGRAM = """
import sys, json
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import jax, numpy as np
from train.toy_stage import regression, batches, validation
from spresso_jax.checkpoints.store import CheckpointStore
from spresso_jax.observe.metrics import MetricsWriter
from spresso_jax.train.loop import LoopConfig, RunIO, run
from spresso_jax.train.mesh import make_mesh
store = CheckpointStore(sys.argv[3] + "/checkpoints")
metrics = MetricsWriter(sys.argv[3] + "/metrics.jsonl")
io = RunIO(draw=batches, validation={"val": validation}, store=store, metrics=metrics)
mesh = make_mesh(data=-1, fsdp=int(sys.argv[4]))
outcome = run(regression(), LoopConfig(steps=5, validate_every=0, save_every=0), io, mesh)
store.close()
print(json.dumps([len(jax.devices()), np.asarray(outcome.state.params["net"]["kernel"]).tolist()]))
"""


def test_matrices_follow_the_rules_and_small_or_odd_leaves_stay_whole():
    assert leaf_spec("dit/single/qkv/kernel", (6, 1024, 3072), 4, SIZES) == P(None, "fsdp", "tensor")
    assert leaf_spec("dit/single/fc2/kernel", (6, 4096, 1024), 4, SIZES) == P(None, "tensor", "fsdp")
    assert leaf_spec("quantizer/steps/codebook", (24, 4096, 64), 4, SIZES) == P(None, "fsdp", None)
    assert leaf_spec("dit/bias", (1024,), 4, SIZES) == P()
    assert leaf_spec("dit/qkv/kernel", (1023, 1021), 4, SIZES) == P(None, None)


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    devices = jax.devices()
    with pytest.raises(ValueError, match="does not divide"):
        make_mesh(fsdp=len(devices) + 1)
    with pytest.raises(ValueError, match="is not"):
        make_mesh(data=len(devices) + 1)


def test_a_batch_is_placed_by_rows():
    mesh = make_mesh()
    placed = place_batch({"x": np.zeros((len(jax.devices()), 2), np.float32)}, mesh)["x"]
    assert placed.sharding.spec == P(("data", "fsdp"))


def test_eight_devices_give_the_numbers_of_one(tmp_path):
    root = Path(__file__).resolve().parents[2]
    results = []
    for count, fsdp in ((1, 1), (8, 2)):
        folder = tmp_path / str(count)
        folder.mkdir()
        flags = f"--xla_force_host_platform_device_count={count}"
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(root), str(root / "tests"), str(folder), str(fsdp)],
            env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        results.append(json.loads(done.stdout.strip().splitlines()[-1]))
    assert [devices for devices, _ in results] == [1, 8]
    one, eight = (np.asarray(kernel) for _, kernel in results)
    np.testing.assert_allclose(eight, one, rtol=1e-5, atol=1e-6)
