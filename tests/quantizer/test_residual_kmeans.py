"""Residual k-means: one Lloyd iteration for held, streamed and sharded rows; what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.cluster import KMeans as SklearnKMeans

from spresso_jax.quantizer import residual_kmeans, row_stream
from spresso_jax.quantizer.residual_kmeans import KMeans, residual_codebooks
from spresso_jax.quantizer.row_statistics import row_statistics
from spresso_jax.quantizer.row_stream import RowStream


def clustered_rows(count=3000, seed=0):
    rng = np.random.default_rng(seed)
    centres = 2.0 * rng.standard_normal((12, 6))
    rows = centres[rng.integers(0, 12, count)] + 0.4 * rng.standard_normal((count, 3)) @ rng.standard_normal((3, 6))
    return (rows * np.exp(rng.standard_normal(6) * 0.5) + 3.0).astype(np.float32)


def in_parts(rows, size=700, **fields):
    return RowStream(
        lambda: (rows[start : start + size] for start in range(0, len(rows), size)), rows.shape[1], **fields
    )


def test_lloyd_iterations_are_scikit_learns(monkeypatch):
    # Small batches: the sums run over several of them, the last with padding.
    monkeypatch.setattr(row_stream, "BATCH_TILES", 1)
    rows = clustered_rows()
    start = rows[:16]
    table = start
    for iteration in range(6):
        table, error = residual_kmeans.lloyd_iteration(in_parts(rows).batches(), table, jax.random.key(iteration))
    theirs = SklearnKMeans(16, init=start, n_init=1, algorithm="lloyd", max_iter=6, tol=0).fit(rows)
    np.testing.assert_allclose(table, theirs.cluster_centers_, rtol=1e-5, atol=1e-5)
    assert error >= theirs.inertia_


@pytest.mark.parametrize("growing", [False, True])
def test_a_stream_gives_the_tables_of_held_rows_and_reads_only_so_many(growing):
    rows, read = clustered_rows(20_000), []

    def endless():
        start = 0
        while True:
            read.append(start)
            yield rows[np.arange(start, start + 900) % len(rows)]
            start += 900

    settings = KMeans(iterations=4, growing=growing)
    statistics = row_statistics(RowStream(endless, 6, limit=18_000), 16)
    mean, std = statistics.standardisation("dimension")
    np.testing.assert_allclose(mean, rows[:18_000].mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, rows[:18_000].std(0), rtol=1e-5)
    assert statistics.count == 18_000 and max(read) < 18_000
    tables = [
        residual_codebooks(
            jax.random.key(1), RowStream(endless, 6, limit=18_000), 3, 16, settings, count=18_000, mean=mean, std=std,
            hold=hold,
        )
        for hold in (True, False)
    ]  # fmt: skip
    np.testing.assert_allclose(*tables, rtol=1e-5, atol=1e-5)
    assert max(read) < 18_000
    left, errors = (rows - mean) / std, []
    for table in np.asarray(tables[0]):
        code, _ = residual_kmeans.nearest(left, table)
        assert len(np.unique(code)) == 16
        left = left - table[np.asarray(code)]
        errors.append(np.square(left).sum(-1).mean())
    assert errors[0] < 0.35 * 6 and errors[2] < 0.5 * errors[0]


def eight_or_one(stream, hold):
    """Tables of standardised rows: uncentred ones lose digits, and a row between two codewords may change sides."""
    mean, std = row_statistics(stream, 16).standardisation("dimension")
    settings = KMeans(5)
    return residual_codebooks(jax.random.key(3), stream, 2, 16, settings, count=3000, mean=mean, std=std, hold=hold)


PROGRAM = """
import json, sys, jax, numpy as np
sys.path[:0] = sys.argv[1:3]
from test_residual_kmeans import clustered_rows, eight_or_one, in_parts
from spresso_jax.train.mesh import batch_sharding, make_mesh
stream = in_parts(clustered_rows(), sharding=batch_sharding(make_mesh()))
devices = next(stream.batches()).rows.sharding.num_devices
found = [eight_or_one(stream, hold) for hold in (True, False)]
print(json.dumps([devices, [np.asarray(tables).tolist() for tables in found]]))
"""


def test_rows_on_eight_devices_give_the_tables_of_one():
    here, root = Path(__file__).parent, Path(__file__).resolve().parents[2]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(root), str(here)], env={**os.environ, **flags}, capture_output=True, text=True,
        timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    devices, eight = json.loads(done.stdout.strip().splitlines()[-1])
    one = eight_or_one(in_parts(clustered_rows()), True)
    assert devices == 8
    rows = clustered_rows()
    rows = (rows - rows.mean(0)) / rows.std(0)
    left = rows - one[0][residual_kmeans.nearest(rows, one[0])[0]]
    for tables in np.asarray(eight, np.float32):
        np.testing.assert_allclose(tables[0], one[0], rtol=1e-5, atol=1e-5)
        # Where no clusters are left, a row midway between two codewords may go to either: the tables are equally good.
        errors = [float(np.mean(residual_kmeans.nearest(left, table)[1])) for table in (tables[1], one[1])]
        assert abs(errors[0] / errors[1] - 1.0) < 1e-3, errors


def test_empty_clusters_move_to_rows_or_by_the_references_rule_into_the_unit_cube():
    rows = clustered_rows(2048)
    table = np.concatenate([rows[:8], 1e3 + np.zeros((8, 6), np.float32)])
    moved, uniform = (
        np.asarray(residual_kmeans.lloyd_iteration(in_parts(rows).batches(), table, jax.random.key(0), None, rule)[0])
        for rule in (False, True)
    )
    np.testing.assert_allclose(np.square(moved[8:, None] - rows).sum(-1).min(-1), 0, atol=1e-6)
    assert len(np.unique(moved, axis=0)) == 16
    np.testing.assert_array_equal(uniform[:8], moved[:8])
    assert uniform[8:].min() >= 0 and uniform[8:].max() < 1


def broken(rows, kind):
    rows = rows.copy()
    if kind == "nan":
        rows[1234, 2] = np.nan
    elif kind == "infinite":
        rows[-1, 0] = np.inf
    elif kind == "constant":
        rows[:, [1, 4]] = 7.25
    elif kind == "few":
        rows = rows[np.arange(len(rows)) % 9]
    elif kind == "narrow":
        rows = rows[:, :5]
    return rows[:0] if kind == "empty" else rows


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("nan", "1 of the rows 0 to 2999 hold NaN or infinite"),
        ("infinite", "1 of the rows 0 to 2999 hold NaN or infinite"),
        ("constant", "dimension 1, 4 of the vectors is constant"),
        ("few", "16 codewords need .* the 3000 rows hold only 9"),
        ("narrow", r"shape \(700, 5\), but the quantizer takes \[N, 6\]"),
        ("empty", "no vectors to start"),
    ],
)
def test_rows_that_cannot_be_clustered_are_refused_with_the_numbers(kind, message):
    rows = broken(clustered_rows(), kind)
    parts = RowStream(lambda: (rows[start : start + 700] for start in range(0, len(rows), 700)), 6)
    with pytest.raises(ValueError, match=message):
        row_statistics(parts, 16)


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="k-means\\+\\+, sampled, box"):
        KMeans(seeding="forgy")
    with pytest.raises(ValueError, match="iterations >= 1"):
        KMeans(iterations=0)
