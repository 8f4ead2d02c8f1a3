"""Every stage: builds from its smallest preset, lowers for CUDA and TPU, owns what the paper trains, and takes a step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import build_tiny_model, tiny_networks

from spresso_jax.checkpoints.trees import flatten
from spresso_jax.checkpoints.weights import Model, Network, load_model
from spresso_jax.configuration import load_config
from spresso_jax.stages import registry
from spresso_jax.stages.denoising import VALIDATION_SIGMAS
from spresso_jax.train.loop import abstract_state
from spresso_jax.train.mesh import make_mesh
from spresso_jax.train.state import at_step, create, inherit, split
from spresso_jax.train.update import make_update

PRESETS = {
    "audio_ae": "audio_ae:tiny",
    "clap": "clap:tiny",
    "text_to_audio": "text_to_audio:tiny",
    "diffusion_ae": "diffusion_ae:tiny-11hz",
    "quantizer": "quantizer:tiny-11hz",
    "decoder_finetune": "decoder_finetune:tiny",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random model with all six networks, whose DiT has the third stream."""
    folder = build_tiny_model(tmp_path_factory.mktemp("models") / "tiny", codebooks=4, facts={"text_tokens": 16})
    return load_model(folder)


def upstream_of(stage, model):
    """What the stage's predecessors leave: later networks, and the DiT's third stream, are not there yet."""
    needs = registry.entry(stage).needs
    networks = {name: model.networks[name] for name in needs}
    facts = dict(model.facts)
    facts["operating_point"] = {**facts["operating_point"], "finetune_codebooks": 4, "decode_codebooks": [4, 2]}
    if stage in ("text_to_audio", "diffusion_ae"):
        networks.pop("dit", None)
    if stage == "diffusion_ae":
        dit = registry.build("text_to_audio", load_config("text_to_audio:tiny"), Model({**networks}, facts))
        networks["dit"] = type(model.networks["dit"])(
            dit.finish({"dit": {}}, lambda: iter(())).networks["dit"][0], dit.init(jax.random.key(0))["dit"], "DiT"
        )
    return Model(networks, facts) if networks else None


def built(stage, model):
    return registry.build(stage, load_config(PRESETS[stage]), upstream_of(stage, model))


def made_up_batch(stage):
    rng = np.random.default_rng(0)
    batch = {}
    for name, spec in stage.batch_spec.items():
        if name == "valid":
            batch[name] = np.full(spec.shape, 10_000, np.int32)
        elif jnp.issubdtype(spec.dtype, jnp.floating):
            batch[name] = (0.3 * rng.normal(size=spec.shape)).astype(np.float32)
        else:
            batch[name] = rng.integers(0, 2, spec.shape).astype(spec.dtype)
    if "weight" in batch:
        batch["weight"] = np.ones_like(batch["weight"])
    return batch


@pytest.mark.parametrize("name", PRESETS)
def test_the_update_lowers_for_cuda_and_tpu(name, model):
    stage = built(name, model)
    state, frozen = abstract_state(stage, 0, make_mesh())
    state, frozen = (jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree) for tree in (state, frozen))
    traced = jax.jit(make_update(stage), donate_argnums=0).trace(state, frozen, dict(stage.batch_spec))
    assert traced.lower(lowering_platforms=("cuda", "tpu")) is not None


@pytest.mark.parametrize(
    "changes",
    [pytest.param(["augment.loudness=true", "augment.phase=true"], marks=pytest.mark.slow), ["model.dtype=bfloat16"]],
)
def test_the_audio_ae_step_lowers_with_augmentation_in_bfloat16_and_in_micro_batches(changes):
    stage = registry.build("audio_ae", load_config("audio_ae:tiny", changes), None)
    state, frozen = abstract_state(stage, 0, make_mesh())
    update = make_update(stage, accumulate=2)
    after, metrics = jax.eval_shape(update, state, frozen, dict(stage.batch_spec))
    assert jax.tree.map(jnp.shape, after.params) == jax.tree.map(jnp.shape, state.params)
    assert {"generator/mel", "generator/waveform_db", "discriminator/loss"} <= set(metrics)


@pytest.mark.slow
def test_the_adversary_of_the_audio_ae_can_be_warmed_up_and_the_linear_path_annealed():
    warm = load_config("audio_ae:tiny", ["adversary.first_step=10", "adversary.ramp_steps=4"])
    weight = registry.build("audio_ae", warm, None).schedules["adversary"]
    assert [float(weight(jnp.asarray(step))) for step in (0, 9, 10, 11, 13, 50)] == [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
    annealed = load_config("audio_ae:tiny", ["anneal_steps=20", "model.level_channels=0", "statistics_batches=2"])
    stage = registry.build("audio_ae", annealed, None)
    gain = stage.schedules["linear_path"]
    assert [float(gain(jnp.asarray(step))) for step in (0, 10, 20, 30)] == [1.0, 0.5, 0.0, 0.0]
    assert stage.best is None  # the earliest steps are the best, and not what was asked for
    batch = {"audio": np.full((2, 24_000, 1), 0.1, np.float32), "valid": np.full(2, 24_000, np.int32)}
    networks = inherit(stage, jax.jit(stage.init)(jax.random.key(0)))
    at = jax.jit(lambda step: stage.validate(at_step(stage, networks, step), batch, jax.random.key(0)))
    assert float(at(0)["waveform_db"]) < -30.0  # the linear codec
    assert float(at(20)["waveform_db"]) == pytest.approx(0.0, abs=0.1)  # untrained networks: silence
    quiet = {**batch, "audio": batch["audio"] * 1e-3}
    exported = stage.finish(networks, lambda: iter([batch, quiet])).networks["audio_ae"][0]
    assert stage.finish(networks, lambda: iter([quiet, quiet])).facts["latent_statistics"]["frames"] > 0
    assert exported["linear_path_gain"] == 0.0
    for wrong in (["anneal_steps=20"], ["anneal_steps=40", "model.level_channels=0"]):
        with pytest.raises(ValueError, match="anneal_steps"):
            registry.build("audio_ae", load_config("audio_ae:tiny", wrong), None)


def magnitude_preserving(model, overrides=()):
    """Stage 3 with magnitude-preserving blocks, and the model that it leaves to stage 4."""
    upstream = upstream_of("text_to_audio", model)
    config = load_config("text_to_audio:tiny-mp", [*overrides])
    stage = registry.build("text_to_audio", config, upstream)
    dit = type(model.networks["dit"])(
        stage.finish({"dit": {}}, lambda: iter(())).networks["dit"][0],
        jax.tree.map(lambda v: np.ones(v.shape, np.float32), jax.eval_shape(stage.init, jax.random.key(0))["dit"]),
        "DiT",
    )
    return stage, Model({**upstream.networks, "dit": dit}, upstream_of("diffusion_ae", model).facts)


def test_magnitude_preserving_blocks_train_on_normalised_kernels_without_weight_decay(model):
    stage, _ = magnitude_preserving(model)
    state, frozen = jax.eval_shape(
        lambda key: create(stage, inherit(stage, stage.init(key)), key), jax.random.key(0)
    )
    traced = jax.jit(make_update(stage), donate_argnums=0).trace(state, frozen, dict(stage.batch_spec))
    assert traced.lower(lowering_platforms=("cuda", "tpu")) is not None
    kernels = {path for path in flatten(state.params) if path.endswith("mp_kernel")}
    assert len(kernels) > 20 and not any("uncertainty_head" in path for path in kernels)
    doubled = {"dit": {"mp_kernel": 2.0 * jnp.ones((3, 2)), "gain": jnp.asarray(2.0)}}
    projected = stage.project(doubled)["dit"]
    np.testing.assert_allclose(projected["mp_kernel"], 1.0, atol=1e-4)
    assert float(projected["gain"]) == 2.0
    with pytest.raises(ValueError, match="set optimizer.weight_decay=0"):
        magnitude_preserving(model, ["optimizer.weight_decay=0.01"])
    assert built("text_to_audio", model).project is None


def test_step_1_on_magnitude_preserving_blocks_wants_no_adapters(model):
    _, upstream = magnitude_preserving(model)
    with pytest.raises(ValueError, match="set lora.lora_rank=0"):
        registry.build("diffusion_ae", load_config(PRESETS["diffusion_ae"]), upstream)
    bare = ["lora.lora_rank=0", "optimizer.weight_decay=0.0"]
    stage = registry.build("diffusion_ae", load_config(PRESETS["diffusion_ae"], bare), upstream)
    networks = jax.eval_shape(lambda key: stage.start(inherit(stage, stage.init(key)), None), jax.random.key(0))
    params, _, frozen = split(stage, networks)
    kernels = {path for path in flatten(params) if path.endswith("mp_kernel")}
    assert kernels and all("/down/" in path for path in kernels)
    assert "dit/joint/audio/q/mp_kernel" in flatten(frozen)
    jax.eval_shape(make_update(stage), *jax.eval_shape(
        lambda key: create(stage, inherit(stage, stage.init(key)), key), jax.random.key(0)
    ), dict(stage.batch_spec))


def owned(name, model):
    stage = built(name, model)
    params, buffers, frozen = split(stage, inherit(stage, jax.eval_shape(stage.init, jax.random.key(0))))
    return set(flatten(params)), set(flatten(buffers)), set(flatten(frozen))


def test_step_1_trains_the_encoder_the_projection_the_third_stream_and_lora_only(model):
    params, _, frozen = owned("diffusion_ae", model)
    assert any(path.startswith("latent_encoder/") for path in params)
    assert any(path.startswith("projector/") for path in params)
    dit = {path for path in params if path.startswith("dit/")}
    assert all("down" in path or "lora_" in path or "uncertainty_head" in path for path in dit)
    assert any("down" in path for path in dit) and any("lora_a" in path for path in dit)
    assert {path.split("/")[0] for path in frozen} == {"dit", "audio_ae"}
    assert any("audio" in path and path.endswith("kernel") for path in frozen)
    assert not any("down" in path for path in frozen)


def test_step_3_trains_lora_and_the_projection_only(model):
    params, _, frozen = owned("decoder_finetune", model)
    assert all("lora_" in path or "uncertainty_head" in path or path.startswith("projector/") for path in params)
    assert any("down" in path for path in frozen) and any(path.startswith("quantizer/") for path in frozen)


def test_the_quantizer_keeps_its_data_statistics_out_of_training(model):
    _, buffers, _ = owned("quantizer", model)
    assert {"quantizer/data_mean", "quantizer/data_std"} <= buffers


def test_the_third_stream_starts_as_a_copy_of_the_audio_stream(model):
    stage = built("diffusion_ae", model)
    networks = inherit(stage, jax.jit(stage.init)(jax.random.key(0)))
    flat = flatten(stage.start(networks, lambda: iter(())))
    copied = [path for path in flat if "/down/" in path and path.endswith("kernel")]
    assert copied
    for path in copied:
        np.testing.assert_array_equal(flat[path], flat[path.replace("/down/", "/audio/")])


@pytest.mark.parametrize("name", ["text_to_audio", "decoder_finetune"])
def test_a_step_changes_every_trained_network_and_validation_reports_gains(name, model):
    stage = built(name, model)
    networks = inherit(stage, jax.jit(stage.init)(jax.random.key(0)))
    state, frozen = create(stage, networks, jax.random.key(1))
    batch = made_up_batch(stage)
    after, metrics = jax.jit(make_update(stage))(state, frozen, batch)
    assert np.isfinite(float(metrics["loss"])) and int(after.skipped) == 0
    moved = [
        bool(jnp.any(a != b)) for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(after.params), strict=True)
    ]
    assert any(moved)
    sounds = jax.eval_shape(stage.preview, networks, batch, jax.random.key(3))
    assert {"source_0", "decoded_0"} <= set(sounds) and sounds["decoded_0"].shape == (240_000,)
    report = jax.jit(stage.validate)(networks, batch, jax.random.key(2))
    assert any(key.endswith("_gain") for key in report) and "raw_bin_0.5" in report


def test_what_the_output_of_a_dit_means_is_inherited_from_its_model(model):
    upstream = upstream_of("diffusion_ae", model)
    dit = upstream.networks["dit"]
    velocity = Network({**dit.config, "precond": "flow"}, dit.params, "DiT")
    upstream = Model({**upstream.networks, "dit": velocity}, upstream.facts)
    stage = registry.build("text_to_audio", load_config(PRESETS["text_to_audio"]), upstream)
    assert stage.finish({"dit": {}}, lambda: iter(())).networks["dit"][0]["precond"] == "flow"

    stage = registry.build("diffusion_ae", load_config(PRESETS["diffusion_ae"]), upstream)
    networks = inherit(stage, jax.jit(stage.init)(jax.random.key(0)))
    batch = made_up_batch(stage)
    metrics = jax.jit(stage.validate)(networks, batch, jax.random.key(1))
    # The last layer is zero at first: kappa E|x0 / s - noise|^2 at every noise level, where EDM's form says 1.
    for sigma in VALIDATION_SIGMAS:
        kappa = (sigma**2 + 0.25) / (sigma + 0.5) ** 2
        expected = kappa * (np.mean(batch["latent"] ** 2) / 0.25 + 1.0)
        assert float(metrics[f"raw_bin_{sigma}"]) == pytest.approx(expected, rel=0.03)


def test_a_model_that_lacks_a_network_is_refused_by_name(model):
    with pytest.raises(ValueError, match="latent_encoder"):
        registry.build(
            "quantizer", load_config("quantizer:tiny"), Model({"audio_ae": model.networks["audio_ae"]}, model.facts)
        )
    with pytest.raises(ValueError, match="choose one of audio_ae"):
        registry.entry("audio")
    assert set(tiny_networks()) >= {name for entry in registry.STAGES for name in entry.needs}


def test_silence_is_embedded_as_500_frames_also_with_centred_padding(model):
    upstream = upstream_of("diffusion_ae", model)
    ae = upstream.networks["audio_ae"]
    centred = type(ae)({**ae.config, "padding": "center"}, ae.params, ae.class_name)
    upstream = Model({**upstream.networks, "audio_ae": centred}, upstream.facts)
    config = load_config("diffusion_ae:tiny-11hz", ["statistics_batches=1"])
    stage = registry.build("diffusion_ae", config, upstream)
    networks = inherit(stage, jax.jit(stage.init)(jax.random.key(0)))
    facts = stage.finish(networks, lambda: iter([made_up_batch(stage)])).facts
    assert np.shape(facts["silence_embedding"]) == (55, 64)
    sounds = jax.eval_shape(stage.preview, networks, made_up_batch(stage), jax.random.key(3))
    assert sounds["decoded_0"].shape == (240_000,)


def test_networks_trained_before_what_they_build_on_are_outdated_until_trained_again():
    whole = ("audio_ae", "clap", "dit", "latent_encoder", "projector", "quantizer")
    after = registry.outdated_after("audio_ae", (), whole, ["audio_ae"])
    assert after == ["dit", "latent_encoder", "projector", "quantizer"]
    after = registry.outdated_after("text_to_audio", after, whole, ["dit"])
    after = registry.outdated_after("diffusion_ae", after, whole, ["dit", "latent_encoder", "projector"])
    assert after == ["quantizer"]
    assert registry.outdated_after("quantizer", after, whole, ["quantizer"]) == []
    assert registry.outdated_after("audio_ae", (), (), ["audio_ae"]) == []
