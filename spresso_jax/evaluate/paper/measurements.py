"""Evaluation folders read for a table: their systems with all scores, checked to be of the same clips and embeddings.

A folder may come from anybody, so that its `scores.json` is read with a limit of size, and every field that is used is
checked before it is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spresso_jax.evaluate.decoded import FORMAT
from spresso_jax.evaluate.score import Score
from spresso_jax.shapes import FRAME_RATE

SCORES = "scores.json"
MAX_BYTES = 128 * 2**20
MAX_SYSTEMS = 1000
MAX_RECORDS = 200_000
MAX_TEXT = 300
UNION = "union"
_KINDS = ("source", "linear", "audio_ae", "continuous", "discrete", "folder", "peer", "control")
_QUANTIZED_AFTER = ("quantizer", "diffusion_ae", "decoder_finetune")


@dataclass(frozen=True)
class Measured:
    """One system of an evaluation.

    Attributes:
      key, label, kind: as `decoded.System`.
      folder: of the evaluation.
      identity: changes when its output would; systems of two folders that share it are one system.
      model: name of its model folder, or empty.
      kbps: as the evaluation states it: nominal for our codes, counted for peers.
      frame_rate: exact, Hz.
      codebooks, codebook_bits: of a code.
      finetuned: step 3 was done; None where nothing says so.
      scores: printed name ("FAD[aisfx]") -> record.
    """

    key: str
    label: str
    kind: str
    folder: Path
    identity: str
    model: str = ""
    kbps: float | None = None
    frame_rate: float | None = None
    codebooks: int | None = None
    codebook_bits: int | None = None
    finetuned: bool | None = None
    scores: Mapping[str, Score] = field(default_factory=dict)

    @property
    def downsample(self) -> int | None:
        """t, latent frames per compressed frame."""
        return round(FRAME_RATE / self.frame_rate) if self.frame_rate else None

    @property
    def exact_kbps(self) -> float | None:
        """Bits of a code at its exact frame rate; what was counted for peers."""
        if self.kind != "discrete" or not (self.codebooks and self.codebook_bits and self.frame_rate):
            return self.kbps
        return self.codebooks * self.codebook_bits * self.frame_rate / 1000.0


@dataclass(frozen=True)
class Measurements:
    """What one or more evaluation folders measured on one set of clips.

    Attributes:
      folders: that were read.
      clips: number of clips of the evaluation.
      fingerprint: of the clips.
      chosen: the set whose records are used.
      sets: names of the test sets that the clips are of.
      systems: in the order of the folders.
      decoding: options of the decoder that the folders state (steps, sampler), folder by folder.
      remarks: what a reader must be told.
    """

    folders: tuple[Path, ...]
    clips: int
    fingerprint: str
    chosen: str
    sets: tuple[str, ...]
    systems: tuple[Measured, ...]
    decoding: tuple[Mapping[str, Any], ...] = ()
    remarks: tuple[str, ...] = ()

    def labels(self) -> list[str]:
        """Printed names of all metrics, in the order of the records."""
        return list(dict.fromkeys(label for system in self.systems for label in system.scores))


def read_measurements(folders: Sequence[str | Path], chosen: str | None = None) -> Measurements:
    """Reads evaluation folders that are to share a table.

    Args:
      folders: filled by `spresso evaluate`.
      chosen: the set whose records are used; by default the union of all, or the only one.

    Raises:
      ValueError: naming the folder and field: no or damaged scores, another format, no records, other clips than the
        first folder's, two sets of weights under one embedding's name, or one system with two values.
    """
    if not folders:
        raise ValueError("there is no evaluation to read: give runs to evaluate, or folders with --evaluation")
    paths = [Path(folder) for folder in folders]
    contents = [_read(path / SCORES) for path in paths]
    first = contents[0]
    for path, content in zip(paths, contents, strict=True):
        if content["clips_fingerprint"] != first["clips_fingerprint"]:
            raise ValueError(
                f"{path} was measured on other clips than {paths[0]} ({len(content['clips'])} and {len(first['clips'])}"
                " clips with different fingerprints): one table needs one set of clips, so evaluate both with the same"
                " --data, --clips and --seed"
            )
    scored = tuple(dict.fromkeys(record["set"] for content in contents for record in content["records"]))
    chosen = _choose_set(scored, chosen)
    sets = _named_sets(first) or tuple(name for name in scored if name != UNION)
    systems: dict[str, Measured] = {}
    for path, content in zip(paths, contents, strict=True):
        for system in _systems(path, content, chosen):
            systems[system.identity] = (
                _merged(systems[system.identity], system) if system.identity in systems else system
            )
    found = tuple(systems.values())
    _check_embeddings(found)
    decoding = tuple(
        {key: content["options"][key] for key in ("steps", "sampler") if key in content["options"]}
        for content in contents
    )
    return Measurements(
        tuple(paths), len(first["clips"]), first["clips_fingerprint"], chosen, sets, found, decoding,
        tuple(_differing_options(found)),
    )  # fmt: skip


def read_bounded_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """JSON of a file that may be hostile.

    Raises:
      ValueError: none there, larger than `limit` bytes, not JSON, nested without end, or with NaN or infinity.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file: run `spresso evaluate ... --out {path.parent}` first")
    size = path.stat().st_size
    if size > limit:
        raise ValueError(f"{path}: {size / 1e6:.0f} MB are no scores (limit {limit / 1e6:.0f} MB)")

    def refuse(word: str) -> float:
        raise ValueError(f"{word} is no JSON")

    def finite(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse(text)

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON that can be used ({error}): evaluate again") from error


def _read(path: Path) -> dict:
    """The contents with the fields that a table needs, each of its type."""
    content = read_bounded_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        told = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: format {told!r:.60} is not {FORMAT}: evaluate again with this version")
    kinds = {"options": dict, "clips": list, "systems": list, "models": dict, "clips_fingerprint": str}
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind):
            raise ValueError(f"{path}: {name} is missing or not a {kind.__name__}: evaluate again")
    if not isinstance(content.get("records"), list) or not content["records"]:
        raise ValueError(f"{path}: holds no records of scores (written by an older version?): evaluate again")
    if len(content["systems"]) > MAX_SYSTEMS or len(content["records"]) > MAX_RECORDS:
        raise ValueError(
            f"{path}: {len(content['systems'])} systems with {len(content['records'])} records are more than a table takes"
            f" ({MAX_SYSTEMS} and {MAX_RECORDS})"
        )
    known = set()
    for index, system in enumerate(content["systems"]):
        _check_system(path, index, system)
        if system["key"] in known:
            raise ValueError(f"{path}: two systems are called {system['key']!r}: evaluate again")
        known.add(system["key"])
    for index, record in enumerate(content["records"]):
        if not isinstance(record, dict) or not _is_text(record.get("set")) or record.get("system") not in known:
            raise ValueError(f"{path}: record {index} names no set, or a system that is not listed: evaluate again")
    return content


def _check_system(path: Path, index: int, system: Any) -> None:
    if not isinstance(system, dict) or not _is_text(system.get("key")) or not _is_text(system.get("label")):
        raise ValueError(f"{path}: system {index} has no key or label: evaluate again")
    if system.get("kind") not in _KINDS:
        raise ValueError(f"{path}: system {system['key']!r} has the unknown kind {system.get('kind')!r:.60}")
    for name in ("kbps", "frame_rate", "codebooks"):
        value = system.get(name)
        wrong = isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e6
        if value is not None and (wrong or (name == "codebooks" and value != int(value))):
            raise ValueError(f"{path}: system {system['key']!r}: {name} is {value!r:.60}, not a positive number")
    if not isinstance(system.get("fingerprint", ""), str) or not isinstance(system.get("model", ""), str):
        raise ValueError(f"{path}: system {system['key']!r}: fingerprint and model must be texts")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()


def _choose_set(sets: Sequence[str], chosen: str | None) -> str:
    if chosen is not None:
        if chosen not in sets:
            raise ValueError(f"no scores of a set {chosen!r}: choose one of {', '.join(sets)}")
        return chosen
    if UNION in sets:
        return UNION
    if len(sets) > 1:
        raise ValueError(f"scores of several sets and none of their union: choose one of {', '.join(sets)} with --set")
    return sets[0]


def _named_sets(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the test sets; a single one has its records under the union alone."""
    sets = content.get("sets")
    names = [part.get("name") for part in sets if isinstance(part, dict)] if isinstance(sets, list) else []
    return tuple(name for name in names if _is_text(name))


def _systems(path: Path, content: Mapping[str, Any], chosen: str) -> list[Measured]:
    scores: dict[str, dict[str, Score]] = {system["key"]: {} for system in content["systems"]}
    for index, record in enumerate(content["records"]):
        if record["set"] != chosen:
            continue
        try:
            score = Score.from_json({k: v for k, v in record.items() if k not in ("system", "set")})
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path / SCORES}: record {index}: {error}") from error
        own = scores[record["system"]]
        if score.label in own:
            raise ValueError(
                f"{path / SCORES}: {record['system']!r} has {score.label} of {chosen} twice: evaluate again"
            )
        own[score.label] = score
    return [_measured(path, system, content["models"], scores[system["key"]]) for system in content["systems"]]


def _measured(
    path: Path, system: Mapping[str, Any], models: Mapping[str, Any], scores: Mapping[str, Score]
) -> Measured:
    facts = models.get(system.get("model", ""))
    facts = facts if isinstance(facts, Mapping) else {}
    point = facts.get("operating_point")
    bits = point.get("codebook_bits") if isinstance(point, Mapping) else None
    if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= 32:
        sizes = [system.get(name) for name in ("kbps", "codebooks", "frame_rate")]
        # A nominal frame rate is at most 1 % off, so that rounding finds the whole number.
        bits = None if None in sizes else round(1000.0 * sizes[0] / (sizes[1] * sizes[2]))
    identity = f"{system['kind']} {system['key']} {system.get('fingerprint', '')}"
    if system["kind"] == "audio_ae" and isinstance(facts.get("latents"), str):
        # Models that code the latents of one AudioAE share it, whatever folder it was loaded from.
        identity = f"audio_ae {facts['latents']}"
    return Measured(
        key=system["key"],
        label=system["label"],
        kind=system["kind"],
        folder=path,
        identity=identity,
        model=system.get("model", ""),
        kbps=system.get("kbps"),
        frame_rate=system.get("frame_rate"),
        codebooks=system.get("codebooks"),
        codebook_bits=bits,
        finetuned=_finetuned(facts),
        scores=scores,
    )


def _finetuned(facts: Mapping[str, Any]) -> bool | None:
    """Whether step 3 came after the quantizer, by the stages of the model's provenance."""
    finetuned = facts.get("finetuned")
    if isinstance(finetuned, Mapping) and finetuned.get("keep_continuous") == 1.0:
        return None  # the control of step 3, trained on continuous embeddings
    provenance = facts.get("provenance")
    if not isinstance(provenance, list):
        return None
    stages = [step.get("stage") for step in provenance if isinstance(step, Mapping)]
    relevant = [stage for stage in stages if stage in _QUANTIZED_AFTER]
    return relevant[-1] == "decoder_finetune" if relevant else None


def _merged(first: Measured, second: Measured) -> Measured:
    """One system that two folders measured, perhaps in different embeddings."""
    for label in first.scores.keys() & second.scores.keys():
        a, b = first.scores[label].value, second.scores[label].value
        if a != b and not (math.isnan(a) and math.isnan(b)) and not math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9):
            raise ValueError(
                f"{label} of {first.key!r} is {a:.6g} in {first.folder} and {b:.6g} in {second.folder}: leave one folder out"
            )
    return replace(first, scores={**second.scores, **first.scores})


def _check_embeddings(systems: Sequence[Measured]) -> None:
    seen: dict[str, tuple[str, Measured]] = {}
    for system in systems:
        for score in system.scores.values():
            if score.embedding is None:
                continue
            weights = score.embedding.fingerprint
            known, other = seen.setdefault(score.embedding.name, (weights, system))
            if known != weights:
                raise ValueError(
                    f"two sets of weights are called {score.embedding.name!r}: {known!r} in {other.folder} and {weights!r}"
                    f" in {system.folder}; their figures cannot share a column, so evaluate again with one"
                )


def _differing_options(systems: Sequence[Measured]) -> list[str]:
    """One sentence for every metric that systems were measured with different options in."""
    told = []
    first: dict[str, tuple[Mapping[str, Any], Measured]] = {}
    for system in systems:
        for label, score in system.scores.items():
            options = {k: v for k, v in score.options.items() if k not in ("bootstrap", "delay", "permutation")}
            known, other = first.setdefault(label, (options, system))
            keys = sorted(k for k in known.keys() | options.keys() if known.get(k) != options.get(k))
            if keys and other.folder != system.folder:
                told.append(
                    f"{label} has other options in {system.folder.name} than in {other.folder.name}: {', '.join(keys)}"
                )
    return list(dict.fromkeys(told))
