"""Snapshots of the averages: taken by the loop, right after a resume, and enough to make other averages from."""

import dataclasses
import os
import signal

import jax
import numpy as np
import pytest
from train.test_loop import go
from train.toy_stage import batches, regression

from spresso_jax.checkpoints.snapshots import SnapshotError, SnapshotStore
from spresso_jax.checkpoints.trees import flatten
from spresso_jax.cli.reconstruction import mixture
from spresso_jax.diffusion import ema
from spresso_jax.stages.denoising import power_averages, power_lengths
from spresso_jax.train.snapshots import AverageSnapshots

LENGTHS = (0.05, 0.10)
QUIET = dict(validate_every=0, preview_every=0)


def averaged():
    stage = regression()
    return dataclasses.replace(
        stage, ema=power_averages(LENGTHS), ema_lengths=power_lengths(LENGTHS), chosen_ema="0.1"
    )


def trained(folder, steps, *, every=3, dtype="float32", **changes):
    stage = averaged()
    store = SnapshotStore(folder / "snapshots", dtype)
    snapshots = AverageSnapshots(store, stage.ema_lengths, every)
    return go(folder, steps, stage=stage, snapshots=snapshots, **{**QUIET, **changes})[0], store


def contents(store):
    return {
        (s.step, name, path): s.parameter(name, path) for s in store.read() for name in s.lengths for path in s.parameters()
    }


def same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


def test_a_tracked_length_is_reconstructed_to_the_tracked_average_at_the_last_step(tmp_path):
    outcome, store = trained(tmp_path, 10)
    assert store.steps() == [3, 6, 9, 10]
    for length in LENGTHS:
        found = mixture(store, length)
        assert found.step == 10
        want = flatten(outcome.state.ema[f"{length:g}"])
        got = found.leaves()
        assert got.keys() == want.keys() == {"net/kernel"}
        np.testing.assert_allclose(got["net/kernel"], want["net/kernel"], atol=1e-6)
    apart = np.abs(mixture(store, 0.05).leaves()["net/kernel"] - mixture(store, 0.10).leaves()["net/kernel"])
    assert apart.max() > 1e-3


def test_an_earlier_step_uses_no_later_snapshot(tmp_path):
    _, store = trained(tmp_path, 10)
    at_six = contents(store)[6, "0.1", "net/kernel"]
    found = mixture(store, 0.10, 6)
    assert {snapshot.step for snapshot, _, _ in found.parts} == {3, 6}
    np.testing.assert_allclose(found.leaves()["net/kernel"], at_six, atol=1e-6)


def test_a_random_walk_is_reconstructed_between_and_beyond_the_tracked_lengths(tmp_path):
    """The reference's figures for eight snapshots of a walk of standard deviation 1.09: 2.5e-3 at 0.07, 2.5e-2 at 0.20."""
    steps, every = 4000, 500
    walk = np.cumsum(np.random.default_rng(0).normal(size=(steps, 32)), axis=0)
    walk = 1.09 * walk / walk.std()
    targets = (0.05, 0.07, 0.10, 0.13, 0.20)
    tracked = {length: np.zeros(32) for length in targets}
    stores = {name: SnapshotStore(tmp_path / name, name) for name in ("float32", "float16")}
    for index, params in enumerate(walk):
        for length in targets:
            decay = ema.beta(index + 1.0, ema.exponent(length))
            tracked[length] = decay * tracked[length] + (1.0 - decay) * params
        if (index + 1) % every == 0:
            leaves = {f"{length:g}": {"w": tracked[length]} for length in LENGTHS}
            for store in stores.values():
                store.save(index + 1, leaves, power_lengths(LENGTHS))
    bounds = {0.05: 1e-5, 0.10: 1e-5, 0.07: 0.01, 0.13: 0.015, 0.20: 0.1}
    for length, bound in bounds.items():
        errors = {name: np.abs(mixture(s, length).leaves()["w"] - tracked[length]) for name, s in stores.items()}
        assert errors["float32"].max() < bound, length
        assert errors["float16"].max() < bound + 0.004, length
    plain = np.abs(tracked[0.10] - tracked[0.20]).max()
    assert plain > 3 * np.abs(mixture(stores["float32"], 0.20).leaves()["w"] - tracked[0.20]).max()
    found = mixture(stores["float32"], 0.13)
    assert found.magnitude > 1.0 and sum(c for _, _, c in found.parts) == pytest.approx(1.0)
    assert "from 8 snapshots" in found.describe() and "step 4000  0.05: " in found.describe()


def test_a_resumed_run_neither_loses_nor_repeats_nor_keeps_later_snapshots(tmp_path):
    _, whole = trained(tmp_path / "whole", 12, every=2)
    _, parts = trained(tmp_path / "parts", 6, every=2, save_every=4)
    assert parts.steps() == [2, 4, 6]
    # As if killed after the checkpoint of step 6: its own snapshot is lost, and one of step 8 is there from another past.
    (tmp_path / "parts" / "snapshots" / "step_0000006.safetensors").unlink()
    stray = {name: {"net/kernel": np.zeros((4, 1))} for name in power_lengths(LENGTHS)}
    parts.save(8, stray, power_lengths(LENGTHS))
    (tmp_path / "parts" / "snapshots" / ".half.part").write_bytes(b"half")
    _, parts = trained(tmp_path / "parts", 12, every=2, save_every=4, resume=True)
    assert parts.steps() == [2, 4, 6, 8, 10, 12]
    assert [p.name for p in sorted((tmp_path / "parts" / "snapshots").iterdir())] == [
        f"step_{step:07d}.safetensors" for step in parts.steps()
    ]
    same(contents(whole), contents(parts))


def test_an_interrupted_run_keeps_its_snapshots_and_a_fresh_one_starts_without_any(tmp_path):
    def interrupting(step):
        for index, batch in enumerate(batches(step)):
            if index == 4:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    outcome, store = trained(tmp_path, 12, every=2, draw=interrupting)
    assert not outcome.finished and int(outcome.state.step) == 5 and store.steps() == [2, 4]
    _, store = trained(tmp_path, 8, every=2, resume=True)
    assert store.steps() == [2, 4, 6, 8]
    AverageSnapshots(store, averaged().ema_lengths, 2).begin(0)
    assert store.steps() == []


def test_snapshots_are_off_by_default_and_refused_where_there_is_nothing_to_keep(tmp_path):
    _, store = trained(tmp_path, 4, every=0)
    assert store.steps() == [] and not (tmp_path / "snapshots").exists()
    with pytest.raises(ValueError, match="keeps no power-function averages"):
        AverageSnapshots(store, regression().ema_lengths, 5)
    with pytest.raises(ValueError, match="snapshot_every is -1"):
        AverageSnapshots(store, {"0.1": 0.1}, -1)
    with pytest.raises(SnapshotError, match="snapshot_dtype"):
        SnapshotStore(tmp_path, "bfloat16")
    with pytest.raises(SnapshotError, match="has no snapshots"):
        mixture(store, 0.1)
    with pytest.raises(ValueError, match="ema_lengths"):
        dataclasses.replace(regression(), ema_lengths={"other": 0.1})


def test_a_leaf_that_is_split_over_devices_comes_whole():
    from jax.sharding import NamedSharding, PartitionSpec

    from spresso_jax.train.mesh import make_mesh, on_host

    mesh = make_mesh()
    leaf = jax.device_put(np.arange(8.0, dtype=np.float32), NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_array_equal(on_host(leaf), np.arange(8.0))
