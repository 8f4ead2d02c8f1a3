"""Stage 5, QINCo2 (the paper's step 2): offline neural residual quantizer of the frozen embeddings.

    spresso train quantizer --config quantizer:small-11hz --data SHARDS --upstream runs/dae-11hz/model --run runs/q-11hz

Presets as in diffusion_ae, and
  S, M, L      the reference's network sizes and search widths, everything else as in "paper" (decision 18);
  official     after or instead of a size: the reference's start, scale, reset of unused codewords and floor, like for like;
  1.32kbps ..  instead of a rate: the paper's operating points; training still makes all of the rate's codebooks.
S-11hz, official-S-1hz, 0.3kbps, small-0.096kbps are presets. The paper says "default parameters" of QINCo2 and names K, M
and the batch only.
"""

from ml_collections import ConfigDict

from spresso_jax.configuration import blocks, rates

# QINCo2's presets; all with A = 16 and B = 32.
REFERENCE_SIZES = {
    "S": dict(blocks=2, embedding_width=128, hidden_width=256),
    "M": dict(blocks=4, embedding_width=384, hidden_width=384),
    "L": dict(blocks=16, embedding_width=384, hidden_width=384),
}

# Bitrate -> rate, codebooks that are sent (S-PRESSO Table 2).
OPERATING_POINTS = {"1.32kbps": ("11hz", 12), "0.3kbps": ("1hz", 25), "0.096kbps": ("1hz", 8)}


def _split_preset(preset: str | None) -> tuple[str, str, bool, int]:
    """(size, rate, official, codebooks that are sent or 0)."""
    words = [word for word in (preset or "").split("-") if word]
    official = "official" in words
    points = [word for word in words if word in OPERATING_POINTS]
    rest = [word for word in words if word != "official" and word not in points]
    wrong = [word for word in rest if word.endswith("kbps")]
    if wrong or len(points) > 1 or (points and any(word.endswith("hz") for word in rest)):
        raise ValueError(
            f"preset {preset!r}: name one rate (11hz, ..) or one operating point ({', '.join(OPERATING_POINTS)})"
        )
    size, rate_name = blocks.split_preset("-".join(rest), sizes=(*blocks.SIZES, *REFERENCE_SIZES))
    point_rate, codebooks = OPERATING_POINTS[points[0]] if points else (None, 0)
    return size, point_rate or rate_name or "11hz", official, codebooks


def get_config(preset: str | None = None) -> ConfigDict:
    """Config of one preset."""
    size, rate_name, official, sent = _split_preset(preset)
    rate = rates.rate_of(rate_name)
    config = ConfigDict(
        dict(
            stage="quantizer",
            seed=0,
            model=dict(
                codebooks=rate["train_codebooks"], codewords=2 ** rate["codebook_bits"],
                blocks=4, embedding_width=128, hidden_width=256, preselect=16, beam=16,  # decision 18
                dimension=64,  # of a vector; the data decides
            ),
            # Candidates and beam while training; encoding uses the model's own.
            train_search=dict(preselect=16, beam=16),
            # Codebooks that a file holds unless asked otherwise (0: the operating point of the upstream model).
            default_codebooks=sent,
            # start: "residual" (equal to a plain RQ) or "official". seeding: "k-means++" or "sampled"; growing: early
            # iterations see part of the rows. scale: "dimension" (decision 20) or one "single" number, as the reference.
            # More rows than held_rows are read anew for every pass.
            initialisation=dict(
                start="residual", rows=500_000, held_rows=4_000_000, iterations=25, seeding="k-means++", growing=True,
                scale="dimension",
            ),
            # Dead codewords: every so many steps (0: never), counted over so many batches, replaced by real "residuals" or by
            # "noise" at the residuals' mean and deviation.
            revival=dict(every=1250, batches=25, draw="residuals"),
            go_on=False,
            keep_best=True,  # QINCo2: the step with the lowest held-out error is the model
            crops=8,  # windows a clip that give embeddings
            # "stored": z of fixed windows, made once; "on_the_fly": of fresh random windows, computed within every step.
            embeddings="stored",
            # QINCo2: AdamW 8e-4, decay 0.1, clipping by value, quarter cosine over 60 epochs after 3 of ramp. The epochs share
            # loop.steps; floor_epochs follow at the floor.
            optimizer=dict(
                learning_rate=8e-4, b1=0.9, b2=0.999, weight_decay=0.1, clip_value=0.1, ramp_epochs=3.0,
                cosine_epochs=60.0, floor_epochs=0.0, floor=8e-7,
            ),
            data=blocks.data(8000),  # S-PRESSO 4.2.2
            loop=blocks.loop(75_000, save_every=2500, validate_every=1250, log_every=100),
            mesh=blocks.mesh(),
        )
    )  # fmt: skip
    # Held out: the vectors of a .npy file; where none is named, the split val of embeddings; where there is none, this share of
    # the rows, drawn over the whole file and the same for every seed. Validation takes up to validation_clips batches of them.
    config.data.update(dict(validation="", held_out=0.05, validation_clips=10))
    if size in REFERENCE_SIZES:
        config.model.update(REFERENCE_SIZES[size] | dict(preselect=16, beam=32))
        config.train_search.update(dict(preselect=16, beam=32))
    elif size != "paper":
        config.model.update(
            dict(
                codebooks=sent or rate["decode_codebooks"][0],
                blocks=1,
                embedding_width=64,
                hidden_width=128,
                preselect=8,
                beam=8,
            )
        )
        config.train_search.update(dict(preselect=8, beam=4))
        config.initialisation.update(dict(rows=60_000, iterations=12))
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
    if official:
        # Rows for k-means, its 10 iterations and the codebook noise; a reset after every epoch, of which there are 71.
        config.initialisation.update(
            dict(start="official", rows=1_000_000, iterations=10, seeding="box", growing=False, scale="single")
        )
        epoch = max(config.loop.steps // 71, 1)
        config.revival.update(dict(every=epoch, batches=epoch, draw="noise"))
        config.optimizer.update(dict(weight_decay=0.1, ramp_epochs=3.0, cosine_epochs=60.0, floor_epochs=8.0))
    return config
