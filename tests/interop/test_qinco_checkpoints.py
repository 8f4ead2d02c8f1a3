"""Checkpoints of the QINCo2 project: both layouts, ours written and read again, and files that lie."""

import dataclasses

import golden_files
import jax
import numpy as np
import pytest

from spresso_jax.interop.qinco import load_checkpoint, params_from_state, save_checkpoint, state_from_params
from spresso_jax.interop.torch_files import load_torch_file
from spresso_jax.interop.torch_writer import save_torch_file
from spresso_jax.quantizer import assign
from spresso_jax.quantizer.qinco import Qinco

SIZES = {"codebooks": 3, "codewords": 8, "hidden_width": 6, "blocks": 2, "preselect": 4, "beam": 3, "dimension": 5}
VARIANTS = [
    {},
    {"embedding_width": 7},
    {"preselect": 0},
    {"codebooks": 1},
    {"blocks": 0, "embedding_width": 4},
    {"preselect": 0, "beam": 1, "outer_skip": False},
]


def made(**changes):
    """A quantizer without a zero weight, with one scale."""
    quantizer = Qinco(**{**SIZES, **changes})
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32),
        jax.eval_shape(quantizer.init, jax.random.key(0)),
    )
    return quantizer, {**params, "data_std": np.full(quantizer.dimension, 1.7, np.float32)}


@pytest.fixture
def checkpoint(tmp_path):
    """Writes a checkpoint after `change` has had its contents, and gives the file."""

    def write(change=lambda content: None, **changes):
        quantizer, params = made(**changes)
        save_checkpoint(tmp_path / "ours.pt", quantizer, params)
        content = load_torch_file(tmp_path / "ours.pt")
        change(content)
        return save_torch_file(tmp_path / "changed.pt", content)

    return write


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_what_is_written_is_read_again(tmp_path, changes):
    quantizer, params = made(**changes)
    again, read = load_checkpoint(save_checkpoint(tmp_path / "q.pt", quantizer, params))
    expected = quantizer
    if quantizer.codebooks == 1 or quantizer.blocks == 0:
        # Sizes of layers that do not exist leave no tensor to be read from.
        expected = dataclasses.replace(
            quantizer, hidden_width=again.hidden_width, blocks=again.blocks, embedding_width=again.embedding_width
        )
    assert again == expected
    jax.tree.map(np.testing.assert_array_equal, read, params)
    assert ("de" in load_torch_file(tmp_path / "q.pt")["parameters"]) == quantizer.projected


@pytest.mark.golden
def test_official_checkpoint_comes_through_export_unchanged(tmp_path):
    path = golden_files.golden_root() / "qinco2" / "official_tiny.pt"
    quantizer, params = load_checkpoint(path)
    exported = save_checkpoint(tmp_path / "again.pt", quantizer, params)
    theirs, ours = load_torch_file(path), load_torch_file(exported)
    assert list(ours["model"]) == list(theirs["model"])
    for name, tensor in theirs["model"].items():
        assert ours["model"][name].shape == tensor.shape and ours["model"][name].dtype == tensor.dtype
        if "xtarget" not in name:
            np.testing.assert_array_equal(ours["model"][name], tensor)
    assert ours["parameters"] == theirs["parameters"] and ours["data_dim"] == theirs["data_dim"]
    again, read = load_checkpoint(exported)
    assert again == quantizer
    data = np.load(path.with_name("official_tiny_io.npz"))
    codes = np.asarray(assign.encode(again, read, data["x"]))
    clear = data["margin"] >= 1e-4
    np.testing.assert_array_equal(codes[clear], data["codes"].T[clear])
    error = np.abs(np.asarray(again.decode(read, codes)) - data["recon"])[clear].max()
    assert error < 2e-5 * data["x"].std()


def test_the_older_layout_gives_the_same_quantizer(checkpoint):
    new = load_checkpoint(checkpoint(embedding_width=7))
    kept = {}

    def age(content):
        old = {}
        for name, tensor in content["model"].items():
            if name in ("data_mean", "data_std"):
                kept[name] = tensor
                continue
            for projection, block in (("in_proj", 0), ("out_proj", 1)):
                name = name.replace(f".{projection}.", f".residual_blocks.{block}.{projection}.")
            old[f"module.{name}"] = tensor
        old["module.steps.0.substep.codebook.weight"] = np.ones((8, 5), np.float32)
        content["model"] = old
        del content["parameters"]

    path = checkpoint(age, embedding_width=7)
    statistics = kept["data_mean"], kept["data_std"]
    for arguments, message in (
        ({}, "no data_mean"),
        ({"data_mean": statistics[0], "data_std": statistics[1]}, "no A and B"),
        ({"data_mean": np.zeros(4), "data_std": statistics[1], "preselect": 4, "beam": 3}, "shape"),
        ({"data_mean": statistics[0], "data_std": -statistics[1], "preselect": 4, "beam": 3}, "positive"),
    ):
        with pytest.raises(ValueError, match=f"changed.pt.*{message}"):
            load_checkpoint(path, **arguments)
    old = load_checkpoint(path, *statistics, preselect=4, beam=3)
    assert old[0] == new[0]
    jax.tree.map(np.testing.assert_array_equal, old[1], new[1])


def test_a_scale_for_every_dimension_cannot_be_exported(tmp_path):
    quantizer, params = made()
    params["data_std"] = np.linspace(0.5, 2, 5, dtype=np.float32)
    with pytest.raises(ValueError, match="0.5 to 2.*initialisation.scale=single"):
        save_checkpoint(tmp_path / "q.pt", quantizer, params)
    assert not list(tmp_path.iterdir())


def lie(*path, value=None):
    def change(content):
        for name in path[:-1]:
            content = content[name]
        if value is None:
            del content[path[-1]]
        else:
            content[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (lie("model"), "no state dict"),
        (lie("model", value=[1]), "no state dict"),
        (lie("model", "steps.1.concat.mlp.bias"), "lacks the tensor steps.1.concat.mlp.bias"),
        (lie("model", "steps.1.concat.mlp.bias", value=3), "no floating tensor"),
        (lie("model", "steps.1.codebook.weight", value=np.ones((8, 4), np.float32)), "of one size"),
        (lie("model", "steps.0.codebook.weight", value=np.ones(8, np.float32)), "2 axes"),
        (lie("model", "steps.0.codebook.weight", value=np.full((8, 5), np.nan, np.float32)), "NaN"),
        (lie("model", "steps.0.codebook.weight", value=np.ones((9, 5), np.float32)), "K=8, its tensors have 9"),
        (lie("model", "steps.9.codebook.weight", value=np.ones((8, 5), np.float32)), "without a gap"),
        (lie("model", "steps.1.attention.weight", value=np.ones(2, np.float32)), "attention"),
        (lie("model", "steps.0.ivf_centroids.weight", value=np.ones((2, 5), np.float32)), "inverted file"),
        (lie("parameters", "M", value=4), "M=4, its tensors have 3"),
        (lie("parameters", "A", value=0), "check A"),
        (lie("parameters", "B", value="many"), "no whole number"),
        (lie("parameters", "B", value=-3), "quantizer.beam"),
        (lie("parameters", "ivf_in_use", value=True), "inverted file"),
    ],
)
def test_a_checkpoint_that_contradicts_itself_is_refused_by_name(checkpoint, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(checkpoint(change))
    assert "changed.pt" in str(caught.value)


def test_state_and_tree_are_inverse():
    quantizer, params = made(embedding_width=7)
    state = state_from_params(quantizer, params)
    jax.tree.map(np.testing.assert_array_equal, params_from_state(state), params)
    assert state["steps.1.concat.mlp.weight"].shape == (7, 12) and state["data_std"].shape == ()
    with pytest.raises(ValueError, match="do not pass others"):
        params_from_state(state, data_mean=np.zeros(5), data_std=np.ones(1))
