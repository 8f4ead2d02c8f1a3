"""Sounds by captions and captions by sounds: a CLAP beside chance and beside a baseline that never learned a pair.

The baseline has a sentence encoder, which knows text alone, and a library of captioned sounds (the training split). For a
caption it takes the library's nearest caption and looks for the sound that is acoustically nearest to that one's; for a sound
it goes the other way. What a CLAP gains over it is what it has learned of sounds and words together.

Source: own measure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RECALL_AT = (1, 5, 10)
DIRECTIONS = ("text_to_audio", "audio_to_text")


def recall_at(scores: np.ndarray, captions: Sequence[str], ks: Sequence[int] = RECALL_AT) -> dict[str, float]:
    """Share of queries whose partner is among the k best, 0 to 1.

    Args:
      scores: `[N, N]`, row i is query i, column i its partner; larger is nearer.
      captions: of the N clips; clips with the same caption are no rivals of each other. A tie takes the mean rank.
      ks: the depths.

    Raises:
      ValueError: if the sizes differ, or a score is not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.shape != (len(captions), len(captions)) or not len(captions):
        raise ValueError(f"scores of {len(captions)} captions must be square, got {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite")
    own, rival = np.diagonal(scores)[:, None], _rivals(captions)
    rank = ((scores > own) & rival).sum(axis=1) + 0.5 * ((scores == own) & rival).sum(axis=1)
    return {f"recall@{k}": float((rank < k).mean()) for k in ks}


def chance(captions: Sequence[str], ks: Sequence[int] = RECALL_AT) -> dict[str, float]:
    """Recall of a blind guess among the same rivals."""
    candidates = _rivals(captions).sum(axis=1) + 1
    return {f"recall@{k}": float(np.minimum(1.0, k / candidates).mean()) for k in ks}


def compare(
    captions: Sequence[str],
    clap_audio: np.ndarray,
    clap_text: np.ndarray,
    text: np.ndarray,
    acoustic: np.ndarray,
    library_text: np.ndarray,
    library_acoustic: np.ndarray,
    ks: Sequence[int] = RECALL_AT,
) -> dict[str, dict[str, dict[str, float]]]:
    """Recall both ways of a CLAP, of chance and of the text-only baseline.

    Args:
      captions: of the N held-out clips.
      clap_audio, clap_text: `[N, E]`, unit rows of the CLAP.
      text: `[N, D]`, unit rows of the sentence encoder.
      acoustic: `[N, A]`, any description of the held-out sounds that is not learned from captions.
      library_text, library_acoustic: `[M, D]` and `[M, A]` of the library.
      ks: the depths.

    Returns:
      {"text_to_audio": {"clap": {"recall@1": ..}, "text_only": .., "chance": ..}, "audio_to_text": ..}.

    Raises:
      ValueError: if the library is empty or the widths differ.
    """
    if not len(library_text) or len(library_text) != len(library_acoustic):
        raise ValueError(
            f"the library has {len(library_text)} captions and {len(library_acoustic)} sounds: need one of each"
        )
    spread = np.maximum(np.std(library_acoustic, axis=0), 1e-9)
    distance = _distances(np.asarray(acoustic) / spread, np.asarray(library_acoustic) / spread)
    similar = np.asarray(text) @ np.asarray(library_text).T
    guessed_sound = np.asarray(library_acoustic)[similar.argmax(axis=1)]
    guessed_text = np.asarray(library_text)[distance.argmin(axis=1)]
    cosines = np.asarray(clap_text) @ np.asarray(clap_audio).T
    scores = {
        "text_to_audio": (cosines, -_distances(guessed_sound / spread, np.asarray(acoustic) / spread)),
        "audio_to_text": (cosines.T, guessed_text @ np.asarray(text).T),
    }
    return {
        direction: {
            "clap": recall_at(clap, captions, ks),
            "text_only": recall_at(baseline, captions, ks),
            "chance": chance(captions, ks),
        }
        for direction, (clap, baseline) in scores.items()
    }


def _rivals(captions: Sequence[str]) -> np.ndarray:
    """bool `[N, N]`, False where the captions are the same."""
    _, number = np.unique(np.asarray([caption.casefold() for caption in captions]), return_inverse=True)
    return number[:, None] != number[None]


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared distances `[N, M]` of rows."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None] - 2.0 * a @ b.T
