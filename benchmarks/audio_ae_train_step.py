"""How fast is one adversarial train step of the AudioAE, and how much memory does it take, beside the same step in torch?

    python -m venv peers
    peers/bin/pip install torch==2.13.0 torchaudio==2.11.0 descript-audio-codec==1.0.0 vocos==0.1.0
    python benchmarks/audio_ae_train_step.py --peer-python peers/bin/python

Both sides: the generator of `audio_ae:paper`, DAC's discriminators at full width, 2 sounds of 0.38 s, losses 15 mel +
2 feature matching + 1 adversarial, two AdamW, gradients clipped, float32, two threads. Weights and sounds are the same, and
the run fails if the losses of the first step differ.

  ours     the stage itself and the training loop's update, jitted and donated as there. DAC's augmentations are switched off,
           since the torch side has none; the average of the weights, which it has not either, stays on.
  theirs   a generator of the vocos package (`audio_ae_torch.py`), DAC's own Discriminator, GANLoss and MelSpectrogramLoss, in
           the order of DAC's training: G forward once, D step on the detached fake, G step against the new D.

Prints one JSON line: median seconds a step; how many times as fast we are (median over the repetitions of the ratio within
each); seconds to trace and compile our step with an empty cache of compiled programs and with a filled one; and memory. That
is MiB resident in the process of each side: `imported` (packages alone), `ready` (before the first step), `peak_until_ready`
and `peak` (of the steps); `growth` is peak - ready, `total` is peak - imported. At `ready` we hold Adam's moments and the
average already, while torch makes its moments in the first step. All of these count freed memory that the C library keeps;
`at_rest`, measured between two steps at the end, does not. `compiling_peak` is that of the process that filled the cache.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from pairing import (
    THREADS,
    Side,
    alternate,
    forget_peak,
    give_back_freed,
    median_ratio,
    resident_mib,
    rounded,
    run,
    say,
    serve,
)

BATCH = 2
OVERRIDES = (f"data.batch_size={BATCH}", "augment.loudness=False", "augment.phase=False")
LOSSES = ("discriminator/loss", "generator/mel", "generator/feature_matching", "generator/adversarial")
LARGEST_DIFFERENCE = 1e-3  # relative, of the first step's losses


def ours(weights: str, cache: str, compile_only: bool = False) -> None:
    import dataclasses

    import jax
    import numpy as np
    from audio_ae_weights import autoencoder_params, part

    from spresso_jax.configuration import load_config
    from spresso_jax.interop.dac import discriminator_from_state
    from spresso_jax.shapes import HOP
    from spresso_jax.stages import audio_ae
    from spresso_jax.train.loop import prepare
    from spresso_jax.train.mesh import make_mesh, place_batch, replicated, tree_shardings
    from spresso_jax.train.update import make_update

    jax.config.update("jax_compilation_cache_dir", cache)  # both as the command line has them
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)
    config, mesh = load_config("audio_ae:paper", OVERRIDES), make_mesh()
    stage, imported = audio_ae.build(config), resident_mib()["now"]
    with np.load(weights) as file:
        theirs = dict(file)
    networks = {
        "audio_ae": autoencoder_params(theirs, config.model.encoder_blocks, HOP),
        "discriminator": discriminator_from_state(part(theirs, "discriminator."))[1],
    }
    state, frozen = prepare(dataclasses.replace(stage, upstream=networks), config.seed, mesh, lambda step: iter(()))
    batch = {"audio": theirs["audio"], "valid": np.full(BATCH, theirs["audio"].shape[1], np.int32)}
    batch = place_batch(batch, mesh)
    del theirs, networks
    began = time.perf_counter()
    shardings = tree_shardings(state, mesh), replicated(mesh)
    update = jax.jit(make_update(stage, config.loop.accumulate), donate_argnums=0, out_shardings=shardings)
    update = update.lower(state, frozen, batch).compile()
    compiling = {"compile_seconds": time.perf_counter() - began}
    if compile_only:
        say({**compiling, "peak": resident_mib()["peak"]})
        return

    def step() -> list[float]:
        nonlocal state
        state, metrics = update(state, frozen, batch)
        jax.block_until_ready(state)
        return [float(metrics[name]) for name in LOSSES]

    _measure(step, imported, {"versions": {"jax": jax.__version__}, **compiling})


def theirs(weights: str, sizes: dict[str, int], n_fft: int, hop: int, sample_rate: int, samples: int) -> None:
    from importlib.metadata import version

    import torch
    from audio_ae_torch import Autoencoder, save
    from audiotools import AudioSignal
    from dac.model import Discriminator
    from dac.nn.loss import GANLoss, MelSpectrogramLoss

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    imported = resident_mib()["now"]
    generator = Autoencoder(sizes, n_fft, hop)
    discriminator = Discriminator([], [2, 3, 5, 7, 11], [2048, 1024, 512], sample_rate)
    windows, bands = [32, 64, 128, 256, 512, 1024, 2048], [5, 10, 20, 40, 80, 160, 320]
    edges = dict(mel_fmin=[0.0] * len(bands), mel_fmax=[None] * len(bands))
    mel_loss = MelSpectrogramLoss(bands, windows, mag_weight=0.0, pow=1.0, **edges)
    gan_loss = GANLoss(discriminator)
    settings = dict(lr=1e-4, betas=(0.8, 0.99))
    generator_optimizer = torch.optim.AdamW(generator.parameters(), **settings)
    discriminator_optimizer = torch.optim.AdamW(discriminator.parameters(), **settings)
    audio = 0.1 * torch.randn(BATCH, samples)
    save(weights, {"": generator, "discriminator.": discriminator}, audio=audio[..., None].numpy())
    real = AudioSignal(audio[:, None], sample_rate)

    def step() -> list[float]:
        fake = AudioSignal(generator(audio)[:, None], sample_rate)
        discriminator_loss = gan_loss.discriminator_loss(fake, real)
        discriminator_optimizer.zero_grad()
        discriminator_loss.backward()
        torch.nn.utils.clip_grad_norm_(discriminator.parameters(), 10.0)
        discriminator_optimizer.step()
        mel = mel_loss(fake, real)
        adversarial, feature_matching = gan_loss.generator_loss(fake, real)
        generator_optimizer.zero_grad()
        (15.0 * mel + 2.0 * feature_matching + adversarial).backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), 1000.0)
        generator_optimizer.step()
        return [loss.item() for loss in (discriminator_loss, mel, feature_matching, adversarial)]

    packages = ("descript-audio-codec", "vocos")
    versions = {"torch": torch.__version__, **{package: version(package) for package in packages}}
    _measure(step, imported, {"versions": versions})


def _measure(step: Callable[[], list[float]], imported: float, facts: dict[str, Any]) -> None:
    """Memory around the first step, then as many steps as are asked for."""
    ready = resident_mib()
    forget_peak()
    facts["first_losses"] = dict(zip(LOSSES, step(), strict=True))
    facts["memory"] = {"imported": imported, "ready": ready["now"], "peak_until_ready": ready["peak"]}

    def one_step() -> dict[str, float]:
        step()
        return {"peak": resident_mib()["peak"]}

    def rest() -> dict[str, float]:
        gc.collect()
        give_back_freed()
        return {"at_rest": resident_mib()["now"]}

    step()  # torch's first step also made Adam's moments
    serve(facts, {"step": one_step, "rest": rest}, warm=False)


def _memory(side: Side) -> dict[str, int]:
    memory, peak = side.facts["memory"], side.ask("step")["peak"]
    memory |= {"peak": peak, "growth": peak - memory["ready"], "total": peak - memory["imported"]}
    memory["at_rest"] = side.ask("rest")["at_rest"]
    return {name: round(value) for name, value in memory.items()}


def compare(peer_python: str, repetitions: int) -> dict[str, Any]:
    from audio_ae_weights import sizes_of

    from spresso_jax.configuration import load_config
    from spresso_jax.shapes import HOP, N_FFT, SAMPLE_RATE, whole_hops

    config = load_config("audio_ae:paper", OVERRIDES)
    sound = dict(n_fft=N_FFT, hop=HOP, sample_rate=SAMPLE_RATE, samples=whole_hops(config.data.seconds))
    with tempfile.TemporaryDirectory() as folder:
        weights, cache = str(Path(folder) / "weights.npz"), str(Path(folder) / "cache")
        peer = Side(peer_python, __file__, "theirs", weights=weights, sizes=sizes_of(config), **sound)
        cold = Side(sys.executable, __file__, "ours", weights=weights, cache=cache, compile_only=True)
        cold.close()
        own = Side(sys.executable, __file__, "ours", weights=weights, cache=cache)
    losses = {name: (own.facts["first_losses"][name], peer.facts["first_losses"][name]) for name in LOSSES}
    different = [name for name, (a, b) in losses.items() if not abs(a - b) < LARGEST_DIFFERENCE * abs(b)]
    assert not different, f"the first step's losses differ, ours and theirs: {losses}"
    seconds = alternate({side.name: (side, "step") for side in (own, peer)}, repetitions)
    memory = {side.name: _memory(side) for side in (own, peer)}
    memory["ours"]["compiling_peak"] = round(cold.facts["peak"])
    own.close()
    peer.close()
    return {
        "seconds": {name: rounded(median(values)) for name, values in seconds.items()},
        "times_torch": median_ratio(seconds["theirs"], seconds["ours"]),
        "compile_seconds": {
            "empty_cache": rounded(cold.facts["compile_seconds"], 3),
            "filled_cache": rounded(own.facts["compile_seconds"], 3),
        },
        "memory_mib": memory,
        "first_losses": {name: [rounded(value, 6) for value in pair] for name, pair in losses.items()},
        "versions": own.facts["versions"] | peer.facts["versions"],
    }


if __name__ == "__main__":
    run(__file__, compare, {"ours": ours, "theirs": theirs})
