"""Epoch-wise permutations of huge row numbers, computed where they are needed.

A balanced Feistel network over 2k bits is a bijection whatever its round function; walking along the cycle until the
number falls under N restricts it to N rows (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). No
array of length N exists, and position p of the endless stream is found without those before it.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 6


def rows(positions: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Row at each position of an endless stream in which every `count` positions visit every row once.

    Args:
      positions: int64, not negative; position p belongs to epoch p // count, each with its own permutation.
      count: number of rows, at least 1.
      seed: any int.

    Returns:
      int64, shape of `positions`.
    """
    positions = np.asarray(positions, np.int64)
    result = np.empty(positions.shape, np.int64)
    epochs = positions // count
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        result[chosen] = permute(positions[chosen] % count, count, (seed, int(epoch)))
    return result


def permute(numbers: np.ndarray, count: int, key: tuple[int, int]) -> np.ndarray:
    """Image of `numbers` in [0, count) under the permutation that (seed, epoch) names."""
    bits = max(1, -(-(count - 1).bit_length() // 2)) if count > 1 else 1
    keys = np.random.SeedSequence([key[0] % 2**64, key[1]]).generate_state(_ROUNDS, np.uint64)
    result = _mix(np.asarray(numbers).astype(np.uint64), bits, keys)
    while (outside := result >= count).any():
        result[outside] = _mix(result[outside], bits, keys)
    return result.astype(np.int64)


def _mix(numbers: np.ndarray, bits: int, keys: np.ndarray) -> np.ndarray:
    half, mask = np.uint64(bits), np.uint64((1 << bits) - 1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (_hash(right + key) & mask)
    return (left << half) | right


def _hash(words: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64; products wrap around on purpose."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
