"""The metrics file: numbers only, cut to the restored step, forgiving of a line that a kill cut short."""

import pytest

from spresso_jax.observe.metrics import MetricsWriter, read_metrics


def test_values_that_are_not_finite_become_null_and_come_back(tmp_path):
    writer = MetricsWriter(tmp_path / "m.jsonl")
    writer.write(1, "train", {"loss": float("nan"), "rate": 1 / 3})
    writer.close()
    (event,) = read_metrics(tmp_path / "m.jsonl")
    assert event["loss"] is None and event["rate"] == pytest.approx(1 / 3, rel=1e-5)
    assert event["step"] == 1 and event["split"] == "train" and event["time"] > 0


def test_a_cut_last_line_is_left_out_and_a_broken_one_before_is_named(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1, "split": "train"}\n{"step": 2, "sp')
    assert len(read_metrics(path)) == 1
    path.write_text('{"step": 1\n{"step": 2, "split": "train"}\n')
    with pytest.raises(ValueError, match="line 1"):
        read_metrics(path)


def test_resuming_cuts_events_after_the_restored_step(tmp_path):
    path = tmp_path / "m.jsonl"
    writer = MetricsWriter(path)
    for step in (1, 2, 3):
        writer.write(step, "train", {"loss": step})
    writer.close()
    MetricsWriter(path, resume_step=2).close()
    assert [event["step"] for event in read_metrics(path)] == [1, 2]
