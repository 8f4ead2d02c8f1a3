"""CLAP equals Hugging Face's ClapModel, stage by stage for a small model and end to end for the public architecture."""

import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import families
from safetensors.numpy import load_file

from spresso_jax.audio.mel import mel_filters
from spresso_jax.clap.contrastive import contrastive_loss
from spresso_jax.clap.front_ends import FrontEnd, log_mel_features
from spresso_jax.clap.htsat import InputNorm, fold_spectrogram
from spresso_jax.clap.model import Clap
from spresso_jax.interop.clap_huggingface import clap_config, clap_params

pytestmark = pytest.mark.golden
FEATURES_DB = 1e-2
LONG_SAMPLES = 528_000


def clips(golden):
    names = sorted(name for name in golden.files if name.startswith("audio_pcm16_"))
    return [golden[name].astype(np.float32)[None, :, None] / 32768.0 for name in names]


def every(values, rows):
    return values[:: -(-len(values) // rows)]


def family(prefix):
    paths = families("evaluation", prefix)
    if not paths:
        pytest.skip(f"no golden file of the family {prefix}")
    return paths


def report(area, paths, cases):
    print(f"golden {area}: {len(paths)} files, {cases} cases")
    assert cases >= len(paths) > 0


def same(name, ours, golden, relative):
    golden = np.asarray(golden)
    worst = np.abs(np.asarray(ours, np.float64) - golden).max() / max(np.abs(golden).max(), 1e-30)
    assert worst < relative, f"{name}: {worst:.2e} of the largest value, {relative:.0e} allowed"


def test_front_end_equals_the_extractor_in_every_mode():
    paths, cases = family("clap_tiny"), 0
    for path in paths:
        golden = np.load(path)
        audio = clips(golden)
        for bank in ("slaney", "htk"):
            filters = mel_filters(48_000, 1024, 64, 50.0, 14_000.0, bank, bank == "slaney")
            same(f"{path.name} {bank}", filters, golden[f"mel_filters_{bank}"], 1e-6)
        for clip, expected in zip(audio, golden["input_features"], strict=True):
            np.testing.assert_allclose(log_mel_features(clip, FrontEnd())[0], expected[0], atol=FEATURES_DB)
            cases += 1
        variants = {
            "fusion": FrontEnd(filter_bank="htk"),
            "pad": FrontEnd(short_clips="pad"),
            "repeat": FrontEnd(short_clips="repeat"),
        }
        for name, front_end in variants.items():
            if f"{name}_input_features_clip0_every8" not in golden.files:
                continue
            expected = golden[f"{name}_input_features_clip0_every8"]
            ours = np.asarray(log_mel_features(audio[0], front_end)[0])
            np.testing.assert_allclose(every(ours, len(expected)), expected, atol=FEATURES_DB, err_msg=name)
            cases += 1
        if "long_rand_trunc_index" not in golden.files:
            continue
        long = np.resize(audio[0][0, :, 0], LONG_SAMPLES)[None, :, None]
        ours = log_mel_features(long, FrontEnd(crop=int(golden["long_rand_trunc_index"])))[0]
        np.testing.assert_allclose(ours, golden["long_input_features_mean"], atol=FEATURES_DB)
        head = golden["long_input_features_head"]
        np.testing.assert_allclose(ours[: len(head)], head, atol=FEATURES_DB)
        cases += 1
    report("evaluation/clap_tiny front end", paths, cases)


@pytest.mark.parametrize(("dtype", "relative"), [("float32", 2e-3), ("float64", 1e-6)])
def test_every_stage_of_the_small_model_equals_the_reference(dtype, relative):
    paths, cases = family("clap_tiny"), 0
    for path in paths:
        with jax.enable_x64(dtype == "float64"):
            cases += check_small_model(path, dtype, relative)
    report(f"evaluation/clap_tiny {dtype}", paths, cases)


def check_small_model(path: Path, dtype: str, relative: float) -> int:
    golden = np.load(path)
    config = clap_config(json.loads(path.with_name(f"{path.stem}_config.json").read_text()))
    module = Clap(**config, dtype=dtype)
    params = clap_params(load_file(path.with_suffix(".safetensors")), config)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    features = jnp.asarray(golden["input_features"][:, 0], dtype)
    tokens = jnp.asarray(golden["input_ids"], jnp.int32)
    mask = jnp.asarray(golden["attention_mask"] != 0)

    @jax.jit
    def run(params):
        variables = {"params": params}
        audio, inside = module.apply(
            variables, features, method="encode_features", capture_intermediates=True, mutable=["intermediates"]
        )
        (_, text), inside_text = module.apply(
            variables, tokens, mask, method="encode_text", capture_intermediates=True, mutable=["intermediates"]
        )
        norm = InputNorm(config["input_norm"], config["mel_bins"])
        image = fold_spectrogram(
            norm.apply({"params": params["audio_tower"]["input_norm"]}, features[:1]), config["image_size"]
        )
        return audio, text, inside["intermediates"], inside_text["intermediates"], image

    audio, text, inside, inside_text, image = run(params)
    tower, text_tower = inside["audio_tower"], inside_text["text_tower"]

    def rows(state):
        return np.asarray(state).reshape(-1, state.shape[-1])

    ours = {"audio_img_clip0": image[0], "patch_embed_clip0": rows(tower["patch_norm"]["__call__"][0][0])}
    depths = config["audio_depths"]
    for s, depth in enumerate(depths):
        for b, name in ((0, f"stage{s}_block0"), (depth - 1, f"stage{s}_lastblock")):
            ours[f"{name}_clip0_every16"] = rows(tower[f"stage_{s}_block_{b}"]["__call__"][0][0])
        end = f"stage_{s}_merge" if s + 1 < len(depths) else f"stage_{s}_block_{depth - 1}"
        ours[f"stage{s}_clip0"] = rows(tower[end]["__call__"][0][0])
    states, pooled = tower["__call__"][0]
    ours |= {"audio_last_hidden_clip0": np.moveaxis(states[0], -1, 0), "audio_pooler": pooled}
    ours["text_embeddings"] = text_tower["embedding_norm"]["__call__"][0]
    ours["text_pooler"] = text_tower["__call__"][0][1]
    ours |= {f"text_layer{i}": text_tower[f"block_{i}"]["__call__"][0] for i in range(config["text_layers"])}
    ours["audio_proj_unnormalised"] = inside["audio_projection"]["fc2"]["__call__"][0]
    ours["text_proj_unnormalised"] = inside_text["text_projection"]["fc2"]["__call__"][0]
    ours |= {"audio_embeds": audio, "text_embeds": text, "clap_audio_similarity_matrix": audio @ audio.T}
    ours |= logits_and_losses(params, audio, text)

    known = [name for name in ours if name in golden.files]
    for name in known:
        expected = golden[name]
        value = every(np.asarray(ours[name]), len(expected)) if name.endswith("every16") else ours[name]
        same(f"{path.name} {name}", value, expected, relative)
    assert {"audio_embeds", "text_embeds"} <= set(known), f"{path.name} holds no embeddings"
    return len(known)


def logits_and_losses(params, audio, text):
    scale_a, scale_t = jnp.exp(params["audio_log_scale"]), jnp.exp(params["text_log_scale"])
    per_audio, per_text = scale_a * audio @ text.T, scale_t * text @ audio.T

    def cross_entropy(logits):
        return -jnp.diagonal(jax.nn.log_softmax(logits, axis=1)).mean()

    return {
        "logits_per_audio": per_audio,
        "logits_per_text": per_text,
        "loss": 0.5 * (cross_entropy(per_text) + cross_entropy(per_audio.T)),
        "loss_laion_non_mlp": contrastive_loss(audio, text, scale_a),
    }


def weights_by_recipe(shapes: dict, seed: int) -> dict:
    """Seeded weights for every key of the public model, by the rule that the golden data were made with."""
    tensors = {}
    for i, (name, (shape, dtype)) in enumerate(sorted(shapes.items())):
        if dtype.startswith("int"):
            tensors[name] = np.zeros(shape, dtype)
            continue
        noise = np.random.RandomState(10_000 * seed + i).standard_normal(tuple(shape))
        if name.startswith("logit_scale"):
            value = np.log(1 / 0.07) + 0.1 * name.endswith("_t")
        elif name.endswith("running_var"):
            value = 400 * np.exp(0.2 * noise)
        elif name.endswith("running_mean"):
            value = -30 + 5 * noise
        elif name.endswith("relative_position_bias_table") or ("embeddings." in name and len(shape) > 1):
            value = 0.5 * noise
        elif name.endswith("weight") and len(shape) == 1:
            value = 1 + 0.1 * noise
        elif name.endswith("bias"):
            value = 0.05 * noise
        else:
            value = noise / np.sqrt(np.prod(shape[1:]))
        tensors[name] = np.asarray(value, np.float32)
    return tensors


def test_public_architecture_equals_the_reference():
    paths, cases = family("clap_real_arch"), 0
    for path in paths:
        golden = np.load(path)
        keys = next(iter(families("evaluation", "clap_htsat_unfused_keys", ".json")), None)
        assert keys is not None, f"{path.name} needs clap_htsat_unfused_keys.json beside it"
        tensors = weights_by_recipe(json.loads(keys.read_text())["tensors"], int(golden["seed"]))
        for probe in (name for name in golden.files if name.startswith("probe/")):
            drawn = tensors[probe.removeprefix("probe/")].ravel()[: golden[probe].size]
            np.testing.assert_allclose(drawn, golden[probe], rtol=1e-6, err_msg=probe)
        config = clap_config({"audio_config": {}, "text_config": {}})
        module = Clap(**config)
        params = jax.tree.map(jnp.asarray, clap_params(tensors, config))
        del tensors
        features = jnp.concatenate([log_mel_features(clip, module.front_end()) for clip in clips(golden)])
        for ours, expected in zip(np.asarray(features), golden["input_features_every10"], strict=True):
            np.testing.assert_allclose(every(ours, len(expected)), expected, atol=FEATURES_DB)
        tokens = jnp.asarray(golden["input_ids"], jnp.int32)
        mask = jnp.asarray(golden["attention_mask"] != 0)
        audio = jax.jit(partial(module.apply, method="encode_features"))({"params": params}, features)
        text = jax.jit(partial(module.apply, method="encode_text"))({"params": params}, tokens, mask)[1]
        np.testing.assert_allclose(audio, golden["audio_embeds"], atol=2e-4)
        np.testing.assert_allclose(text, golden["text_embeds"], atol=2e-4)
        for name, value in logits_and_losses(params, audio, text).items():
            if name in golden.files:
                np.testing.assert_allclose(value, golden[name], atol=5e-3, err_msg=name)
        cases += len(golden["input_ids"])
    report("evaluation/clap_real_arch", paths, cases)
