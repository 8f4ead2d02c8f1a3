"""What a peer made: a folder of wavs and spresso-peer.json beside them, with every fact that a table needs.

A later table reads peers here alone: `peer_system` turns a folder into a column, and `refuse_untabled` keeps out what
must never be in one: self-checks with random weights, peers without weights and unfinished folders.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.checkpoints.fingerprint import json_sha256
from spresso_jax.evaluate.decoded import Clip, System, read_json, write_json
from spresso_jax.shapes import SAMPLE_RATE

FORMAT = 1
RECORD = "spresso-peer.json"
STARTED, CODED, UNAVAILABLE = "started", "coded", "weights unavailable"


@dataclass(frozen=True)
class PeerRecord:
    """Contents of spresso-peer.json.

    Attributes:
      key: peer and settings, as a folder name.
      peer, settings, seed, device: what was run.
      random_weights: a self-check, whose sounds mean nothing.
      status: "coded", "started" (unfinished) or "weights unavailable".
      detail: why there are no weights.
      facts: title, package, version, licences, weights with their hashes, native rate, channels, frame rate, ...
      files: clip name -> source (hash), samples (at 48 kHz), seed, payload_bits, container_bits.
    """

    key: str
    peer: str
    settings: Mapping[str, Any]
    seed: int
    device: str
    random_weights: bool
    status: str
    detail: str
    facts: Mapping[str, Any]
    files: dict[str, dict]

    @classmethod
    def new(cls, key: str, peer: str, settings: Mapping, seed: int, device: str, random_weights: bool) -> PeerRecord:
        """Before anything is known of the peer."""
        return cls(key, peer, dict(settings), seed, device, random_weights, STARTED, "", {}, {})

    @classmethod
    def read(cls, folder: str | Path) -> PeerRecord:
        """The record of a folder.

        Raises:
          ValueError: none there, not JSON, or of another format.
        """
        path = Path(folder) / RECORD
        if not path.is_file():
            raise ValueError(f"{path}: no such file: `spresso peers run` writes one beside the sounds of a peer")
        content = read_json(path)
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(content, dict) or content.get("format") != FORMAT or not names <= set(content):
            raise ValueError(f"{path}: not the record of a peer in format {FORMAT}: run the peer again")
        return cls(**{name: content[name] for name in names})

    def unavailable(self, detail: str) -> PeerRecord:
        """The record of a peer whose weights are not there."""
        return dataclasses.replace(self, status=UNAVAILABLE, detail=detail)

    def started(self, facts: Mapping[str, Any], earlier: PeerRecord | None) -> PeerRecord:
        """With the peer's facts, and the files of an earlier run of exactly the same."""
        record = dataclasses.replace(self, facts=dict(facts))
        same = earlier is not None and earlier.fingerprint == record.fingerprint
        return dataclasses.replace(record, files=dict(earlier.files) if same else {})

    def finished(self, files: dict[str, dict]) -> PeerRecord:
        """When every clip was coded."""
        return dataclasses.replace(self, status=CODED, files=files)

    def write(self, folder: Path) -> None:
        """Writes FOLDER/spresso-peer.json, measured bitrates included."""
        content = dataclasses.asdict(self)
        content["settings"], content["facts"] = dict(self.settings), dict(self.facts)
        measured = {"kbps": self.kbps, "container_kbps": self._per_second("container_bits")}
        write_json(folder / RECORD, {"format": FORMAT, **content, "measured": measured})

    @property
    def fingerprint(self) -> str:
        """Changes when the output would: peer, settings, seed, device, versions and weights."""
        ran = [self.key, self.peer, dict(self.settings), self.seed, self.device, self.random_weights, dict(self.facts)]
        return json_sha256(ran)[:16]

    @property
    def kbps(self) -> float | None:
        """Payload bits of all clips over their own durations; None for peers that send no bits."""
        return self._per_second("payload_bits")

    def _per_second(self, which: str) -> float | None:
        counts = [entry[which] for entry in self.files.values()]
        if not counts or None in counts:
            return None
        return sum(counts) / sum(entry["samples"] for entry in self.files.values()) * SAMPLE_RATE / 1000


def refuse_untabled(folder: str | Path) -> None:
    """Lets a folder of a peer into a table only if what it holds may be there; folders without a record pass.

    Raises:
      ValueError: random weights, no weights, or an unfinished run.
    """
    if not (Path(folder) / RECORD).is_file():
        return
    record = PeerRecord.read(folder)
    if record.random_weights:
        raise ValueError(
            f"{folder}: made with random weights to check lengths and bits; its sounds and scores mean nothing and "
            "enter no table: run the peer with its weights"
        )
    if record.status == UNAVAILABLE:
        raise ValueError(f"{folder}: {record.peer} had no weights ({record.detail}): leave it out, or get them")
    if record.status != CODED:
        raise ValueError(f"{folder}: unfinished ({len(record.files)} clips coded): run the peer again, it continues")


def peer_system(folder: str | Path, clips: Sequence[Clip], read: Callable[[Path], np.ndarray]) -> System:
    """The column of a peer: its decoded folder, with the bitrate that was counted on these clips.

    Args:
      folder: filled by `code_clips`.
      clips: the references; each must have been coded from the same samples.
      read: path -> [S] mono at 48 kHz.

    Raises:
      ValueError: from `refuse_untabled`, or naming the first clip that was not coded or has changed since.
    """
    folder = Path(folder)
    record = PeerRecord.read(folder)
    refuse_untabled(folder)
    for clip in clips:
        entry, path = record.files.get(clip.name), folder / f"{clip.name}.wav"
        if entry is None or not path.is_file():
            raise ValueError(f"{folder}: no decoded file for {clip.name!r}: run the peer on the same clips")
        if entry["source"] != samples_hash(clip.audio):
            raise ValueError(f"{folder}: {clip.name!r} was coded from other samples: run the peer again")
    chosen = dataclasses.replace(record, files={clip.name: record.files[clip.name] for clip in clips})
    told = f"{record.facts['title']} {chosen.kbps:.3g} kbps" if chosen.kbps is not None else record.facts["title"]
    stamp = [path.stat().st_mtime_ns for path in (folder / f"{clip.name}.wav" for clip in clips)]
    return System(
        key=f"peer-{record.key}",
        label=told,
        kind="folder",
        produce=lambda batch, indices: [read(folder / f"{clip.name}.wav") for clip in batch],
        fingerprint=json_sha256([record.fingerprint, stamp])[:16],
        kbps=chosen.kbps,
        frame_rate=record.facts["frame_rate"],
        codebooks=record.facts.get("codebooks"),
        batch=64,
    )


def samples_hash(audio: np.ndarray) -> str:
    """Hash of float32 samples."""
    return hashlib.sha256(np.ascontiguousarray(audio, np.float32).tobytes()).hexdigest()[:16]
