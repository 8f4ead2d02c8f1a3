"""SI-SDR against torchmetrics and auraloss (family si_sdr of area evaluation)."""

import re

import golden_files
import numpy as np
import pytest

from spresso_jax.evaluate.reconstruction import IDENTICAL_DB, SILENT_ESTIMATE_DB, si_sdr

KEY = re.compile(r"(torchmetrics|auraloss)_zm([01])_(f32|f64)")
FILES = golden_files.families("evaluation", "si_sdr")


@pytest.mark.golden
def test_si_sdr_equals_the_toolkits():
    assert FILES, "no file of the family si_sdr was found"
    cases = 0
    for path in FILES:
        data = np.load(path, allow_pickle=False)
        reference, estimate = data["ref"], data["est"]
        keys = [(key, KEY.fullmatch(key)) for key in data.files]
        found = [(key, match) for key, match in keys if match]
        assert found, f"{path.name} holds no expected values"
        for key, match in found:
            toolkit, zero_mean, precision = match.groups()
            dtype = np.float32 if precision == "f32" else np.float64
            ours = si_sdr(
                reference.astype(dtype), estimate.astype(dtype), zero_mean=zero_mean == "1", convention=toolkit
            )
            tolerance = 2e-2 if precision == "f32" else 1e-6
            np.testing.assert_allclose(ours, data[key], atol=tolerance, err_msg=f"{path.name}: {key}")
            cases += len(ours)
        cases += exact_agrees_where_epsilon_does_not_matter(path.name, data)
    print(f"si_sdr: {len(FILES)} files, {cases} cases")
    assert cases > 0


def exact_agrees_where_epsilon_does_not_matter(name: str, data) -> int:
    """Rows with sound on both sides that are not copies: the formula without epsilon gives the toolkit's value."""
    reference, estimate = data["ref"], data["est"]
    compared = 0
    for zero_mean in (True, False):
        key = f"torchmetrics_zm{int(zero_mean)}_f64"
        if key not in data.files:
            continue
        ours = si_sdr(reference, estimate, zero_mean=zero_mean)
        sounding = (np.abs(reference).max(axis=1) > 0) & (np.abs(estimate).max(axis=1) > 0)
        inside = sounding & (data[key] < IDENTICAL_DB) & (data[key] > SILENT_ESTIMATE_DB)
        np.testing.assert_allclose(ours[inside], data[key][inside], atol=1e-6, err_msg=f"{name}: exact, {key}")
        silent = np.abs(reference).max(axis=1) == 0
        assert np.isnan(ours[silent]).all()
        compared += int(inside.sum() + silent.sum())
    return compared
