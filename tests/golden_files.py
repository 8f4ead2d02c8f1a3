"""Finds golden files by area and family, in the project or where SPRESSO_GOLDEN points."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def golden_root() -> Path:
    """Folder with one sub-folder an area: $SPRESSO_GOLDEN when set, else tests/golden."""
    return Path(os.environ.get("SPRESSO_GOLDEN") or Path(__file__).parent / "golden")


def families(area: str, prefix: str, suffix: str = ".npz") -> list[Path]:
    """Sorted files of `area` whose name begins with `prefix` and ends with `suffix` (may be empty)."""
    return sorted(p for p in (golden_root() / area).glob(f"{prefix}*{suffix}") if p.is_file())


def close(ours, theirs, tolerance):
    """Absolute up to a scale of 1, relative beyond."""
    assert ours.shape == theirs.shape
    error = np.abs(np.asarray(ours) - theirs).max()
    assert error <= tolerance * max(1.0, np.abs(theirs).max()), error
    return float(error)
