"""Model folders: what is written comes back, and what is damaged is refused with the file's name."""

import json
import shutil
import struct

import numpy as np
import pytest

from spresso_jax.checkpoints import weights
from spresso_jax.checkpoints.fingerprint import file_sha256, model_id, values_sha256
from spresso_jax.checkpoints.weights import ModelFolderError, Network, load_model, save_model


def small_networks(scale=1.0):
    rng = np.random.default_rng(0)
    params = {
        "layer": {"kernel": rng.normal(size=(3, 4)).astype(np.float32) * scale, "bias": np.zeros(4, np.float32)},
        "steps": [{"w": np.ones(2, np.float32)}, {"w": np.full(2, 0.25, np.float32)}],
        "scale": np.float32(0.5),
        "counts": np.arange(3, dtype=np.int32),
    }
    return {"dit": Network({"width": 4, "name": None}, params, "DiT")}


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "model", small_networks(), {"name": "small"})


def leaves(model):
    return weights.flatten(model.networks["dit"].params)


def test_float32_storage_returns_every_value_config_and_fact(folder):
    model = load_model(folder)
    network = model.networks["dit"]
    assert network.config == {"width": 4, "name": None} and network.class_name == "DiT"
    assert model.facts["name"] == "small" and model.facts["storage"] == "float32"
    for key, value in weights.flatten(small_networks()["dit"].params).items():
        found = leaves(model)[key]
        assert found.dtype == np.asarray(value).dtype and found.shape == np.shape(value)
        np.testing.assert_array_equal(found, value)
    assert isinstance(network.params["steps"], list)


def test_float16_storage_loads_as_float32_and_halves_the_file(tmp_path):
    params = {"kernel": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)}
    for dtype in ("float32", "float16"):
        save_model(tmp_path / dtype, {"dit": Network({}, params)}, {}, dtype)
    loaded = load_model(tmp_path / "float16").networks["dit"].params["kernel"]
    assert loaded.dtype == np.float32
    np.testing.assert_allclose(loaded, params["kernel"], rtol=1e-3)
    sizes = [(tmp_path / dtype / "dit.safetensors").stat().st_size for dtype in ("float16", "float32")]
    assert sizes[0] < 0.6 * sizes[1]


def test_equal_models_give_equal_files_and_storage_does_not_change_the_values_fingerprint(tmp_path):
    facts = [
        load_model(save_model(tmp_path / name, small_networks(), {}, dtype)).facts
        for name, dtype in (("a", "float32"), ("b", "float32"), ("c", "float16"))
    ]
    assert facts[0]["fingerprints"] == facts[1]["fingerprints"] != facts[2]["fingerprints"]
    assert facts[0]["values"] == facts[2]["values"]


def test_an_existing_folder_is_replaced_only_on_request_and_only_if_it_is_a_model(folder, tmp_path):
    with pytest.raises(ModelFolderError, match="already exists"):
        save_model(folder, small_networks(), {})
    save_model(folder, small_networks(2.0), {"name": "second"}, overwrite=True)
    assert load_model(folder).facts["name"] == "second"
    other = tmp_path / "holiday"
    other.mkdir()
    (other / "photo.jpg").write_bytes(b"x")
    with pytest.raises(ModelFolderError, match="not a model folder"):
        save_model(other, small_networks(), {}, overwrite=True)
    assert (other / "photo.jpg").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["holiday", "model"], "temporary folders are left"


def test_a_failed_save_leaves_the_old_model_and_no_litter(folder, tmp_path):
    bad = {"dit": Network({}, {"kernel": np.array([np.nan], np.float32)})}
    with pytest.raises(ModelFolderError, match="kernel.*NaN"):
        save_model(folder, bad, {}, overwrite=True)
    assert load_model(folder).facts["name"] == "small"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("networks", "facts", "dtype", "message"),
    [
        ({}, {}, "float32", "at least one network"),
        ({"../evil": Network({}, {"a": np.ones(1)})}, {}, "float32", "letters, digits"),
        ({"a": Network({}, {"x/y": np.ones(1)})}, {}, "float32", "cannot be stored"),
        ({"a": Network({}, {})}, {}, "float32", "no parameters"),
        ({"a": Network({}, {"x": np.array([1e6])})}, {}, "float16", "65504"),
        ({"a": Network({"f": print}, {"x": np.ones(1)})}, {}, "float32", "config of 'a' is not JSON"),
        ({"a": Network({}, {"x": np.ones(1)})}, {"f": float("nan")}, "float32", "facts of the model are not JSON"),
        ({"a": Network({}, {"x": np.ones(1)})}, {}, "bfloat16", "dtype"),
        ({"a": Network({}, {"x": np.array(["s"])})}, {}, "float32", "type"),
    ],
)
def test_what_cannot_be_stored_is_named(tmp_path, networks, facts, dtype, message):
    with pytest.raises(ModelFolderError, match=message):
        save_model(tmp_path / "model", networks, facts, dtype)
    assert not (tmp_path / "model").exists()


def test_missing_folder_and_unknown_name_are_told(tmp_path):
    with pytest.raises(ModelFolderError, match="no model folder 'nowhere'"):
        load_model("nowhere")
    with pytest.raises(ModelFolderError, match="model.json is missing"):
        load_model(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelFolderError, match="is a file"):
        load_model(tmp_path / "file")


def test_missing_network_file_and_unlisted_network_are_told(folder):
    with pytest.raises(ModelFolderError, match="no network 'clap'"):
        load_model(folder, only=["clap"])
    (folder / "dit.safetensors").unlink()
    with pytest.raises(ModelFolderError, match="dit.safetensors is missing"):
        load_model(folder)


def test_one_changed_byte_is_noticed(folder):
    path = folder / "dit.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelFolderError, match="does not match its SHA-256"):
        load_model(folder)
    load_model(folder, verify=False)


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_an_unknown_format_version_is_refused(folder, version):
    facts = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**facts, "format": version}))
    with pytest.raises(ModelFolderError, match="format"):
        load_model(folder)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"format": 1}', "\xff", "[" * 100_000])
def test_a_malformed_model_json_is_refused(folder, text):
    (folder / "model.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelFolderError, match="model.json"):
        load_model(folder)


def test_file_names_that_leave_the_folder_are_refused(folder):
    facts = json.loads((folder / "model.json").read_text())
    facts["fingerprints"] = {"../model/dit.safetensors": facts["fingerprints"]["dit.safetensors"]}
    (folder / "model.json").write_text(json.dumps(facts))
    with pytest.raises(ModelFolderError, match="plain name"):
        load_model(folder)


def _resign(folder):
    facts = json.loads((folder / "model.json").read_text())
    facts["fingerprints"] = {name: file_sha256(folder / name) for name in facts["fingerprints"]}
    (folder / "model.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("kind", ["empty", "truncated", "huge header", "huge tensor", "pickle", "renamed", "foreign"])
def test_a_forged_file_is_refused_even_with_a_matching_fingerprint(folder, kind):
    path = folder / "dit.safetensors"
    data = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(data[:-4])
    elif kind == "huge header":
        path.write_bytes(struct.pack("<Q", 1 << 62) + data[8:])
    elif kind == "huge tensor":
        header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header)
    elif kind == "pickle":
        path.write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    elif kind == "renamed":
        save_model(folder.parent / "other", {"clap": Network({}, {"x": np.ones(1)})}, {})
        shutil.copy(folder.parent / "other" / "clap.safetensors", path)
    else:
        from safetensors.numpy import save_file

        save_file({"x": np.ones(1, np.float32)}, str(path))
    _resign(folder)
    with pytest.raises(ModelFolderError, match="dit.safetensors"):
        load_model(folder)


def test_shapes_that_differ_from_the_module_are_named():
    want = {"a": {"kernel": np.zeros((2, 3))}, "b": np.zeros(1)}
    weights.check_shapes(want, want, "dit")
    with pytest.raises(ModelFolderError, match=r"'a/kernel' has shape \(3, 2\)"):
        weights.check_shapes({"a": {"kernel": np.zeros((3, 2))}, "b": np.zeros(1)}, want, "dit")
    with pytest.raises(ModelFolderError, match="lacks 'b'.*unknown 'c'"):
        weights.check_shapes({"a": {"kernel": np.zeros((2, 3))}, "c": np.zeros(1)}, want, "dit")


def test_flat_names_with_gaps_or_conflicts_are_refused():
    for names in (["a/#0", "a/#2"], ["a", "a/b"], ["a//b"]):
        with pytest.raises(ModelFolderError):
            weights.unflatten(dict.fromkeys(names, np.ones(1)))


def test_the_model_id_follows_the_codes_meaning_and_nothing_else():
    values = {"quantizer.safetensors": "q", "latent_encoder.safetensors": "e", "dit.safetensors": "d"}
    facts = {"values": values, "operating_point": {"downsample": 9, "codebook_bits": 10}, "name": "x"}
    same = {**facts, "name": "y", "values": {**values, "dit.safetensors": "other"}}
    assert len(model_id(facts)) == 3 and model_id(same) == model_id(facts)
    assert model_id({**facts, "values": {**values, "quantizer.safetensors": "other"}}) != model_id(facts)
    assert model_id({**facts, "operating_point": {"downsample": 20, "codebook_bits": 10}}) != model_id(facts)


def test_values_fingerprint_depends_on_names_shapes_and_values():
    base = values_sha256({"a": np.ones((2, 3), np.float32)})
    assert base == values_sha256({"a": np.ones((2, 3), np.float64)})
    for other in ({"b": np.ones((2, 3))}, {"a": np.ones((3, 2))}, {"a": np.zeros((2, 3))}):
        assert values_sha256(other) != base
