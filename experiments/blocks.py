"""Blocks that every experiment file shares: loop, mesh, data and optimiser settings."""

from ml_collections import ConfigDict

SIZES = ("paper", "small", "nano", "tiny")


def split_preset(
    preset: str | None, default: str = "paper", sizes: tuple[str, ...] = SIZES
) -> tuple[str, str | None]:
    """(size, rate) of a preset such as "small", "1hz" or "small-1hz"; `sizes` are those that the experiment has.

    Raises:
      ValueError: if a part is neither a size nor a rate.
    """
    size, rate = default, None
    for part in (preset or "").split("-"):
        if part in sizes:
            size = part
        elif part.endswith("hz"):
            rate = part
        elif part:
            raise ValueError(
                f"unknown preset part {part!r}: sizes are {', '.join(sizes)}; rates are 25hz, 11hz, 5hz, 1hz"
            )
    return size, rate


def loop(
    steps: int, *, save_every: int, validate_every: int, preview_every: int = 0, log_every: int = 20, snapshot_every: int = 0
) -> ConfigDict:
    """How long, and how often things happen, in steps (0: never).

    snapshot_every, snapshot_dtype: of the averages of the diffusion stages, in float32 or float16, for `spresso ema`; each
    snapshot holds every trained parameter once for each of ema_lengths.
    """
    return ConfigDict(
        dict(
            steps=steps, log_every=log_every, validate_every=validate_every, preview_every=preview_every,
            save_every=save_every, keep=2, accumulate=1, snapshot_every=snapshot_every, snapshot_dtype="float32",
        )
    )  # fmt: skip


def mesh() -> ConfigDict:
    """Device axes; data = -1 takes every device that the other two leave."""
    return ConfigDict(dict(data=-1, fsdp=1, tensor=1))


def adamw(learning_rate: float, **changes) -> ConfigDict:
    """AdamW with a constant rate after a ramp; see spresso_jax/train/optimizers.py."""
    config = ConfigDict(
        dict(
            learning_rate=float(learning_rate), schedule="inverse_sqrt", ramp_steps=2000, decay_steps=0, final_factor=0.0,
            decay=1.0, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.0, decay_matrices_only=True, clip_norm=1.0, clip_value=0.0,
        )
    )  # fmt: skip
    config.update(changes)
    return config


def data(batch_size: int, *, crop: str = "random", seconds: float = 5.0, threads: int = 2) -> ConfigDict:
    """Batches: global rows, crop policy ("random"; "active": windows with a second of activity; "salient": DAC's
    loud excerpts), clip length in seconds.

    validation_seconds: length of held-out clips (0: as in training).
    """
    return ConfigDict(
        dict(
            batch_size=batch_size, crop=crop, seconds=float(seconds), gain_db=0.0, threads=threads,
            validation_clips=128, validation_seconds=0.0, weights=(),
        )
    )  # fmt: skip
