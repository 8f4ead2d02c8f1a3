"""Experiment files: finding, loading, overriding and locking them.

An experiment is a Python file with `get_config(preset) -> ConfigDict`; it holds data, not code. `blocks` and `rates` are
the two files there that the others share; they are reached as `spresso_jax.configuration.blocks` and `.rates`, wherever
the package is installed. A sweep is a file of `experiments/sweeps` with `get_sweep(preset) -> dict`.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

_SHARED = ("blocks", "rates")


class ConfigError(ValueError):
    """A config is missing, malformed or has a wrong key; the message says which and suggests the nearest."""


def experiments_folder() -> Path:
    """Folder of the experiment files: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "experiments"
    return inside if inside.is_dir() else package.parent / "experiments"


def __getattr__(name: str) -> ModuleType:
    if name in _SHARED:
        return _load_module(experiments_folder() / f"{name}.py")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load_experiment(name: str) -> ModuleType:
    """The module of a neighbouring experiment file, so that one can share another's block."""
    return _load_module(experiments_folder() / f"{name}.py")


def load_config(spec: str, overrides: Iterable[str] = ()) -> Any:
    """Locked ConfigDict of `spec` with `overrides` applied.

    Args:
      spec: short name or path of an experiment file, with an optional preset: "audio_ae", "diffusion_ae:small-1hz",
        "my/experiment.py:tiny"; or a `config.json` that a run has saved.
      overrides: "dotted.key=value" texts; values are Python literals, anything else is a string.

    Raises:
      ConfigError: if the file, the preset, a key or a value is wrong.
    """
    from ml_collections import ConfigDict

    if spec.endswith(".json"):
        config = _from_json(Path(spec))
        _check_complete(config, Path(spec))
    else:
        name, _, preset = spec.partition(":")
        path = Path(name)
        if path.suffix != ".py":
            path = experiments_folder() / f"{name}.py"
        if not path.is_file() or path.stem in (*_SHARED, "__init__"):
            known = sorted(p.stem for p in experiments_folder().glob("*.py") if p.stem not in (*_SHARED, "__init__"))
            raise ConfigError(f"no experiment {name!r}{_suggest(name, known)}; experiments: {', '.join(known)}")
        module = _load_module(path)
        try:
            config = module.get_config(preset or None)
        except ValueError as error:
            raise ConfigError(f"{spec}: {error}") from error
    assert isinstance(config, ConfigDict)
    config.lock()
    return apply_overrides(config, overrides)


def load_sweep(spec: str) -> dict[str, Any]:
    """The fields of a sweep file: `sweeps/grid.py` says what they mean.

    Args:
      spec: short name of a file of `experiments/sweeps` or a path, with an optional preset: "encoder_depth:small".

    Raises:
      ConfigError: if the file or the preset is wrong.
    """
    name, _, preset = spec.partition(":")
    folder, path = experiments_folder() / "sweeps", Path(name)
    if path.suffix != ".py":
        path = folder / f"{name}.py"
    if not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.py"))
        raise ConfigError(f"no sweep {name!r}{_suggest(name, known)}; sweeps: {', '.join(known)}")
    module = _load_module(path)
    if not hasattr(module, "get_sweep"):
        raise ConfigError(f"{path}: has no get_sweep(preset); experiments/sweeps/encoder_depth.py shows one")
    try:
        return dict(module.get_sweep(preset or None))
    except ValueError as error:
        raise ConfigError(f"{spec}: {error}") from error


def apply_overrides(config: Any, overrides: Iterable[str]) -> Any:
    """Sets "dotted.key=value" texts on a locked config, in place, and returns it.

    Raises:
      ConfigError: for a text without "=", an unknown key (with the nearest known one) or a value of another type.
    """
    known = flat_keys(config)
    for text in overrides:
        key, sign, value = text.partition("=")
        key = key.strip()
        if not sign:
            raise ConfigError(f"--set {text!r}: write key=value, for example loop.steps=1000")
        if key not in known:
            raise ConfigError(f"--set {text!r}: there is no key {key!r}{_suggest(key, known)}")
        try:
            parsed = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            # "true" and "false" as JSON and shells spell them
            truth = {"true": True, "false": False} if isinstance(known[key], bool) else {}
            parsed = truth.get(value.strip().lower(), value)
        try:
            config.update_from_flattened_dict({key: parsed})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"--set {text!r}: {key} takes a {type(known[key]).__name__}, got {parsed!r}") from error
    return config


def flat_keys(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys and values of all leaves."""
    from ml_collections import ConfigDict

    flat: dict[str, Any] = {}
    for key in config:
        value = config.get_oneway_ref(key).get() if hasattr(config, "get_oneway_ref") else config[key]
        if isinstance(value, ConfigDict):
            flat |= flat_keys(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def to_plain(value: Any) -> Any:
    """The config (or part of it) as plain dicts, lists and numbers, ready for JSON and for `Module(**fields)`."""
    from ml_collections import ConfigDict

    if isinstance(value, (ConfigDict, dict)):
        return {key: to_plain(value[key]) for key in value}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def _from_json(path: Path) -> Any:
    import json

    from ml_collections import ConfigDict

    try:
        return ConfigDict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not a readable config.json ({error})") from error


def _check_complete(config: Any, path: Path) -> None:
    """A run of an older version lacks keys that its stage reads by now: better said before the stage is built."""
    stage = str(config.get("stage", ""))
    if not stage or not (experiments_folder() / f"{stage}.py").is_file():
        return
    missing = sorted(set(flat_keys(load_experiment(stage).get_config())) - set(flat_keys(config)))
    if missing:
        raise ConfigError(
            f"{path} lacks {', '.join(missing)}, which stage {stage} reads: it was written by another version. Go on with"
            " that version, or start a new run"
        )


def _load_module(path: Path) -> ModuleType:
    name = f"spresso_jax_experiment_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    previous = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = previous
    return module


def _suggest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    if not near:
        last = name.rsplit(".", 1)[-1]
        near = [key for key in known if key.rsplit(".", 1)[-1] == last][:1]
    return f"; did you mean {near[0]!r}?" if near else ""
