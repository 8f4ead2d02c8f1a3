"""Model folders: one safetensors file per network, and `model.json` with the facts that belong to no network.

```
folder/
  audio_ae.safetensors  dit.safetensors  ...   parameters under slash names; class, config and network as JSON metadata
  model.json                                   format, storage, fingerprints of all files, and the facts given on saving
```

A folder is written whole or not at all, and checked when it is read: format, names, fingerprints, keys, data types.
Nothing is ever unpickled. Knows no model and no JAX: parameters are nested dicts and lists of numpy arrays.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spresso_jax.checkpoints.fingerprint import file_sha256, values_sha256
from spresso_jax.checkpoints.trees import ModelFolderError, check_shapes, flatten, unflatten

__all__ = (
    "Model", "ModelFolderError", "Network", "check_shapes", "find_model_folder", "load_facts", "load_model",
    "network_size", "read_network", "save_model",
)  # fmt: skip

FORMAT = 1
FACTS_FILE = "model.json"
SUFFIX = ".safetensors"
MODELS_FOLDER = Path(__file__).resolve().parents[1] / "models"

_NAME = re.compile(r"[A-Za-z0-9_]+")
_MAX_FACTS_BYTES = 64 << 20
_MAX_HEADER_BYTES = 64 << 20
_DTYPES = {
    "F16": np.float16, "F32": np.float32, "F64": np.float64, "I8": np.int8, "I16": np.int16, "I32": np.int32,
    "I64": np.int64, "U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "BOOL": np.bool_,
}  # fmt: skip
_RESERVED = ("format", "storage", "fingerprints", "values")


@dataclass(frozen=True)
class Network:
    """One network: what rebuilds its module, and its parameters.

    Attributes:
      config: JSON-able keyword arguments of the module.
      params: nested dicts (and lists) of arrays; floating arrays are float32 after loading.
      class_name: name of the module's class, so that a reader can tell a wrong file from a wrong config.
    """

    config: Mapping[str, Any]
    params: Any
    class_name: str = ""


@dataclass(frozen=True)
class Model:
    """Networks by name, the facts of `model.json`, and where they were read."""

    networks: dict[str, Network]
    facts: dict[str, Any]
    folder: Path | None = field(default=None)


def find_model_folder(name_or_folder: str | Path) -> Path:
    """Folder of a model: the path itself, or `spresso_jax/models/<name>` for a model that comes with the package.

    Raises:
      ModelFolderError: if neither exists.
    """
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelFolderError(f"{folder} is a file, not a model folder: give the folder that holds {FACTS_FILE}")
    bundled = MODELS_FOLDER / folder
    if len(folder.parts) == 1 and bundled.is_dir():
        return bundled
    names = sorted(path.name for path in MODELS_FOLDER.glob("*") if path.is_dir()) if MODELS_FOLDER.is_dir() else []
    known = f"models in this package: {', '.join(names)}" if names else "this package carries no model yet"
    raise ModelFolderError(f"no model folder {str(name_or_folder)!r} ({known}): give a folder with {FACTS_FILE}")


def save_model(
    folder: str | Path,
    networks: Mapping[str, Network],
    facts: Mapping[str, Any],
    dtype: str = "float32",
    overwrite: bool = False,
) -> Path:
    """Writes a model folder atomically: everything goes to a temporary folder beside it, which is then renamed.

    Args:
      folder: where; must not exist (an empty folder is fine) unless `overwrite`.
      networks: name -> network; the name becomes the file's name.
      facts: JSON-able contents of `model.json`; `format`, `storage`, `fingerprints` and `values` are filled in here.
      dtype: storage of floating parameters, "float32" or "float16". Facts keep full precision either way.
      overwrite: replace an existing model folder (only a folder that holds `model.json` is ever removed).

    Returns:
      the folder.

    Raises:
      ModelFolderError: if the folder exists, a name or value cannot be stored, or float16 cannot hold a value.
    """
    folder = Path(folder)
    if dtype not in ("float32", "float16"):
        raise ModelFolderError(f"dtype must be 'float32' or 'float16', got {dtype!r}")
    if not networks:
        raise ModelFolderError("a model folder needs at least one network")
    _check_replaceable(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    workplace = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        fingerprints, values = {}, {}
        for name, network in sorted(networks.items()):
            if not _NAME.fullmatch(name):
                raise ModelFolderError(f"network name {name!r} may hold only letters, digits and underscores")
            path = workplace / f"{name}{SUFFIX}"
            tensors = _stored(name, flatten(network.params), dtype)
            _write_tensors(path, name, network, tensors)
            fingerprints[path.name] = file_sha256(path)
            values[path.name] = values_sha256(tensors)
        contents = {key: value for key, value in facts.items() if key not in _RESERVED}
        contents = {"format": FORMAT, **contents, "storage": dtype, "fingerprints": fingerprints, "values": values}
        _write_facts(workplace / FACTS_FILE, contents)
        umask = os.umask(0)
        os.umask(umask)
        workplace.chmod(0o777 & ~umask)
        # Written for their owner alone, by the temporary folder and by safetensors; a model is there to be shared.
        for path in workplace.iterdir():
            path.chmod(0o666 & ~umask)
        _swap(workplace, folder)
    except BaseException:
        shutil.rmtree(workplace, ignore_errors=True)
        raise
    return folder


def load_model(folder: str | Path, only: Iterable[str] | None = None, verify: bool = True) -> Model:
    """Reads a model folder (or a model of the package, by name) as numpy arrays.

    Args:
      folder: path or name, see `find_model_folder`.
      only: names of the networks to read; all by default. Networks that are not read are not checked either.
      verify: compare every file that is read with its SHA-256 in `model.json`.

    Returns:
      the model; floating parameters are float32 whatever the storage.

    Raises:
      ModelFolderError: naming the file and the fault (missing, changed, wrong format, wrong keys, wrong types).
    """
    folder = find_model_folder(folder)
    facts = load_facts(folder)
    fingerprints = facts["fingerprints"]
    present = [name.removesuffix(SUFFIX) for name in fingerprints]
    wanted = list(present) if only is None else list(only)
    networks = {}
    for name in wanted:
        path = folder / f"{name}{SUFFIX}"
        if name not in present:
            raise ModelFolderError(f"{folder} has no network {name!r}: {FACTS_FILE} lists {', '.join(sorted(present))}")
        if not path.is_file():
            raise ModelFolderError(f"{path} is missing although {FACTS_FILE} lists it: copy the folder again")
        if verify and file_sha256(path) != fingerprints[path.name]:
            raise ModelFolderError(
                f"{path} does not match its SHA-256 in {FACTS_FILE}: it is damaged or was changed; copy it again"
            )
        networks[name] = read_network(path, name)
    return Model(networks, facts, folder)


def load_facts(folder: str | Path) -> dict[str, Any]:
    """Reads and checks `model.json` alone; no weights are touched.

    Raises:
      ModelFolderError: if it is missing, unreadable, of another format, or its list of files is malformed.
    """
    folder = find_model_folder(folder)
    path = folder / FACTS_FILE
    if not path.is_file():
        raise ModelFolderError(f"{path} is missing: {folder} is not a model folder")
    if path.stat().st_size > _MAX_FACTS_BYTES:
        raise ModelFolderError(f"{path} is larger than {_MAX_FACTS_BYTES >> 20} MiB: it is not a model's facts")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelFolderError(f"{path} is not valid JSON ({error}): copy it again") from error
    if not isinstance(facts, dict):
        raise ModelFolderError(f"{path} must hold a JSON object, not a {type(facts).__name__}")
    version = facts.get("format")
    if version != FORMAT or isinstance(version, bool):
        raise ModelFolderError(
            f"{path} has format {version!r}, this version of spresso_jax reads format {FORMAT}: update spresso_jax or"
            " export the model again"
        )
    fingerprints = facts.get("fingerprints")
    if not isinstance(fingerprints, dict) or not fingerprints:
        raise ModelFolderError(f"{path} lists no files under 'fingerprints': export the model again")
    for name, digest in fingerprints.items():
        if not name.endswith(SUFFIX) or not _NAME.fullmatch(name.removesuffix(SUFFIX)):
            raise ModelFolderError(f"{path} lists {name!r}, which is not the plain name of a {SUFFIX} file")
        if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise ModelFolderError(f"{path} has no valid SHA-256 for {name}: export the model again")
    return facts


def read_network(path: str | Path, name: str | None = None) -> Network:
    """Reads one network's file: parameters, config and class name.

    The header is checked against the size of the file before any tensor is read, so that a forged header cannot ask for
    more memory than the file occupies.

    Raises:
      ModelFolderError: if the file is not a safetensors file of a network called `name`.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    _check_header_length(path)
    try:
        with safe_open(str(path), framework="np") as stream:
            metadata = stream.metadata() or {}
            described = _description(path, metadata, name)
            tensors = {}
            for key in stream.keys():
                stored = stream.get_slice(key).get_dtype()
                if stored not in _DTYPES:
                    raise ModelFolderError(f"{path}: tensor {key!r} has type {stored}, which model folders do not use")
                tensors[key] = _widened(stream.get_tensor(key))
    except SafetensorError as error:
        raise ModelFolderError(f"{path} is not a valid safetensors file ({error}): copy it again") from error
    try:
        params = unflatten(tensors)
    except ValueError as error:
        raise ModelFolderError(f"{path}: {error}") from error
    return Network(described.get("config", {}), params, described.get("class", ""))


def network_size(path: str | Path) -> int:
    """Number of parameters in a network's file, from its header alone.

    Raises:
      ModelFolderError: if the file is missing or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ModelFolderError(f"{path} is missing although {FACTS_FILE} lists it: copy the folder again")
    _check_header_length(path)
    try:
        with safe_open(str(path), framework="np") as stream:
            return sum(math.prod(stream.get_slice(key).get_shape()) for key in stream.keys())
    except SafetensorError as error:
        raise ModelFolderError(f"{path} is not a valid safetensors file ({error}): copy it again") from error


def _stored(name: str, flat: Mapping[str, Any], dtype: str) -> dict[str, np.ndarray]:
    tensors = {}
    for key, leaf in flat.items():
        array = np.asarray(leaf)
        if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
            raise ModelFolderError(f"{name}: parameter {key!r} has type {array.dtype}, which cannot be stored")
        if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
            array = array.astype(np.float32)
            if not np.isfinite(array).all():
                raise ModelFolderError(f"{name}: parameter {key!r} holds NaN or infinity: training diverged")
            if dtype == "float16":
                if array.size and float(np.abs(array).max()) > 65504.0:
                    raise ModelFolderError(f"{name}: parameter {key!r} exceeds float16's 65504: store as 'float32'")
                array = array.astype(np.float16)
        tensors[key] = np.asarray(array, order="C")
    if not tensors:
        raise ModelFolderError(f"network {name!r} has no parameters")
    return tensors


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype.kind == "f" and array.dtype != np.float32 else array


def _write_tensors(path: Path, name: str, network: Network, tensors: Mapping[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    described = {"network": name, "class": network.class_name, "config": dict(network.config)}
    try:
        text = json.dumps(described, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelFolderError(f"the config of {name!r} is not JSON ({error}): use numbers and strings") from error
    # One metadata entry: safetensors keeps several in no fixed order, and equal models must give equal files.
    save_file(dict(tensors), str(path), metadata={"spresso": text})


def _write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    try:
        lines = [f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in facts.items()]
    except (TypeError, ValueError) as error:
        raise ModelFolderError(f"the facts of the model are not JSON ({error}): use lists and plain numbers") from error
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _description(path: Path, metadata: Mapping[str, str], name: str | None) -> dict[str, Any]:
    try:
        described = json.loads(metadata["spresso"])
        config_is_dict = isinstance(described.get("config"), dict)
    except KeyError as error:
        raise ModelFolderError(f"{path} has no 'spresso' metadata: it was not written by spresso_jax") from error
    except (json.JSONDecodeError, AttributeError, RecursionError) as error:
        raise ModelFolderError(f"{path} has malformed 'spresso' metadata ({error}): export the model again") from error
    if not config_is_dict:
        raise ModelFolderError(f"{path} has no config in its metadata: export the model again")
    if name is not None and described.get("network") != name:
        raise ModelFolderError(f"{path} holds the network {described.get('network')!r}, not {name!r}: was it renamed?")
    return described


def _check_header_length(path: Path) -> None:
    size = path.stat().st_size
    with open(path, "rb") as stream:
        start = stream.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if length > min(size - 8, _MAX_HEADER_BYTES):
        raise ModelFolderError(f"{path} is not a valid safetensors file (truncated header): copy it again")


def _check_replaceable(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise ModelFolderError(f"{folder} already exists: choose another folder or ask to overwrite it")
    if not (folder.is_dir() and (folder / FACTS_FILE).is_file()):
        raise ModelFolderError(f"{folder} is not a model folder, so it is not replaced: choose another folder")


def _swap(new: Path, folder: Path) -> None:
    """Renames `new` to `folder`; an old folder moves aside first and is removed last."""
    if not folder.exists():
        new.rename(folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    folder.rename(aside / "model")
    try:
        new.rename(folder)
    except BaseException:
        (aside / "model").rename(folder)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)
