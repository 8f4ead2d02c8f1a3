"""The imported Woosh-Flow against the reference's own outputs: velocities, the EDM view, samples, rotary rows, folders."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import close, families, golden_root

from spresso_jax.audio_ae.autoencoder import AudioAutoencoder
from spresso_jax.audio_ae.statistics import unstandardise
from spresso_jax.clap.text_conditioner import TextConditioner
from spresso_jax.diffusion import edm
from spresso_jax.diffusion.guidance import guide
from spresso_jax.diffusion.sampler import euler, heun
from spresso_jax.dit.model import DiT
from spresso_jax.interop.woosh import read_woosh_autoencoder
from spresso_jax.interop.woosh_flow import flow_from_state, read_woosh_flow, rotary_fields
from spresso_jax.interop.woosh_text import read_woosh_text_conditioner
from spresso_jax.nn.rope import rope_table

pytestmark = pytest.mark.golden
NETWORKS = families("woosh", "dit_flow")
TABLES = families("woosh", "rope_release")
PIPELINES = families("woosh", "pipeline")
TEXT_TOLERANCE, VELOCITY_TOLERANCE, SAMPLE_TOLERANCE, AUDIO_TOLERANCE = 5e-6, 5e-6, 2e-5, 2e-6


def btc(array):
    """Channels first -> channels last."""
    return np.moveaxis(np.asarray(array), -2, -1)


class ShortTable(DiT):
    """Text positions beyond the reference's rotary table, which a tiny clip with a long caption reaches.

    The reference appends the text's own table, all position 0, to that of the audio; positions after the end of the audio's
    (twice its longest clip) fall into it. The released one ends at 1002: T + 77 never reaches it.
    """

    def _table(self, positions):
        positions = np.asarray(positions)
        return super()._table(np.where(positions >= 2 * self.register_position, 0, positions))


def velocity_of(flow, network=DiT):
    """(x [B, T, C], t [B], text, mask) -> v [B, T, C], compiled once for each shape."""
    module, variables = network(**flow.config), {"params": flow.params}
    return jax.jit(lambda x, t, text, mask: module.apply(variables, x, t, text, mask.astype(bool)))


def edm_view(velocity):
    """The same network inside EDM's own preconditioning of unit data: F(u, ln(sigma) / 4)."""

    def network(u, c_noise):
        sigma = jnp.exp(4.0 * c_noise)[:, None, None]
        gain = jnp.sqrt(1.0 + sigma**2) / (1.0 + sigma)
        return (sigma - 1.0) / (sigma + 1.0) * u + gain * velocity(gain * u, (sigma / (1.0 + sigma))[:, 0, 0])

    return network


def flow_euler(velocity, noise, steps):
    """Euler from t = 1 to 0 in equal steps: the first by hand, where sigma is infinite, the others by our sampler."""
    grid = 1.0 - np.arange(1, steps + 1) / steps
    x = noise + velocity(noise, jnp.ones(len(noise))) / steps
    sigmas = grid / (1.0 - grid)
    return euler(
        lambda y, sigma: edm.denoise(velocity, y, sigma, 1.0, precond="flow"), x / (1.0 - grid[0]) / sigmas[0], sigmas
    )


@pytest.mark.skipif(not NETWORKS, reason="no golden files of this family: set SPRESSO_GOLDEN")
@pytest.mark.parametrize("path", NETWORKS, ids=lambda p: p.stem)
def test_the_network_its_edm_view_and_its_samples_equal_the_reference(path, capsys):
    data = dict(np.load(path))
    settings = json.loads(str(data["settings_json"]))
    plain = flow_from_state({k[6:]: v for k, v in data.items() if k.startswith("state/")}, settings)
    flow = plain.with_null_caption(data["in/null_text"][0], data["in/null_text_mask"][0])
    text, mask = data["in/text"], data["in/text_mask"]
    run = velocity_of(flow)
    nothing = np.zeros_like(mask)

    def velocity(x, t):
        return run(x, t, text, mask)

    def null_velocity(x, t):
        return run(x, t, np.zeros_like(text), nothing)

    x, t = btc(data["in/x_t"]), data["in/t"]
    worst = close(velocity(x, t), btc(data["out/v"]), VELOCITY_TOLERANCE)
    close(velocity_of(plain)(x, t, text, mask), btc(data["out/v"]), VELOCITY_TOLERANCE)
    close(null_velocity(x, t), btc(data["out/v_null"]), VELOCITY_TOLERANCE)
    guided = guide(velocity(x, t), null_velocity(x, t), 5.5)
    close(guided, btc(data["out/v_cfg4.5"]), SAMPLE_TOLERANCE)
    close(velocity(x[:, : int(data["in/T_short"])], t), btc(data["out/v_short"]), VELOCITY_TOLERANCE)
    u = DiT(**flow.config).apply({"params": flow.params}, t, method="uncertainty")
    close(u, data["out/logvar"], VELOCITY_TOLERANCE)

    x0, noise = btc(data["in/x0"]), btc(data["in/eps"])
    view = edm_view(velocity)
    for i, sigma in enumerate(data["edm/sigma"]):
        level = jnp.full(len(x0), sigma, jnp.float32)
        c = edm.precondition(np.float64(sigma), 1.0, "flow")
        known = [float(data[f"edm/{name}"][i]) for name in ("c_skip", "c_out", "c_in", "t")]
        np.testing.assert_allclose(np.array([*map(float, c)]), known, rtol=1e-6)
        y = x0 + np.float32(sigma) * noise
        scale = max(1.0, float(np.abs(y).max()) / (1.0 + sigma))
        close(edm.denoise(velocity, y, level, 1.0, precond="flow"), btc(data["edm/D"][i]), VELOCITY_TOLERANCE * scale)
        close(edm.denoise(view, y, level, 1.0), btc(data["edm/D"][i]), VELOCITY_TOLERANCE * scale)
        close(velocity(c.c_in * y, level * 0 + c.c_noise), btc(data["edm/v"][i]), VELOCITY_TOLERANCE)
        root = np.sqrt(1.0 + sigma**2)
        close(view((y / root).astype(np.float32), jnp.log(level) / 4), btc(data["edm/F_sigma_data1"][i]), VELOCITY_TOLERANCE)
        half = 0.5 * x0 + np.float32(sigma) * noise
        theirs = btc(data["edm/D_sigma_data0.5"][i])
        close(edm.denoise(velocity, half, level, 0.5, precond="flow"), theirs, VELOCITY_TOLERANCE)

    def denoiser(y, sigma):
        return edm.denoise(velocity, y, sigma, 1.0, precond="flow")

    start, grid = btc(data["in/noise"]), data["edm/euler_grid"]
    errors = [
        close(euler(denoiser, start, grid), btc(data["edm/euler_result"]), SAMPLE_TOLERANCE),
        close(heun(denoiser, start, grid), btc(data["edm/heun_result"]), SAMPLE_TOLERANCE),
        close(
            flow_euler(lambda y, t: guide(velocity(y, t), null_velocity(y, t), 5.5), start, 16),
            btc(data["out/sample_euler16_cfg4.5"]), SAMPLE_TOLERANCE,
        ),
    ]  # fmt: skip
    with capsys.disabled():
        print(f"\n[golden] {path.name}: {len(data['edm/sigma'])} noise levels, 3 samples; errors {worst:.1e}, {max(errors):.1e}")


@pytest.mark.skipif(not TABLES, reason="no golden files of this family")
@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_the_released_rotary_table_equals_the_reference(path, capsys):
    data = np.load(path)
    stated = json.loads(str(data["settings_json"]))["dit"]
    fields = rotary_fields(stated)
    assert fields["register_position"] == int(data["memory_row_position"])
    positions = [fields["register_position"] if row == 0 else row - 1 for row in data["rows"].tolist()]
    table = rope_table(
        positions, stated["qkv_head_dim"], fields["rope_theta"], fields["rope_dim"], fields["yarn_factor"],
        fields["yarn_length"],
    )  # fmt: skip
    used = fields["rope_dim"] // 2
    assert table.shape == (len(positions), used, 2)
    # The reference multiplies position and frequency in float32: off by up to 1e-7 of an angle of hundreds.
    np.testing.assert_allclose(table[..., 0], data["real"][:, :used], atol=5e-5)
    np.testing.assert_allclose(table[..., 1], data["imag"][:, :used], atol=5e-5)
    angles = np.arctan2(*rope_table([1], stated["qkv_head_dim"], **_yarn(fields))[0, :, ::-1].T)
    np.testing.assert_allclose(angles, data["angle_at_position_1"], atol=1e-6)
    with capsys.disabled():
        print(f"\n[golden] {path.name}: {len(positions)} rows")


def _yarn(fields):
    return {"theta": fields["rope_theta"], "yarn_factor": fields["yarn_factor"], "yarn_length": fields["yarn_length"]}


@pytest.mark.skipif(not PIPELINES, reason="no golden files of this family: set SPRESSO_GOLDEN")
@pytest.mark.parametrize("path", PIPELINES, ids=lambda p: p.stem)
def test_folders_in_the_published_layout_go_from_caption_to_sound(path, capsys):
    data = dict(np.load(path))
    settings = json.loads(str(data["settings_json"]))
    checkpoints = golden_root() / "woosh" / settings["checkpoints"]
    made = read_woosh_text_conditioner(
        checkpoints / "TextConditionerA", settings["not_in_config_files"]["roberta"]["heads"]
    )
    tower = TextConditioner(**made.config)
    read = jax.jit(lambda ids, mask: tower.apply({"params": made.params}, ids, mask))
    mask = data["in/attention_mask"].astype(bool)
    text = read(data["in/input_ids"], mask)[0]
    null, null_mask = made.null_caption()
    worst = close(text, data["out/text_cond"], TEXT_TOLERANCE)
    close(null, data["out/null_text_cond"][0], TEXT_TOLERANCE)
    assert null_mask.tolist() == (data["in/null_input_ids"][0] != 1).tolist()

    flow = read_woosh_flow(checkpoints / "Woosh-Flow").with_null_caption(null, null_mask)
    run = velocity_of(flow, ShortTable)
    noise = btc(data["in/noise"])
    for name in ("out/v_t1", "out/v_t0.5"):
        t = jnp.full(len(noise), float(name.removeprefix("out/v_t")))
        close(run(noise, t, text, mask), btc(data[name]), VELOCITY_TOLERANCE)
    nothing = np.zeros_like(text), np.zeros_like(mask)
    sample = flow_euler(
        lambda x, t: guide(run(x, t, text, mask), run(x, t, *nothing), 1.0 + settings["cfg"]), noise,
        settings["euler_steps"],
    )  # fmt: skip
    error = close(sample, btc(data["out/z_euler8_cfg4.5"]), SAMPLE_TOLERANCE)
    autoencoder = read_woosh_autoencoder(checkpoints / "Woosh-AE")
    facts = autoencoder.latent_statistics()
    latent = unstandardise(0.5 * btc(data["out/z_euler8_cfg4.5"]), np.array(facts["mean"]), np.array(facts["std"]))
    module = AudioAutoencoder(**autoencoder.config)
    sound = module.apply({"params": autoencoder.params}, latent, method="decode")
    close(sound, btc(data["out/audio"]), AUDIO_TOLERANCE)
    with capsys.disabled():
        print(f"\n[golden] {path.name}: 2 captions, 2 velocities, 1 sample; errors {worst:.1e} (text), {error:.1e} (sample)")
