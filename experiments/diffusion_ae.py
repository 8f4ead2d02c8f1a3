"""Stage 4, diffusion autoencoder (the paper's step 1): g_psi, f_phi, third stream and LoRA at one frame rate.

    spresso train diffusion_ae --config diffusion_ae:small-11hz --data SHARDS --upstream runs/dit/model --run runs/dae-11hz

Presets: a rate (25hz, 11hz, 5hz, 1hz; 11hz if none), and a size (paper, base, small, nano, tiny) before it: "small-1hz".
Encoder depth by frame rate is the question that labs bring: --set rate.encoder_depth=8.
"""

from ml_collections import ConfigDict

from spresso_jax.configuration import blocks, load_experiment, rates


def get_config(preset: str | None = None) -> ConfigDict:
    """Config of one preset."""
    size, rate = blocks.split_preset(preset, sizes=(*blocks.SIZES, "base"))
    config = ConfigDict(
        dict(
            stage="diffusion_ae",
            seed=0,
            rate=rates.rate_of(rate or "11hz"),
            encoder=dict(  # decision 13
                width=1024, heads=8, mlp_ratio=4.0, patch=1, magnitude_input=False, remat="none", dtype="float32",
            ),
            third_stream=dict(isolated=False),  # decision 11
            lora=dict(lora_rank=32, lora_alpha=32.0),  # decision 14
            text_dropout=0.8,  # S-PRESSO 4.2.2
            diffusion=load_experiment("text_to_audio").diffusion(),
            optimizer=blocks.adamw(1e-4, ramp_steps=2000, b2=0.99, weight_decay=0.01),  # S-PRESSO 4.2.2
            ema_lengths=(0.05, 0.10), chosen_ema=0.10,
            statistics_batches=100,
            data=blocks.data(32),  # S-PRESSO 4.2.2
            loop=blocks.loop(
                500_000, save_every=5000, validate_every=5000, preview_every=20_000, log_every=100, snapshot_every=50_000
            ),
            mesh=blocks.mesh(),
        )
    )  # fmt: skip
    if size == "base":
        config.encoder.update(dict(width=768, heads=12))
    if size not in ("paper", "base"):
        config.encoder.update(dict(width=192, heads=4, patch=5, magnitude_input=True))
        # Depth in the paper's proportions (6 : 10 : 12 : 12), at a third and fewer blocks.
        config.rate.encoder_depth = {4: 2, 9: 3, 20: 4, 100: 4}[config.rate.downsample]
        config.rate.train_codebooks = config.rate.decode_codebooks[0]
        config.lora.update(dict(lora_rank=16, lora_alpha=16.0))
        config.diffusion.padding_weight = 0.1
        # What z can tell lies at high noise, where a small model has to look first (docs/results/first-chain.md).
        config.diffusion.p_mean = 1.2
        config.optimizer.update(dict(learning_rate=1e-3, schedule="cosine", ramp_steps=100, final_factor=0.05))
        config.data.update(dict(validation_clips=160))
        config.loop.update(
            dict(steps=3000, validate_every=500, save_every=250, preview_every=1000, log_every=50, snapshot_every=250)
        )
        config.statistics_batches = 30
    if size == "nano":
        config.encoder.update(dict(width=128, mlp_ratio=3.0))
        config.rate.encoder_depth = 1
        config.lora.update(dict(lora_rank=8, lora_alpha=8.0))
    if size == "tiny":
        config.encoder.update(dict(width=64, heads=2, mlp_ratio=2.0, patch=10))
        config.rate.encoder_depth = 1
        config.lora.update(dict(lora_rank=4, lora_alpha=4.0))
        config.optimizer.ramp_steps = 5
        config.data.update(dict(batch_size=8, validation_clips=16))
        config.loop.update(dict(steps=40, validate_every=40, save_every=40, preview_every=0, log_every=10, snapshot_every=5))
        config.statistics_batches = 4
    return config
