"""The figures that the paper printed, with what each row is and the notes that a reader of it needs.

Source: S-PRESSO, Tables 1 and 2; `published.json` holds them in the project's own words and numbering.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("published.json")
_LAION = "clap-laion"


@dataclass(frozen=True)
class PublishedColumn:
    """One metric of the paper.

    Attributes:
      key: "fad_vggish", ...
      label: as printed, without the embedding.
      metric: a key of `score.MEASURES`.
      embedding: "vggish", "clap" (LAION's), or None for a metric without one.
      better: "lower" or "higher".
    """

    key: str
    label: str
    metric: str
    embedding: str | None
    better: str

    @property
    def title(self) -> str:
        """With the embedding, such as "FAD[vggish]"."""
        return self.label if self.embedding is None else f"{self.label}[{self.embedding}]"

    def same_embedding(self, name: str | None) -> bool:
        """Whether a score in the embedding `name` may be set against this column: VGGish, or a CLAP of LAION's."""
        if self.embedding != "clap" or name is None:
            return name == self.embedding
        return name == "clap" or name.startswith((_LAION, "laion-clap"))


@dataclass(frozen=True)
class PublishedRow:
    """One row of a table.

    Attributes:
      key, label: short name and title.
      target: what a system must be to stand beside it: its kind, and downsample, codebooks and codebook_bits of a code,
        or peer and kbps of another codec.
      printed, exact: frame_rate (Hz), R or kbps, M: as printed and as they follow from the sizes.
      values: column -> figure.
      shown: the same as printed, with their zeros.
      doubtful: columns that count in no agreement.
      notes: keys of `Published.notes`.
    """

    key: str
    label: str
    target: Mapping[str, Any]
    printed: Mapping[str, float]
    exact: Mapping[str, float]
    values: Mapping[str, float]
    shown: Mapping[str, str]
    doubtful: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PublishedTable:
    """A table: its title, rows in the paper's order, and notes on the whole of it."""

    name: str
    title: str
    rows: tuple[PublishedRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Published:
    """All of it.

    Attributes:
      source: where the figures come from.
      protocol: sets, clips_per_set, clip_seconds, sampler, steps.
      columns: in the paper's order.
      tables: "table1", "table2".
      notes: "I7" -> what is inconsistent or unsaid.
    """

    source: str
    protocol: Mapping[str, Any]
    columns: tuple[PublishedColumn, ...]
    tables: Mapping[str, PublishedTable]
    notes: Mapping[str, str] = field(default_factory=dict)


@cache
def published() -> Published:
    """The figures that come with the package."""
    content = json.loads(_FILE.read_text(encoding="utf-8"))
    tables = {}
    for name, table in content["tables"].items():
        rows = tuple(
            PublishedRow(
                key=row["key"],
                label=row["label"],
                target=row["is"],
                printed=row["printed"],
                exact=row["exact"],
                values={column: float(text) for column, text in row["values"].items()},
                shown=row["values"],
                doubtful=tuple(row.get("doubtful", ())),
                notes=tuple(row["notes"]),
            )
            for row in table["rows"]
        )
        tables[name] = PublishedTable(name, table["title"], rows, tuple(table["notes"]))
    columns = tuple(PublishedColumn(**column) for column in content["columns"])
    return Published(content["source"], content["protocol"], columns, tables, content["notes"])
