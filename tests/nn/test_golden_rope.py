"""Rotary tables, decimation and pooling against numbers from FLUX, Woosh and torch's average pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import families

from spresso_jax.diffusion_autoencoder.encoder import pool
from spresso_jax.nn.rope import decimate, rope_table, rotate
from spresso_jax.shapes import pooled_length, pooled_positions

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("path", families("diffusion", "rope"), ids=lambda p: p.stem)
def test_flux_tables_rotation_and_decimated_keys_match(path):
    golden = np.load(path)
    cases = sorted({k.split("/")[0] for k in golden.files if k.endswith("/pe")})
    assert cases
    for case in cases:
        g = {k.split("/", 1)[1]: golden[k] for k in golden.files if k.startswith(case + "/")}
        dim, positions = g["q"].shape[-1], g["pos"][0]
        table = rope_table(positions, dim)
        for name in ("pe", "pe_f64pos"):  # rows of the 2 x 2 matrices: (cos, -sin), (sin, cos)
            np.testing.assert_allclose(table, g[name][0, 0][..., :, 0], atol=1e-5)
        q, k = (rotate(jnp.asarray(g[n]).transpose(0, 2, 1, 3), table).transpose(0, 2, 1, 3) for n in "qk")
        np.testing.assert_allclose(q, g["q_out"], atol=2e-5)
        np.testing.assert_allclose(k, g["k_out"], atol=2e-5)
        t = int(g["dec_t"])
        assert pooled_positions(len(positions), t) == g["dec_pos"][0].astype(int).tolist()
        rows = decimate(table, len(positions), t)
        np.testing.assert_array_equal(rows, rope_table(pooled_positions(len(positions), t), dim))
        decimated = rotate(jnp.asarray(g["dec_k"]).transpose(0, 2, 1, 3), rows).transpose(0, 2, 1, 3)
        np.testing.assert_allclose(decimated, g["dec_k_out"], atol=2e-5)
        np.testing.assert_allclose(jnp.einsum("bhqd,bhkd->bhqk", q, decimated), g["logits_q_deck"], atol=2e-4)
    print(f"{path.name}: {len(cases)} cases")


@pytest.mark.parametrize("path", families("diffusion", "rope"), ids=lambda p: p.stem)
def test_plain_and_yarn_tables_and_partial_rotation_match(path):
    golden = np.load(path)
    names = [n for n in ("plain", "yarn") if f"{n}/n_pos" in golden.files]
    plain_length = int(golden["plain/n_pos"])
    x = jnp.asarray(golden["apply/x"])
    for name in names:
        count, first = int(golden[f"{name}/n_pos"]), golden[f"{name}/table_first16_pos"]
        settings = dict(yarn_factor=40.0, yarn_length=plain_length) if name == "yarn" else {}
        table = rope_table(np.arange(count), 2 * first.shape[1], **settings)
        np.testing.assert_allclose(table[: len(first)], first, atol=2e-5)
        np.testing.assert_allclose(table[-1:], golden[f"{name}/table_last_pos"], atol=1e-4)
        partial = rope_table(np.arange(x.shape[1]), 2 * first.shape[1], rotated=x.shape[-1], **settings)
        np.testing.assert_allclose(rotate(x, partial), golden[f"apply/out_{name}"], atol=3e-5)
        wide = jax.random.normal(jax.random.key(0), (*x.shape[:-1], 2 * first.shape[1]))
        np.testing.assert_array_equal(rotate(wide, partial)[..., x.shape[-1] :], wide[..., x.shape[-1] :])
    scaled = [k for k in golden.files if k.startswith("fps_scaled_")]
    for key in scaled:
        numerator, denominator = (float(v) for v in key.split("/")[0].removeprefix("fps_scaled_").split("_over_"))
        want = golden[key]
        positions = np.arange(len(want)) * numerator / denominator
        got = rope_table(positions, 2 * want.shape[1], yarn_factor=40.0, yarn_length=plain_length)
        np.testing.assert_allclose(got, want, atol=3e-5)
    print(f"{path.name}: {len(names) + len(scaled)} tables")


@pytest.mark.parametrize("path", families("diffusion", "pool_decimate"), ids=lambda p: p.stem)
def test_pooling_windows_and_their_centres_match(path):
    golden, count = np.load(path), 0
    for frames in golden["lengths"].tolist():
        for t in golden["factors"].tolist():
            case = f"T{frames}_t{t}"
            if f"{case}/floor" not in golden.files:
                with pytest.raises(ValueError, match="fewer than one pooling window"):
                    pooled_length(frames, t)
                continue
            x = golden["x"][..., :frames].astype(np.float32).transpose(0, 2, 1)
            np.testing.assert_allclose(pool(jnp.asarray(x), t).transpose(0, 2, 1), golden[f"{case}/floor"], atol=2e-6)
            assert pooled_positions(frames, t) == golden[f"{case}/floor_center_pos"].tolist()
            rows = decimate(np.arange(frames)[:, None, None], frames, t)[:, 0, 0]
            np.testing.assert_array_equal(rows, golden[f"{case}/floor_center_pos"])
            count += 1
    assert count
    print(f"{path.name}: {count} cases")
