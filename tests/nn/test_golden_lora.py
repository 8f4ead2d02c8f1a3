"""Adapters against the peft library: outputs, gradients, merging, rank-stabilised scaling, bias."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import families

from spresso_jax.nn.lora import LoraDense, merge, scaling, unmerge

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("path", families("diffusion", "lora"), ids=lambda p: p.stem)
def test_adapters_match_peft_in_float64(path):
    golden = np.load(path)
    cases = [k.split("/")[0] for k in golden.files if k.endswith("/settings_json")]
    assert cases
    for case in cases:
        g = {k.split("/", 1)[1]: golden[k] for k in golden.files if k.startswith(case + "/")}
        settings = json.loads(str(g["settings_json"]))
        rank, alpha, stable = settings["r"], settings["lora_alpha"], settings.get("use_rslora", False)
        assert scaling(rank, alpha, stable) == pytest.approx(float(g["scaling"]), rel=1e-12)
        params = {"kernel": g["W"].T, "bias": g["b"], "lora_a": g["A"].T, "lora_b": g["B"].T}
        if "B_bias" in g:
            params["lora_bias"] = g["B_bias"]
        with jax.enable_x64(True):
            adapters = dict(rank=rank, alpha=alpha, rank_stabilised=stable, adapter_bias="B_bias" in g)
            layer = LoraDense(len(g["b"]), dtype="float64", **adapters)
            x = jnp.asarray(g["x"])
            leaves = jax.tree.map(jnp.asarray, params)
            y, pull = jax.vjp(lambda p, layer=layer, x=x: layer.apply({"params": p}, x), leaves)
            np.testing.assert_allclose(y, g["y_lora"], atol=1e-10)
            gradient = pull(jnp.asarray(g["cotangent"]))[0]
            np.testing.assert_allclose(gradient["lora_a"].T, g["grad_A"], atol=1e-10)
            np.testing.assert_allclose(gradient["lora_b"].T, g["grad_B"], atol=1e-10)
            merged = merge({"layer": params}, alpha, stable)["layer"]
            assert set(merged) == {"kernel", "bias"}
            np.testing.assert_allclose(merged["kernel"].T, g["W_merged"], atol=1e-10)
            np.testing.assert_allclose(merged["bias"], g["b_merged"], atol=1e-10)
            plain = LoraDense(len(g["b"]), dtype="float64")
            np.testing.assert_allclose(plain.apply({"params": merged}, x), g["y_merged"], atol=1e-10)
            back = unmerge({"layer": merged}, {"layer": params}, alpha, stable)["layer"]
            np.testing.assert_allclose(back["kernel"], params["kernel"], atol=1e-14)
            np.testing.assert_allclose(plain.apply({"params": back}, x), g["y_base"], atol=1e-10)
    print(f"{path.name}: {len(cases)} cases")
