"""What a sound's file, a model folder or a run folder is, as rows of a table; loads no weights and no JAX."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spresso_jax.bitrate import bitrate_kbps, compression_ratio
from spresso_jax.checkpoints.fingerprint import model_id
from spresso_jax.checkpoints.weights import (
    FACTS_FILE,
    MODELS_FOLDER,
    ModelFolderError,
    find_model_folder,
    load_facts,
    network_size,
)
from spresso_jax.codec.bitstream import EncodedAudio
from spresso_jax.codec.completeness import missing_networks
from spresso_jax.codec.embedding_file import describe_embedded
from spresso_jax.shapes import CLIP_FRAMES, CLIP_SECONDS, EMBEDDING_CHANNELS

Rows = dict[str, Any]


def describe(path: str | Path) -> tuple[str, Rows]:
    """Title and rows for a `.spresso` file, embeddings or latents (.npz), a model (folder or name) or a run folder.

    Raises:
      BitstreamError, EmbeddingFileError, ModelFolderError, ValueError: if it is none of them, or damaged.
      OSError: if it cannot be read.
    """
    file = Path(path)
    if file.is_file() and file.suffix.lower() == ".npz":
        return f"sound {file}", describe_embedded(file)
    if file.is_file():
        return f"sound {file}", describe_encoded(EncodedAudio.load(file))
    if file.is_dir() and not (file / FACTS_FILE).is_file():
        if (file / "config.json").is_file():
            return f"run {file}", describe_run(file)
        raise ModelFolderError(f"{file} is neither a model (no {FACTS_FILE}) nor a run (no config.json)")
    folder = find_model_folder(path)
    return f"model {folder}", describe_model(folder)


def describe_encoded(encoded: EncodedAudio) -> Rows:
    """Length, shapes, bits and bitrates of a `.spresso` file, and the model it needs."""
    header = encoded.header
    rates = header.bitrates()
    source_bits = header.samples * header.channels * 16
    return {
        "duration": f"{header.seconds:.3f} s",
        "samples": header.samples,
        "sample rate": f"{header.sample_rate} Hz",
        "channels": f"{header.channels} (mid/side)" if header.mid_side else str(header.channels),
        "downsample": header.downsample,
        "codes": f"{header.channels} channels x {header.frames} frames x {header.codebooks} codebooks",
        "bits per code": header.bits,
        "payload": f"{header.payload_bits} bits",
        "file": f"{header.file_bytes} bytes",
        "nominal bitrate": f"{rates['nominal']:.4g} kbps",
        "payload bitrate": f"{rates['payload']:.4g} kbps",
        "whole-file bitrate": f"{rates['file']:.4g} kbps",
        "smaller than 16-bit PCM": f"{source_bits / (8 * header.file_bytes):.0f} times",
        "model": _known_model(header.model_id),
    }


def describe_model(folder: Path) -> Rows:
    """Operating point, bitrate, networks and provenance of a model folder."""
    facts = load_facts(folder)
    rows: Rows = {"name": facts.get("name", folder.name)}
    point = facts.get("operating_point")
    if isinstance(point, Mapping) and point.get("downsample"):
        rows |= _operating_point(point)
        rows["model id"] = model_id(facts).hex()
    elif isinstance(point, Mapping) and point.get("codebooks") and point.get("codebook_bits"):
        # A quantizer of vectors that are no sounds.
        rows["codebooks"] = _codebooks(point)
        rows["bits a vector"] = point["codebooks"] * point["codebook_bits"]
    vectors = facts.get("vectors")
    if isinstance(vectors, Mapping):
        counts = f"{vectors.get('rows')} to train on, {vectors.get('held_out')} held out"
        rows["vectors"] = f"{counts}, of {vectors.get('dimension')} dimensions"
    missing = missing_networks(facts)
    if missing and "audio_ae" not in missing:
        rows["codes"] = f"no ({', '.join(missing)} missing): encode --continuous writes latents of the AudioAE"
    networks = {}
    for file in sorted(facts["fingerprints"]):
        count = network_size(folder / file)
        networks[file.removesuffix(".safetensors")] = f"{count / 1e6:.3f} M"
    rows["parameters"] = [f"{name}: {size}" for name, size in networks.items()]
    rows["storage"] = facts.get("storage", "float32")
    rows["size"] = f"{sum((folder / file).stat().st_size for file in facts['fingerprints']) / 1e6:.2f} MB"
    statistics = facts.get("latent_statistics")
    if isinstance(statistics, Mapping):
        rows["sigma_data"] = statistics.get("sigma_data")
    rows["captions"] = "yes" if facts.get("tokenizer") and "clap" in networks else "no"
    for name in ("licence", "provenance"):
        if facts.get(name):
            rows[name] = facts[name]
    return rows


def describe_run(folder: Path) -> Rows:
    """Stage, progress and result of a run folder."""
    config = _json_object(folder / "config.json")
    rows: Rows = {"stage": config.get("stage", "unknown"), "seed": config.get("seed", "unknown")}
    command = folder / "command.txt"
    if command.is_file():
        rows["command"] = command.read_text(encoding="utf-8").strip()
    metrics = folder / "metrics.jsonl"
    if metrics.is_file():
        last = _last_json_line(metrics)
        shown = {key: value for key, value in last.items() if isinstance(value, (int, float, str))}
        rows["last metrics"] = [f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}"
                                for key, value in shown.items()]  # fmt: skip
    checkpoints = folder / "checkpoints"
    if checkpoints.is_dir():
        steps = sorted(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
        rows["checkpoints"] = ", ".join(str(step) for step in steps) or "none"
    if (folder / "model" / FACTS_FILE).is_file():
        rows["model"] = str(folder / "model")
        rows |= {f"model {name}": value for name, value in describe_model(folder / "model").items()}
    return rows


def _operating_point(point: Mapping[str, Any]) -> Rows:
    downsample, bits, codebooks = point["downsample"], point.get("codebook_bits"), point.get("codebooks")
    tokens = CLIP_FRAMES // downsample
    rate = tokens / CLIP_SECONDS
    rows: Rows = {
        "frame rate": f"{rate:.4g} Hz (t = {downsample})",
        "embeddings of a 5 s clip": f"{tokens} x {EMBEDDING_CHANNELS}",
        "compression ratio": f"{compression_ratio(EMBEDDING_CHANNELS, rate):.0f}",
    }
    if bits and codebooks:
        rows["codebooks"] = _codebooks(point)
        rows["nominal bitrate"] = (
            f"{codebooks} x {bits} bits x {rate:.4g} Hz = {bitrate_kbps(codebooks, 2**bits, rate):.4g} kbps a channel"
        )
    return rows


def _codebooks(point: Mapping[str, Any]) -> str:
    trained = point.get("trained_codebooks", point["codebooks"])
    return f"{point['codebooks']} of {trained} trained, {point['codebook_bits']} bits each"


def _known_model(identity: bytes) -> str:
    """The id, with the name of the package's model that has it."""
    names = []
    for path in sorted(MODELS_FOLDER.glob(f"*/{FACTS_FILE}")):
        facts = load_facts(path.parent)
        if model_id(facts) == identity:
            names.append(path.parent.name)
    return f"{identity.hex()} ({', '.join(names)})" if names else identity.hex()


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return value


def _last_json_line(path: Path) -> dict[str, Any]:
    """The last complete line; a run that is being written may end in half a line."""
    last: dict[str, Any] = {}
    with open(path, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                value = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(value, dict):
                last = value
    return {key: value for key, value in last.items() if not (isinstance(value, float) and not math.isfinite(value))}
