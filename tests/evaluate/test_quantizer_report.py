"""Measures of a quantizer over blocks, and the report made of them."""

import json

import numpy as np
import pytest

from spresso_jax.evaluate import quantizer_measures, quantizer_report
from spresso_jax.quantizer import assign
from spresso_jax.quantizer.qinco import Qinco

# Without blocks, and with A = B: what residual k-means starts as, so that the baseline is known exactly.
QUANTIZER = Qinco(codebooks=3, codewords=8, hidden_width=6, blocks=0, preselect=4, beam=4, dimension=5)


def rows(count, seed):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(5, 5))
    return (rng.standard_t(5, (count, 5)) @ mixing).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    units = {"data_mean": np.full(5, 0.3, np.float32), "data_std": np.full(5, 2.0, np.float32)}
    search = quantizer_measures.search_of(QUANTIZER)
    return quantizer_measures.plain_residual_quantizer(QUANTIZER, units, search, [rows(320, 0)])[1]


@pytest.fixture(scope="module")
def splits(fitted):
    search = quantizer_measures.search_of(QUANTIZER)
    data = {"val": np.concatenate([rows(300, 1), rows(20, 1)]), "train": rows(320, 0)}
    baseline = quantizer_measures.plain_residual_quantizer(QUANTIZER, fitted, search, [data["train"]])
    made = {}
    for name, vectors in data.items():
        made[name] = quantizer_measures.SplitMeasures(QUANTIZER, fitted, search, baseline)
        for block in np.array_split(vectors, 4):
            made[name].add(block)
    return data, search, made


def test_sums_over_blocks_equal_one_computation_over_all(fitted, splits):
    data, _, made = splits
    z = data["val"]
    codes, reconstructions = assign.encode_all_prefixes(QUANTIZER, fitted, z)
    expected = np.square(np.asarray(reconstructions, np.float64) - z).sum(-1).mean(-1)
    np.testing.assert_allclose(made["val"].mse(), expected, rtol=1e-6)
    prefixes = QUANTIZER.partial_reconstructions(fitted, codes[-1])
    expected = np.square(np.asarray(prefixes, np.float64) - z).sum(-1).mean(-1)
    np.testing.assert_allclose(made["val"].prefix_mse(), expected, rtol=1e-6)
    assert made["val"].rows == 320 and made["val"].distinct() == 300
    assert np.trace(made["val"].moments.covariance()) == pytest.approx(z.var(axis=0, dtype=np.float64).sum())
    np.testing.assert_array_equal(made["val"].codes.usage[0], np.bincount(codes[-1][:, 0], minlength=8))


def test_plain_residual_quantization_is_what_an_untrained_quantizer_does(fitted, splits):
    """Same codebooks, same search; and its pre-selection loses nothing."""
    data, _, made = splits
    for measures in made.values():
        np.testing.assert_allclose(measures.baseline_mse(), measures.mse(), rtol=0.03)
    codes = assign.encode(QUANTIZER, fitted, data["val"])
    np.testing.assert_array_equal(codes, assign.encode(QUANTIZER, fitted, data["val"], preselect=0))


def test_report_holds_every_figure_and_explains_itself(splits, tmp_path):
    _, search, made = splits
    found = quantizer_report.numbers(QUANTIZER, search, made, baseline_rows=320) | {"model": "m"}
    quantizer_report.write(tmp_path / "report", found)
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == json.loads(json.dumps(found))
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.json", "report.md", "rate_distortion.png", "bits_per_step.png",
    }  # fmt: skip
    text = (tmp_path / "report" / "report.md").read_text()
    for column in (
        "val best",
        "train best",
        "val prefix",
        "val RQ",
        "val Gaussian",
        "train unused",
        "after the previous",
    ):
        assert f" {column} " in text, column
    val = found["splits"]["val"]
    assert found["bits_per_vector"] == [3.0, 6.0, 9.0]
    for m in range(3):
        assert val["gaussian_mse"][m] < val["mse"][m] <= val["prefix_mse"][m] * (1 + 1e-6) < val["variance"]
    assert val["distinct_per_codeword"] == 300 / 8
    coder = found["entropy_coder"]
    assert coder["order0_total"] == pytest.approx(sum(coder["order0"])) and coder["fixed_total"] == 9
    assert f"{coder['order1_total']:.2f} bits given the previous code" in quantizer_report.summary(found)


def test_without_training_vectors_the_report_says_what_it_lacks(fitted, splits, tmp_path):
    data, search, _ = splits
    measures = quantizer_measures.SplitMeasures(QUANTIZER, fitted, search)
    with pytest.raises(ValueError, match="val holds no vector"):
        quantizer_report.numbers(QUANTIZER, search, {"val": measures})
    # One and the same vector: no variance, so nothing to draw but the report is written.
    measures.add(np.repeat(data["val"][:1], 4, axis=0))
    found = quantizer_report.numbers(QUANTIZER, search, {"val": measures})
    quantizer_report.write(tmp_path, found)
    text = (tmp_path / "report.md").read_text()
    assert "--train-vectors" in text and "RQ |" not in text and "entropy_coder" not in found
    assert found["splits"]["val"]["distinct"] == 1
