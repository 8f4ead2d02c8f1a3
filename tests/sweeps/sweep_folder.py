"""A sweep's folder with made-up runs, for tests that read one."""

import json

from spresso_jax.configuration import load_config, to_plain
from spresso_jax.sweeps import folder
from spresso_jax.sweeps.grid import points, read_sweep

FIELDS = dict(
    stage="diffusion_ae",
    config="diffusion_ae:tiny-{rate}",
    axes=dict(rate=dict(values=("25hz", "1hz")), depth=dict(key="rate.encoder_depth", values=(2, 10))),
    seeds=(0, 1, 2),
    metrics=dict(raw="lower", other_embedding_gain="higher"),
    plot=dict(x="depth", lines="rate"),
)
SOURCE = {"data": ["/data/shards"], "upstream": "/runs/dit/model", "fingerprints": {"dit": "abc"}}


def make_plan(fields=None, overrides=(), source=None):
    sweep = read_sweep("depths", fields or FIELDS)
    planned = [
        folder.PlannedPoint(point, 40, 2_000_000, 500_000 * point.settings["depth"], {"float32": 3e9})
        for point in points(sweep, overrides)
    ]
    return folder.make_plan(sweep, overrides, planned, source or SOURCE)


def write_run(out, name, plan, validations=(), seconds=(), done=True, extra=()):
    """A run folder: `validations` are (raw, gain) pairs at steps 0, 10, ...; `seconds` go to the training log."""
    run = out / name
    run.mkdir(parents=True)
    entry = plan["points"][name]
    config = to_plain(load_config(entry["config"], entry["overrides"]))
    (run / "config.json").write_text(json.dumps(config))
    events = [{"step": i, "split": "train", "time": 0, "seconds_per_step": s} for i, s in enumerate(seconds)]
    for index, (raw, gain) in enumerate(validations):
        # As the training writes them: by letters.
        figures = {"other_embedding_gain": gain, "other_embedding_gain_bin_0.3": 2 * gain}
        figures |= {"raw": raw, "raw_bin_0.3": 2 * raw}
        events.append({"step": 10 * index, "split": "val", "time": 0} | figures)
    (run / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in [*events, *extra]))
    if done:
        folder.model_file(run).parent.mkdir()
        folder.model_file(run).write_text("{}")
    return run
