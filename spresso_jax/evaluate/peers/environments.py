"""Which Python runs which peer: a TOML file with one table a peer, or PEER=PATH on the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from spresso_jax.evaluate.peers.adapter import NAMES
from spresso_jax.evaluate.peers.process import PeerError

FIELDS = ("python", "weights")


def read_environments(file: str | Path | None, pairs: Sequence[str] = (), weights: Sequence[str] = ()) -> dict:
    """Peer -> {"python": path, "weights": path}; the command line overrides the file.

    Args:
      file: TOML such as `[dac]` / `python = "/opt/dac/bin/python"` / `weights = "/data/weights.pth"`.
      pairs: "dac=/opt/dac/bin/python".
      weights: "dac=/data/weights.pth".

    Raises:
      PeerError: no such file, not TOML, an unknown peer or field, or a pair without "=".
    """
    found: dict[str, dict[str, str]] = _from_file(Path(file)) if file else {}
    for option, given in (("python", pairs), ("weights", weights)):
        for pair in given:
            name, equals, path = pair.partition("=")
            if not equals or not path or name not in NAMES:
                raise PeerError(f"--{option} {pair!r}: write PEER=PATH, with a peer out of {', '.join(NAMES)}")
            found.setdefault(name, {})[option] = path
    return found


def _from_file(path: Path) -> dict[str, dict[str, str]]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PeerError(f"{path}: no such file: give the TOML file with the peers' Pythons") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PeerError(f"{path}: not TOML ({error})") from error
    for name, table in content.items():
        if name not in NAMES:
            raise PeerError(f"{path}: no peer is called {name!r}: choose from {', '.join(NAMES)}")
        if not isinstance(table, dict) or not all(key in FIELDS and isinstance(table[key], str) for key in table):
            raise PeerError(f"{path}: [{name}] may hold {' and '.join(FIELDS)}, each a path in quotes")
    return content
