"""Latents, embeddings and codes from frozen models: shapes, padding, repeatable crops."""

import numpy as np
import pytest
from tiny_model import build_tiny_model

from spresso_jax.checkpoints.weights import Model, Network, load_model
from spresso_jax.extract.embeddings import EmbeddingExtractor
from spresso_jax.extract.latents import LatentExtractor


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = build_tiny_model(tmp_path_factory.mktemp("models") / "tiny", downsample=20, facts={"text_tokens": 16})
    return load_model(folder)


@pytest.fixture(scope="module")
def records(model):
    rng = np.random.default_rng(0)

    def clip(name, seconds, captions):
        audio = (0.1 * rng.normal(size=(int(seconds * 48_000), 1))).astype(np.float32)
        return {"id": name, "captions": captions, "audio": audio, "valid": len(audio)}

    clips = [clip("short", 1.5, ["rain on a roof", "rain"]), clip("long", 6.0, [""])]
    return list(LatentExtractor.of_model(model).records(clips))


def test_latents_cover_the_clip_and_weigh_its_padding_zero(records):
    (meta, short), (_, long) = records
    assert meta == {"id": "short", "caption": ["rain on a roof", "rain"]}
    assert short["latent"].shape == (500, 128) and long["latent"].shape == (1000, 128)
    assert short["latent"].dtype == np.float16
    assert short["weight"].sum() == 150 and long["weight"].sum() == 600


def test_centred_padding_gives_the_same_frames_as_the_codec_uses(model):
    network = model.networks["audio_ae"]
    centred = Network({**network.config, "padding": "center"}, network.params, network.class_name)
    extractor = LatentExtractor.of_model(Model({**model.networks, "audio_ae": centred}, model.facts))
    clip = {"id": "long", "captions": ["rain"], "audio": np.full((288_000, 1), 0.1, np.float32), "valid": 288_000}
    ((_, arrays),) = extractor.records([clip])
    assert arrays["latent"].shape == (1000, 128) and arrays["weight"].shape == (1000,)


def test_every_caption_has_its_states_and_an_empty_one_is_the_null_caption(records):
    (_, short), (_, long) = records
    assert short["text"].shape[0] == 2 and short["text_mask"].any(axis=1).all()
    assert not long["text_mask"].any()


def test_crops_are_a_function_of_the_seed_and_stay_inside(model, records):
    extractor = EmbeddingExtractor.of_model(model)
    first, again, other = (list(extractor.crops(records, 3, seed)) for seed in (0, 0, 1))
    assert len(first) == 6 and first[0][1]["embedding"].shape == (25, 64)
    for (_, a), (_, b) in zip(first, again, strict=True):
        np.testing.assert_array_equal(a["latent"], b["latent"])
    assert any((a["latent"] != b["latent"]).any() for (_, a), (_, b) in zip(first, other, strict=True))
    np.testing.assert_array_equal(first[0][1]["latent"], records[0][1]["latent"][:500])


def test_rows_leave_padding_out(model, records):
    extractor = EmbeddingExtractor.of_model(model)
    short, long = extractor.rows(extractor.crops(records, 1, 0))
    assert short.shape == (7, 64) or short.shape == (8, 64)
    assert long.shape == (25, 64)


def test_codes_decode_to_the_quantizers_reconstruction(model, records):
    from spresso_jax.quantizer import assign

    extractor = EmbeddingExtractor.of_model(model)
    (_, arrays), _ = list(extractor.coded(extractor.crops(records, 1, 0), 2))
    assert arrays["codes"].shape == (25, 2)
    alone = assign.encode(extractor.quantizer, extractor.quantizer_params, arrays["embedding"], 2)
    np.testing.assert_array_equal(arrays["codes"], alone)


def test_a_model_without_what_latents_need_is_named(model):
    with pytest.raises(ValueError, match="network clap"):
        LatentExtractor.of_model(Model({"audio_ae": model.networks["audio_ae"]}, model.facts))
