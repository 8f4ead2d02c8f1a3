"""Step 3's embeddings: what is kept continuous, how many codebooks a sample draws, and where its codes come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_model import tiny_networks

from spresso_jax.checkpoints.weights import Model
from spresso_jax.configuration import load_config
from spresso_jax.diffusion_autoencoder.model import mix_quantized
from spresso_jax.extract.embeddings import EmbeddingExtractor
from spresso_jax.quantizer import assign
from spresso_jax.stages import registry
from spresso_jax.stages.decoder_finetune import Embeddings, codebook_range, draw_counts

FACTS = {
    "operating_point": {"finetune_codebooks": 3},
    "latent_statistics": {"mean": [0.0] * 128, "std": [1.0] * 128, "sigma_data": 0.5},
    "text_tokens": 16,
}


@pytest.fixture(scope="module")
def model():
    return Model(tiny_networks(downsample=100, codebooks=4), FACTS)


@pytest.fixture(scope="module")
def extractor(model):
    return EmbeddingExtractor.of_model(model)


@pytest.fixture(scope="module")
def records(model, extractor):
    rng = np.random.default_rng(0)
    latents = (0.5 * rng.normal(size=(5, 500, 128))).astype(np.float16)
    clips = [({"id": str(i)}, {"latent": x, "weight": np.ones(500, np.float16)}) for i, x in enumerate(latents)]
    return list(extractor.crops(clips, 1, 0))


def stacked(records):
    return {name: jnp.asarray(np.stack([arrays[name] for _, arrays in records])) for name in records[0][1]}


def params_of(model):
    return {name: network.params for name, network in model.networks.items()}


def source(model, low, high, on_the_fly=False):
    from spresso_jax.diffusion_autoencoder.encoder import LatentEncoder
    from spresso_jax.diffusion_autoencoder.model import DiffusionAutoencoder
    from spresso_jax.quantizer.qinco import Qinco

    encoder = LatentEncoder(**model.networks["latent_encoder"].config)
    quantizer = Qinco(**model.networks["quantizer"].config)
    return Embeddings(DiffusionAutoencoder(encoder, None, None), quantizer, low, high, on_the_fly)


def test_a_tenth_of_the_samples_keeps_its_continuous_embedding_the_same_ones_for_the_same_key():
    rows = 4000
    z, z_q = jnp.ones((rows, 3, 2)), jnp.zeros((rows, 3, 2))
    mixed = np.asarray(mix_quantized(jax.random.key(7), z, z_q, 0.1))
    kept = mixed.mean(axis=(1, 2))
    assert set(np.unique(kept)) == {0.0, 1.0}  # whole samples, never parts of one
    assert abs(kept.mean() - 0.1) < 4 * np.sqrt(0.1 * 0.9 / rows)
    np.testing.assert_array_equal(mixed, mix_quantized(jax.random.key(7), z, z_q, 0.1))
    assert (mixed != np.asarray(mix_quantized(jax.random.key(8), z, z_q, 0.1))).any()
    for keep, value in ((0.0, 0.0), (1.0, 1.0)):
        assert (np.asarray(mix_quantized(jax.random.key(7), z, z_q, keep)) == value).all()


def test_draws_cover_the_range_uniformly_and_repeat():
    rows, low, high = 8000, 4, 9
    drawn = np.asarray(draw_counts(jax.random.key(1), rows, low, high))
    shares = np.bincount(drawn, minlength=high + 2)[low : high + 1] / rows
    assert drawn.min() == low and drawn.max() == high
    expected = 1 / (high - low + 1)
    np.testing.assert_allclose(shares, expected, atol=4 * np.sqrt(expected / rows))
    np.testing.assert_array_equal(drawn, draw_counts(jax.random.key(1), rows, low, high))


def test_every_sample_gets_the_best_code_of_its_own_length(model, extractor, records):
    params = params_of(model)
    batch = stacked(list(extractor.coded_by_length(records, 2, 4)))
    assert batch["codes"].shape == (5, 3, 5, 4) and batch["codes"].dtype == jnp.int16
    embeddings = source(model, 2, 4)
    counts = jnp.asarray([2, 4, 3, 2, 4])
    z, z_q = jax.jit(embeddings)(params, batch, counts)
    np.testing.assert_array_equal(z, batch["embedding"])
    for row, count in enumerate(counts.tolist()):
        codes = assign.encode(embeddings.quantizer, params["quantizer"], batch["embedding"][row], count)
        want = embeddings.quantizer.decode(params["quantizer"], codes)
        np.testing.assert_allclose(z_q[row], want, atol=1e-5)
    same = embeddings(params, batch, 3)[1]
    np.testing.assert_allclose(same[2], z_q[2], atol=1e-6)
    assert float(jnp.abs(same - z_q).max()) > 1e-4


def test_one_length_for_all_is_what_stored_codes_of_that_length_give(model, extractor, records):
    params = params_of(model)
    fixed = stacked(list(extractor.coded(records, 3)))
    _, want = source(model, 3, 3)(params, fixed, 3)
    every = stacked(list(extractor.coded_by_length(records, 1, 4)))
    _, got = source(model, 1, 4)(params, every, 3)
    np.testing.assert_allclose(got, want, atol=1e-5)
    decoded = source(model, 3, 3).quantizer.decode(params["quantizer"], fixed["codes"])
    np.testing.assert_array_equal(want, decoded)


def test_codes_made_on_the_fly_are_the_stored_ones_of_the_same_window(model, extractor, records):
    params = params_of(model)
    stored = stacked(list(extractor.coded_by_length(records, 2, 4)))
    counts = jnp.asarray([2, 3, 4, 4, 2])
    z, z_q = source(model, 2, 4)(params, stored, counts)
    latents = {"latent": stored["latent"].astype(jnp.float32)}
    fresh_z, fresh = jax.jit(source(model, 2, 4, on_the_fly=True))(params, latents, counts)
    np.testing.assert_allclose(fresh_z, z, atol=1e-4)
    np.testing.assert_allclose(fresh, z_q, atol=1e-3)
    _, one = jax.jit(source(model, 3, 3, on_the_fly=True))(params, latents, 3)
    np.testing.assert_allclose(one, source(model, 2, 4)(params, stored, 3)[1], atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "spec", "facts"),
    [
        (["codebooks=2"], {"embedding": (8, 5, 64), "codes": (8, 5, 2)}, {"codebooks": 2, "codes": "stored"}),
        (
            ["codebooks=0", "draw_codebooks=(2,0)"],
            {"embedding": (8, 5, 64), "codes": (8, 3, 5, 4)},
            {"codebooks": 3, "codes": "stored", "draw_codebooks": [2, 4]},
        ),
        (
            ["codebooks=0", "draw_codebooks=(1,2)", "codes=on_the_fly"],
            {},
            {"codebooks": 2, "codes": "on_the_fly", "draw_codebooks": [1, 2]},
        ),
    ],
)
def test_the_stage_asks_for_what_it_reads_traces_and_says_how_it_was_trained(model, changes, spec, facts):
    stage = registry.build("decoder_finetune", load_config("decoder_finetune:tiny", changes), model)
    shapes = {name: stage.batch_spec[name].shape for name in ("embedding", "codes") if name in stage.batch_spec}
    assert shapes == spec
    networks = {**stage.upstream, **jax.eval_shape(stage.init, jax.random.key(0))}
    loss, _ = jax.eval_shape(
        lambda n, b, k: stage.players[0].loss(n, None, b, k), networks, dict(stage.batch_spec), jax.random.key(0)
    )
    assert loss.shape == ()
    report = jax.eval_shape(stage.validate, networks, dict(stage.batch_spec), jax.random.key(0))
    assert ("fewest_codebooks_gain" in report) == ("most_codebooks_gain" in report) == ("draw_codebooks" in facts)
    finished = stage.finish(networks, lambda: iter(())).facts["finetuned"]
    assert finished == {**facts, "keep_continuous": 0.1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["codebooks=5"], "codebooks is 5, but the quantizer was trained with 4"),
        (["codebooks=0", "draw_codebooks=(0,3)"], "a range within 1 to 4"),
        (["codebooks=0", "draw_codebooks=(3,2)"], "a range within 1 to 4"),
        (["codebooks=0", "draw_codebooks=(2,9)"], "a range within 1 to 4"),
        (["codebooks=4", "draw_codebooks=(1,3)"], "leaves out"),
        (["codebooks=0", "draw_codebooks=(2,)"], r"must be \(low, high\)"),
        (["codes=fresh"], "'stored' or 'on_the_fly'"),
    ],
)
def test_ranges_that_the_quantizer_cannot_serve_are_refused(model, changes, message):
    with pytest.raises(ValueError, match=message):
        registry.build("decoder_finetune", load_config("decoder_finetune:tiny", changes), model)
    if "codes" not in changes[0]:
        with pytest.raises(ValueError, match=message):
            codebook_range(load_config("decoder_finetune:tiny", changes), model)


def test_with_every_caption_dropped_the_loss_does_not_depend_on_tokens_or_pooled_text(model):
    def losses(rate):
        changes = [f"text_dropout={rate}", "codebooks=3", "data.batch_size=2"]
        stage = registry.build("decoder_finetune", load_config("decoder_finetune:tiny", changes), model)
        rng = np.random.default_rng(3)
        batch = {key: 0.3 * rng.normal(size=spec.shape).astype(np.float32) for key, spec in stage.batch_spec.items()}
        batch |= {"codes": rng.integers(0, 16, batch["codes"].shape), "weight": np.ones_like(batch["weight"])}
        batch["text_mask"] = np.ones(batch["text_mask"].shape, np.uint8)
        loss = jax.jit(lambda n, b: stage.players[0].loss(n, None, b, jax.random.key(0))[0])
        changed = [{}, {"text": -batch["text"]}, {"pooled_text": -batch["pooled_text"]}]
        return [float(loss(params_of(model), {**batch, **change})) for change in changed]

    plain, *others = losses(1.0)
    assert others == [plain, plain]
    plain, *others = losses(0.0)
    assert all(abs(other - plain) > 1e-7 for other in others)
