"""Retrieval: is a decoded clip nearer to its own source than to other sources of like duration?

A generative codec is not judged by its waveform error; what must survive is the identity of the sound. Done carelessly
the question is answered by trivia: the padding gives the duration away, and the loudness envelope alone finds the
source many times more often than chance. Hence: candidates of like duration only, the active part only, levels aligned,
a statistic of the spectral shape without the envelope, and two controls that ought to stay at chance: shuffled pairs,
and white noise that carries the source's loudness envelope at the codec's frame rate.

Source: own measure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from spresso_jax.audio.mel import mel_filters
from spresso_jax.evaluate.bootstrap import Interval, mean_interval
from spresso_jax.evaluate.conditioning_gain import derangement
from spresso_jax.evaluate.reconstruction import magnitude_frames
from spresso_jax.shapes import SAMPLE_RATE

Embedding = Callable[[np.ndarray], np.ndarray]

CANDIDATES = 24
ACTIVE_DB = 40.0
SILENT_PEAK = 1e-4
ALIGNED_RMS = 0.1
MEL_FFT = 2048
MEL_HOP = 480
MEL_BANDS = 64
MEL_RANGE = (40.0, 20_000.0)
SHAPE_FLOOR_DB = 60.0


@dataclass(frozen=True)
class Retrieval:
    """Outcome of one retrieval.

    Attributes:
      recall_at_1: share of clips whose nearest candidate is their own source.
      mean_rank: rank of the own source among the candidates, 1 is best.
      ranks: [N] rank per clip; nan where a clip was left out.
      hits: [N] 1 where the own source is nearest (a tie shares the hit), nan where left out.
      chance_recall, chance_rank: what a blind guess reaches.
      candidates: sources compared per clip, own one included.
      widest_duration_ratio: largest ratio of durations between a clip and one of its candidates.
    """

    recall_at_1: Interval
    mean_rank: Interval
    ranks: np.ndarray
    hits: np.ndarray
    chance_recall: float
    chance_rank: float
    candidates: int
    widest_duration_ratio: float

    @property
    def times_chance(self) -> float:
        """Recall at 1 in multiples of chance."""
        return self.recall_at_1.mean / self.chance_recall

    def to_json(self) -> dict:
        """Plain dictionary for scores.json (without the values per clip)."""
        return {
            "recall_at_1": self.recall_at_1.to_json(),
            "mean_rank": self.mean_rank.to_json(),
            "chance_recall": self.chance_recall,
            "chance_rank": self.chance_rank,
            "times_chance": None if self.recall_at_1.count == 0 else self.times_chance,
            "candidates": self.candidates,
            "widest_duration_ratio": self.widest_duration_ratio,
        }


def active_region(audio: np.ndarray, threshold_db: float = ACTIVE_DB, window: int = 480) -> tuple[int, int]:
    """First and last sample (exclusive) of the part within `threshold_db` of the loudest 10 ms.

    Returns:
      (start, stop), (0, 0) for a silent signal.
    """
    audio = np.asarray(audio, np.float64)
    if audio.size == 0 or np.abs(audio).max() < SILENT_PEAK:
        return 0, 0
    power = _window_power(audio, window)
    loud = np.flatnonzero(power >= power.max() * 10.0 ** (-threshold_db / 10.0))
    return int(loud[0]) * window, min(audio.size, (int(loud[-1]) + 1) * window)


def prepare(audio: np.ndarray) -> np.ndarray | None:
    """Active part of a clip at the common level (RMS 0.1 over that part); None when the clip is silent."""
    start, stop = active_region(audio)
    if stop <= start:
        return None
    part = np.asarray(audio[start:stop], np.float64)
    return part * (ALIGNED_RMS / max(float(np.sqrt(np.mean(part**2))), 1e-12))


def spectral_shape(audio: np.ndarray, *, sample_rate: int = SAMPLE_RATE, envelope: bool = False) -> np.ndarray:
    """Log-mel statistic of one prepared clip: mean and deviation over time of the spectral shape, [2 * 64].

    Every frame's mean over the bands is taken off before the statistics, so that the loudness envelope says nothing:
    noise with any envelope has one and the same shape. Frames more than ACTIVE_DB below the loudest are left out, and
    bands are clamped SHAPE_FLOOR_DB below their frame's loudest band.

    Args:
      audio: [S].
      envelope: True keeps each frame's loudness in the statistic (the careless form, for comparison).
    """
    filters = mel_filters(sample_rate, MEL_FFT, MEL_BANDS, *MEL_RANGE).astype(np.float64)
    power = magnitude_frames(audio, MEL_FFT, MEL_HOP) ** 2 @ filters
    level = power.sum(axis=1)
    power = power[level >= level.max() * 10.0 ** (-ACTIVE_DB / 10.0)]
    floor = power.max(axis=1, keepdims=True) * 10.0 ** (-SHAPE_FLOOR_DB / 10.0)
    logs = 10.0 * np.log10(np.maximum(np.maximum(power, floor), 1e-20))
    if not envelope:
        logs = logs - logs.mean(axis=1, keepdims=True)
    return np.concatenate([logs.mean(axis=0), logs.std(axis=0)])


def embed_all(clips: Sequence[np.ndarray], embedding: Embedding = spectral_shape) -> np.ndarray:
    """[N, D] embeddings of the prepared clips; a silent clip gives a row of nan.

    Args:
      clips: N arrays [S], cut to their own lengths (no padding).
      embedding: [S] -> [D]; `spectral_shape`, or the audio tower of a trained CLAP.

    Raises:
      ValueError: if every clip is silent.
    """
    rows = [None if (part := prepare(clip)) is None else np.asarray(embedding(part), np.float64) for clip in clips]
    width = next((row.shape for row in rows if row is not None), None)
    if width is None:
        raise ValueError("every clip is silent: nothing can be retrieved")
    return np.stack([np.full(width, np.nan) if row is None else row for row in rows])


def like_durations(durations: Sequence[float], candidates: int, seed: int = 0) -> np.ndarray:
    """[N, K] indices of the K sources nearest in log duration to each source, itself first.

    Equal durations (every long clip is cut to 5 s) are ordered at random, so that neighbouring files, which often
    belong to one recording, are not preferred.

    Raises:
      ValueError: if there are fewer than two sources or a duration is not positive.
    """
    durations = np.asarray(durations, np.float64)
    if durations.size < 2 or candidates < 2:
        raise ValueError(f"retrieval needs at least 2 candidates, got {durations.size} sources and {candidates}")
    if np.any(durations <= 0):
        raise ValueError("durations must be positive")
    rng = np.random.default_rng(seed)
    logs = np.log(durations)
    table = np.empty((durations.size, min(candidates, durations.size)), np.int64)
    for i in range(durations.size):
        distance = np.abs(logs - logs[i])
        distance[i] = -1.0
        table[i] = np.lexsort((rng.random(durations.size), distance))[: table.shape[1]]
    return table


def retrieve(
    sources: np.ndarray,
    decoded: np.ndarray,
    durations: Sequence[float],
    *,
    candidates: int = CANDIDATES,
    seed: int = 0,
) -> Retrieval:
    """Ranks each decoded clip's own source among sources of like duration.

    Args:
      sources: [N, D] embeddings of the sources; the columns are brought to unit deviation over the sources.
      decoded: [N, D] embeddings of the decoded clips, same order. A row of nan (a silent decoded clip) has rank K;
        a silent source is left out.
      durations: [N] seconds.
      candidates: K, own source included; at most a quarter of the sources (but 4 of them, where there are as many), so
        that the candidates of a small set are of like duration, too.

    Raises:
      ValueError: if the shapes do not fit or there are fewer than two usable sources.
    """
    sources, decoded = np.asarray(sources, np.float64), np.asarray(decoded, np.float64)
    if sources.shape != decoded.shape or sources.ndim != 2 or len(durations) != sources.shape[0]:
        raise ValueError(f"got sources {sources.shape}, decoded {decoded.shape} and {len(durations)} durations")
    usable = np.flatnonzero(np.isfinite(sources).all(axis=1))
    lengths = np.asarray(durations, np.float64)[usable]
    table = like_durations(lengths, min(candidates, max(4, len(usable) // 4)), seed)
    scale = np.maximum(sources[usable].std(axis=0), 1e-6 * max(1.0, float(np.abs(sources[usable]).max())))
    from_sources, from_decoded = sources[usable] / scale, decoded[usable] / scale
    ranks, hits = np.full(len(durations), np.nan), np.full(len(durations), np.nan)
    for row, index in enumerate(usable):
        if not np.isfinite(from_decoded[row]).all():
            ranks[index], hits[index] = table.shape[1], 0.0
            continue
        distance = np.sum((from_sources[table[row]] - from_decoded[row]) ** 2, axis=1)
        closer = int(np.sum(distance[1:] < distance[0]))
        equal = int(np.sum(distance[1:] == distance[0]))
        ranks[index] = 1.0 + closer + 0.5 * equal
        hits[index] = 1.0 / (1 + equal) if closer == 0 else 0.0
    spread = np.exp(np.abs(np.log(lengths[table]) - np.log(lengths)[:, None]).max())
    return Retrieval(
        recall_at_1=mean_interval(hits, seed),
        mean_rank=mean_interval(ranks, seed),
        ranks=ranks,
        hits=hits,
        chance_recall=1.0 / table.shape[1],
        chance_rank=(table.shape[1] + 1) / 2.0,
        candidates=table.shape[1],
        widest_duration_ratio=float(spread),
    )


def shuffled(count: int, seed: int = 0) -> np.ndarray:
    """Control 1: an order of the decoded clips in which none stands beside its own source."""
    return derangement(count, seed + 7)


def envelope_noise(audio: np.ndarray, frame_rate: float, seed: int, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Control 2: white noise that carries the loudness envelope of `audio` [S] at `frame_rate` values per second.

    The envelope is the RMS of each frame, interpolated linearly between the frames' centres: what a code that
    transmits one level per frame, and nothing else, could know.

    Raises:
      ValueError: if the signal is empty or the frame rate is not positive.
    """
    audio = np.asarray(audio, np.float64)
    if audio.size == 0 or frame_rate <= 0:
        raise ValueError(f"need a signal and a positive frame rate, got {audio.size} samples and {frame_rate}")
    window = max(1, round(sample_rate / frame_rate))
    rms = np.sqrt(_window_power(audio, window))
    centres = (np.arange(rms.size) + 0.5) * window
    envelope = np.interp(np.arange(audio.size), centres, rms)
    return np.random.default_rng(seed).standard_normal(audio.size) * envelope


def _window_power(audio: np.ndarray, window: int) -> np.ndarray:
    """Mean power of consecutive windows; the last one counts only the samples that it has."""
    count = -(-audio.size // window)
    padded = np.pad(audio**2, (0, count * window - audio.size))
    sizes = np.full(count, window, np.float64)
    sizes[-1] = audio.size - (count - 1) * window
    return padded.reshape(count, window).sum(axis=1) / sizes
