"""KAD, FAD and their extrapolations against kadtk and fadtk (families kad_fad and fad_inf of area evaluation)."""

import re

import golden_files
import numpy as np
import pytest

from spresso_jax.evaluate.frechet_distance import Moments, frechet_distance, frechet_parts, gaussian, streamed_moments
from spresso_jax.evaluate.kernel_distance import SCALE, Kernel, kernel_means, median_distance
from spresso_jax.evaluate.sample_size import toolkit_extrapolation, two_sided_extrapolation

KAD = re.compile(r"kad_kadtk_(gaussian|iq|imq)_bw_(eval|ref|fixed1)_(f32|f64)")
KAD_TOLERANCE = {"f64": 1e-8, "f32": 2e-4}
FAD_TOLERANCE = {"f64": 1e-6, "f32": 1e-3}
DISTANCES = golden_files.families("evaluation", "kad_fad")
EXTRAPOLATIONS = golden_files.families("evaluation", "fad_inf")


def cases_of(path) -> dict[str, dict[str, np.ndarray]]:
    """Set name -> its arrays."""
    cases: dict[str, dict[str, np.ndarray]] = {}
    with np.load(path, allow_pickle=False) as data:
        for key in data.files:
            name, _, entry = key.partition("/")
            cases.setdefault(name, {})[entry] = data[key]
    return cases


@pytest.mark.golden
@pytest.mark.skipif(not DISTANCES, reason="no file of the family kad_fad")
def test_kad_and_fad_equal_the_toolkits():
    sets = numbers = 0
    for path in DISTANCES:
        for name, data in cases_of(path).items():
            checked = check_kad(f"{path.name}: {name}", data) + check_fad(f"{path.name}: {name}", data)
            assert checked, f"{path.name}: {name} holds no expected values"
            sets, numbers = sets + 1, numbers + checked
    print(f"kad_fad: {len(DISTANCES)} files, {sets} sets, {numbers} numbers")
    assert numbers > 0


def check_kad(where: str, data: dict[str, np.ndarray]) -> int:
    x, y = data["x"], data["y"]
    bandwidths = {"fixed1": 1.0}
    checked = 0
    for side, rows, short in (("x", x, "ref"), ("y", y, "eval")):
        key = f"bandwidth_from_{side}_kadtk"
        if key in data:
            bandwidths[short] = float(data[key])
            assert median_distance(rows).value == pytest.approx(bandwidths[short], rel=3e-7), f"{where}: {key}"
            checked += 1
    for key, expected in data.items():
        match = KAD.fullmatch(key)
        if match and match.group(2) in bandwidths:
            kind, bandwidth, precision = match.groups()
            kernel = Kernel(bandwidths[bandwidth], kind, "float32" if precision == "f32" else "float64")
            ours = SCALE * kernel_means(x, y, kernel).unbiased
            assert ours == pytest.approx(float(expected), abs=KAD_TOLERANCE[precision]), f"{where}: {key}"
            checked += 1
    if "bandwidth_from_y_kadtk" in data and (expected := data.get("kad_kadtk_gaussian_bw_eval_f64")) is not None:
        # The whole way as kadtk's default goes it; a bandwidth that differs in its last bit moves the number by 1e-7.
        median = median_distance(y)
        ours = SCALE * kernel_means(x, y, Kernel(median.value), evaluation_squares=median.squares).unbiased
        assert ours == pytest.approx(float(expected), rel=3e-7, abs=1e-6), f"{where}: KAD with our bandwidth"
        checked += 1
    if "ref" in bandwidths:
        m, n = len(x), len(y)
        means = kernel_means(x, y, Kernel(bandwidths["ref"]), paired=m == n)
        ours = {
            "kxx": means.within_reference / (m * (m - 1)),
            "kyy": means.within_evaluation / (n * (n - 1)),
            "kxy": means.across / (m * n),
            "mmd2_unbiased": means.unbiased,
            "mmd2_biased": means.biased,
            "mmd2_paired_ustat": means.paired,
        }
        for name, value in ours.items():
            if (expected := data.get(f"own_f64_bw_ref_{name}")) is not None:
                assert value == pytest.approx(float(expected), abs=1e-12, nan_ok=True), f"{where}: {name}"
                checked += 1
    return checked


def check_fad(where: str, data: dict[str, np.ndarray]) -> int:
    x, y = data["x"], data["y"]
    parts = frechet_parts(x, y)
    streamed = frechet_distance(streamed_moments(np.array_split(x, 7)), Moments.of(y))
    checked = 0
    for key, expected in data.items():
        if key.startswith("fad_"):
            tolerance = FAD_TOLERANCE[key[-3:]]
            for ours in (parts.distance, streamed):
                assert ours == pytest.approx(float(expected), rel=tolerance, abs=tolerance), f"{where}: {key}"
            checked += 1
    ours = {
        "mean_term": parts.mean_term,
        "tr_cx": parts.trace_reference,
        "tr_cy": parts.trace_evaluation,
        "tr_sqrt": parts.trace_root,
        "fad": parts.distance,
    }
    for name, value in ours.items():
        if (expected := data.get(f"own_f64_{name}")) is not None:
            assert value == pytest.approx(float(expected), rel=1e-7, abs=1e-9), f"{where}: own {name}"
            checked += 1
    return checked


@pytest.mark.golden
@pytest.mark.skipif(not EXTRAPOLATIONS, reason="no file of the family fad_inf")
def test_extrapolations_equal_the_toolkits():
    sets = numbers = 0
    for path in EXTRAPOLATIONS:
        for name, data in cases_of(path).items():
            checked = check_extrapolation(f"{path.name}: {name}", data)
            assert checked, f"{path.name}: {name} holds no expected values"
            sets, numbers = sets + 1, numbers + checked
    print(f"fad_inf: {len(EXTRAPOLATIONS)} files, {sets} sets, {numbers} numbers")
    assert numbers > 0


def check_extrapolation(where: str, data: dict[str, np.ndarray]) -> int:
    reference, evaluation = data["ref"], data["eval"]
    seed, steps, least = (int(v) for v in data["settings"])
    whole = gaussian(reference)

    def fad(rows):
        return frechet_distance(whole, gaussian(evaluation, "evaluation", rows))

    def kad(rows):
        chosen = evaluation[rows]
        return SCALE * kernel_means(reference, chosen, Kernel(median_distance(chosen).value, precision="float32")).unbiased

    checked = 0
    # (key, score, seed, replace, tolerance of the points; the fit is a linear function of them)
    for key, score, offset, replace, tolerance in (
        ("fadinf", fad, 0, True, 1e-8),
        ("kadinf", kad, 0, True, 2e-4),
        ("own_fadinf_noreplace", fad, 1, False, 1e-8),
    ):
        if key not in data:
            continue
        line = toolkit_extrapolation(
            len(evaluation), score, steps=steps, least=least, seed=seed + offset, replace=replace
        )
        np.testing.assert_allclose(line.points, data[f"{key}_points"], atol=tolerance, err_msg=f"{where}: {key}_points")
        ours = [line.intercept, line.slope, line.r2][: data[key].size]
        scale = max(1.0, abs(line.slope))
        np.testing.assert_allclose(ours, data[key], atol=5 * tolerance * scale, err_msg=f"{where}: {key}")
        checked += data[key].size + line.points.__len__()
    if "fad_full" in data:
        assert frechet_distance(reference, evaluation) == pytest.approx(float(data["fad_full"]), rel=1e-6), where
        checked += 1
    if "population_fad" in data:
        checked += check_two_sided(where, data)
    return checked


def check_two_sided(where: str, data: dict[str, np.ndarray]) -> int:
    """With both sets reduced alike the estimate is nearer to the population's distance than either toolkit number."""
    reference, evaluation, population = data["ref"], data["eval"], float(data["population_fad"])
    line = two_sided_extrapolation(
        len(reference),
        len(evaluation),
        lambda x, y: frechet_distance(reference[x], evaluation[y]),
        steps=5,
        draws=3,
    )
    plain, toolkit = float(data["fad_full"]), float(data["fadinf"][0])
    assert abs(line.intercept - population) < 0.6 * min(abs(plain - population), abs(toolkit - population)), where
    return 1
