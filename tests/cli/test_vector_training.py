"""The quantizer's data as a user sees them: embeddings written and trained on, vectors without audio, and bad vectors refused."""

import json

import numpy as np
import pytest
from cached_latents import write_latent_cache
from tiny_model import build_tiny_model
from typer.testing import CliRunner

from data_pipeline.vectors import open_vectors
from spresso_jax.checkpoints.weights import load_model
from spresso_jax.cli.main import app
from spresso_jax.extract.embeddings import EmbeddingExtractor

POINT = {"frame_rate": 5, "downsample": 20, "codebook_bits": 4, "codebooks": 3, "finetune_codebooks": 3}
SMALL = ("model.codebooks=1", "model.codewords=4", "model.hidden_width=4", "model.embedding_width=4",
         "initialisation.rows=64", "data.batch_size=16", "loop.steps=2", "loop.save_every=0",
         "loop.validate_every=2", "crops=2", "train_search.preselect=2", "train_search.beam=2",
         "model.preselect=2", "model.beam=2", "optimizer.ramp_epochs=1.0")  # fmt: skip


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def train(run_folder, *data, settings=(), config="quantizer:tiny", **options):
    words = ["train", "quantizer", "--config", config, "--run", run_folder]
    for path in data:
        words += ["--data", path]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}"] + ([] if value is True else [value])
    for setting in (*SMALL, *settings):
        words += ["--set", setting]
    return run(*words)


def done(result):
    assert result.exit_code == 0, result.output + result.stderr
    return result


def refused(result, message, run_folder):
    assert result.exit_code == 2, result.output + result.stderr
    assert message in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not run_folder.exists()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return build_tiny_model(folder, downsample=20, facts={"text_tokens": 16, "operating_point": POINT})


@pytest.fixture(scope="module")
def latents(model, tmp_path_factory):
    return write_latent_cache(tmp_path_factory.mktemp("data") / "latents", load_model(model), clips=3)


@pytest.fixture(scope="module")
def embeddings(model, latents, tmp_path_factory):
    out = tmp_path_factory.mktemp("z") / "z"
    done(run("data", "embeddings", model, "--data", latents, "--out", out, "--crops", 2, "--seed", 5))
    return out


@pytest.fixture
def npy(tmp_path):
    rows = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32) * [1, 2, 3, 4, 5, 6] + 7
    np.save(tmp_path / "train.npy", rows.astype(np.float32))
    return tmp_path / "train.npy"


def test_embeddings_are_those_of_the_extractor_without_padding(embeddings, model, latents):
    from spresso_jax.cli.upstream_data import rows_of

    meta = json.loads((embeddings / "meta.json").read_text())
    own = load_model(model).facts["values"]["latent_encoder.safetensors"]
    assert meta["fingerprints"]["latent_encoder"] == own and meta["fingerprints"]["crops"] == "2"
    assert meta["fingerprints"]["seed"] == "5" and len(meta["mean"]) == len(meta["std"]) == meta["dimension"] == 64
    extractor = EmbeddingExtractor.of_model(load_model(model))
    for split in ("train", "val"):
        expected = np.concatenate(list(extractor.rows(extractor.crops(rows_of((latents,), split), 2, 5))))
        assert meta["splits"][split] == {"clips": 3, "windows": 6, "rows": len(expected), "shards": 1}
        np.testing.assert_allclose(open_vectors(embeddings, split)[:], expected, rtol=1e-5, atol=1e-5)
    # The first window of every clip has 20 of 25 pooling windows of sound.
    assert 3 * 20 < len(expected) < 6 * 20


def test_what_is_complete_is_kept_and_another_request_is_made_anew(embeddings, model, latents, tmp_path):
    out = tmp_path / "z"
    command = ("data", "embeddings", model, "--data", latents, "--out", out, "--crops", 1)
    assert "embeddings of train: 3 clips" in done(run(*command)).output
    before = (out / "train-00000-of-00001.npy").stat().st_mtime_ns
    again = done(run(*command)).output
    assert "embeddings of" not in again and "train: 60 vectors of 3 clips in 1 shards" in again
    assert (out / "train-00000-of-00001.npy").stat().st_mtime_ns == before
    done(run(*command[:-1], 2))
    assert json.loads((out / "meta.json").read_text())["splits"]["val"]["windows"] == 6


def test_embeddings_that_cannot_be_made_are_refused(embeddings, model, latents, tmp_path):
    fake = tmp_path / "z"
    for words, message in [
        ((model, "--data", embeddings), "holds vectors already"),
        ((model, "--data", tmp_path), "meta.json: missing"),
        ((tmp_path, "--data", latents), "is not a model folder"),
    ]:
        refused(run("data", "embeddings", *words, "--out", fake), message, fake)
    other = build_tiny_model(tmp_path / "other", downsample=20, seed=1, facts={"text_tokens": 16})
    refused(run("data", "embeddings", other, "--data", latents, "--out", fake), "was made with audio_ae", fake)
    result = run("data", "embeddings", model, "--data", latents, "--out", latents)
    assert result.exit_code == 2 and "holds shards of arrays: choose another folder" in result.stderr


def test_the_quantizer_trains_on_written_embeddings_of_its_own_encoder_only(embeddings, model, latents, tmp_path):
    other = build_tiny_model(
        tmp_path / "other", downsample=20, seed=1, facts={"text_tokens": 16, "operating_point": POINT}
    )
    own, foreign = (load_model(folder).facts["values"]["latent_encoder.safetensors"] for folder in (model, other))
    message = f"was made with latent_encoder {own[:12]}, not with {foreign[:12]}"
    refused(train(tmp_path / "run", embeddings, upstream=other), message, tmp_path / "run")
    np.save(tmp_path / "own.npy", np.random.default_rng(0).normal(size=(50, 64)))
    result = train(tmp_path / "run", tmp_path / "own.npy", upstream=model)
    refused(result, "own.npy does not say which latent_encoder made it", tmp_path / "run")
    result = train(tmp_path / "run", embeddings, latents, upstream=model)
    refused(result, "holds vectors, but", tmp_path / "run")
    result = train(tmp_path / "run", embeddings, upstream=model, settings=["model.codewords=128"])
    refused(result, "vectors to train on are fewer than the 128 codewords of a codebook", tmp_path / "run")

    assert "model.dimension = 64" in done(train(tmp_path / "run", embeddings, upstream=model, dry_run=True)).output


def test_vectors_without_audio_of_any_width(npy, tmp_path):
    done(train(tmp_path / "run", npy, settings=["data.held_out=0.1"]))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["model"]["dimension"] == 6 and config["data"]["held_out"] == 0.1
    trained = load_model(tmp_path / "run" / "model")
    assert list(trained.networks) == ["quantizer"] and trained.networks["quantizer"].config["dimension"] == 6
    assert "quantizer_trained_on" not in trained.facts
    for folder in (tmp_path / "run", tmp_path / "run" / "model"):
        rows = json.loads(done(run("info", folder, "--json")).stdout)
        assert "1 of 1 trained, 2 bits each" in str(rows) and "180 to train on, 20 held out, of 6" in str(rows), rows
    done(run("export", tmp_path / "run", "--out", tmp_path / "exported"))
    # Another width than the run's, when going on.
    np.save(npy, np.load(npy)[:, :5])
    result = train(tmp_path / "run", npy, resume=True)
    assert result.exit_code == 2 and "vectors of 5 dimensions, but model.dimension is 6" in result.stderr
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == config


def test_a_dry_run_names_the_width_and_writes_nothing(npy, tmp_path):
    np.save(tmp_path / "val.npy", np.load(npy)[:9])
    result = done(train(tmp_path / "run", npy, settings=[f"data.validation={tmp_path / 'val.npy'}"], dry_run=True))
    assert "model.dimension = 6" in result.output and str(tmp_path / "val.npy") in result.output
    assert not (tmp_path / "run").exists()


def changed(change):
    def save(path):
        rows = np.load(path)
        np.save(path, change(rows), allow_pickle=True)

    return save


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def put(rows, row, column, value):
    rows[row, column] = value
    return rows


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (changed(lambda rows: put(rows, 17, 3, np.nan)), "train.npy: row 17, column 3 is nan"),
        (changed(lambda rows: put(rows, 0, 5, np.inf)), "train.npy: row 0, column 5 is inf"),
        (changed(lambda rows: put(rows, slice(None), 4, 1.0)), "1 of 6 dimensions hold one value in all 200 rows"),
        (changed(lambda rows: rows[:3]), "2 vectors to train on are fewer than the 4 codewords"),
        (changed(lambda rows: rows[:0]), "train.npy: is empty"),
        (changed(lambda rows: rows.astype(np.int32)), "train.npy: holds int32"),
        (changed(lambda rows: rows[0]), "train.npy: has the shape (6,)"),
        (changed(lambda rows: rows[None]), "train.npy: has the shape (1, 200, 6)"),
        (changed(lambda rows: rows.astype(object)), "train.npy: holds pickled Python objects, which are never loaded"),
        (cut, "train.npy: cut short, 4700 bytes of data where 200 rows of 6 take 4800"),
        (lambda path: path.unlink(), "train.npy: no such folder"),
    ],
)  # fmt: skip
def test_bad_vectors_are_refused_before_the_run_folder_holds_anything(spoil, message, npy, tmp_path):
    spoil(npy)
    refused(train(tmp_path / "run", npy), message, tmp_path / "run")


def test_requests_that_do_not_fit_their_vectors_are_refused(npy, latents, tmp_path):
    np.save(tmp_path / "wide.npy", np.random.default_rng(1).normal(size=(50, 7)))
    wide = f"data.validation={tmp_path / 'wide.npy'}"
    for data, settings, message in [
        ([npy], ["model.dimension=7"], "train.npy: vectors of 6 dimensions, but model.dimension is 7"),
        ([npy], [wide], "wide.npy: vectors of 7 dimensions, but those of"),
        ([npy, tmp_path / "wide.npy"], [], "wide.npy: vectors of 7 dimensions beside those of 6 in"),
        ([npy], ["data.validation=absent.npy"], "data.validation: absent.npy is no .npy file"),
        ([npy], ["data.held_out=1.5"], "the held-out share must be between 0 and 1, got 1.5"),
        ([npy], ["data.weights=(1,)"], "data.weights: the vectors of several sources"),
        ([npy], ["embeddings=on_the_fly"], "embeddings=on_the_fly reads sounds or latents"),
        ([npy], ["embeddings=never"], "embeddings must be 'stored' or 'on_the_fly'"),
        ([npy], ["model.beam=0"], "beam must be"),
        ([latents], [], "makes them of sounds with --upstream MODEL, and needs none for --data FILE.npy"),
        ([latents], ["embeddings=on_the_fly"], "embeddings=on_the_fly needs --upstream MODEL"),
    ]:
        refused(train(tmp_path / "run", *data, settings=settings), message, tmp_path / "run")
    result = run("train", "text_to_audio", "--config", "text_to_audio:tiny", "--data", npy, "--run", tmp_path / "run")
    refused(result, "train.npy: is a file, but a folder of shards is needed here", tmp_path / "run")


def test_embeddings_computed_within_the_step(model, latents, tmp_path):
    done(train(tmp_path / "run", latents, upstream=model, settings=["embeddings=on_the_fly"]))
    assert not (tmp_path / "cache").exists()
    trained = load_model(tmp_path / "run" / "model")
    own = load_model(model).facts["values"]["latent_encoder.safetensors"]
    assert trained.facts["quantizer_trained_on"] == {"latent_encoder": own}
    assert trained.facts["values"]["latent_encoder.safetensors"] == own
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "val"}
