"""Stage 1, AudioAE: 48 kHz sound <-> 128 latents at 100 frames/s, trained as DAC is.

    spresso train audio_ae --config audio_ae:small --data SHARDS --run runs/audio_ae

Presets: paper (13.6 M decoder, 17.9 M encoder; weeks of GPU), large (94 M in all), woosh (the layout of the public Woosh
weights, 221 M), small (two CPU cores, two hours), nano (half an hour), tiny (demo, tests).
"""

from ml_collections import ConfigDict

from spresso_jax.configuration import blocks


def get_config(preset: str | None = None) -> ConfigDict:
    """Config of one preset."""
    size, _ = blocks.split_preset(preset, sizes=(*blocks.SIZES, "large", "woosh"))
    config = ConfigDict(
        dict(
            stage="audio_ae",
            seed=0,
            model=dict(
                # Vocos' published size: the paper cites Vocos without a change (decision 3).
                dim=512, intermediate=1536, encoder_blocks=8, decoder_blocks=8,
                latent_channels=128,  # S-PRESSO 4.2.1
                encoder_input="log_phase", head="magnitude_phase", padding="same",  # decisions 2, 4
                bottleneck="none", projection_kernel=1,  # decision 5
                linear_start=False, linear_start_path="frozen", compand_exponent=0.35,  # decision 28
                level_channels=0,
                remat=False, dtype="float32",
            ),
            discriminator=dict(width_factor=1.0),
            # What the discriminators see of a batch: rows (0: all) and seconds (0: all), an excerpt drawn each step.
            # Its two losses start at first_step and reach their weights ramp_steps later; it learns from the beginning.
            adversary=dict(rows=0, seconds=0.0, first_step=0, ramp_steps=0),
            anneal_steps=0,  # if not 0, the linear codec fades out of a linear start until this step
            # DAC's weights: 15 mel, 2 feature matching, 1 adversarial (S-PRESSO 4.2.1, "training follows [4]").
            loss=dict(mel=15.0, feature_matching=2.0, adversarial=1.0, waveform_db=0.0),
            # DAC: two AdamW at 1e-4, betas 0.8/0.99, decay 0.01 on everything, rate * 0.999996 a step.
            optimizer=blocks.adamw(
                1e-4, schedule="exponential", decay=0.999996, b1=0.8, b2=0.99, weight_decay=0.01,
                decay_matrices_only=False, clip_norm=1000.0,
            ),
            discriminator_clip_norm=10.0,
            augment=dict(loudness=True, phase=True),  # DAC: -16 LUFS and peak 1, one random phase a sound
            keep_best=True,  # DAC: the step with the lowest held-out mel distance is the model
            ema_decay=0.999,
            statistics_batches=200,
            data=blocks.data(72, crop="salient", seconds=0.38),  # DAC's segment and choice of excerpts
            loop=blocks.loop(400_000, save_every=2000, validate_every=1000, preview_every=10_000, log_every=50),
            mesh=blocks.mesh(),
        )
    )  # fmt: skip
    config.data.validation_seconds = 5.0  # DAC validates on 5 s
    if size == "large":
        config.model.update(dict(dim=768, intermediate=2304, encoder_blocks=12, decoder_blocks=12))  # decision 3
    if size == "woosh":
        config.model.update(
            dict(
                dim=2048, intermediate=3072, encoder_input="complex", head="circle", padding="center",
                projection_kernel=3,
            )
        )  # fmt: skip
    if size in ("small", "nano", "tiny"):
        # The linear start keeps a sound's level and phase, so that there is no variety to teach.
        config.augment.update(dict(loudness=False, phase=False))
    if size == "small" or size == "nano":
        config.model.update(
            dict(
                dim=256, intermediate=768, encoder_blocks=4, decoder_blocks=4, encoder_input="compressed", head="complex",
                linear_start=True, level_channels=4,
            )
        )  # fmt: skip
        config.discriminator.width_factor = 0.125
        config.adversary.update(dict(rows=4, seconds=0.38))
        # DAC has no waveform error; beside a linear start it weighs what is put above 6 kHz, at a phase of its own, against
        # the waveform (decision 6). docs/results/audio-ae.md has the trade between level there and SI-SDR.
        config.loss.update(dict(waveform_db=0.5))
        config.optimizer.update(
            dict(
                learning_rate=5e-4,
                schedule="cosine",
                ramp_steps=200,
                final_factor=0.02,
                weight_decay=0.0,
                clip_norm=50.0,
            )
        )
        config.ema_decay = 0.999
        config.data.update(dict(batch_size=8, crop="active", seconds=1.0, validation_clips=64))
        config.loop.update(dict(steps=6000, validate_every=500, save_every=250, preview_every=1000))
        config.statistics_batches = 100
    if size == "nano":
        config.model.update(dict(dim=96, intermediate=288, encoder_blocks=3, decoder_blocks=3))
        config.discriminator.width_factor = 0.0625
        config.ema_decay = 0.99
        config.loop.steps = 2000
    if size == "tiny":
        config.model.update(
            dict(
                dim=32, intermediate=64, encoder_blocks=1, decoder_blocks=1, encoder_input="compressed", head="complex",
                linear_start=True, level_channels=4,
            )
        )  # fmt: skip
        config.discriminator.width_factor = 0.03125
        config.adversary.update(dict(rows=2, seconds=0.1))
        config.loss.waveform_db = 0.5
        config.optimizer.update(
            dict(learning_rate=1e-3, schedule="cosine", ramp_steps=5, weight_decay=0.0, clip_norm=50.0)
        )
        config.ema_decay = 0.9
        config.keep_best = False
        config.data.update(dict(batch_size=2, crop="active", seconds=0.5, validation_clips=8, validation_seconds=0.0))
        config.loop.update(dict(steps=40, validate_every=40, save_every=40, preview_every=40, log_every=5))
        config.statistics_batches = 16
    return config
