"""The loop: same numbers after a resume, one compilation, metrics cut to the restored step, clean stops."""

import dataclasses
import json
import os
import signal

import jax
import numpy as np
import optax
import pytest
from train.toy_stage import batches, regression, validation

from spresso_jax.checkpoints.store import CheckpointError, CheckpointStore
from spresso_jax.observe.metrics import MetricsWriter, read_metrics
from spresso_jax.train.best import BestState
from spresso_jax.train.loop import LoopConfig, RunIO, run
from spresso_jax.train.mesh import make_mesh


def go(folder, steps, *, resume=False, draw=batches, stage=None, best=None, snapshots=None, **changes):
    store = CheckpointStore(folder / "checkpoints", keep=3)
    kept = BestState(CheckpointStore(folder / "best", keep=1), best, resume) if best else None
    previews = {}
    metrics = MetricsWriter(folder / "metrics.jsonl", resume_step=store.steps()[-1] if resume else -1)
    io = RunIO(
        draw=draw, validation={"val": validation}, store=store, metrics=metrics,
        write_preview=lambda step, arrays: previews.update({step: arrays}), meta={"upstream": None},
        resume_command="again", best=kept, snapshots=snapshots,
    )  # fmt: skip
    config = LoopConfig(
        **{**dict(steps=steps, log_every=1, validate_every=5, preview_every=5, save_every=4), **changes}
    )
    try:
        return run(stage or regression(), config, io, make_mesh(), resume), previews
    finally:
        metrics.close()
        store.close()
        if kept is not None:
            kept.store.close()


def losses(folder, split="train"):
    return {event["step"]: event["loss"] for event in read_metrics(folder / "metrics.jsonl") if event["split"] == split}


def test_a_resumed_run_sees_the_same_losses_and_ends_with_the_same_weights(tmp_path):
    whole, _ = go(tmp_path / "whole", 10)
    go(tmp_path / "parts", 6)
    resumed, _ = go(tmp_path / "parts", 10, resume=True)
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    for a, b in zip(jax.tree.leaves(whole.state.params), jax.tree.leaves(resumed.state.params), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(jax.tree.leaves(whole.state.ema), jax.tree.leaves(resumed.state.ema), strict=True):
        np.testing.assert_array_equal(a, b)


def test_events_after_the_last_checkpoint_are_cut_off_when_a_killed_run_resumes(tmp_path):
    go(tmp_path, 4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 7, "split": "train", "time": 0, "loss": 1.0}) + "\n" + '{"step": 8, "spl')
    go(tmp_path, 6, resume=True)
    assert sorted(losses(tmp_path)) == [1, 2, 3, 4, 5, 6]


def test_the_update_compiles_once(tmp_path):
    compiled = []
    listener = lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        go(tmp_path / "a", 3, validate_every=0, preview_every=0, save_every=0)
        short = len(compiled)
        compiled.clear()
        go(tmp_path / "b", 12, validate_every=0, preview_every=0, save_every=0)
    finally:
        jax.monitoring.clear_event_listeners()
    assert len(compiled) <= short


def test_validation_and_previews_come_at_their_steps_under_the_average(tmp_path):
    _, previews = go(tmp_path, 10)
    assert sorted(losses(tmp_path, "val")) == [0, 5, 10]
    assert sorted(previews) == [5, 10]


def test_the_chosen_state_is_that_of_the_lowest_held_out_figure_also_after_a_resume(tmp_path):
    # A rate far too high: held-out loss falls once, and then only rises.
    stage = regression(optimizer=optax.chain(optax.sgd(0.1), optax.scale_by_schedule(lambda step: 1.0 + step)))
    settings = dict(stage=stage, best="loss", validate_every=2)
    whole, _ = go(tmp_path / "whole", 24, **settings)
    figures = losses(tmp_path / "whole", "val")
    best = min(figures, key=figures.get)
    assert 0 < best < 24 and int(whole.chosen.step) == best and int(whole.state.step) == 24
    interrupted, _ = go(tmp_path / "parts", 20, **settings)
    resumed, _ = go(tmp_path / "parts", 24, resume=True, **settings)
    for outcome in (interrupted, resumed):
        for a, b in zip(jax.tree.leaves(whole.chosen.params), jax.tree.leaves(outcome.chosen.params), strict=True):
            np.testing.assert_array_equal(a, b)
    plain, _ = go(tmp_path / "plain", 4, stage=stage)
    assert plain.chosen is plain.state


def test_a_fresh_run_forgets_the_best_state_that_a_dead_one_left(tmp_path):
    stage = regression()
    left = BestState(CheckpointStore(tmp_path / "best", keep=1), "loss")
    whole, _ = go(tmp_path / "other", 2, stage=stage)
    assert left.offer(0, whole.state, {"val": {"loss": -1.0}}, {})
    left.store.close()
    outcome, _ = go(tmp_path, 10, stage=stage, best="loss")
    figures = losses(tmp_path, "val")
    assert int(outcome.chosen.step) == min(figures, key=figures.get)


def test_a_first_interrupt_saves_and_says_how_to_go_on(tmp_path, capsys):
    def interrupting(step):
        for index, batch in enumerate(batches(step)):
            if index == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    outcome, _ = go(tmp_path, 50, draw=interrupting)
    assert not outcome.finished and int(outcome.state.step) == 4
    assert "Resume with" in capsys.readouterr().out
    resumed, _ = go(tmp_path, 6, resume=True)
    assert resumed.finished and int(resumed.state.step) == 6


def test_an_unreadable_newest_checkpoint_falls_back_to_the_one_before(tmp_path, capsys):
    go(tmp_path, 8)
    newest = max((tmp_path / "checkpoints").iterdir(), key=lambda p: int(p.name) if p.name.isdigit() else -1)
    for path in newest.rglob("*"):
        if path.is_file() and "params" in path.parts:
            path.write_bytes(b"")
    resumed, _ = go(tmp_path, 9, resume=True)
    assert "unreadable" in capsys.readouterr().out
    assert resumed.finished


def test_a_checkpoint_of_another_shape_names_the_folder(tmp_path):
    go(tmp_path, 4)
    stage = regression()
    wider = {"net": {"kernel": jax.numpy.ones((7, 1)), "offset": jax.numpy.ones(1)}}
    other = dataclasses.replace(stage, init=lambda key: wider)
    with pytest.raises(CheckpointError, match="cannot be read into this config"):
        go(tmp_path, 6, resume=True, stage=other)


def test_a_run_whose_gradients_are_never_finite_ends_with_a_message(tmp_path):
    def broken(step):
        for batch in batches(step):
            yield {**batch, "y": batch["y"] * np.nan}

    with pytest.raises(FloatingPointError, match="no finite gradient"):
        go(tmp_path, 150, draw=broken, validate_every=0, preview_every=0, save_every=0)
