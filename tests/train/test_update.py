"""One update: players, shared product, accumulation, refused gradients, splits of the tree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from train.toy_stage import SIZE, batches, gan, regression

from spresso_jax.checkpoints.trees import flatten
from spresso_jax.nn import magnitude
from spresso_jax.train.optimizers import exponential, inverse_sqrt, ramp_cosine
from spresso_jax.train.stage import Player, Stage
from spresso_jax.train.state import at_step, combine, create, inherit, networks_of, select, split
from spresso_jax.train.update import make_update


def started(stage):
    networks = inherit(stage, stage.init(jax.random.key(0)))
    return create(stage, networks, jax.random.key(1))


def test_leaves_fall_into_params_buffers_and_frozen():
    stage = regression(upstream={"other": {"w": np.ones(3, np.float32)}})
    params, buffers, frozen = split(stage, inherit(stage, stage.init(jax.random.key(0))))
    assert set(flatten(params)) == {"net/kernel"}
    assert set(flatten(buffers)) == {"net/offset"}
    assert set(flatten(frozen)) == {"other/w"}


def test_upstream_leaves_replace_fresh_ones_and_wrong_shapes_are_named():
    kernel = np.full((SIZE, 1), 3.0, np.float32)
    stage = regression(upstream={"net": {"kernel": kernel}})
    np.testing.assert_array_equal(inherit(stage, stage.init(jax.random.key(0)))["net"]["kernel"], kernel)
    wrong = regression(upstream={"net": {"kernel": np.ones((SIZE + 1, 1), np.float32)}})
    with pytest.raises(ValueError, match="net/kernel has shape"):
        inherit(wrong, wrong.init(jax.random.key(0)))


def test_a_leaf_owned_twice_or_a_player_without_leaves_is_refused():
    stage = regression()
    twice = Stage(
        **{**stage.__dict__, "players": (stage.players[0], Player("b", "net", stage.players[0].loss, optax.sgd(1.0)))}
    )
    with pytest.raises(ValueError, match="owned by"):
        split(twice, stage.init(jax.random.key(0)))
    none = Stage(**{**stage.__dict__, "players": (Player("b", "absent", stage.players[0].loss, optax.sgd(1.0)),)})
    with pytest.raises(ValueError, match="owns no parameter"):
        split(none, stage.init(jax.random.key(0)))


def test_training_learns_and_the_first_average_copies_the_parameters():
    stage = regression()
    state, frozen = started(stage)
    update = jax.jit(make_update(stage))
    stream = batches(0)
    state, first = update(state, frozen, next(stream))
    np.testing.assert_allclose(state.ema["mean"]["net"]["kernel"], state.params["net"]["kernel"])
    for _ in range(200):
        state, last = update(state, frozen, next(stream))
    assert float(last["loss"]) < 0.05 * float(first["loss"])
    assert int(state.step) == 201 and int(state.skipped) == 0
    assert not np.allclose(state.ema["mean"]["net"]["kernel"], state.params["net"]["kernel"])


def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch():
    stage = regression(optimizer=optax.sgd(0.1), noise=0.0)
    state, frozen = started(stage)
    batch = {name: jnp.asarray(value) for name, value in next(batches(3)).items()}
    whole, _ = jax.jit(make_update(stage))(state, frozen, batch)
    parts, _ = jax.jit(make_update(stage, accumulate=4))(state, frozen, batch)
    np.testing.assert_allclose(whole.params["net"]["kernel"], parts.params["net"]["kernel"], rtol=1e-5)


def test_a_gradient_that_is_not_finite_changes_nothing_but_the_count():
    stage = regression()
    state, frozen = started(stage)
    batch = dict(next(batches(0)))
    batch["y"] = batch["y"] * np.nan
    after, metrics = jax.jit(make_update(stage))(state, frozen, batch)
    np.testing.assert_array_equal(after.params["net"]["kernel"], state.params["net"]["kernel"])
    assert int(after.skipped) == 1 and float(metrics["skipped"]) == 1
    for old, new in zip(jax.tree.leaves(state.opt), jax.tree.leaves(after.opt), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_generator_runs_once_and_meets_the_updated_critic():
    seen = []
    stage = gan(seen)
    state, frozen = started(stage)
    batch = next(batches(0))
    after, metrics = jax.jit(make_update(stage))(state, frozen, batch)
    assert seen == ["forward"]
    fake = batch["x"] @ np.ones((SIZE, 1), np.float32)
    scale = 2.0 - 0.1 * 2.0 * (2.0 * fake.mean() - 1.0) * fake.mean()
    np.testing.assert_allclose(after.params["critic"]["scale"], scale, rtol=1e-5)
    gradient = 2.0 * batch["x"].T @ (fake - batch["y"]) / len(fake) * scale
    np.testing.assert_allclose(after.params["generator"]["kernel"], 1.0 - 0.01 * gradient, rtol=1e-4)
    assert {"critic/loss", "generator/loss", "critic/score"} <= set(metrics)


def test_two_players_accumulate_too_and_each_meets_what_the_other_did():
    stage = gan([])
    state, frozen = started(stage)
    batch = next(batches(0))
    whole, _ = jax.jit(make_update(stage))(state, frozen, batch)
    parts, _ = jax.jit(make_update(stage, accumulate=2))(state, frozen, batch)
    # The critic's loss is the square of a batch mean, so its micro-batches are computed by hand.
    means = [(batch["x"][i::2] @ np.ones((SIZE, 1), np.float32)).mean() for i in (0, 1)]
    scale = 2.0 - 0.1 * np.mean([2.0 * (2.0 * mean - 1.0) * mean for mean in means])
    np.testing.assert_allclose(parts.params["critic"]["scale"], scale, rtol=1e-5)
    # The generator's gradient is linear in the critic's scale, and a plain mean over rows.
    change = {name: after.params["generator"]["kernel"] - 1.0 for name, after in (("whole", whole), ("parts", parts))}
    ratio = scale / whole.params["critic"]["scale"]
    np.testing.assert_allclose(change["parts"], ratio * change["whole"], rtol=1e-4)


def test_frozen_leaves_have_no_gradient_and_no_moments():
    seen = []

    def update(gradient, state, params=None):
        seen.append(set(flatten(gradient)))
        return jax.tree.map(jnp.zeros_like, gradient), state

    stage = regression(upstream={"other": {"w": np.ones(3, np.float32)}})
    recorder = optax.chain(optax.GradientTransformation(lambda params: optax.EmptyState(), update), optax.adam(0.1))
    (player,) = stage.players
    stage = Stage(**{**stage.__dict__, "players": (Player(player.name, player.owns, player.loss, recorder),)})
    state, frozen = started(stage)
    jax.eval_shape(make_update(stage), state, frozen, next(batches(0)))
    assert seen == [{"net/kernel"}] and set(flatten(frozen)) == {"other/w"}
    assert set(flatten(optax.tree.get(state.opt["net"], "mu"))) == {"net/kernel"}


def test_select_and_combine_are_inverse():
    tree = {"a": {"b": 1, "c": 2}, "d": {"e": 3}}
    assert combine(select(tree, "^a/"), select(tree, "^d/")) == tree
    assert networks_of(*started(regression()))["net"].keys() == {"kernel", "offset"}


def test_schedules_ramp_and_fall():
    rate = inverse_sqrt(1.0, ramp_steps=10, decay_steps=100)
    np.testing.assert_allclose([rate(0), rate(9), rate(99), rate(399)], [0.1, 1.0, 1.0, 0.5], rtol=1e-6)
    cosine = ramp_cosine(1.0, 10, 110, final_factor=0.1)
    np.testing.assert_allclose([cosine(9), cosine(109)], [1.0, 0.1], rtol=1e-5)
    np.testing.assert_allclose(exponential(1e-4, 0.999996)(250_000), 1e-4 * 0.999996**250_000, rtol=1e-3)


def test_a_schedule_reaches_losses_and_validation_with_the_step():
    stage = regression()
    (player,) = stage.players

    def weighted(networks, product, batch, key):
        loss, metrics = player.loss(networks, product, batch, key)
        return networks["schedule"]["weight"] * loss, metrics

    moving = {
        **stage.__dict__,
        "players": (Player(player.name, player.owns, weighted, optax.sgd(1.0)),),
        "schedules": {"weight": lambda step: jnp.minimum(step, 1.0)},
    }
    stage = Stage(**moving)
    state, frozen = started(stage)
    before = np.asarray(state.params["net"]["kernel"])
    update = jax.jit(make_update(stage))
    state, metrics = update(state, frozen, next(batches(0)))
    assert float(metrics["loss"]) == 0.0
    np.testing.assert_array_equal(state.params["net"]["kernel"], before)
    state, metrics = update(state, frozen, next(batches(0)))
    assert float(metrics["loss"]) > 0.0 and np.any(state.params["net"]["kernel"] != before)
    assert float(networks_of(state, at_step(stage, frozen, state.step))["schedule"]["weight"]) == 1.0
    assert "schedule" not in networks_of(state, frozen)


def test_averages_hold_only_the_leaves_they_are_for():
    stage = gan([])
    stage = Stage(
        **{**stage.__dict__, "ema": {"slow": lambda step: 0.5}, "chosen_ema": "slow", "averaged": "^generator/"}
    )
    state, frozen = started(stage)
    assert set(flatten(state.ema["slow"])) == {"generator/kernel"}
    after, _ = jax.jit(make_update(stage))(state, frozen, next(batches(0)))
    networks = networks_of(after, frozen, "slow")
    halfway = 0.5 * (state.params["generator"]["kernel"] + after.params["generator"]["kernel"])
    np.testing.assert_allclose(networks["generator"]["kernel"], halfway, rtol=1e-6)
    np.testing.assert_array_equal(networks["critic"]["scale"], after.params["critic"]["scale"])


def normalised_regression(traced):
    """Regression through a magnitude-preserving kernel, with a gain; `traced` collects one entry a projection."""

    def loss(networks, product, batch, key):
        error = networks["net"]["gain"] * magnitude.linear(batch["x"], networks["net"]["mp_kernel"]) - batch["y"]
        return jnp.mean(jnp.square(error)), {}

    def project(params):
        traced.append("projected")
        return magnitude.project_kernels(params)

    def init(key):
        return {"net": {"mp_kernel": 3.0 * jax.random.normal(key, (SIZE, 1)), "gain": jnp.asarray(0.5)}}

    stage = regression()
    players = (Player("net", "net", loss, optax.adam(0.2)),)
    ema = {"short": lambda step: jnp.where(step == 1, 0.0, 0.5)}
    return Stage(
        **{**stage.__dict__, "init": init, "players": players, "ema": ema, "chosen_ema": "short", "project": project}
    )


@pytest.mark.parametrize("accumulate", [1, 4])
def test_projection_after_the_update_equals_forced_normalisation_before_it(accumulate):
    traced = []
    stage = normalised_regression(traced)
    state, frozen = started(stage)
    traced.clear()
    jax.eval_shape(make_update(stage, accumulate), state, frozen, next(batches(0)))
    assert traced == ["projected"]  # once: within the loop over micro-batches it would be traced several times
    update = jax.jit(make_update(stage, accumulate))
    # EDM2's order, once a step: normalise, forward, backward, Adam, average.
    (player,) = stage.players
    weights = stage.init(jax.random.key(0))
    moments, average, left = player.optimizer.init(weights), None, []
    gradient_of = jax.jit(jax.grad(lambda w, batch: player.loss(w, None, batch, None)[0]))
    stream = batches(0)
    for _ in range(20):
        batch = next(stream)
        weights = magnitude.project_kernels(weights)
        change, moments = player.optimizer.update(gradient_of(weights, batch), moments, weights)
        weights = optax.apply_updates(weights, change)
        left.append(abs(float(jnp.sqrt(jnp.mean(weights["net"]["mp_kernel"] ** 2))) - 1.0))
        average = weights if average is None else jax.tree.map(lambda a, b: 0.5 * (a + b), average, weights)
        state, _ = update(state, frozen, batch)
        for path, leaf in flatten(state.ema["short"]).items():
            np.testing.assert_allclose(leaf, flatten(average)[path], rtol=2e-5, atol=1e-5)
        for path, leaf in flatten(state.params).items():
            np.testing.assert_allclose(leaf, flatten(magnitude.project_kernels(weights))[path], rtol=2e-5, atol=1e-5)
    assert abs(float(jnp.sqrt(jnp.mean(state.params["net"]["mp_kernel"] ** 2))) - 1.0) < 1e-3
    assert max(left) > 1e-3  # before it is projected, as the average saw it, the kernel has another size
