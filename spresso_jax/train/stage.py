"""The Stage protocol: everything that the one training loop needs to know of a model.

A stage is a frozen dataclass of pure functions. It opens no file, prints nothing and makes no mesh; whatever it needs
from earlier runs arrives as arrays. Trees are nested dicts `{network name: {... leaf}}`.

Leaves fall into three sets, by name:
  params   leaves that some player owns; they have gradients, moments and averages, and are checkpointed;
  buffers  own leaves that no player trains (fixed Fourier features, data statistics); checkpointed;
  frozen   leaves that come from an earlier model and are not trained; re-read from there, never checkpointed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import optax

Tree = dict[str, Any]
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


@dataclass(frozen=True)
class Player:
    """One optimiser with the parameters that it owns; one player is ordinary training, two are a GAN.

    Attributes:
      name: short name, prefix of its metrics when there are several players.
      owns: regular expression, searched in slash-joined parameter paths ("generator/decoder/kernel").
      loss: (networks, product, batch, key) -> (scalar, metrics). `networks` holds every leaf (own, other players',
        buffers, frozen); `product` is what `Stage.produce` made, or None.
      optimizer: optax transformation for the owned leaves.
    """

    name: str
    owns: str
    loss: Callable[[Tree, Any, Batch, jax.Array], tuple[jax.Array, Metrics]]
    optimizer: optax.GradientTransformation


@dataclass(frozen=True)
class Produce:
    """A forward pass that every player's loss shares, so that a GAN's generator runs once a step.

    Attributes:
      player: name of the player whose owned leaves the product depends on.
      make: (networks, batch, key) -> product (any pytree of arrays). The product's gradient flows to `player` only;
        other players see a constant.
    """

    player: str
    make: Callable[[Tree, Batch, jax.Array], Any]


@dataclass(frozen=True)
class Finished:
    """What a trained stage leaves behind.

    Attributes:
      networks: name -> (config of JSON-able fields, parameters).
      facts: entries for `model.json`.
    """

    networks: dict[str, tuple[dict[str, Any], Tree]]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One training of the six.

    Attributes:
      name: registry name, as in `spresso train NAME`.
      init: key -> {network: tree} of freshly initialised leaves.
      players: in the order in which they move within a step.
      batch_spec: name -> jax.ShapeDtypeStruct of a global batch.
      upstream: {network: tree} of leaves of earlier models (NumPy arrays); they replace the leaves that `init` made at the
        same path, and are frozen unless a player owns them. Networks that `init` does not make are allowed: frozen.
      produce: shared forward pass, or None.
      start: (networks, draw) -> networks; called once in a fresh run, never when resuming. `draw()` gives training
        batches (NumPy) for data-dependent initialisation.
      maintain: (networks, draw, key) -> networks, called every `maintain_every` steps outside the compiled step (dead
        codewords), or None; `draw()` gives batches from the current step on.
      project: trained leaves -> trained leaves of the same shapes, or None; applied to fresh leaves, and in every update
        after the averages (EDM2's order: the averages hold what the optimiser left), such as forced weight normalisation.
      schedules: name -> (step, int array) -> scalar that changes while training, such as the weight of a loss; losses,
        `produce`, `validate` and `preview` find it as `networks["schedule"][name]`.
      ema: name -> (step after the update, int array) -> decay in [0, 1).
      ema_lengths: relative length of those averages that are power-function averages; they can be kept in snapshots, and
        reconstructed to other lengths after training.
      averaged: regular expression of the trained leaves that the averages hold; all by default. A GAN's discriminator, say,
        needs none.
      chosen_ema: which average stands for the trained network in validation, previews and export; None: the raw leaves.
      validate: (networks, batch, key) -> metrics (scalars), compiled by the loop.
      gather: (networks, batch) -> {name: [B, ..]}, what `summarise` needs of every held-out row, compiled by the loop; or None.
      summarise: rows of a whole held-out pass (NumPy) -> metrics, beside the means of `validate`: what no batch can tell
        alone, such as the rank of a clip among all others. Given together with `gather`.
      best: validation metric whose lowest value chooses the step that is exported; None exports the last one.
      preview: (networks, batch, key) -> {name: audio [S] or picture-able arrays}, compiled by the loop, or None.
      finish: (networks, draw) -> Finished, with `networks` under the chosen average.
    """

    name: str
    init: Callable[[jax.Array], Tree]
    players: tuple[Player, ...]
    batch_spec: Mapping[str, jax.ShapeDtypeStruct]
    validate: Callable[[Tree, Batch, jax.Array], Metrics]
    finish: Callable[[Tree, Callable[[], Iterator[dict]]], Finished]
    upstream: Tree = field(default_factory=dict)
    produce: Produce | None = None
    start: Callable[[Tree, Callable[[], Iterator[dict]]], Tree] | None = None
    maintain: Callable[[Tree, Callable[[], Iterator[dict]], jax.Array], Tree] | None = None
    maintain_every: int = 0
    project: Callable[[Tree], Tree] | None = None
    schedules: Mapping[str, Callable[[jax.Array], jax.Array]] = field(default_factory=dict)
    ema: Mapping[str, Callable[[jax.Array], jax.Array]] = field(default_factory=dict)
    ema_lengths: Mapping[str, float] = field(default_factory=dict)
    averaged: str = ""
    chosen_ema: str | None = None
    gather: Callable[[Tree, Batch], dict[str, jax.Array]] | None = None
    summarise: Callable[[Mapping[str, Any]], dict[str, float]] | None = None
    best: str | None = None
    preview: Callable[[Tree, Batch, jax.Array], dict[str, jax.Array]] | None = None

    def __post_init__(self) -> None:
        names = [player.name for player in self.players]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"stage {self.name}: players need distinct names, got {names}")
        if self.produce is not None and self.produce.player not in names:
            raise ValueError(f"stage {self.name}: produce names the unknown player {self.produce.player!r}")
        if (self.gather is None) != (self.summarise is None):
            raise ValueError(f"stage {self.name}: gather and summarise belong together")
        if self.chosen_ema is not None and self.chosen_ema not in self.ema:
            raise ValueError(f"stage {self.name}: chosen_ema {self.chosen_ema!r} is not among {sorted(self.ema)}")
        if not set(self.ema_lengths) <= set(self.ema):
            raise ValueError(f"stage {self.name}: ema_lengths {sorted(self.ema_lengths)} are not all in {sorted(self.ema)}")
