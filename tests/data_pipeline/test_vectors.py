"""Vectors on disk: shards that give back what was written, bounded memory, fixed held-out rows, and bad files refused."""

import json
import pickle
import tracemalloc

import numpy as np
import pytest

from data_pipeline import vectors
from data_pipeline.loader import vector_batches
from data_pipeline.records import META, ShardError, write_meta

MADE = {"latent_encoder": "a" * 64, "crops": "2"}


def rows_of(count, width=3, seed=0):
    return (5.0 + np.random.default_rng(seed).normal(size=(count, width)) * np.linspace(0.1, 40, width)).astype(
        np.float32
    )


def in_blocks(rows, size=7):
    return (rows[start : start + size] for start in range(0, len(rows), size))


@pytest.fixture
def folder(tmp_path):
    vectors.write_split(tmp_path / "z", "train", in_blocks(rows_of(100)), MADE, {"clips": 10}, shard_bytes=480)
    vectors.write_split(tmp_path / "z", "val", in_blocks(rows_of(20, seed=1)), MADE, shard_bytes=480)
    return tmp_path / "z"


def test_shards_hold_standardised_rows_and_are_read_in_their_own_units(folder):
    rows, meta = rows_of(100), json.loads((folder / META).read_text())
    assert meta["splits"]["train"] == {"clips": 10, "rows": 100, "shards": 3} and meta["fingerprints"] == MADE
    np.testing.assert_allclose(meta["mean"], rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(meta["std"], rows.std(axis=0), rtol=1e-5)
    stored = np.concatenate([np.load(path) for path in sorted(folder.glob("train-*.npy"))])
    assert stored.dtype == np.float32
    np.testing.assert_allclose(stored.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(stored.std(axis=0), 1.0, rtol=1e-5)
    read = vectors.open_vectors(folder)
    chosen = np.asarray([99, 0, 40, 39, 40, 81])
    np.testing.assert_allclose(read[chosen], rows[chosen], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(read[38:83], rows[38:83], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(vectors.open_vectors(folder, "val")[:], rows_of(20, seed=1), rtol=1e-4, atol=1e-4)
    with pytest.raises(IndexError, match="rows 100 to 100 of 100"):
        read[np.asarray([100])]


def test_batches_of_shards_are_those_of_one_matrix_and_a_function_of_seed_and_step(folder):
    with vector_batches(vectors.open_vectors(folder)[:], batch_size=30, seed=3) as whole:
        expected = [next(whole)["embedding"] for _ in range(5)]
    with vector_batches(folder, batch_size=30, seed=3, start_step=2) as later:
        for batch in expected[2:]:
            np.testing.assert_array_equal(next(later)["embedding"], batch)


def test_writing_again_replaces_a_split_and_a_failure_leaves_the_one_before(folder):
    def broken():
        yield rows_of(50, seed=2)
        raise RuntimeError("out of power")

    before = sorted(path.name for path in folder.iterdir())
    for split in ("train", "val"):
        with pytest.raises(RuntimeError, match="out of power"):
            vectors.write_split(folder, split, broken(), MADE)
        assert sorted(path.name for path in folder.iterdir()) == before and vectors.is_complete(folder, split, MADE)
    vectors.write_split(folder, "train", in_blocks(rows_of(40, seed=2)), {"crops": "3"})
    assert not vectors.is_complete(folder, "val", MADE) and len(vectors.open_vectors(folder)) == 40
    assert sorted(path.name for path in folder.iterdir()) == [META, "train-00000-of-00001.npy"]


def test_what_cannot_be_written_is_said(folder, tmp_path):
    with pytest.raises(ShardError, match="no split 'train' of the same making"):
        vectors.write_split(folder, "val", in_blocks(rows_of(9)), {"crops": "9"})
    with pytest.raises(ValueError, match="no vectors for split 'train'"):
        vectors.write_split(tmp_path / "none", "train", iter(()), MADE)
    with pytest.raises(ValueError, match="vector 7 or one of the 7"):
        vectors.write_split(tmp_path / "none", "train", in_blocks(np.full((14, 2), [[1.0]] * 13 + [[np.nan]])), MADE)
    (tmp_path / "clips").mkdir()
    write_meta(tmp_path / "clips", {"kind": "clips", "splits": {}})
    with pytest.raises(ShardError, match="holds shards of clips: choose another folder"):
        vectors.write_split(tmp_path / "clips", "train", in_blocks(rows_of(9)), MADE)


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "_BLOCK_BYTES", 2**18)
    block = rows_of(1024, 64)

    def peak(blocks):
        folder = tmp_path / str(blocks)
        tracemalloc.start()
        vectors.write_split(folder, "train", (block for _ in range(blocks)), MADE)
        vectors.check_rows(vectors.open_vectors(folder))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(1)
    # A few blocks of 256 kB at once, whether there are 4 MB of rows or 16 MB.
    assert peak(64) < 1.3 * peak(16) < 2**22


def test_held_out_rows_are_fixed_scattered_and_not_trained_on():
    whole = vectors.Vectors(
        [vectors.Matrix("a", np.arange(60.0).reshape(-1, 1)), vectors.Matrix("b", 60.0 + np.zeros((40, 1)))]
    )
    train, val = vectors.hold_out(whole, 0.25)
    assert train.shape == (75, 1) and val.shape == (25, 1)
    assert sorted([*train[:][:, 0], *val[:][:, 0]]) == sorted(whole[:][:, 0])
    np.testing.assert_array_equal(vectors.hold_out(whole, 0.25)[1][:], val[:])
    assert len(set(val[:][:, 0] // 20)) == 4
    assert [len(part) for part in vectors.hold_out(vectors.Vectors(whole.matrices[:1]), 1e-9)] == [59, 1]
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            vectors.hold_out(whole, share)
    with pytest.raises(ValueError, match="one: one row alone"):
        vectors.hold_out(vectors.Vectors([vectors.Matrix("one", np.ones((1, 1)))]), 0.5)


def saved(path, array):
    np.save(path, array, allow_pickle=True)
    return path


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.arange(8).reshape(4, 2), "holds int64, but vectors are floating-point numbers"),
        (np.zeros((4, 2), np.complex64), "holds complex64"),
        (np.zeros((4, 2), [("a", "f4")]), "but vectors are floating-point"),
        (np.zeros(8), r"has the shape \(8,\), but vectors are rows \[N, D\]"),
        (np.zeros((2, 2, 2)), r"has the shape \(2, 2, 2\)"),
        (np.zeros((0, 64)), r"is empty, with the shape \(0, 64\)"),
        (np.zeros((64, 0)), "is empty"),
        (np.asarray([[Bomb()]], object), "pickled Python objects, which are never loaded"),
    ],
)
def test_npy_files_that_hold_no_vectors_are_refused_by_name(array, message, tmp_path):
    with pytest.raises(ShardError, match=f"v.npy: .*{message}"):
        vectors.open_vectors(saved(tmp_path / "v.npy", array))


def test_damaged_and_foreign_files_are_refused_by_name(tmp_path):
    good = saved(tmp_path / "v.npy", rows_of(10)).read_bytes()
    endless = good.replace(b"(10, 3)", b"(9**99,)")[: len(good)]
    huge = good.replace(b"(10, 3), }        ", b"(1000000000000, 3)")
    for contents, message in [
        (good[:-1], "cut short, 119 bytes of data where 10 rows of 3 take 120"),
        (good[:40], "not a readable .npy file"),
        (b"", "not a readable .npy file"),
        (pickle.dumps(Bomb()), "not a readable .npy file"),
        (endless, "not a readable .npy file"),
        (huge, "v.npy: "),
        (good.replace(b"(10, 3)", b"(-1, 3)"), "is empty"),
    ]:
        (tmp_path / "v.npy").write_bytes(contents)
        with pytest.raises(ShardError, match=message):
            vectors.open_vectors(tmp_path / "v.npy")
    with pytest.raises(ShardError, match="absent.npy: not a readable .npy file"):
        vectors.open_vectors(tmp_path / "absent.npy")


def test_rows_that_cannot_be_trained_on_are_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "_BLOCK_BYTES", 12 * 16)  # blocks of 16 rows
    rows, told = rows_of(50).astype(np.float64), []
    vectors.check_rows(vectors.open_vectors(saved(tmp_path / "v.npy", rows)), lambda *place: told.append(place))
    assert told == [(16, 50), (32, 50), (48, 50), (50, 50)]
    for value, shown in ((np.nan, "nan"), (-np.inf, "-inf"), (1e300, "inf")):
        rows[33, 2] = rows[40, 0] = value
        with pytest.raises(ShardError, match=rf"v.npy: row 33, column 2 is {shown} as float32 \(both counted from 0\)"):
            vectors.check_rows(vectors.open_vectors(saved(tmp_path / "v.npy", rows)))
    constant = rows_of(50)
    constant[:, [0, 2]] = 0.1
    opened = vectors.open_vectors(saved(tmp_path / "v.npy", constant))
    with pytest.raises(
        ShardError, match=r"v.npy: 2 of 3 dimensions hold one value in all 50 rows \(counted from 0: 0, 2\)"
    ):
        vectors.check_rows(opened)
    vectors.check_rows(opened, constant_allowed=True)
    vectors.write_split(tmp_path / "c", "train", in_blocks(constant), MADE)
    with pytest.raises(ShardError, match="2 of 3 dimensions hold one value"):
        vectors.check_rows(vectors.open_vectors(tmp_path / "c"))
    shard = np.load(folder / "train-00001-of-00003.npy")
    shard[5, 1] = np.nan
    saved(folder / "train-00001-of-00003.npy", shard)
    with pytest.raises(ShardError, match="train-00001-of-00003.npy: row 5, column 1 is nan"):
        vectors.check_rows(vectors.open_vectors(folder))


def test_folders_whose_facts_and_shards_disagree_are_refused(folder):
    facts = json.loads((folder / META).read_text())
    shard = folder / "train-00001-of-00003.npy"
    whole = np.load(shard)
    for array, message in [
        (whole[:0], "train-00001-of-00003.npy: is empty"),
        (whole[:-1], "holds 99 rows of 3, but meta.json says 100 of 3"),
        (whole[:, :2], "vectors of 2 dimensions beside those of 3"),
    ]:
        saved(shard, array)
        with pytest.raises(ShardError, match=message):
            vectors.open_vectors(folder)
    saved(shard, whole)
    for change in ({"std": [1.0, 0.0, 1.0]}, {"mean": [0.0]}, {"mean": "no"}, {"dimension": None}):
        (folder / META).write_text(json.dumps(facts | change))
        with pytest.raises(ShardError, match="meta.json: damaged"):
            vectors.open_vectors(folder)
    (folder / META).write_text(json.dumps(facts))
    with pytest.raises(ShardError, match="no split 'test', there is: train, val"):
        vectors.open_vectors(folder, "test")
    shard.unlink()
    with pytest.raises(ShardError, match="train-00001-of-00003.npy: missing, of 3 shards"):
        vectors.open_vectors(folder)
