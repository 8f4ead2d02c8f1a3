"""Stage 3, D_theta: the text-to-audio diffusion transformer on AudioAE latents.

    spresso train text_to_audio --config text_to_audio:small --data SHARDS --upstream runs/clap/model --run runs/dit

Presets: paper (356 M parameters), base (201 M), small and nano (two CPU cores), tiny (demo, tests); with "mp" after a size, as in
small-mp, EDM2's magnitude-preserving layers and learning rate.
"""

from ml_collections import ConfigDict

from spresso_jax.configuration import blocks


def diffusion() -> ConfigDict:
    """EDM2's noise levels and loss for latents standardised to 0.5; shared by the three diffusion stages."""
    return ConfigDict(
        dict(
            sigma_data=0.5,
            # ln sigma ~ N(ln sigma_data + p_mean, p_std): EDM2's latent setting, P_mean -0.4 at sigma_data 0.5.
            p_mean=0.2931, p_std=1.0,
            # Weight of the loss on padding frames: 1 is the paper's (silence is data).
            padding_weight=1.0,
        )
    )  # fmt: skip


def get_config(preset: str | None = None) -> ConfigDict:
    """Config of one preset."""
    parts = (preset or "").split("-")
    size, _ = blocks.split_preset("-".join(part for part in parts if part != "mp"), sizes=(*blocks.SIZES, "base"))
    config = ConfigDict(
        dict(
            stage="text_to_audio",
            seed=0,
            model=dict(
                width=1024, heads=8, mlp_ratio=4.0,  # decision 9
                joint_blocks=6, audio_blocks=6,  # S-PRESSO 3.2
                block_style="adaln",  # decision 9; "mp": magnitude-preserving layers
                patch=1, input_gain=False, magnitude_input=False, noise_features=256, remat="none", dtype="float32",
            ),
            pooled_text=True,
            text_dropout=0.1,  # decision 15
            diffusion=diffusion(),
            optimizer=blocks.adamw(1e-4, ramp_steps=2000, b2=0.99, weight_decay=0.01),  # S-PRESSO 4.2.1
            ema_lengths=(0.05, 0.10), chosen_ema=0.10,  # decision 17
            data=blocks.data(32),  # S-PRESSO 4.2.2
            loop=blocks.loop(
                1_000_000, save_every=5000, validate_every=5000, preview_every=20_000, log_every=100, snapshot_every=100_000
            ),
            mesh=blocks.mesh(),
        )
    )  # fmt: skip
    if size == "base":
        config.model.update(dict(width=768, heads=12))
    if size not in ("paper", "base"):
        # Five frames a token make 100 tokens of a clip; two cores then see thousands of steps instead of hundreds. A token
        # then has 640 channels, more than the width carries: they reach the output through a predicted gain.
        config.model.update(
            dict(
                width=192, heads=4, joint_blocks=2, audio_blocks=2, patch=5, input_gain=True, magnitude_input=True,
                noise_features=64,
            )
        )  # fmt: skip
        config.diffusion.padding_weight = 0.1
        config.optimizer.update(dict(learning_rate=1e-3, schedule="cosine", ramp_steps=200, final_factor=0.05))
        config.data.update(dict(validation_clips=160))
        config.loop.update(
            dict(steps=3000, validate_every=500, save_every=250, preview_every=1000, log_every=50, snapshot_every=250)
        )
    if size == "nano":
        config.model.update(dict(width=128, mlp_ratio=3.0))
    if size == "tiny":
        config.model.update(dict(width=64, heads=2, joint_blocks=2, audio_blocks=1, mlp_ratio=2.0, patch=10))
        config.optimizer.ramp_steps = 5
        config.data.update(dict(batch_size=8, validation_clips=16))
        config.loop.update(dict(steps=40, validate_every=40, save_every=40, preview_every=0, log_every=10, snapshot_every=5))
    if "mp" in parts:
        config.model.block_style = "mp"
        # EDM2: learning rate 1e-2, constant for 70,000 of about a million steps, then 1 / sqrt(n); no weight decay.
        config.optimizer.update(
            dict(
                learning_rate=1e-2, schedule="inverse_sqrt", decay_steps=config.loop.steps * 7 // 100, weight_decay=0.0,
            )
        )  # fmt: skip
    return config
