"""VGGish equals torchvggish: front end, every pooled map and the embedding, with weights drawn by the golden recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import families

from spresso_jax.evaluate.features.vggish import Vggish, cut_patches, log_mel_frames, mel_bank
from spresso_jax.interop.vggish import CONVOLUTIONS, DENSE, vggish_from_state

pytestmark = pytest.mark.golden
WIDTHS, DENSE_WIDTHS = (64, 128, 256, 256, 512, 512), (4096, 4096, 128)
# The reference ran in float64, we in float32: of the largest value, but for the logarithms, which are absolute.
LOG_MEL, MAPS, EMBEDDING = 5e-5, 5e-6, 2e-5


def goldens():
    paths = families("evaluation", "vggish")
    if not paths:
        pytest.skip("no golden file of the family vggish")
    return [(path.name, np.load(path)) for path in paths]


def clips(golden):
    for name in sorted(key.removesuffix("/pcm16") for key in golden.files if key.endswith("/pcm16")):
        yield name, golden[f"{name}/pcm16"].astype(np.float32) / 32768.0


def layout():
    shapes, inputs = {}, 1
    for place, outputs in zip(CONVOLUTIONS, WIDTHS, strict=True):
        shapes |= {f"features.{place}.weight": (outputs, inputs, 3, 3), f"features.{place}.bias": (outputs,)}
        inputs = outputs
    inputs = 6 * 4 * WIDTHS[-1]
    for place, outputs in zip(DENSE, DENSE_WIDTHS, strict=True):
        shapes |= {f"embeddings.{place}.weight": (outputs, inputs), f"embeddings.{place}.bias": (outputs,)}
        inputs = outputs
    return shapes


def draw(golden, wanted=()):
    """The state dict, or the layers `wanted` of it, by the recipe of the golden README."""
    state = {}
    for index, (name, shape) in enumerate(sorted(layout().items())):
        if wanted and name.rpartition(".")[0] not in wanted:
            continue
        drawn = np.random.RandomState(1000 * int(golden["weight_seed"]) + index).standard_normal(shape)
        drawn *= np.sqrt(2 / np.prod(shape[1:])) if name.endswith("weight") else 0.05
        np.testing.assert_allclose(drawn.ravel()[:4], golden[f"weight_probe/{name}"], rtol=1e-6)
        state[name] = drawn.astype(np.float32)
    return state


def same(name, ours, golden, relative):
    assert np.shape(ours) == golden.shape, name
    worst = np.abs(np.asarray(ours, np.float64) - golden).max() / np.abs(golden).max()
    assert worst < relative, f"{name}: {worst:.2e} of the largest value, {relative:.0e} allowed"


def check_maps(file, name, maps, golden):
    for place, pooled in zip((2, 5, 10, 15), maps, strict=False):
        mean = np.asarray(pooled).mean(axis=(1, 2))
        same(f"{file} {name} pool {place}", mean, golden[f"{name}/pool{place}_mean"], MAPS)


def test_front_end_and_first_maps_equal_torchvggish():
    cases, front_end = 0, jax.jit(log_mel_frames)
    first_maps = jax.jit(lambda params, patches: Vggish().apply({"params": params}, patches, 2, method="pools"))
    for file, golden in goldens():
        np.testing.assert_allclose(mel_bank(), golden["mel_matrix"], atol=1e-7)
        state = draw(golden, ("features.0", "features.3"))
        params = {
            f"conv_{place}": {
                "kernel": state[f"features.{i}.weight"].transpose(2, 3, 1, 0),
                "bias": state[f"features.{i}.bias"],
            }
            for place, i in enumerate((0, 3))
        }
        for name, audio in clips(golden):
            log_mel = np.asarray(front_end(audio[None])[0])
            assert np.abs(log_mel - golden[f"{name}/logmel"]).max() < LOG_MEL
            windows, padded = cut_patches(audio)
            assert (len(windows), padded) == (int(golden[f"{name}/n_patches"]), False)
            patches = log_mel[: 96 * len(windows)].reshape(-1, 96, 64)
            check_maps(file, name, first_maps(params, patches), golden)
            cases += 1
    print(f"golden vggish: {cases} clips")
    assert cases > 0


@pytest.mark.slow
def test_every_map_and_the_embedding_equal_torchvggish_before_and_after_the_last_relu():
    cases = 0
    for file, golden in goldens():
        config, params, _ = vggish_from_state(draw(golden))
        module = Vggish(tuple(config["widths"]), tuple(config["hidden"]), config["dimension"])
        for name, audio in clips(golden):
            patches = log_mel_frames(jnp.asarray(cut_patches(audio)[0]))
            maps = module.apply({"params": params}, patches, method="pools")
            check_maps(file, name, maps, golden)
            same(f"{file} {name}", np.asarray(maps[-1]).transpose(0, 3, 1, 2), golden[f"{name}/pool_last"], MAPS)
            embedded = module.apply({"params": params}, patches)
            same(f"{file} {name}", embedded, golden[f"{name}/emb"], EMBEDDING)
            same(f"{file} {name} relu", np.maximum(embedded, 0.0), golden[f"{name}/emb_relu"], EMBEDDING)
            cases += 1
    assert cases > 0
