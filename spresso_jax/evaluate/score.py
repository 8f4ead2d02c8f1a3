"""One record per number: what was measured, in which embedding, with which options, on which clips, and how sure it is.

Toolkits print "FAD 2.3" and leave the embedding, its checkpoint, the clips that failed and the estimator to memory. Here
a number that needs an embedding cannot be recorded, and hence not printed, without it, and the names that published
tables use for two particular embeddings are kept for these.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

BETTER = ("higher", "lower", "none")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,59}")
# Names that readers of published tables take for these checkpoints, in letters and digits alone.
_PUBLISHED_NAMES = ("vggish", "clap", "clapaudio", "clapmusic", "laionclap", "laionclapaudio", "laionclapmusic")


@dataclass(frozen=True)
class Measure:
    """What a metric's numbers are.

    Attributes:
      name: as printed, before the embedding.
      unit: empty for plain numbers.
      better: "higher", "lower" or "none".
      embedded: the number means something only together with the embedding's name.
    """

    name: str
    unit: str
    better: str
    embedded: bool


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("FAD", "", "lower", True),
        Measure("FAD-inf", "", "lower", True),
        Measure("FAD-inf-two-sided", "", "lower", True),
        Measure("KAD", "", "lower", True),
        Measure("KAD-paired", "", "lower", True),
        Measure("similarity", "", "higher", True),
        Measure("SI-SDR", "dB", "higher", False),
        Measure("mel distance", "", "lower", False),
        Measure("log-spectral distance", "dB", "lower", False),
    )
}


@dataclass(frozen=True)
class EmbeddingSource:
    """The network whose embedding a number rests on.

    Attributes:
      name: short, such as "aisfx", "yamnet" or "clap-small"; goes into every metric's printed name.
      version: of the package or checkpoint.
      fingerprint: hash of the weights and of the front end's settings; two numbers are comparable only where it agrees.
      published: these are the original authors' weights. "vggish", "clap" and LAION's names are refused without it, so
        that no stand-in, own training or random network is ever called FAD[vggish] or KAD[clap].
    """

    name: str
    version: str = ""
    fingerprint: str = ""
    published: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError for a name that cannot be printed or belongs to other weights."""
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(f"embedding name {self.name!r}: use up to 60 letters, digits and . _ + -")
        if not self.version and not self.fingerprint:
            raise ValueError(f"embedding {self.name!r}: give a version or a fingerprint of its weights")
        if re.sub(r"[^a-z0-9]", "", self.name.lower()) in _PUBLISHED_NAMES and not (
            self.published and self.fingerprint
        ):
            raise ValueError(
                f"embedding name {self.name!r} is kept for the published weights (published=True and their fingerprint): "
                "name a stand-in for what it is, such as 'yamnet' or 'clap-small'"
            )


@dataclass(frozen=True)
class Score:
    """One number with all that could change it.

    Attributes:
      metric: a key of MEASURES.
      value: the number, nan when it could not be measured (then `notes` says why).
      low, high: ends of its interval, nan when none was asked for.
      embedding: None for measures without one.
      options: everything that could change the number, in plain JSON types.
      counts: clips and rows that entered, by name, such as {"clips": 500, "rows": 2500}.
      exclusions: reason -> names of the clips that were left out for it.
      details: further numbers of the same measurement, such as a p value or the parts of a sum.
      notes: what a reader must be told beside the number.
    """

    metric: str
    value: float
    low: float = math.nan
    high: float = math.nan
    embedding: EmbeddingSource | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    exclusions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    details: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for an unknown metric, a missing or superfluous embedding, or options that JSON lacks."""
        if self.metric not in MEASURES:
            raise ValueError(
                f"metric {self.metric!r} is none of {', '.join(sorted(MEASURES))}: an embedding is named in its own field"
            )
        if MEASURES[self.metric].embedded != (self.embedding is not None):
            wanted = "needs the name of its embedding" if self.embedding is None else "has no embedding"
            raise ValueError(f"{self.metric} {wanted}")
        try:
            options = json.loads(json.dumps(dict(self.options), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ValueError(f"options of {self.metric} must be plain JSON values without nan: {error}") from error
        numbers = {name: float(getattr(self, name)) for name in ("value", "low", "high")}
        plain = {
            **numbers,
            "options": options,
            "counts": {str(k): int(v) for k, v in self.counts.items()},
            "exclusions": {str(k): tuple(str(n) for n in v) for k, v in self.exclusions.items() if len(v)},
            "details": {str(k): float(v) for k, v in self.details.items()},
            "notes": tuple(str(note) for note in self.notes),
        }
        for name, content in plain.items():
            object.__setattr__(self, name, content)

    @property
    def label(self) -> str:
        """Printed name, such as "FAD[aisfx]" or "SI-SDR"."""
        return self.metric if self.embedding is None else f"{self.metric}[{self.embedding.name}]"

    @property
    def unit(self) -> str:
        """Unit of the number, empty for plain numbers."""
        return MEASURES[self.metric].unit

    @property
    def better(self) -> str:
        """Which direction is better: "higher", "lower" or "none"."""
        return MEASURES[self.metric].better

    @property
    def excluded(self) -> int:
        """How many clips were left out, for whatever reason."""
        return sum(len(names) for names in self.exclusions.values())

    def to_json(self) -> dict:
        """Plain dictionary; nan becomes None, because JSON has no nan."""
        return {
            "label": self.label,
            "metric": self.metric,
            "value": _null(self.value),
            "low": _null(self.low),
            "high": _null(self.high),
            "unit": self.unit,
            "better": self.better,
            "embedding": None if self.embedding is None else dict(vars(self.embedding)),
            "options": self.options,
            "counts": self.counts,
            "exclusions": {k: {"count": len(v), "names": list(v)} for k, v in self.exclusions.items()},
            "details": {k: _null(v) for k, v in self.details.items()},
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, facts: Mapping) -> Score:
        """Inverse of `to_json`.

        Raises:
          ValueError: if a field is missing or unknown, or the label, unit or direction is not the metric's own.
        """
        if not isinstance(facts, Mapping):
            raise ValueError(f"a score must be an object with named fields, got {type(facts).__name__}")
        derived = ("label", "unit", "better")
        expected = {f.name for f in fields(cls)} | set(derived)
        if set(facts) != expected:
            raise ValueError(f"a score must hold exactly {sorted(expected)}, got {sorted(map(str, facts))}")
        for name, kind in (*((n, Mapping) for n in ("options", "counts", "exclusions", "details")), ("notes", list)):
            if not isinstance(facts[name], kind):
                raise ValueError(f"score {facts['label']!r}: {name} has the wrong type, {type(facts[name]).__name__}")
        try:
            score = cls(
                metric=facts["metric"],
                value=_number(facts["value"]),
                low=_number(facts["low"]),
                high=_number(facts["high"]),
                embedding=None if facts["embedding"] is None else EmbeddingSource(**facts["embedding"]),
                options=facts["options"],
                counts=facts["counts"],
                exclusions={k: v["names"] for k, v in facts["exclusions"].items()},
                details={k: _number(v) for k, v in facts["details"].items()},
                notes=facts["notes"],
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"score {facts.get('label')!r}: a field has another type than it should: {error}"
            ) from error
        for name in derived:
            if facts[name] != getattr(score, name):
                raise ValueError(f"score {facts['label']!r}: {name} {facts[name]!r} should be {getattr(score, name)!r}")
        return score


def _null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
