"""Files of averages: what they hold, that they appear whole or not at all, and what is refused."""

import json
import os

import numpy as np
import pytest

from spresso_jax.checkpoints.snapshots import SnapshotError, SnapshotStore

LENGTHS = {"0.05": 0.05, "0.1": 0.1}


def leaves(seed):
    rng = np.random.default_rng(seed)
    return {name: {"dit/a": rng.normal(size=(3, 4)), "dit/b": rng.normal(size=5)} for name in LENGTHS}


def test_a_snapshot_tells_its_step_and_lengths_and_gives_its_numbers_back(tmp_path):
    store, wanted = SnapshotStore(tmp_path / "s"), leaves(0)
    store.save(250, wanted, LENGTHS)
    (snapshot,) = SnapshotStore(tmp_path / "s").read()
    assert (snapshot.step, snapshot.lengths, snapshot.parameters()) == (250, LENGTHS, ["dit/a", "dit/b"])
    for name in LENGTHS:
        for path in snapshot.parameters():
            np.testing.assert_array_equal(snapshot.parameter(name, path), wanted[name][path].astype(np.float32))
    first = snapshot.path.read_bytes()
    assert json.loads(json.loads(first[8 : 8 + int.from_bytes(first[:8], "little")])["__metadata__"]["spresso"]) == {
        "step": 250,
        "lengths": LENGTHS,
    }
    store.save(250, leaves(1), LENGTHS)
    assert snapshot.path.read_bytes() == first and store.read(until=249) == []


def test_half_precision_halves_the_file_and_keeps_what_it_cannot_hold(tmp_path):
    big = {name: {"w": np.ones((64, 64)), "large": np.asarray([1e6, 1.0])} for name in LENGTHS}
    sizes = {}
    for dtype in ("float32", "float16"):
        store = SnapshotStore(tmp_path / dtype, dtype)
        store.save(1, big, LENGTHS)
        (snapshot,) = store.read()
        sizes[dtype] = snapshot.path.stat().st_size
        np.testing.assert_array_equal(snapshot.parameter("0.1", "large"), [1e6, 1.0])
        assert snapshot.parameter("0.1", "w").dtype == np.float32
    assert sizes["float16"] < 0.6 * sizes["float32"]


def test_a_failed_write_leaves_nothing_and_says_what_to_do(tmp_path, monkeypatch):
    store = SnapshotStore(tmp_path)
    store.save(1, leaves(0), LENGTHS)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SnapshotError, match="no space left.*--resume"):
        store.save(2, leaves(0), LENGTHS)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000001.safetensors"]


def test_damaged_renamed_and_foreign_files_are_named(tmp_path):
    store = SnapshotStore(tmp_path)
    store.save(1, leaves(0), LENGTHS)
    path = tmp_path / "step_0000001.safetensors"
    path.rename(tmp_path / "step_0000002.safetensors")
    with pytest.raises(SnapshotError, match="step_0000002.*says step 1"):
        store.read()
    (tmp_path / "step_0000002.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(SnapshotError, match="not a complete snapshot"):
        store.read()
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(1)}, str(tmp_path / "step_0000002.safetensors"))
    with pytest.raises(SnapshotError, match="no step and lengths"):
        store.read()
    store.drop_after(1)
    uneven = leaves(0)
    del uneven["0.1"]["dit/b"]
    store.save(1, uneven, LENGTHS)
    with pytest.raises(SnapshotError, match="same parameters"):
        store.read()[0].parameters()
