"""Search and loss on eight simulated devices: the codes and the loss of one device, an eighth of the work on each."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, json, re
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import jax, numpy as np
from quantizer.test_assign_codes import made
from spresso_jax.quantizer import assign
from spresso_jax.train.mesh import batch_sharding, make_mesh, replicated, within

quantizer, params, _ = made(codebooks=3, blocks=2, embedding_width=7)
z = np.random.default_rng(3).standard_normal((1024, 5)).astype(np.float32)
mesh = make_mesh(fsdp=2)

def learn(tile):
    def step(params, z):
        codes = assign.encode(quantizer, params, z, tile=tile)
        return codes, quantizer.training_loss(params, z, codes)[0]
    return step

# One tile a device: work inside of loops over tiles would be counted once, however many there are.
one = jax.jit(learn(1024)).lower(params, z).compile()
places = replicated(mesh), batch_sharding(mesh)
eight = jax.jit(within(learn(128), mesh), in_shardings=places).lower(params, z).compile()
placed = jax.device_put(params, places[0]), jax.device_put(z, places[1])
(codes, loss), (codes_8, loss_8) = one(params, z), eight(*placed)
text = eight.as_text()
# Devices that search other tiles than one device, rows that do not divide over them, and rows outside of jit.
few = jax.jit(lambda z: assign.encode(quantizer, params, z, mesh=mesh, tile=16))(z[:77])
eager = assign.encode(quantizer, params, placed[1], tile=16)
print(json.dumps({
    "devices": len(jax.devices()),
    "flops": eight.cost_analysis()["flops"] / one.cost_analysis()["flops"],
    "gathers": re.findall(r" (?:all-gather|all-to-all|collective-permute)", text),
    "same_codes": [bool((np.asarray(found) == np.asarray(codes)[: len(found)]).all()) for found in (codes_8, few, eager)],
    "eager_devices": len(eager.sharding.device_set),
    "loss": [float(loss), float(loss_8)],
}))
"""


def test_eight_devices_find_the_codes_and_the_loss_of_one_with_an_eighth_of_the_work_each():
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root), str(root / "tests")],
        env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["devices"] == found["eager_devices"] == 8
    assert found["same_codes"] == [True, True, True]
    assert abs(found["loss"][1] / found["loss"][0] - 1) < 1e-6
    assert abs(8 * found["flops"] - 1) < 0.05
    assert not found["gathers"], "rows travel between devices"
