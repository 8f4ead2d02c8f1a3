"""Joint, parallel, audio-only, tri-stream and encoder blocks against SD3, FLUX and Woosh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_blocks as ref
from golden_files import families

from spresso_jax.dit.blocks import AudioBlock, JointBlock, OutputLayer, ParallelBlock
from spresso_jax.dit.conditioning import SiluMlp
from spresso_jax.nn.rope import multi_axis_table
from spresso_jax.nn.transformer import PreNormBlock

pytestmark = pytest.mark.golden
CLOSE = dict(atol=2e-5, rtol=0)


def under(golden, prefix):
    return {k.removeprefix(prefix): golden[k] for k in golden.files if k.startswith(prefix)}


def ratio(hidden, width):
    return hidden / width


@pytest.mark.parametrize("path", families("diffusion", "sd3_mmdit"), ids=lambda p: p.stem)
def test_joint_blocks_match_sd3_with_gradients(path):
    golden = np.load(path)
    cases = [k.split("/")[0] for k in golden.files if k.endswith("/x_out")]
    assert cases
    for case in cases:
        w, last = under(golden, f"{case}/w/"), "context_block.mlp.fc1.weight" not in under(golden, f"{case}/w/")
        params = {"text": ref.sd3_stream(w, "context_block", last), "audio": ref.sd3_stream(w, "x_block")}
        for dtype, suffix, tolerance in (("float32", "", 2e-5), ("float64", "_f64", 1e-12)):
            with jax.enable_x64(dtype == "float64"):
                block = JointBlock(
                    int(golden["dim"]), int(golden["heads"]), last=last, dtype=dtype,
                    qk_norm="k_norm" in params["audio"]["attention"],
                )
                p = jax.tree.map(lambda v, dtype=dtype: jnp.asarray(v, dtype), params)
                text, x, c, cotangent = (
                    jnp.asarray(golden[f"{case}/{n}"], dtype) for n in ("context", "x", "c", "cotangent_x")
                )

                def run(x, c, block=block, p=p, text=text):
                    return block.apply({"params": p}, {"text": text, "audio": x}, jax.nn.silu(c), {})[0]

                def scalar(x, c, run=run, last=last, cotangent=cotangent):
                    out = run(x, c)
                    return jnp.sum(out["audio"] * cotangent) + (0.0 if last else jnp.sum(out["text"]))

                out = jax.jit(run)(x, c)
                gradients = jax.jit(jax.grad(scalar, (0, 1)))(x, c)
            np.testing.assert_allclose(out["audio"], golden[f"{case}/x_out{suffix}"], atol=tolerance, rtol=0)
            if not last:
                np.testing.assert_allclose(out["text"], golden[f"{case}/context_out{suffix}"], atol=tolerance, rtol=0)
            for got, name in zip(gradients, "xc", strict=True):
                want = golden[f"{case}/grad_{name}{suffix}"]
                np.testing.assert_allclose(got, want, atol=5 * tolerance, rtol=1e-5 if dtype == "float32" else 0)
    x, c = jnp.asarray(golden["joint/x"]), jnp.asarray(golden["joint/c"])
    w = under(golden, "final/w/")
    final = {"linear": ref.dense(w, "linear"), "modulation": ref.modulation(w, "adaLN_modulation.1")}
    out = OutputLayer(golden["final/out"].shape[-1]).apply({"params": final}, x, jax.nn.silu(c))
    np.testing.assert_allclose(out, golden["final/out"], **CLOSE)
    w = under(golden, "temb/w/")
    mlp = {"fc1": ref.dense(w, "mlp.0"), "fc2": ref.dense(w, "mlp.2")}
    out = SiluMlp(len(w["mlp.0.bias"]), len(w["mlp.2.bias"])).apply({"params": mlp}, jnp.asarray(golden["temb/freq"]))
    np.testing.assert_allclose(out, golden["temb/out"], **CLOSE)
    print(f"{path.name}: {len(cases) + 2} cases")


@pytest.mark.parametrize("path", families("diffusion", "flux_blocks"), ids=lambda p: p.stem)
def test_double_single_and_last_layers_match_flux(path):
    golden = np.load(path)
    width, heads = int(golden["dim"]), int(golden["heads"])
    table = multi_axis_table(golden["ids"], golden["axes_dim"].tolist(), float(golden["theta"]))
    np.testing.assert_allclose(table, golden["pe"][:, 0, ..., 0], atol=1e-5)
    text, audio, y = (jnp.asarray(golden[n]) for n in ("txt", "img", "vec"))
    y, n = jax.nn.silu(y), text.shape[1]
    w = under(golden, "double/w/")
    params = {"text": ref.flux_stream(w, "txt"), "audio": ref.flux_stream(w, "img")}
    tables = {"text": table[:, :n], "audio": table[:, n:]}
    out, _ = jax.jit(JointBlock(width, heads).apply)({"params": params}, {"text": text, "audio": audio}, y, tables)
    np.testing.assert_allclose(out["audio"], golden["double/img_out"], **CLOSE)
    np.testing.assert_allclose(out["text"], golden["double/txt_out"], **CLOSE)
    w = under(golden, "single/w/")
    names = ("linear1", "linear2", "norm.query_norm.scale", "norm.key_norm.scale", "modulation.lin")
    params = ref.parallel(w, *names)
    hidden = params["fc1"]["bias"].size
    block = ParallelBlock(width, heads, ratio(hidden, width))
    out, _ = jax.jit(block.apply)({"params": params}, jnp.asarray(golden["single/x"]), y, table)
    np.testing.assert_allclose(out, golden["single/out"], **CLOSE)
    w = under(golden, "last/w/")
    last = {"linear": ref.dense(w, "linear"), "modulation": ref.modulation(w, "adaLN_modulation.1")}
    out = OutputLayer(golden["last/out"].shape[-1]).apply({"params": last}, audio, y)
    np.testing.assert_allclose(out, golden["last/out"], **CLOSE)
    print(f"{path.name}: 3 cases")


@pytest.mark.parametrize("path", families("diffusion", "tri_stream_blocks"), ids=lambda p: p.stem)
def test_two_and_three_stream_audio_encoder_and_parallel_blocks_match_woosh(path):
    golden = np.load(path)
    width, heads = int(golden["dim"]), int(golden["heads"])
    rotated = int(golden["qk_rope_head_dim"]) // 2
    x, text, y, down = (jnp.asarray(golden[n]) for n in ("x", "text", "t_mod", "down"))
    tables = {name: golden[f"freqs_{key}"][:, :rotated] for name, key in (("audio", "x"), ("down", "down"))}
    tables["audio"] = tables["audio"][: x.shape[1]]
    cases = sorted({k.split("/")[0] for k in golden.files if "/w/" in k})
    assert cases
    for case in cases:
        w = under(golden, f"{case}/w/")
        hidden = next((v.shape[0] for k, v in w.items() if k.endswith("w1.weight")), None)
        mlp_ratio = ratio(hidden, width) if hidden else None
        if case.startswith("joint"):
            names = {"text": "description", "audio": "x"} | ({"down": "down"} if case == "joint3" else {})
            params = {
                ours: ref.woosh_stream(w, f"attn.modalities.{theirs}", f"ffns.{theirs}", ours != "down")
                for ours, theirs in names.items()
            }
            carry = {"text": text, "audio": x} | ({"down": down} if case == "joint3" else {})
            block = JointBlock(width, heads, mlp_ratio, third_stream=case == "joint3")
            out, _ = jax.jit(block.apply)({"params": params}, carry, y, tables)
            for ours in names:
                want = golden[f"{case}/{'x' if ours == 'audio' else ours}_out"]
                np.testing.assert_allclose(out[ours], want, **CLOSE)
        elif case == "audio_only":
            params = {"audio": ref.woosh_stream(w, "attn", "ffn")}
            out, _ = jax.jit(AudioBlock(width, heads, mlp_ratio).apply)({"params": params}, x, y, tables["audio"])
            np.testing.assert_allclose(out, golden[f"{case}/x_out"], **CLOSE)
        elif case == "encoder_block":
            params = ref.woosh_stream(w, "attn", "ffn", modulated=False)
            out, _ = jax.jit(PreNormBlock(width, heads, mlp_ratio).apply)({"params": params}, x, tables["audio"])
            np.testing.assert_allclose(out, golden[f"{case}/x_out"], **CLOSE)
        elif case == "single_parallel":
            params = ref.parallel(w, "qkv_mlp", "out_proj", "norm_q.weight", "norm_k.weight", "mod_proj")
            block = ParallelBlock(width, heads, ratio(params["fc1"]["bias"].size, width))
            rows = np.concatenate([tables["audio"], golden["freqs_text"][:, :rotated]])
            out, _ = jax.jit(block.apply)({"params": params}, jnp.concatenate([x, text], axis=1), y, rows)
            np.testing.assert_allclose(out[:, : x.shape[1]], golden[f"{case}/x_out"], **CLOSE)
            np.testing.assert_allclose(out[:, x.shape[1] :], golden[f"{case}/text_out"], **CLOSE)
        else:
            pytest.fail(f"case {case} of {path.name} has no test")
    print(f"{path.name}: {len(cases)} cases")
