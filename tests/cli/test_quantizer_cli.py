"""`spresso quantizer` and `spresso import qinco` through the real program."""

import dataclasses
import json
import os

import golden_files
import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from data_pipeline.vectors import write_split
from spresso_jax.checkpoints.weights import Network, load_facts, save_model
from spresso_jax.cli.main import app
from spresso_jax.codec.description import describe_model
from spresso_jax.interop.qinco import load_checkpoint
from spresso_jax.interop.torch_writer import save_torch_file
from spresso_jax.quantizer.qinco import Qinco

OFFICIAL = golden_files.golden_root() / "qinco2" / "official_tiny.pt"


def program(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(message, *words):
    result = program(*words)
    assert result.exit_code == 2 and message in result.stderr, result.output
    assert result.stderr.count("error:") == 1, result.stderr


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    result = program("import", "qinco", OFFICIAL, "--out", folder / "model")
    assert result.exit_code == 0 and "licence: CC BY-NC 4.0" in result.stdout, result.output
    data = np.load(OFFICIAL.with_name("official_tiny_io.npz"))
    np.save(folder / "vectors.npy", data["x"])
    return folder, data


@pytest.mark.golden
def test_official_vectors_have_official_codes_and_come_back(imported, tmp_path):
    folder, data = imported
    result = program("quantizer", "encode", folder / "model", folder / "vectors.npy", "--out", tmp_path / "codes.npy")
    assert result.exit_code == 0 and "12 bits a vector" in result.stdout, result.output
    codes = np.load(tmp_path / "codes.npy")
    clear = data["margin"] >= 1e-4
    assert codes.dtype == np.int16
    np.testing.assert_array_equal(codes[clear], data["codes"].T[clear])
    result = program("quantizer", "decode", folder / "model", tmp_path / "codes.npy", "--out", tmp_path / "again.npy")
    assert result.exit_code == 0, result.output
    assert np.abs(np.load(tmp_path / "again.npy") - data["recon"])[clear].max() < 2e-5 * data["x"].std()
    result = program("quantizer", "export", folder / "model", "--out", tmp_path / "again.pt")
    assert result.exit_code == 0, result.output
    assert load_checkpoint(tmp_path / "again.pt")[0] == load_checkpoint(OFFICIAL)[0]


def test_the_imported_model_says_where_it_comes_from(imported):
    facts = load_facts(imported[0] / "model")
    assert facts["provenance"][0]["file"] == "official_tiny.pt" and "CC BY-NC" in facts["licence"]
    assert "quantizer" in str(describe_model(imported[0] / "model")["parameters"])


def write_chain(folder):
    """A model folder with a quantizer among other networks."""
    quantizer = Qinco(codebooks=2, codewords=8, hidden_width=4, blocks=1, preselect=4, beam=4, dimension=6)
    networks = {
        "quantizer": Network(dataclasses.asdict(quantizer), quantizer.init(jax.random.key(0)), "Qinco"),
        "projector": Network({}, {"kernel": np.ones(3, np.float32)}, "Projector"),
    }
    return save_model(folder, networks, {"name": "chain"})


def test_quantizer_of_a_whole_chain_and_of_a_run_reads_other_orders_and_types(tmp_path):
    run = tmp_path / "run"
    write_chain(run / "model")
    vectors = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float64)
    np.save(tmp_path / "v.npy", np.asfortranarray(vectors))
    np.save(tmp_path / "v32.npy", vectors.astype(np.float32))
    for model, source, out in ((run, "v.npy", "a.npy"), (run / "model", "v32.npy", "b.npy")):
        result = program(
            "quantizer", "encode", model, tmp_path / source, "--out", tmp_path / out, "--codebooks", 2, "--beam", 3,
            "--preselect", 0,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
    assert np.load(tmp_path / "a.npy").shape == (40, 2)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"))
    result = program(
        "quantizer", "report", run, "--vectors", tmp_path / "v.npy", "--train-vectors", tmp_path / "v.npy", "--rows", 20
    )
    assert result.exit_code == 0 and "val: 20 vectors" in result.stdout, result.output
    assert "An ideal entropy coder" in result.stdout
    found = json.loads((run / "report" / "quantizer" / "report.json").read_text())
    assert found["splits"]["train"]["rows"] == 20 and found["baseline"]["rows"] == 40
    for split, rows in (("train", vectors), ("val", vectors[:20])):
        write_split(tmp_path / "embeddings", split, [rows], {"latent_encoder": "of a test"})
    result = program(
        "quantizer", "report", run, "--vectors", tmp_path / "embeddings", "--train-vectors", tmp_path / "embeddings"
    )
    assert result.exit_code == 0, result.output
    again = json.loads((run / "report" / "quantizer" / "report.json").read_text())
    assert {split: again["splits"][split]["rows"] for split in again["splits"]} == {"val": 20, "train": 40}
    refused("give --out", "quantizer", "report", run / "model", "--vectors", tmp_path / "v.npy")


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_bad_files_are_refused_by_name_and_leave_nothing(imported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, data = imported
    model, out = folder / "model", tmp_path / "out.npy"
    broken = data["x"].copy()
    broken[77, 3] = np.nan
    np.save("nan.npy", broken)
    np.save("narrow.npy", data["x"][:, :5])
    np.save("none.npy", data["x"][:0])
    np.save("flat.npy", data["x"][0])
    np.save("big.npy", data["x"].astype(np.float64) * 1e300)
    np.save("text.npy", np.array(["a", "b"]))
    np.save("pickled.npy", np.array([Hostile()], object), allow_pickle=True)
    whole = (folder / "vectors.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-5])
    (tmp_path / "head.npy").write_bytes(whole[:20])
    (tmp_path / "huge.npy").write_bytes(whole.replace(b"(128, 12)", b"(99999999, 12)")[: len(whole)])
    for name, message in (
        ("nan", "row 77"), ("narrow", "vectors of 12 numbers"), ("none", "(0, 12)"), ("flat", "(12,)"), ("big", "row 0"),
        ("text", "<U1"), ("pickled", "pickled.npy"), ("cut", "cut.npy"), ("head", "head.npy"), ("huge", "huge.npy"),
        ("missing", "no such file"),
    ):  # fmt: skip
        refused(message, "quantizer", "encode", model, f"{name}.npy", "--out", out)
    np.save("few.npy", data["x"][:15])
    words = (
        "quantizer",
        "report",
        model,
        "--vectors",
        folder / "vectors.npy",
        "--train-vectors",
        "few.npy",
        "--out",
        "r",
    )
    refused("few.npy holds 15 vectors", *words)
    np.save("codes.npy", np.array([[0, 1, 15], [0, 1, 16]]))
    np.save("absent.npy", np.array([[0, -1, -1]]))
    np.save("wide.npy", np.zeros((2, 4), int))
    np.save("real.npy", np.zeros((2, 3)))
    for name, message in (("codes", "row 1"), ("absent", "0..15"), ("wide", "1 to 3"), ("real", "whole numbers")):
        refused(message, "quantizer", "decode", model, f"{name}.npy", "--out", out)
    refused("codebooks must be", "quantizer", "encode", model, "nan.npy", "--out", out, "--codebooks", 4)
    refused("overwrite itself", "quantizer", "encode", model, "nan.npy", "--out", "nan.npy", "--force")
    refused("import qinco", "quantizer", "encode", OFFICIAL, "nan.npy", "--out", out)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert not out.exists() and "executed" not in before and not [name for name in before if name.startswith(".")]
    out.write_bytes(b"kept")
    refused("--force", "quantizer", "encode", model, folder / "vectors.npy", "--out", out)
    refused("row 77", "quantizer", "encode", model, "nan.npy", "--out", out, "--force")
    assert out.read_bytes() == b"kept"


def test_bad_checkpoints_and_models_are_refused(imported, tmp_path):
    folder, _ = imported
    (tmp_path / "cut.pt").write_bytes(OFFICIAL.read_bytes()[:20_000])
    refused("cut.pt", "import", "qinco", tmp_path / "cut.pt", "--out", tmp_path / "m")
    refused("no such file", "import", "qinco", tmp_path / "none.pt", "--out", tmp_path / "m")
    refused("belong together", "import", "qinco", OFFICIAL, "--out", tmp_path / "m", "--std", folder / "vectors.npy")
    save_torch_file(tmp_path / "weights.pt", {"weight": np.zeros(3, np.float32)})
    refused("weights.pt: no QINCo2", "import", "qinco", tmp_path / "weights.pt", "--out", tmp_path / "m")
    assert not (tmp_path / "m").exists()
    chain = write_chain(tmp_path / "chain")
    (chain / "quantizer.safetensors").unlink()
    refused("quantizer.safetensors is missing", "quantizer", "export", chain, "--out", tmp_path / "q.pt")
