"""Stage 5, QINCo2 (the paper's step 2): offline neural residual quantizer of the frozen embeddings.

    spresso train quantizer --config quantizer:small-11hz --data SHARDS --upstream runs/dae-11hz/model --run runs/q-11hz

Presets as in diffusion_ae. The paper says "default parameters" of QINCo2 and names K, M and the batch only.
"""

from ml_collections import ConfigDict

from spresso_jax.configuration import blocks, rates


def get_config(preset: str | None = None) -> ConfigDict:
    """Config of one preset."""
    size, rate_name = blocks.split_preset(preset)
    rate = rates.rate_of(rate_name or "11hz")
    config = ConfigDict(
        dict(
            stage="quantizer",
            seed=0,
            model=dict(
                codebooks=rate["train_codebooks"], codewords=2 ** rate["codebook_bits"],
                blocks=4, embedding_width=128, hidden_width=256, preselect=16, beam=16,  # decision 18
            ),
            # Candidates and beam while training; encoding uses the model's own.
            train_search=dict(preselect=16, beam=16),
            initialisation=dict(start="residual", rows=500_000, iterations=10),
            # Dead codewords: every so many steps, counted over so many batches (0: never).
            revival=dict(every=1250, batches=125),
            go_on=False,
            keep_best=True,  # QINCo2: the step with the lowest held-out error is the model
            crops=8,  # windows a clip that give embeddings
            # QINCo2: AdamW 8e-4, decay 0.1, clipping by value, quarter cosine over 60 epochs after 3 of ramp.
            optimizer=dict(
                learning_rate=8e-4, b1=0.9, b2=0.999, weight_decay=0.1, clip_value=0.1, ramp_epochs=3.0,
                cosine_epochs=60.0, floor=8e-7,
            ),
            data=blocks.data(8000),  # S-PRESSO 4.2.2
            loop=blocks.loop(75_000, save_every=2500, validate_every=1250, log_every=100),
            mesh=blocks.mesh(),
        )
    )  # fmt: skip
    config.data.validation_clips = 10
    if size != "paper":
        config.model.update(
            dict(
                codebooks=rate["decode_codebooks"][0],
                blocks=1,
                embedding_width=64,
                hidden_width=128,
                preselect=8,
                beam=8,
            )
        )
        config.train_search.update(dict(preselect=8, beam=4))
        config.initialisation.update(dict(rows=60_000, iterations=8))
        config.revival.update(dict(every=0))
        # Some tens of thousands of vectors: a fifth of the reference's decay keeps the codewords where data is.
        config.optimizer.update(dict(weight_decay=0.02, ramp_epochs=2.0))
        config.data.update(dict(batch_size=1000, validation_clips=3))
        config.loop.update(dict(steps=600, validate_every=100, save_every=200, log_every=20))
    if size == "tiny":
        config.model.update(dict(codebooks=4, codewords=16, blocks=1, hidden_width=32, preselect=4, beam=4))
        config.train_search.update(dict(preselect=4, beam=2))
        config.initialisation.update(dict(rows=256, iterations=2))
        config.crops = 2
        config.keep_best = False
        config.data.update(dict(batch_size=128, validation_clips=1))
        config.loop.update(dict(steps=20, validate_every=20, save_every=20, log_every=5))
    return config
