"""How deep must g_psi be at each frame rate? The question that labs bring to S-PRESSO 4.2.2 (6, 10, 12 and 12 blocks).

    spresso sweep encoder_depth:small --data SHARDS --upstream runs/dit/model --out runs/depth
    spresso sweep collect runs/depth

Presets: paper, small, nano (an evening on two CPU cores), tiny (minutes; its numbers mean nothing).
"""

from spresso_jax.configuration import rates

DEPTHS = {"paper": (2, 4, 6, 8, 10, 12), "small": (2, 4, 6, 8, 10, 12), "nano": (1, 2, 4), "tiny": (1, 2)}
SEEDS = {"paper": (0, 1, 2), "small": (0, 1), "nano": (0, 1), "tiny": (0, 1)}
# Changes of every point beside the experiment's preset; a cosine schedule ends with the steps.
SHORTER = {
    "nano": ("loop.steps=600", "loop.validate_every=200", "loop.preview_every=0", "loop.save_every=200"),
    "tiny": ("loop.steps=8", "loop.validate_every=4", "loop.save_every=4", "loop.log_every=2", "statistics_batches=2"),
}


def get_sweep(preset: str | None = None) -> dict:
    """The grid of one preset."""
    size = preset or "paper"
    if size not in DEPTHS:
        raise ValueError(f"unknown preset {size!r}: choose one of {', '.join(DEPTHS)}")
    return dict(
        stage="diffusion_ae",
        # An axis in braces chooses the preset of the experiment; the others set a key of it.
        config=f"diffusion_ae:{size}-{{rate}}",
        axes=dict(
            rate=dict(values=tuple(rates.RATES)),
            depth=dict(key="rate.encoder_depth", values=DEPTHS[size]),
        ),
        seeds=SEEDS[size],
        overrides=SHORTER.get(size, ()),
        # Validation figures to report, and which way is better; their figures by noise level come along.
        metrics=dict(raw="lower", other_embedding_gain="higher"),
        # The picture: the first metric over one axis, a line for each value of another.
        plot=dict(x="depth", lines="rate"),
    )
