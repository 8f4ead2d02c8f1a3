"""Test error of the quantizer per number of codes, after training of equal length, beside its reference and faiss.

    python benchmarks/quantizer_mse.py VECTORS [--setting small] [--systems rq,official,improved] [--seeds 0,1,2]
        [--faiss PYTHON] [--set key=value ...]

VECTORS is a .npy of rows [N, 64], whose last 5,000 are the test, or a Python file with `vectors(n, seed)`, of which
vectors(60_000, 0) trains and vectors(5_000, 1) tests. Settings: D = 64, L = 2, E = 64, H = 128, A = B = 8, batch 1000 in the
same order every epoch of 60 steps; small: K = 64, M = 4, 10 epochs; main: K = 256, M = 8, 5 epochs.

Prints one JSON line a system and seed: the squared error, summed over coordinates, with the best code of every length.
--faiss names a Python that has faiss: its residual quantizer (beam 5) is trained on the same rows there.
"""

import argparse
import json
import runpy
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

EPOCH = 60
SETTINGS = {"small": dict(codewords=64, codebooks=4, epochs=10), "main": dict(codewords=256, codebooks=8, epochs=5)}
PUBLISHED = {
    "small": {"QINCo2": {4: 25.41}, "faiss": {4: 28.44}},
    "main": {"QINCo2": {8: 6.794}, "faiss": {8: 6.902}},
}
FAISS = """
import sys, json, faiss, numpy as np
train, test = np.load(sys.argv[1]), np.load(sys.argv[2])
codebooks, bits = int(sys.argv[3]), int(sys.argv[4])
quantizer = faiss.ResidualQuantizer(train.shape[1], codebooks, bits)
quantizer.max_beam_size = 5
quantizer.train(train)
tables = faiss.vector_to_array(quantizer.codebooks).reshape(codebooks, -1, train.shape[1])
errors = []
for used in range(1, codebooks + 1):
    prefix = faiss.ResidualQuantizer(train.shape[1], used, bits)
    prefix.max_beam_size = 5
    faiss.copy_array_to_vector(tables[:used].ravel(), prefix.codebooks)
    prefix.is_trained = True
    decoded = prefix.decode(prefix.compute_codes(test))
    errors.append(float(np.square(decoded - test).sum(1).mean()))
print(json.dumps(errors))
"""


def read_vectors(path: str) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) rows."""
    if path.endswith(".py"):
        vectors = runpy.run_path(path)["vectors"]
        return vectors(60_000, 0), vectors(5_000, 1)
    rows = np.load(path, allow_pickle=False).astype(np.float32)
    return rows[:-5000], rows[-5000:]


def config_of(setting: str, mode: str, seed: int, overrides: list[str]):
    """The stage's config: one preset and the sizes of the setting."""
    from spresso_jax.configuration import load_config

    sizes = SETTINGS[setting]
    steps = EPOCH * sizes["epochs"]
    changes = [
        f"seed={seed}", f"model.codewords={sizes['codewords']}", f"model.codebooks={sizes['codebooks']}", "model.blocks=2",
        "model.embedding_width=64", "model.hidden_width=128", "model.preselect=8", "model.beam=8",
        "train_search.preselect=8", "train_search.beam=8", "data.batch_size=1000", f"loop.steps={steps}",
        "initialisation.rows=60000", "initialisation.scale=single", f"revival.every={EPOCH}",
        "optimizer.ramp_epochs=1.0", f"optimizer.cosine_epochs={sizes['epochs'] - 1.0}", "optimizer.floor_epochs=0.0",
        f"revival.batches={EPOCH if mode == 'official' else 20}",
    ]  # fmt: skip
    return load_config("quantizer:official" if mode == "official" else "quantizer", [*changes, *overrides])


def errors_of(quantizer, params, test) -> list[float]:
    from spresso_jax.quantizer import assign

    decoded = np.asarray(assign.encode_all_prefixes(quantizer, params, test)[1])
    return [float(np.square(one - test).sum(1).mean()) for one in decoded]


def trained(setting: str, mode: str, seed: int, train: np.ndarray, test: np.ndarray, overrides: list[str]) -> dict:
    """Errors of a trained quantizer, and of its start."""
    import jax

    from spresso_jax.configuration import to_plain
    from spresso_jax.quantizer.qinco import Qinco
    from spresso_jax.stages import quantizer as stage_module
    from spresso_jax.train.loop import prepare
    from spresso_jax.train.mesh import make_mesh
    from spresso_jax.train.state import networks_of
    from spresso_jax.train.update import make_update

    config = config_of(setting, mode, seed, overrides)
    stage, size = stage_module.build(config), config.data.batch_size
    quantizer = Qinco(**to_plain(config.model))
    per_epoch = len(train) // size

    def draw(step: int):
        while True:
            start = step % per_epoch * size
            yield {"embedding": train[start : start + size]}
            step += 1

    began = time.monotonic()
    state, frozen = prepare(stage, seed, make_mesh(), draw)
    start = errors_of(quantizer, networks_of(state, frozen)["quantizer"], test)
    started = time.monotonic()
    update, batches = jax.jit(make_update(stage), donate_argnums=0), draw(0)
    for step in range(1, config.loop.steps + 1):
        state, _ = update(state, frozen, next(batches))
        if step % config.revival.every == 0 and step < config.loop.steps:
            key = jax.random.fold_in(state.key, step)
            networks = stage.maintain(networks_of(state, frozen), lambda at=step: draw(at), key)
            params = {name: networks["quantizer"][name] for name in state.params["quantizer"]}
            state = state.replace(params={"quantizer": params})
    errors = errors_of(quantizer, networks_of(state, frozen)["quantizer"], test)
    return {
        "start": start, "test": errors, "start_seconds": started - began, "train_seconds": time.monotonic() - started
    }  # fmt: skip


def residual_quantizer(setting: str, seed: int, train: np.ndarray, test: np.ndarray) -> dict:
    """Errors of the untrained start: plain residual k-means, searched with beam 8."""
    import jax

    from spresso_jax.quantizer import initialise
    from spresso_jax.quantizer.qinco import Qinco
    from spresso_jax.quantizer.residual_kmeans import KMeans

    sizes = {name: SETTINGS[setting][name] for name in ("codewords", "codebooks")}
    quantizer = Qinco(**sizes, hidden_width=1, blocks=0, preselect=0, beam=8, dimension=train.shape[1])
    params = initialise.fit(quantizer, jax.random.key(seed), train, kmeans=KMeans(25), scale="single")
    return {"test": errors_of(quantizer, params, test)}


def faiss_peer(python: str, setting: str, train: np.ndarray, test: np.ndarray) -> dict:
    sizes = SETTINGS[setting]
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{name}.npy") for name in ("train", "test")]
        for path, rows in zip(paths, (train, test), strict=True):
            np.save(path, rows)
        bits = str((sizes["codewords"] - 1).bit_length())
        words = [python, "-c", FAISS, *paths, str(sizes["codebooks"]), bits]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
    return {"test": json.loads(done.stdout)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("vectors")
    parser.add_argument("--setting", choices=SETTINGS, default="small")
    parser.add_argument("--systems", default="rq,official,improved")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--faiss", metavar="PYTHON")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    arguments = parser.parse_args()
    train, test = read_vectors(arguments.vectors)

    def show(system: str, found: dict, **more) -> None:
        rounded = {
            name: [round(error, 3) for error in value] if isinstance(value, list) else round(value, 1)
            for name, value in found.items()
        }
        line = {"setting": arguments.setting, "system": system, **more, **rounded}
        print(json.dumps(line | {"published": PUBLISHED[arguments.setting]}), flush=True)

    if arguments.faiss:
        show("faiss", faiss_peer(arguments.faiss, arguments.setting, train, test))
    for seed in map(int, arguments.seeds.split(",")):
        for system in filter(None, arguments.systems.split(",")):
            if system == "rq":
                show(system, residual_quantizer(arguments.setting, seed, train, test), seed=seed)
            else:
                show(system, trained(arguments.setting, system, seed, train, test, arguments.overrides), seed=seed)


if __name__ == "__main__":
    main()
