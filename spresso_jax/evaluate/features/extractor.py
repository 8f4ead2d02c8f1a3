"""One interface for every embedding: clips -> windows of one length -> rows, in batches of one shape.

An embedding is a network on windows of a fixed number of samples, and a rule that cuts a clip into them. So whatever the
lengths of the clips, one program is compiled, and the clips of a set are embedded in batches that span them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from data_pipeline.audio_files import resample
from spresso_jax.checkpoints.fingerprint import json_sha256
from spresso_jax.shapes import SAMPLE_RATE

FORMAT = 1
Progress = Callable[[str, int, int], None]


class FeatureError(ValueError):
    """An embedding cannot be had or computed; the message says what is missing and how to get it."""


@dataclass(frozen=True)
class Rows:
    """Embeddings of a set of clips.

    Attributes:
      values: float32 `[R, d]`, the rows of a clip together and in order of time, clips in the given order.
      clips: `[R]` index of the clip that each row belongs to; every clip has at least one row.
      padded: bool `[N]`, clips that were shorter than one window and were filled up by the embedding's own rule.
    """

    values: np.ndarray
    clips: np.ndarray
    padded: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """`[N]` rows of each clip."""
        return np.bincount(self.clips, minlength=self.padded.size)

    def clip_means(self) -> np.ndarray:
        """Mean row of each clip, float64 `[N, d]`: one vector a clip, for similarities."""
        starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        return np.add.reduceat(self.values.astype(np.float64), starts, axis=0) / self.counts[:, None]


@dataclass(frozen=True)
class Extractor:
    """An embedding, ready to run.

    Attributes:
      name: what a metric's name carries, for instance "vggish", "clap-laion-kadtk".
      sample_rate: of the network's input, Hz.
      dimension: d, values of a row.
      window: samples of one window at `sample_rate`.
      cut: clip `[S]` at `sample_rate` -> (windows `[R, window]`, R at least 1; whether the clip was too short for one).
      network: (params, windows `[B, window]`) -> rows `[B, d]`; pure, compiled once.
      params: of the network.
      settings: everything else that changes a row, as JSON values.
      weights: SHA-256 of the weights.
      licence: of the weights.
      batch: windows a call.
    """

    name: str
    sample_rate: int
    dimension: int
    window: int
    cut: Callable[[np.ndarray], tuple[np.ndarray, bool]] = field(repr=False)
    network: Callable[[Any, jax.Array], jax.Array] = field(repr=False)
    params: Any = field(repr=False)
    settings: Mapping[str, Any]
    weights: str
    licence: str
    batch: int = 8

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with the weights or with anything that changes a row."""
        facts = {key: value for key, value in self.facts().items() if key not in ("fingerprint", "licence")}
        return json_sha256({"format": FORMAT, "resampler": "soxr VHQ", **facts})[:16]

    @property
    def label(self) -> str:
        """Name and the first eight digits of the fingerprint: tells two weights of one architecture apart."""
        return f"{self.name}@{self.fingerprint[:8]}"

    def facts(self) -> dict[str, Any]:
        """What a record of a score says about the embedding (without the fingerprint, which is made from it)."""
        return {
            "embedding": self.name,
            "sample_rate": self.sample_rate,
            "dimension": self.dimension,
            "window_samples": self.window,
            "settings": dict(self.settings),
            "weights_sha256": self.weights,
            "licence": self.licence,
        }

    def to_json(self) -> dict[str, Any]:
        """`facts` and the fingerprint."""
        return {**self.facts(), "fingerprint": self.fingerprint}

    def embed(
        self, clips: Sequence[np.ndarray], sample_rate: int = SAMPLE_RATE, progress: Progress | None = None
    ) -> Rows:
        """Embeds a set of clips.

        Args:
          clips: mono `[S]` arrays of any lengths, -1..1, all at `sample_rate`; resampled by soxr (VHQ).
          sample_rate: Hz.
          progress: called with (name, clips done, clips in all) after every batch.

        Raises:
          FeatureError: for no clips, or a clip that is empty, not mono or not finite (with its index).
        """
        if not clips:
            raise FeatureError(f"{self.name}: there are no clips to embed")
        counts, padded, rows = np.zeros(len(clips), np.int64), np.zeros(len(clips), bool), []

        def windows() -> Iterator[np.ndarray]:
            for index, clip in enumerate(clips):
                check_clip(clip, index)
                cut, padded[index] = self.cut(resample(clip, sample_rate, self.sample_rate))
                counts[index] = len(cut)
                yield from np.asarray(cut, np.float32)

        for filled, batch in _batches(windows(), self.batch, self.window):
            rows.append(self._apply(batch)[:filled])
            if progress:
                complete = int(np.searchsorted(np.cumsum(counts), sum(map(len, rows)), side="right"))
                progress(self.name, min(complete, int(np.count_nonzero(counts))), len(clips))
        values = np.concatenate(rows)
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        index = np.repeat(np.arange(len(clips)), counts)
        if bad.size:
            raise FeatureError(
                f"{self.name} gave values that are not finite for clip {index[bad[0]]}: are the weights damaged?"
            )
        return Rows(values, index, padded)

    @cached_property
    def _compiled(self) -> Callable[[Any, Any], jax.Array]:
        return jax.jit(self.network)

    @cached_property
    def _on_device(self) -> Any:
        return jax.device_put(self.params)

    def _apply(self, batch: np.ndarray) -> np.ndarray:
        # A score must not depend on the machine's idea of a fast product.
        with jax.default_matmul_precision("highest"):
            return np.asarray(self._compiled(self._on_device, batch), np.float32)


def check_clip(clip: np.ndarray, index: int) -> None:
    """FeatureError unless `clip` is `[S]`, S at least 1, and finite."""
    clip = np.asarray(clip)
    if clip.ndim != 1 or clip.size == 0 or not np.isfinite(clip).all():
        raise FeatureError(f"clip {index} must be one channel of finite samples, got shape {clip.shape}")


def sliding_windows(clip: np.ndarray, window: int, hop: int, count: int) -> np.ndarray:
    """`count` windows `[count, window]` of `[S]`, one every `hop` samples; what lies beyond the end is zero."""
    padded = np.zeros((count - 1) * hop + window, np.float32)
    kept = min(padded.size, clip.size)
    padded[:kept] = clip[:kept]
    return np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]


def _batches(windows: Iterator[np.ndarray], batch: int, window: int) -> Iterator[tuple[int, np.ndarray]]:
    """(rows that count, `[batch, window]`); the last batch is filled up with zeros."""
    filled, buffer = 0, np.zeros((batch, window), np.float32)
    for row in windows:
        buffer[filled] = row
        filled += 1
        if filled == batch:
            yield filled, buffer
            filled, buffer = 0, np.zeros((batch, window), np.float32)
    if filled:
        yield filled, buffer
