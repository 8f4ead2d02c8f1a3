"""Holds the import rules: who may import whom, and that nothing heavy or foreign slips in."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("audio_ae", "clap", "diffusion", "dit", "quantizer")
LEAVES = ("audio", "nn", "shapes", "bitrate", "configuration")
ALLOWED = {
    "shapes": (),
    "bitrate": ("shapes",),
    "configuration": (),
    "audio": ("shapes", "bitrate"),
    "nn": ("shapes", "bitrate", "audio"),
    **{name: ("shapes", "bitrate", "audio", "nn") for name in MODELS},
    "diffusion_autoencoder": ("shapes", "bitrate", "audio", "nn", "diffusion", "dit"),
    "checkpoints": (),
    "observe": (),
    "train": ("checkpoints", "observe"),
    "sweeps": ("observe",),
    "extract": (*LEAVES, *MODELS, "diffusion_autoencoder"),
    "stages": (*LEAVES, *MODELS, "diffusion_autoencoder", "train", "evaluate"),
    "codec": (*LEAVES, *MODELS, "diffusion_autoencoder", "checkpoints"),
    "evaluate": (*LEAVES, *MODELS, "diffusion_autoencoder", "checkpoints", "codec", "observe", "interop"),
    "export": (*LEAVES, *MODELS, "diffusion_autoencoder", "checkpoints", "codec"),
    "interop": (*LEAVES, *MODELS, "diffusion_autoencoder", "checkpoints"),
}


def imports_of(path: Path, inside_functions: bool = True) -> set[str]:
    """Dotted names that a file imports anywhere in it, type-checking blocks included; or outside functions alone."""
    names = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if inside_functions else tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def package_files() -> list[tuple[str, Path]]:
    files = []
    for path in sorted((ROOT / "spresso_jax").rglob("*.py")):
        room = path.relative_to(ROOT / "spresso_jax").parts[0].removesuffix(".py")
        if room not in ("__init__", "cli"):
            files.append((room, path))
    return files


def test_every_room_is_known():
    assert {room for room, _ in package_files()} <= set(ALLOWED)


@pytest.mark.parametrize(("room", "path"), package_files(), ids=lambda value: getattr(value, "name", value))
def test_a_room_imports_only_the_rooms_below_it(room, path):
    used = {name.split(".")[1] for name in imports_of(path) if name.startswith("spresso_jax.") and name.count(".") >= 1}
    strangers = {name for name in used - {room} if (ROOT / "spresso_jax" / name).is_dir() or name in ALLOWED}
    assert strangers <= set(ALLOWED[room]), (
        f"{path.name} in {room} may not import {sorted(strangers - set(ALLOWED[room]))}"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "data_pipeline").rglob("*.py")), ids=lambda path: path.name)
def test_data_pipeline_knows_no_model_and_touches_no_device(path):
    tops = {name.split(".")[0] for name in imports_of(path)}
    assert not tops & {"spresso_jax", "jax", "flax"}


def test_the_codec_installs_light():
    heavy = {"optax", "grain", "orbax"}
    for room, path in package_files():
        if room in ("codec", "diffusion", "dit", "audio_ae", "quantizer", "diffusion_autoencoder", "nn", "audio"):
            assert not {name.split(".")[0] for name in imports_of(path)} & heavy, path
    weights = ROOT / "spresso_jax" / "checkpoints" / "weights.py"
    assert not {name.split(".")[0] for name in imports_of(weights)} & (heavy | {"jax"})


def test_stages_open_no_files_and_print_nothing():
    for room, path in package_files():
        if room != "stages":
            continue
        calls = {
            node.func.id
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        assert not calls & {"open", "print"}, path
        assert "data_pipeline" not in {name.split(".")[0] for name in imports_of(path)}, path


def test_torch_and_pickle_are_nowhere():
    for path in [*(ROOT / "spresso_jax").rglob("*.py"), *(ROOT / "data_pipeline").rglob("*.py")]:
        # Another Python runs the functions of peers in a child process; what our own process runs on import is held here.
        tops = {name.split(".")[0] for name in imports_of(path, inside_functions=path.parent.name != "peers")}
        assert not tops & {"torch", "torchaudio", "tensorflow"}, path
        # The importer of foreign checkpoints subclasses the unpickler to load tensors and nothing else.
        assert "interop" in path.parts or not tops & {"pickle", "dill"}, path


def test_no_deprecated_idioms():
    old = (
        "jax.tree_map",
        "jax.pmap",
        "PyTreeCheckpointer",
        "random.PRNGKey(",
        "experimental.pjit",
        "experimental.shard_map",
    )
    for folder in ("spresso_jax", "data_pipeline", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            assert not [idiom for idiom in old if idiom in text], path
