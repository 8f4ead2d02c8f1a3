"""The quantizer's stage: presets, both training modes from the config, figures of every step, rows that live on a mesh."""

import jax
import numpy as np
import pytest

from spresso_jax.bitrate import PAPER_OPERATING_POINTS, bitrate_kbps
from spresso_jax.configuration import ConfigError, load_config
from spresso_jax.quantizer.schedule import quarter_cosine
from spresso_jax.stages import quantizer as stage_module
from spresso_jax.train.loop import prepare
from spresso_jax.train.mesh import make_mesh
from spresso_jax.train.state import networks_of
from spresso_jax.train.update import make_update


def batches(seed=0, size=128):
    rng = np.random.default_rng(seed)
    centres = 2.0 * rng.standard_normal((20, 64))

    def draw(step):
        while True:
            own = np.random.default_rng([seed, step])
            rows = centres[own.integers(0, 20, size)] + 0.3 * own.standard_normal((size, 64))
            yield {"embedding": rows.astype(np.float32)}
            step += 1

    return draw


@pytest.mark.parametrize(
    ("mode", "draw_mode"),
    [("tiny-11hz", "residuals"), pytest.param("tiny-official-11hz", "noise", marks=pytest.mark.slow)],
)
def test_a_mode_of_the_config_starts_steps_and_revives(mode, draw_mode):
    config = load_config(f"quantizer:{mode}", [f"revival.draw={draw_mode}", "revival.batches=2"])
    stage, draw, mesh = stage_module.build(config), batches(), make_mesh()
    state, frozen = prepare(stage, 0, mesh, draw)
    start = networks_of(state, frozen)["quantizer"]
    official = config.initialisation.start == "official"
    assert (len(np.unique(np.asarray(start["data_std"]))) == 1) == official
    assert np.array_equal(start["steps"]["codebook"], start["steps"]["preselection"]) == official
    # A row that no vector will choose, at a step with and without pre-selection.
    start["first_codebook"] = start["first_codebook"].at[0].set(90.0)
    for name in ("codebook", "preselection"):
        start["steps"][name] = start["steps"][name].at[1, 3].set(90.0)
    revived = stage.maintain({"quantizer": start}, lambda: draw(5), jax.random.key(0))["quantizer"]
    assert np.abs(revived["first_codebook"][0]).max() < 50 and np.abs(revived["steps"]["codebook"][1, 3]).max() < 50
    state, metrics = jax.jit(make_update(stage))(state, frozen, next(draw(0)))
    shown = jax.jit(stage.validate)({"quantizer": start}, next(draw(1)), jax.random.key(0))
    for step in range(1, config.model.codebooks + 1):
        for name in (f"mse_m{step}", f"entropy_bits_step{step}", f"perplexity_step{step}", f"dead_step{step}"):
            assert np.isfinite(metrics[name]) and np.isfinite(shown[name])
        assert 0 < metrics[f"entropy_bits_step{step}"] <= 4 and 0 <= shown[f"dead_step{step}"] < 16
    assert shown["dead_step1"] >= 1


def test_the_start_does_not_depend_on_whether_the_rows_are_held():
    config = load_config("quantizer:tiny-11hz", ["initialisation.rows=1000"])
    found = []
    for held in (2000, 500):
        config.initialisation.held_rows = held
        state, frozen = prepare(stage_module.build(config), 0, make_mesh(), batches())
        found.append(networks_of(state, frozen)["quantizer"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)


def test_a_point_of_the_paper_is_one_word():
    for point in PAPER_OPERATING_POINTS:
        config = load_config(f"quantizer:{point.kbps:g}kbps")
        stage = stage_module.build(config)
        networks = jax.eval_shape(stage.init, jax.random.key(0))
        facts = stage.finish(networks, lambda: iter(())).facts["operating_point"]
        assert config.data.batch_size == 8000 and config.model.codebooks == facts["trained_codebooks"] == 25
        sent = bitrate_kbps(facts["codebooks"], config.model.codewords, point.frame_rate)
        assert sent == pytest.approx(point.kbps) and facts["decode_codebooks"][0] == facts["codebooks"]
    assert load_config("quantizer:small-0.096kbps").model.codebooks == 8
    for wrong in ("quantizer:0.5kbps", "quantizer:1hz-0.3kbps"):
        with pytest.raises(ConfigError, match="1.32kbps, 0.3kbps, 0.096kbps"):
            load_config(wrong)


def test_the_references_sizes_and_recipe_are_presets():
    sizes = {"S": (2, 128, 256), "M": (4, 384, 384), "L": (16, 384, 384)}
    for name, (blocks, width, hidden) in sizes.items():
        for rate, codewords in (("11hz", 1024), ("1hz", 4096)):
            model = load_config(f"quantizer:{name}-{rate}").model
            assert (model.blocks, model.embedding_width, model.hidden_width) == (blocks, width, hidden)
            assert (model.codebooks, model.codewords, model.preselect, model.beam) == (25, codewords, 16, 32)
    config = load_config("quantizer:official-S-1hz")
    assert (config.initialisation.start, config.initialisation.scale, config.revival.draw) == (
        "official", "single", "noise"
    )  # fmt: skip
    per_epoch = config.loop.steps / 71
    factors = quarter_cosine(np.arange(config.loop.steps), per_epoch, 3.0, 60.0, config.optimizer.floor)
    at_floor = np.asarray(factors) <= 8e-7 * 1.001
    assert abs(at_floor.sum() - 8 * per_epoch) <= 2 and at_floor[-1]
    with pytest.raises(ValueError, match="residuals, noise"):
        stage_module.build(load_config("quantizer:tiny", ["revival.draw=zeros"]))
