"""A sweep file expands to named points, and a mistake in it is told before anything starts."""

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from spresso_jax.configuration import ConfigError, flat_keys, load_config, load_sweep
from spresso_jax.sweeps.grid import SweepError, points, read_sweep, with_values

FIELDS = dict(
    stage="diffusion_ae",
    config="diffusion_ae:tiny-{rate}",
    axes=dict(rate=dict(values=("25hz", "1hz")), depth=dict(key="rate.encoder_depth", values=(1, 2))),
    seeds=(0, 1),
    overrides=("loop.steps=4",),
    metrics=dict(raw="lower"),
    plot=dict(x="depth", lines="rate"),
)


def test_points_are_every_combination_in_the_order_of_the_axes():
    found = points(read_sweep("s", FIELDS), ["data.batch_size=2"])
    assert [point.name for point in found[:3]] == ["25hz-depth1-seed0", "25hz-depth1-seed1", "25hz-depth2-seed0"]
    assert len(found) == 8 and found[-1].settings == {"rate": "1hz", "depth": 2}
    last = found[-1]
    assert last.config == "diffusion_ae:tiny-1hz"
    assert last.overrides == ("loop.steps=4", "data.batch_size=2", "rate.encoder_depth=2", "seed=1")
    config = load_config(last.config, last.overrides)
    assert (config.rate.downsample, config.rate.encoder_depth, config.seed, config.loop.steps) == (100, 2, 1, 4)


@pytest.mark.parametrize("preset", ["paper", "small", "nano", "tiny"])
def test_every_preset_of_the_encoder_depth_sweep_changes_only_what_it_says(preset):
    sweep = read_sweep("encoder_depth", load_sweep(f"encoder_depth:{preset}"))
    found = points(sweep)
    assert len(found) == 4 * len(sweep.axes["depth"].values) * len(sweep.seeds)
    if preset in ("paper", "small"):
        assert sweep.axes["depth"].values == (2, 4, 6, 8, 10, 12)
    for point in found[:: len(found) // 4]:
        config, plain = load_config(point.config, point.overrides), load_config(point.config)
        said = {text.partition("=")[0] for text in point.overrides}
        before, after = flat_keys(plain), flat_keys(config)
        assert {key for key in after if after[key] != before[key]} <= said
        assert config.rate.encoder_depth == point.settings["depth"] and config.stage == sweep.stage


@settings(max_examples=60, deadline=None)
@given(
    words=st.lists(st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True), min_size=1, max_size=4, unique=True),
    numbers=st.lists(st.integers(-9, 99) | st.floats(0.001, 9.0).map(lambda x: round(x, 3)), min_size=1, max_size=4,
                     unique=True),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
)  # fmt: skip
def test_names_are_unique_and_safe_for_a_file_system(words, numbers, seeds):
    fields = {**FIELDS, "seeds": seeds}
    fields["axes"] = dict(rate=dict(values=words), depth=dict(key="rate.encoder_depth", values=numbers))
    try:
        names = [point.name for point in points(read_sweep("s", fields))]
    except SweepError as error:
        assert "would be called" in str(error)  # -1 and 1 are spelled alike: refused, never merged
        return
    assert len(set(names)) == len(names) == len(words) * len(numbers) * len(seeds)
    assert all(name.replace("-", "").replace("_", "").replace(".", "").isalnum() for name in names)


def test_axes_take_other_values_from_the_command_line():
    sweep = with_values(read_sweep("s", FIELDS), ["depth=6, 12", "rate=5hz", "seed=7"])
    assert [point.name for point in points(sweep)] == ["5hz-depth6-seed7", "5hz-depth12-seed7"]
    for text, message in {
        "dept=2": "did you mean 'depth'",
        "depth": "write name=value",
        "depth=2,2": "none twice",
        "seed=a": "whole numbers",
    }.items():
        with pytest.raises(SweepError, match=message):
            with_values(sweep, [text])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": (0,)}, "did you mean 'seeds'"),
        ({"stage": ""}, "stage is missing"),
        ({"config": "diffusion_ae:tiny"}, "in braces"),
        ({"config": "diffusion_ae:{depth}-{rate}"}, "in braces"),
        ({"metrics": {"raw": "smaller"}}, '"lower" or "higher"'),
        ({"plot": {"x": "dept"}}, "did you mean 'depth'"),
        ({"axes": {"rate": {"values": ()}}}, "at least one value"),
        ({"axes": {"seed": {"key": "seed", "values": (1,)}}}, "axis 'seed'"),
    ],
)
def test_a_mistake_in_a_sweep_file_is_named(changes, message):
    with pytest.raises(SweepError, match=message):
        read_sweep("s", {**FIELDS, **changes})


def test_an_override_cannot_set_what_the_sweep_varies():
    for text in ("rate.encoder_depth=3", "seed=3"):
        with pytest.raises(SweepError, match="choose its values with --axis"):
            points(read_sweep("s", FIELDS), [text])


def test_values_spelled_alike_do_not_share_a_folder():
    axes = dict(rate=dict(values=("25hz",)), depth=dict(key="rate.encoder_depth", values=("a b", "a/b")))
    with pytest.raises(SweepError, match="two points would be called 25hz-deptha_b-seed0"):
        points(read_sweep("s", {**FIELDS, "axes": axes}))


def test_unknown_sweeps_and_presets_are_told(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'encoder_depth'"):
        load_sweep("encoder_dept")
    with pytest.raises(ConfigError, match="unknown preset 'huge'"):
        load_sweep("encoder_depth:huge")
    own = tmp_path / "mine.py"
    own.write_text("X = 1\n")
    with pytest.raises(ConfigError, match="has no get_sweep"):
        load_sweep(str(own))
    own.write_text(f"def get_sweep(preset):\n    return {FIELDS!r}\n")
    assert read_sweep("mine", load_sweep(str(own))).seeds == (0, 1)
