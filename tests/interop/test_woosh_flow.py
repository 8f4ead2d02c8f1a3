"""Importing Woosh-Flow and its text tower: the networks of the description, every tensor accounted for, clear refusals."""

import math

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from woosh_flow_layout import (
    EMPTY,
    RELEASED_ROTARY,
    TINY,
    TINY_ROTARY,
    flow_shapes,
    reference_velocity,
    seeded,
    text_shapes,
)

from spresso_jax.checkpoints.trees import flatten
from spresso_jax.clap.text_conditioner import TextConditioner
from spresso_jax.clap.text_tower import ClapTextTower
from spresso_jax.dit.model import DiT
from spresso_jax.interop import woosh_flow
from spresso_jax.interop.clap_huggingface import StateDict, text_tower
from spresso_jax.interop.woosh_flow import flow_from_state, read_woosh_flow
from spresso_jax.interop.woosh_text import conditioner_from_state, read_woosh_text_conditioner

STATED = {"dit": {**TINY_ROTARY, "dim": 16, "n_layers": 4, "n_multimodal_layers": 2}, "pred_type": "v_pred"}
TEXT = dict(vocabulary=40, width=8, positions=12, layers=3, hidden=14, shared=6)


@pytest.fixture(scope="module")
def state():
    return seeded(flow_shapes(**TINY))


@pytest.fixture(scope="module")
def tower():
    return seeded(text_shapes(**TEXT), 1)


@pytest.fixture(scope="module")
def clip():
    rng = np.random.default_rng(2)
    text = rng.standard_normal((5, 10)).astype(np.float32)
    return rng.standard_normal((7, 6)).astype(np.float32), text, np.array([True, True, True, False, False])


def velocity(made, x, t, text, mask):
    run = jax.jit(DiT(**made.config).apply)
    return run({"params": made.params}, x[None], np.float32([t]), text[None], mask[None])[0]


def test_the_imported_network_computes_what_the_description_says(state, clip):
    made = flow_from_state(state, STATED)
    x, text, mask = clip
    theirs, logvar = reference_velocity(state, x, 0.7, text, mask, TINY_ROTARY)
    np.testing.assert_allclose(velocity(made, x, 0.7, text, mask), theirs, atol=2e-5)
    u = DiT(**made.config).apply({"params": made.params}, np.float32([0.7]), method="uncertainty")
    np.testing.assert_allclose(u[0], logvar, atol=2e-5)
    assert made.config["precond"] == "flow" and made.frames == 9


def test_our_null_caption_becomes_theirs_and_captions_stay_as_they_are(state, clip):
    plain = flow_from_state(state, STATED)
    x, text, mask = clip
    empty = np.array([True, True, False, False, False])
    states = np.random.default_rng(3).standard_normal((5, 10)).astype(np.float32)
    made = plain.with_null_caption(states, empty)
    ours = velocity(made, x, 0.4, np.zeros_like(text), np.zeros(5, bool))
    np.testing.assert_allclose(ours, velocity(plain, x, 0.4, states, empty), atol=1e-6)
    np.testing.assert_array_equal(velocity(made, x, 0.4, text, mask), velocity(plain, x, 0.4, text, mask))
    with pytest.raises(ValueError, match="4 states of width 10, the DiT was trained with 5 of width 10"):
        plain.with_null_caption(states[:4], empty[:4])


def lightly(shapes):
    """Tensors of the given shapes without their memory: one number seen from everywhere."""
    return {name: np.broadcast_to(np.float32(0.5), shape) for name, shape in shapes.items()}


def test_the_published_sizes_are_used_up_to_the_last_key(monkeypatch):
    shapes = flow_shapes()
    assert len(shapes) == 239 and sum(map(math.prod, shapes.values())) == 337_238_145

    def stacked(blocks):
        if isinstance(blocks[0], dict):
            return {name: stacked([block[name] for block in blocks]) for name in blocks[0]}
        return np.broadcast_to(blocks[0], (len(blocks), *blocks[0].shape))

    monkeypatch.setattr(woosh_flow, "_stacked", stacked)  # a copy of every weight is what a test has no room for
    made = flow_from_state(lightly(shapes), {"dit": RELEASED_ROTARY, "sigma_data": 1.0})
    assert made.config == dict(
        width=1024, heads=8, joint_blocks=6, audio_blocks=6, text_width=1024, text_tokens=77, latent_channels=128,
        mlp_ratio=4.0, single_style="parallel", single_text=True, registers=1, register_position=501,
        rope_theta=10_000.0, rope_dim=112, yarn_factor=40.0, yarn_length=501, noise_features=256,
        learned_noise_features=True, uncertainty_hidden=128, precond="flow",
    )  # fmt: skip
    example = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((1, 500, 128), (1,), (1, 77, 1024), (1, 77))]
    wanted = flatten(jax.eval_shape(DiT(**made.config).init, jax.random.key(0), *example)["params"])
    ours = flatten(made.params)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in wanted.items()}
    assert sum(leaf.size for leaf in ours.values()) == 337_238_145


def test_the_published_text_tower_is_used_up_to_the_last_key():
    shapes = text_shapes()
    assert len(shapes) == 393 and sum(map(math.prod, shapes.values())) == 356_409_344
    light = lightly(text_shapes(layers=3))
    made = conditioner_from_state(light)
    assert made.config == dict(
        vocabulary=50265, text_width=1024, text_layers=2, text_heads=16, text_mlp_width=4096, text_positions=514,
        channels=1024,
    )  # fmt: skip
    example = jax.ShapeDtypeStruct((1, 77), np.int32), jax.ShapeDtypeStruct((1, 77), bool)
    wanted = flatten(jax.eval_shape(TextConditioner(**made.config).init, jax.random.key(0), *example)["params"])
    assert {k: v.shape for k, v in flatten(made.params).items()} == {k: v.shape for k, v in wanted.items()}


def test_the_text_tower_gives_the_states_before_the_last_layer(tower):
    made = conditioner_from_state(tower, heads=2)
    whole = ClapTextTower(40, 8, 3, 2, 14, 12, states_layer=-2)
    params = text_tower(StateDict(tower), 3, "sentence_frontend")
    tokens = np.array([[0, 7, 9, 2, 1, 1]], np.int32)
    states, first = TextConditioner(**made.config).apply({"params": made.params}, tokens, tokens != 1)
    theirs, _ = whole.apply({"params": params}, tokens, tokens != 1)
    np.testing.assert_array_equal(states, theirs)
    np.testing.assert_array_equal(first, theirs[:, 0])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_upcast_and_reported(state, tower, dtype, tmp_path):
    for name, weights in (("flow", state), ("text", tower)):
        (tmp_path / name).mkdir()
        half = {key: value.astype(dtype) for key, value in weights.items()}
        save_file(half, str(tmp_path / name / "weights.safetensors"))
    with pytest.raises(ValueError, match="config.yaml is missing: it tells the rotary table"):
        read_woosh_flow(tmp_path / "flow")
    rotary = "".join(f"  {key}: {value}\n" for key, value in TINY_ROTARY.items())
    (tmp_path / "flow" / "config.yaml").write_text(f"pred_type: v_pred\ndit:\n{rotary}")
    for made in (read_woosh_flow(tmp_path / "flow"), read_woosh_text_conditioner(tmp_path / "text", 2)):
        assert made.dtypes == (np.dtype(dtype).name,) and made.weights_file.name == "weights.safetensors"
        assert {leaf.dtype for leaf in flatten(made.params).values()} == {np.dtype(np.float32)}
    pad = state["dit.preprocessing.description_pad"].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(read_woosh_flow(tmp_path / "flow").params["caption"]["pad"], pad)


QKV, GAIN = "dit.layers.1.attn.modalities.x.qkv.weight", "dit.layers.3.norm_k.weight"
PAD = "dit.preprocessing.description_pad"


def without(*beginnings):
    return lambda state: {name: value for name, value in state.items() if not name.startswith(beginnings)}


def changed(name, change):
    return lambda state: state | {name: change(state[name])}


FAULTS = {
    "missing keys": (without(GAIN, "dit.postprocessing.linear.bias"), rf"2 missing: {GAIN}, dit\.post.*linear\.bias"),
    "missing size": (without(PAD), f"lacks '{PAD}'"),
    "missing block": (without("dit.layers.2."), "lacks layer 2"),
    "missing last block": (without("dit.layers.3."), "states dit.n_layers = 4, the weights have 3"),
    "unexpected key": (lambda s: s | {"autoencoder.z_mean": s[GAIN]}, "1 unexpected: autoencoder.z_mean"),
    "wrong shape": (changed(QKV, lambda v: v[:-1]), rf"of another shape: {QKV} \(47, 16\) instead of \(48, 16\)"),
    "wrong axes": (changed(PAD, lambda v: v[0]), "expected 2 axes"),
    "tokens we have no place for": (changed(EMPTY, lambda v: np.zeros((1, 2, 16), np.float32)), "holds tokens"),
    "no joint block": (without("dit.layers.0.attn"), "layer 0 is no joint block"),
    "whole numbers": (changed(GAIN, lambda v: v.astype(np.int32)), "int32, not a floating tensor"),
}


@pytest.mark.parametrize(("break_it", "message"), FAULTS.values(), ids=FAULTS)
def test_weights_that_do_not_fit_are_refused_with_the_reason(state, break_it, message):
    with pytest.raises(ValueError, match=message):
        flow_from_state(break_it(dict(state)), STATED)


def test_the_empty_tensor_may_be_absent(state):
    assert flow_from_state(without(EMPTY)(state), STATED).config == flow_from_state(state, STATED).config


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({}, "no section dit"),
        ({"dit": {**TINY_ROTARY, "rope_theta": None}}, "dit.rope_theta of config.yaml must be a number"),
        ({"dit": {**TINY_ROTARY, "n_heads": 4}}, "states dit.n_heads = 4, the weights have 2"),
        ({"dit": {**TINY_ROTARY, "qk_rope_head_dim": 9}}, "must be even and at most 8"),
        ({"dit": {**TINY_ROTARY, "patch_size": 2}}, "states dit.patch_size = 2, supported is 1"),
        ({"dit": TINY_ROTARY, "pred_type": "x_pred"}, "states pred_type = 'x_pred', supported is 'v_pred'"),
    ],
)
def test_a_config_that_is_short_or_contradicts_is_refused(state, stated, message):
    with pytest.raises(ValueError, match=message):
        flow_from_state(state, stated)


def test_a_text_tower_that_does_not_fit_is_refused(tower):
    query = "sentence_frontend.encoder.layer.1.attention.self.query.weight"
    for break_it, heads, stated, message in (
        (without(query), 2, None, f"1 missing: {query}"),
        (without("sentence_frontend.pooler"), 2, None, "2 missing: sentence_frontend.pooler"),
        (lambda s: s | {"logit_scale": s["sentence_head.0.bias"]}, 2, None, "1 unexpected: logit_scale"),
        (changed(query, lambda v: v[1:]), 2, None, r"of another shape: .*query.weight \(7, 8\)"),
        (dict, 3, None, "3 heads do not divide the width 8"),
        (dict, 2, {"lhs_index": -1}, "states lhs_index = -1, supported is -2"),
    ):
        with pytest.raises(ValueError, match=message):
            conditioner_from_state(break_it(dict(tower)), heads, stated)
