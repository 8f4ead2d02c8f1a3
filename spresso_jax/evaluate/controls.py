"""Controls: systems whose scores are known beforehand, so that a table shows what each of its numbers can tell.

Another clip of the same set: distances of sets near zero, similarity and SI-SDR at their floor. Noise with the source's
envelope: what a level alone gives. A 3.5 kHz low-pass: the anchor of the listening test.

Source: evaluation.md 8 (shuffled clips, low-pass); the envelope noise is an own control.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spresso_jax.evaluate import retrieval
from spresso_jax.evaluate.decoded import Clip, System


def controls(
    clips: Sequence[Clip], frame_rates: Sequence[float], seed: int = 0, sizes: Sequence[int] = ()
) -> list[System]:
    """Shuffled pairs, and envelope noise once for every frame rate.

    Args:
      clips: of all sets, one after the other.
      frame_rates: of the codecs whose code could carry an envelope.
      seed: of both.
      sizes: clips of each set, which are shuffled among themselves; one set when not given.
    """
    sizes = list(sizes) or [len(clips)]
    starts = np.cumsum([0, *sizes[:-1]])
    order = np.concatenate([retrieval.shuffled(n, seed) + start for n, start in zip(sizes, starts, strict=True)])
    systems = [
        System(
            key="control-shuffled",
            label="control: another clip",
            kind="control",
            produce=lambda batch, indices: [clips[order[i]].audio for i in indices],
            fingerprint=f"shuffled {seed}" + (f" within {list(sizes)}" if len(sizes) > 1 else ""),
        )
    ]
    for rate in sorted(set(frame_rates), reverse=True):
        systems.append(
            System(
                key=f"control-noise-{rate:.3g}hz",
                label=f"control: envelope noise {rate:.3g} Hz",
                kind="control",
                produce=lambda batch, indices, rate=rate: [
                    retrieval.envelope_noise(clip.audio, rate, seed * 1_000_003 + i)
                    for clip, i in zip(batch, indices, strict=True)
                ],
                fingerprint=f"envelope noise {rate} {seed}",
                frame_rate=rate,
            )
        )
    return systems


def low_pass_control() -> System:
    """The clips under 3.5 kHz, by the listening test's anchor filter: linear phase, delay taken out."""
    from spresso_jax.evaluate.mushra.anchor import low_pass_anchor

    return System(
        key="control-lowpass-3.5khz",
        label="control: low-pass 3.5 kHz",
        kind="control",
        produce=lambda batch, indices: [low_pass_anchor(clip.audio) for clip in batch],
        fingerprint="anchor35 401 taps",
        batch=64,
    )


def source_system() -> System:
    """The first column: the sources themselves."""
    return System("source", "source", "source", lambda batch, indices: [c.audio for c in batch], "source", batch=64)
