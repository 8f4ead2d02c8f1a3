"""Stage 6, decoder finetuning (the paper's step 3): LoRA and f_phi on quantized embeddings.

    spresso train decoder_finetune --config decoder_finetune:small --data SHARDS --upstream runs/q-11hz/model --run runs/ft-11hz

The control that shows what step 3 adds over mere further training: --set keep_continuous=1.0.
"""

from ml_collections import ConfigDict

from spresso_jax.configuration import blocks, load_experiment


def get_config(preset: str | None = None) -> ConfigDict:
    """Config of one preset; the frame rate is the upstream model's."""
    size, _ = blocks.split_preset(preset)
    config = ConfigDict(
        dict(
            stage="decoder_finetune",
            seed=0,
            codebooks=0,  # M; 0 takes finetune_codebooks of the operating point: 10 at 10 bits, 8 at 12 bits (4.2.2)
            # (low, high): every sample draws its own M from the range, and one decoder then serves every bitrate of it; a high
            # end of 0 is all codebooks of the quantizer. () is the paper: every sample has M = codebooks.
            draw_codebooks=(),
            # "stored": codes of fixed windows, made once; "on_the_fly": fresh random windows, coded within every step.
            codes="stored",
            keep_continuous=0.1,  # S-PRESSO 4.2.2: the original z 10 % of the time
            train_third_stream=False,  # decision 21
            text_dropout=0.8,
            crops=4,  # windows a clip with stored codes
            diffusion=load_experiment("text_to_audio").diffusion(),
            optimizer=blocks.adamw(1e-4, ramp_steps=500, b2=0.99, weight_decay=0.01),
            ema_lengths=(0.05, 0.10), chosen_ema=0.10,
            data=blocks.data(32),
            loop=blocks.loop(
                200_000, save_every=5000, validate_every=5000, preview_every=20_000, log_every=100, snapshot_every=20_000
            ),
            mesh=blocks.mesh(),
        )
    )  # fmt: skip
    if size != "paper":
        config.diffusion.padding_weight = 0.1
        config.diffusion.p_mean = 1.2  # as in the small presets of diffusion_ae
        config.optimizer.update(dict(learning_rate=3e-4, schedule="cosine", ramp_steps=50, final_factor=0.05))
        config.data.update(dict(validation_clips=160))
        config.loop.update(
            dict(steps=1000, validate_every=250, save_every=250, preview_every=1000, log_every=50, snapshot_every=100)
        )
    if size == "tiny":
        config.codebooks = 4
        config.crops = 1
        config.optimizer.ramp_steps = 5
        config.data.update(dict(batch_size=8, validation_clips=16))
        config.loop.update(dict(steps=20, validate_every=20, save_every=20, preview_every=0, log_every=5, snapshot_every=2))
    return config
