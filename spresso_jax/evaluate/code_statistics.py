"""How codes are used, and what an ideal entropy coder would make of them.

Counts come in blocks. Entropies of the counts themselves are too low when there are not many more vectors than events
(K^2 pairs of neighbouring steps), so the entropy coder's bits are cross-entropies: probabilities from training vectors,
paid on held-out ones. Probabilities are smoothed towards what is known with less context, and how much is chosen by
leaving out one training vector at a time; the held-out vectors decide nothing.
"""

from __future__ import annotations

import numpy as np

# Numbers of imagined vectors that follow the prior: the last makes the counts irrelevant.
STRENGTHS = 2.0 ** np.arange(-4, 31)
_MERGE_AT = 1 << 18


class _Tally:
    """Counts of whole numbers, kept sorted; takes memory for distinct numbers alone."""

    def __init__(self):
        self._keys, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._pending: list[np.ndarray] = []
        self._waiting = 0

    def add(self, keys: np.ndarray) -> None:
        self._pending.append(keys)
        self._waiting += len(keys)
        if self._waiting > max(_MERGE_AT, len(self._keys)):
            self.merged()

    def merged(self) -> tuple[np.ndarray, np.ndarray]:
        """(keys, counts), keys ascending."""
        if self._pending:
            new, counts = np.unique(np.concatenate(self._pending), return_counts=True)
            keys, place = np.unique(np.concatenate([self._keys, new]), return_inverse=True)
            total = np.bincount(place, np.concatenate([self._counts, counts]), len(keys))
            self._keys, self._counts = keys, total.astype(np.int64)
            self._pending, self._waiting = [], 0
        return self._keys, self._counts


class CodeCounts:
    """How often each codeword was chosen in each step, and after which codeword of the step before.

    Args:
      codebooks: M.
      codewords: K.

    Attributes:
      rows: number of codes counted.
      usage: [M, K] int64.
    """

    def __init__(self, codebooks: int, codewords: int):
        self.rows = 0
        self.codewords = codewords
        self.usage = np.zeros((codebooks, codewords), np.int64)
        self._pairs = [_Tally() for _ in range(codebooks - 1)]

    def add(self, codes: np.ndarray) -> None:
        """Counts codes [n, M] in 0..K-1."""
        codes = np.asarray(codes, np.int64)
        self.rows += len(codes)
        for step, usage in enumerate(self.usage):
            usage += np.bincount(codes[:, step], minlength=self.codewords)
        for step, tally in enumerate(self._pairs, start=1):
            tally.add(codes[:, step - 1] * self.codewords + codes[:, step])

    def pairs(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(previous codeword, codeword, count) of every pair that occurred at `step` >= 1."""
        keys, counts = self._pairs[step - 1].merged()
        return keys // self.codewords, keys % self.codewords, counts


def entropy_bits(counts: np.ndarray) -> float:
    """Entropy in bits of the distribution that `counts` [K] are proportional to; 0 without counts."""
    counts = np.asarray(counts, np.float64)
    share = counts[counts > 0] / max(counts.sum(), 1.0)
    return float(-(share * np.log2(share)).sum()) + 0.0


def expected_unused(codewords: int, rows: int) -> float:
    """Codewords of K that `rows` draws at random would leave out, if all were equally likely."""
    return codewords * (1.0 - 1.0 / codewords) ** rows


def smoothed(counts: np.ndarray, totals: np.ndarray, prior: np.ndarray, strength: float) -> np.ndarray:
    """Probabilities (count + strength prior) / (total + strength), elementwise."""
    return (counts + strength * prior) / (totals + strength)


def best_strength(counts: np.ndarray, totals: np.ndarray, prior: np.ndarray) -> float:
    """The strength of the prior under which each training event costs least, coded with the counts of all others.

    Args:
      counts: how often each event occurred, at least 1.
      totals: how often its context occurred.
      prior: the event's probability without the context.
    """

    def cost(strength: float) -> float:
        return -float((counts * np.log2(smoothed(counts - 1, totals - 1, prior, strength))).sum())

    return min(STRENGTHS.tolist(), key=cost)


def ideal_coder_bits(train: CodeCounts, held_out: CodeCounts) -> dict[str, list[float]]:
    """Bits per step that an ideal entropy coder with fixed tables, made from `train`, spends on `held_out`.

    Args:
      train: counts of the vectors that the tables are made from.
      held_out: counts of other vectors.

    Returns:
      {"order0": [M] codes of a step alone, "order1": [M] given the code of the step before (the first step has none)}:
      mean bits per vector. Figures above log2 K mean that so few training vectors make tables that cost more than they
      save.

    Raises:
      ValueError: if either counted nothing, or their sizes differ.
    """
    if train.usage.shape != held_out.usage.shape or not train.rows or not held_out.rows:
        raise ValueError(
            f"cannot compare {train.rows} codes {train.usage.shape} with {held_out.rows} {held_out.usage.shape}"
        )
    uniform = np.full(train.codewords, 1.0 / train.codewords)
    order0, order1 = [], []
    for step, (known, paid) in enumerate(zip(train.usage, held_out.usage, strict=True)):
        seen = known > 0
        strength = best_strength(known[seen], np.full(seen.sum(), train.rows), uniform[seen])
        alone = smoothed(known, train.rows, uniform, strength)
        order0.append(float(-(paid * np.log2(alone)).sum() / held_out.rows))
        if step == 0:
            order1.append(order0[0])
            continue
        before, code, count = train.pairs(step)
        strength = best_strength(count, train.usage[step - 1][before], alone[code])
        held_before, held_code, held_count = held_out.pairs(step)
        known_pairs = _counts_of(before * train.codewords + code, count, held_before * train.codewords + held_code)
        given = smoothed(known_pairs, train.usage[step - 1][held_before], alone[held_code], strength)
        order1.append(float(-(held_count * np.log2(given)).sum() / held_out.rows))
    return {"order0": order0, "order1": order1}


def _counts_of(keys: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Counts of `wanted` among ascending `keys`; 0 where there is none."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, counts[place], 0)
