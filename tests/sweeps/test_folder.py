"""What of a sweep is done, and what a second request may not change."""

import json

import pytest
from sweeps.sweep_folder import FIELDS, SOURCE, make_plan, write_run

from spresso_jax.configuration import flat_keys, load_config
from spresso_jax.sweeps import folder
from spresso_jax.sweeps.grid import SweepError
from spresso_jax.sweeps.speed import Speed, clock, finished_speed

NAME = "25hz-depth2-seed0"


def config_of(plan, name=NAME, changes=()):
    point = plan["points"][name]
    return flat_keys(load_config(point["config"], [*point["overrides"], *changes]))


def test_a_run_is_missing_then_started_then_done(tmp_path):
    plan = make_plan()
    assert folder.state_of(tmp_path / NAME) == folder.MISSING
    run = write_run(tmp_path, NAME, plan, done=False)
    assert folder.state_of(run) == folder.STARTED and folder.checkpoint_step(run) == 0
    for step in ("4", "20", "20.orbax-checkpoint-tmp"):
        (run / "checkpoints" / step).mkdir(parents=True)
    assert folder.checkpoint_step(run) == 20
    (run / "model").mkdir()
    assert folder.state_of(run) == folder.STARTED
    folder.model_file(run).write_text("{}")
    assert folder.state_of(run) == folder.DONE


def test_a_point_with_other_settings_is_refused_by_name_and_key(tmp_path):
    plan = make_plan()
    run = write_run(tmp_path, NAME, plan)
    folder.refuse_changes(run, config_of(plan))
    folder.refuse_changes(tmp_path / "25hz-depth2-seed1", config_of(plan))  # not there yet
    with pytest.raises(SweepError, match=f"{NAME}: loop.steps was 40 and is now 50; "):
        folder.refuse_changes(run, config_of(plan, changes=["loop.steps=50"]))
    saved = json.loads((run / "config.json").read_text())
    del saved["loop"]["keep"]
    (run / "config.json").write_text(json.dumps(saved))
    with pytest.raises(SweepError, match="loop.keep was None"):
        folder.refuse_changes(run, config_of(plan))
    (run / "config.json").write_text("{")
    with pytest.raises(SweepError, match="not a readable config.json"):
        folder.refuse_changes(run, config_of(plan))


def test_points_may_be_added_but_nothing_else_changed_once_something_is_trained(tmp_path):
    plan = make_plan()
    folder.write_plan(tmp_path, plan)
    other = make_plan(source={**SOURCE, "fingerprints": {"dit": "def"}})
    assert folder.merged(tmp_path, other)["source"]["fingerprints"] == {"dit": "def"}  # nothing depends on it yet
    write_run(tmp_path, NAME, plan, done=False)
    deeper = {**FIELDS, "axes": {**FIELDS["axes"], "depth": dict(key="rate.encoder_depth", values=(20,))}}
    both = folder.merged(tmp_path, make_plan(deeper))
    assert len(both["points"]) == 18 and set(plan["points"]) < set(both["points"])
    wrong = {
        "--upstream": make_plan(source={**SOURCE, "fingerprints": {"dit": "def"}}),
        "--data": make_plan(source={**SOURCE, "data": ["/data/other"]}),
        "--set": make_plan(deeper, overrides=["loop.steps=50"]),
        "preset": make_plan({**FIELDS, "config": "diffusion_ae:nano-{rate}"}),
    }
    for what, changed in wrong.items():
        with pytest.raises(SweepError, match=f"has another {what}: "):
            folder.merged(tmp_path, changed)


def test_the_time_left_counts_what_is_still_to_be_done(tmp_path):
    plan = make_plan()
    speed = Speed({"float32": 1e9}, "made up")
    assert finished_speed(tmp_path, plan) is None
    run = write_run(tmp_path, NAME, plan, done=False)
    assert speed.remaining_seconds(run, plan["points"][NAME]) == pytest.approx(40 * 3.0)
    (run / "checkpoints" / "30").mkdir(parents=True)
    assert speed.remaining_seconds(run, plan["points"][NAME]) == pytest.approx(10 * 3.0)
    done = write_run(tmp_path, "1hz-depth2-seed0", plan, [(0.5, 0.1)], (9.0, 1.5, 1.5))
    assert speed.remaining_seconds(done, plan["points"][done.name]) == 0.0
    found = finished_speed(tmp_path, plan)
    assert found.rates == {"float32": pytest.approx(2e9)} and "1 finished point" in found.source
    assert [clock(s) for s in (0.3, 45, 600, 7200)] == ["0.3 s", "45 s", "10 min", "2.0 h"]
