"""Words for captions: a measured value becomes one of several words for it, and templates become tidy phrases."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np


def pick(rng: np.random.Generator, words: str) -> str:
    """One of the words between the bars of "a|b|c"."""
    choices = words.split("|")
    return choices[int(rng.integers(len(choices)))]


def grade(
    rng: np.random.Generator, value: float, low: float, high: float, levels: Sequence[str], logarithmic: bool = False
) -> str:
    """A word for where a value lies between low and high.

    Args:
      levels: from low to high, each "synonym|synonym"; an empty synonym leaves the property unsaid.
      logarithmic: measure the place in octaves instead of evenly.
    """
    if logarithmic:
        value, low, high = np.log(value), np.log(low), np.log(high)
    place = int(len(levels) * (value - low) / (high - low))
    return pick(rng, levels[min(max(place, 0), len(levels) - 1)])


def counted(number: int, one: str, many: str) -> str:
    """ "one knock", "three knocks": the number as a word up to twelve, "many" above."""
    words = "no one two three four five six seven eight nine ten eleven twelve".split()
    return f"{words[number] if number < len(words) else 'many'} {one if number == 1 else many}"


def phrase(rng: np.random.Generator, templates: Sequence[str], **words: str) -> str:
    """Fills one template and tidies it: empty words leave no gap, "a" becomes "an" before a vowel, all lower case."""
    text = templates[int(rng.integers(len(templates)))].format(**words)
    text = re.sub(r"\s+", " ", text).lower()
    text = re.sub(r"(\s*,)+(?=\s|$)", ",", text).strip(" ,")
    return re.sub(r"\ba (?=[aeio]|u(?!ni|s)|8)", "an ", text)
