"""Parameter trees as flat names and back, and the comparison of a tree with the shapes its module asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ModelFolderError(ValueError):
    """A model folder is missing, damaged, incomplete or of another format; the message names the file and a remedy."""


def check_shapes(params: Any, expected: Any, where: str) -> None:
    """Compares a parameter tree with the tree of shapes its module would create.

    Args:
      params: nested dicts of arrays.
      expected: the same nesting with anything that has `.shape` (arrays or `jax.ShapeDtypeStruct`).
      where: the file or network, for the message.

    Raises:
      ModelFolderError: naming the first missing, surplus or misshapen parameter.
    """
    have, want = flatten(params), flatten(expected)
    missing, surplus = sorted(set(want) - set(have)), sorted(set(have) - set(want))
    if missing or surplus:
        told = [f"lacks {missing[0]!r} ({len(missing)} in all)"] if missing else []
        told += [f"has an unknown {surplus[0]!r} ({len(surplus)} in all)"] if surplus else []
        raise ModelFolderError(f"{where} {' and '.join(told)}: its parameters do not belong to its config")
    for key in sorted(want):
        if tuple(have[key].shape) != tuple(want[key].shape):
            raise ModelFolderError(
                f"{where}: parameter {key!r} has shape {tuple(have[key].shape)}, its config asks for"
                f" {tuple(want[key].shape)}"
            )


def flatten(tree: Any) -> dict[str, Any]:
    """Nested dicts and lists -> {'a/b/#0': leaf}; list positions are written `#i`.

    Raises:
      ModelFolderError: if a key is not a non-empty string free of '/' and of a leading '#'.
    """
    flat: dict[str, Any] = {}

    def walk(node: Any, path: tuple[str, ...]) -> None:
        if isinstance(node, Mapping):
            for key, child in node.items():
                if not isinstance(key, str) or not key or "/" in key or key.startswith("#"):
                    raise ModelFolderError(f"parameter key {key!r} under {'/'.join(path)!r} cannot be stored")
                walk(child, (*path, key))
        elif isinstance(node, (list, tuple)):
            for index, child in enumerate(node):
                walk(child, (*path, f"#{index}"))
        elif node is not None:
            flat["/".join(path)] = node

    walk(tree, ())
    return flat


def unflatten(flat: Mapping[str, Any]) -> Any:
    """Inverse of `flatten` (tuples come back as lists).

    Raises:
      ModelFolderError: if names contradict each other.
    """
    if set(flat) == {""}:
        return flat[""]
    root: dict[str, Any] = {}
    for name in sorted(flat):
        *parents, last = name.split("/")
        node = root
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ModelFolderError(f"parameter {name!r} lies under another parameter")
        if not all((*parents, last)) or last in node:
            raise ModelFolderError(f"parameter name {name!r} is malformed or used twice")
        node[last] = flat[name]
    return _with_lists(root, "")


def _with_lists(node: Any, path: str) -> Any:
    if not isinstance(node, dict):
        return node
    children = {key: _with_lists(child, f"{path}/{key}") for key, child in node.items()}
    if not any(key.startswith("#") for key in children):
        return children
    wanted = [f"#{index}" for index in range(len(children))]
    if set(wanted) != set(children):
        raise ModelFolderError(f"the list of parameters at {path!r} has gaps")
    return [children[key] for key in wanted]
