"""Stage 2, CLAP: audio and text towers trained contrastively on captions.

    spresso train clap --config clap:small --data SHARDS --upstream runs/audio_ae/model --run runs/clap

The paper: "text conditioning is provided by a CLAP encoder trained on our datasets" (4.2.1). Presets: paper (HTSAT tiny and
RoBERTa base, LAION's sizes), small and nano (two CPU cores), tiny (demo, tests).
"""

from ml_collections import ConfigDict

from spresso_jax.configuration import blocks


def get_config(preset: str | None = None) -> ConfigDict:
    """Config of one preset."""
    size, _ = blocks.split_preset(preset)
    config = ConfigDict(
        dict(
            stage="clap",
            seed=0,
            # N, tokens of a caption; shorter ones are padded, longer ones cut (decision 8).
            text_tokens=77,
            model=dict(
                audio_width=96, audio_depths=(2, 2, 6, 2), audio_heads=(4, 8, 16, 32), image_size=256, mel_bins=64,
                samples=480_000, hop=480, input_norm="fixed",
                # The vocabulary is the most that the tokenizer learns from the captions; small sets give fewer.
                vocabulary=50_265, text_width=768, text_layers=12, text_heads=12, text_mlp_width=3072, text_positions=514,
                channels=512, window=8, dtype="float32",
            ),
            # Short sounds are always repeated up to the window's end, from a random place on. Stripes: those that HTSAT is
            # trained with. A tilt (dB at either end) and hidden caption tokens are ours: off here.
            augmentation=dict(
                gain_db=6.0, tilt_db=0.0, stripes=2, stripe_frames=64, stripe_bands=8, token_dropout=0.0
            ),
            optimizer=blocks.adamw(
                1e-4, schedule="cosine", ramp_steps=2000, b2=0.98, eps=1e-6, weight_decay=0.01, clip_norm=1.0
            ),
            ema_decay=0.9999,
            data=blocks.data(256, crop="active"),
            loop=blocks.loop(100_000, save_every=2000, validate_every=1000, log_every=50),
            mesh=blocks.mesh(),
        )
    )  # fmt: skip
    if size != "paper":
        # Captions of a few words: 95 % of the procedural ones have at most 21 tokens.
        config.text_tokens = 24
        config.model.update(
            dict(
                audio_width=24, audio_depths=(2, 2, 2), audio_heads=(2, 4, 8), image_size=128, samples=240_000, hop=960,
                vocabulary=1500, text_width=64, text_layers=2, text_heads=2, text_mlp_width=256, text_positions=28,
                channels=64,
            )
        )  # fmt: skip
        # Some thousand captioned clips are learned by heart within ten passes: half the rate and ten times the decay keep the
        # held-out loss falling (docs/results/first-chain.md).
        config.optimizer.update(dict(learning_rate=5e-4, ramp_steps=100, weight_decay=0.1))
        # The same stripes in seconds; more change for less data.
        config.augmentation.update(dict(tilt_db=6.0, stripe_frames=32, token_dropout=0.1))
        config.ema_decay = 0.99
        config.data.update(dict(batch_size=32, validation_clips=1024))
        config.loop.update(dict(steps=1500, validate_every=300, save_every=250, log_every=20))
    if size == "nano":
        config.model.update(dict(audio_width=16, vocabulary=1000))
    if size == "tiny":
        config.text_tokens = 16
        config.model.update(
            dict(
                audio_width=8, audio_depths=(1, 1), audio_heads=(1, 2), image_size=64, mel_bins=32, hop=1920, window=4,
                vocabulary=400, text_width=32, text_layers=1, text_heads=2, text_mlp_width=64, text_positions=20,
                channels=32,
            )
        )  # fmt: skip
        config.optimizer.update(dict(learning_rate=1e-3, weight_decay=0.01))
        config.data.update(dict(batch_size=8, validation_clips=16))
        config.loop.update(dict(steps=30, validate_every=30, save_every=30, log_every=5))
    return config
