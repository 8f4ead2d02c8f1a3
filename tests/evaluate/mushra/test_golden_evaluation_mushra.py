"""Every figure of the expected analysis (family mushra of area evaluation: NAME_results.csv with NAME_expected.json)."""

import json

import golden_files
import pytest

from spresso_jax.evaluate.mushra.results import read_results
from spresso_jax.evaluate.mushra.statistics import score

FILES = golden_files.families("evaluation", "mushra", "results.csv")
OWN_NAMES = {"wilcoxon_p_normal_approx": "wilcoxon_p"}


@pytest.mark.golden
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_figure_equals_scipys_analysis(path):
    expected = json.loads(path.with_name(path.name.replace("results.csv", "expected.json")).read_text())
    record = score(read_results([path]))
    screening = record["screening"]
    assert screening["by_reference"] == expected["excluded_hidden_reference"]
    assert screening["by_anchor"] == expected["excluded_anchor"]
    assert screening["kept"] == expected["kept"]
    cases = 0
    for ours, theirs in (("all", "summary_all"), ("kept", "summary_kept")):
        assert set(record[ours]["conditions"]) == set(expected[theirs])
        for condition, figures in expected[theirs].items():
            assert set(record[ours]["conditions"][condition]) == set(figures)
            for name, value in figures.items():
                assert record[ours]["conditions"][condition][name] == pytest.approx(value, rel=1e-9), (condition, name)
                cases += 1
    pairs = {frozenset((row["first"], row["second"])): row for row in record["kept"]["pairs"]}
    assert len(pairs) == len(expected["pairwise_on_listener_means"])
    for key, figures in expected["pairwise_on_listener_means"].items():
        first, second = key.split("|")
        row = pairs[frozenset((first, second))]
        sign = 1.0 if row["first"] == first else -1.0
        for name, value in figures.items():
            found = row[OWN_NAMES.get(name, name)]
            found = sign * found if name == "paired_t" else found
            assert found == (None if value is None else pytest.approx(value, rel=1e-9)), (key, name)
            cases += 1
    for name, value in expected["friedman"].items():
        assert record["kept"]["friedman"][name] == pytest.approx(value, rel=1e-9)
        cases += 1
    print(f"mushra: {path.name}, {cases} figures")


def test_the_family_is_there():
    assert FILES
