"""QINCo2: a residual quantizer whose codebooks are reshaped, step by step, by a small network.

Step 0 is a plain codebook. Step m >= 1 adds f_m(C_m[k], xhat), where xhat is the sum so far and f_m a residual MLP.
Everything between the standardisation and its inverse lives in standardised space; `Qinco` holds the sizes and the pure
functions, the numbers live in a plain tree:

    data_mean [D], data_std [D]                     stored statistics, never trained
    first_codebook [K, D]                           step 0
    steps/                                          steps 1..M-1 stacked on the first axis (absent when M = 1)
      codebook [M-1, K, D]
      preselection [M-1, K, D]                      only with `preselect` > 0
      concat_codeword [M-1, E, E], concat_reconstruction [M-1, D, E], concat_bias [M-1, E]
      up [M-1, L, E, H], down [M-1, L, H, E]        only with `blocks` > 0
      in_proj [M-1, D, E], out_proj [M-1, E, D]     only when E != D

Source: QINCo2 (arXiv 2501.03078) sections 3 and 4; S-PRESSO 3.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

import jax
import jax.numpy as jnp

Params = dict
FROZEN_LEAVES = ("data_mean", "data_std")


def dot(left: jax.Array, right: jax.Array, dtype: Any = None) -> jax.Array:
    """Matrix product, of float32 in full float32: codes are decided, and decoded, by these numbers on every device.

    `dtype` of the result, None for that of the factors.
    """
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST, preferred_element_type=dtype)


@dataclass(frozen=True, kw_only=True)
class Qinco:
    """Sizes and pure functions of a QINCo2 quantizer; `Qinco(**config)` rebuilds it from JSON.

    Attributes:
      codebooks: M, number of steps.
      codewords: K, codewords of every step.
      hidden_width: H, width inside a residual block.
      blocks: L, residual blocks of every step; 0 is legal.
      preselect: A, candidates that the pre-selection codebook leaves per beam; 0 tries all K (no such codebook).
      beam: B, partial codes kept per vector while encoding.
      dimension: D, size of a vector.
      embedding_width: E, width between the blocks; None means D, and then there are no projections.
      outer_skip: f_m adds the codeword to the network's output (QINCo2); False is the first QINCo.

    Raises:
      ValueError: on construction, naming the field that is out of range.
    """

    codebooks: int
    codewords: int
    hidden_width: int
    blocks: int
    preselect: int
    beam: int
    dimension: int = 64
    embedding_width: int | None = None
    outer_skip: bool = True

    def __post_init__(self):
        at_least = {"codebooks": 1, "codewords": 2, "hidden_width": 1, "blocks": 0, "preselect": 0, "beam": 1}
        for name, least in {**at_least, "dimension": 1}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"quantizer.{name} must be an integer of at least {least}, got {value!r}")
        if self.embedding_width is not None and self.embedding_width < 1:
            raise ValueError(f"quantizer.embedding_width must be positive or None, got {self.embedding_width!r}")

    @property
    def width(self) -> int:
        """E, with None resolved to D."""
        return self.dimension if self.embedding_width is None else self.embedding_width

    @property
    def projected(self) -> bool:
        """True when E != D, so that every step has an input and an output projection."""
        return self.width != self.dimension

    @property
    def codeword_gain(self) -> float:
        """g with f_m(c / g, .) = c while all trained layers are at their zero start and `out_proj` is zero.

        In the square case the codeword passes the inner path and the outer skip, so f_m(c, .) = 2c.
        """
        return 2.0 if self.outer_skip and not self.projected else 1.0

    @partial(jax.jit, static_argnums=0)
    def init(self, key: jax.Array) -> Params:
        """Parameters with the reference's random start; `initialise.fit` replaces the codebooks by k-means ones.

        Concat and down projections are zero; up, in and out projections are uniform with bound sqrt(6 / fan_in).
        Without `outer_skip` concat, up and down follow PyTorch's default Linear, bound 1 / sqrt(fan_in).
        The statistics are those of data that is already standardised (zeros and ones).
        """
        dimension, width, hidden, later = self.dimension, self.width, self.hidden_width, self.codebooks - 1
        key_codebooks, key_layers = jax.random.split(key)
        codebooks = jax.random.normal(key_codebooks, (self.codebooks, self.codewords, dimension))
        params = {
            "data_mean": jnp.zeros(dimension),
            "data_std": jnp.ones(dimension),
            "first_codebook": codebooks[0],
        }
        if later == 0:
            return params
        official = self.outer_skip
        concat_bound = 0.0 if official else 1.0 / math.sqrt(width + dimension)
        uniform = {  # name -> shape in one step, bound
            "concat_codeword": ((width, width), concat_bound),
            "concat_reconstruction": ((dimension, width), concat_bound),
            "concat_bias": ((width,), concat_bound),
        }
        if self.blocks > 0:
            uniform["up"] = ((self.blocks, width, hidden), math.sqrt((6.0 if official else 1.0) / width))
            uniform["down"] = ((self.blocks, hidden, width), 0.0 if official else 1.0 / math.sqrt(hidden))
        if self.projected:
            uniform["in_proj"] = ((dimension, width), math.sqrt(6.0 / dimension))
            uniform["out_proj"] = ((width, dimension), math.sqrt(6.0 / width))
        # One draw for all layers: a random generator is most of what the compiler has to do here.
        ends = list(accumulate(math.prod(shape) for shape, _ in uniform.values()))
        drawn = jnp.split(jax.random.uniform(key_layers, (later, ends[-1]), minval=-1.0), ends[:-1], axis=1)
        steps = {
            name: bound * part.reshape(later, *shape)
            for (name, (shape, bound)), part in zip(uniform.items(), drawn, strict=True)
        }
        steps["codebook"] = codebooks[1:]
        if self.preselect > 0:
            steps["preselection"] = codebooks[1:]
        return {**params, "steps": steps}

    def standardise(self, params: Params, z: jax.Array) -> jax.Array:
        """(z - data_mean) / data_std; no gradient reaches the statistics."""
        mean, std = (jax.lax.stop_gradient(params[name]) for name in FROZEN_LEAVES)
        return (jnp.asarray(z, jnp.float32) - mean) / std

    def unstandardise(self, params: Params, y: jax.Array) -> jax.Array:
        """y * data_std + data_mean; no gradient reaches the statistics."""
        mean, std = (jax.lax.stop_gradient(params[name]) for name in FROZEN_LEAVES)
        return y * std + mean

    def embed_codewords(self, step: Params, codewords: jax.Array) -> jax.Array:
        """The part of the first hidden state that does not depend on the sum so far: h + Wh h + b with h = P c."""
        embedded = dot(codewords, step["in_proj"]) if self.projected else codewords
        return embedded + dot(embedded, step["concat_codeword"]) + step["concat_bias"]

    def finish_step(self, step: Params, codewords: jax.Array, hidden: jax.Array) -> jax.Array:
        """Runs the residual blocks and the output projection; [..., D] codewords and [..., E] hidden give [..., D]."""
        for block in range(self.blocks):
            hidden = hidden + dot(jax.nn.relu(dot(hidden, step["up"][block])), step["down"][block])
        output = dot(hidden, step["out_proj"]) if self.projected else hidden
        return codewords + output if self.outer_skip else output

    def step_output(self, step: Params, codewords: jax.Array, reconstruction: jax.Array) -> jax.Array:
        """f_m(c, xhat) for `codewords` and `reconstruction` [..., D] in standardised space.

        `step` is one step's slice of params["steps"]. Source: QINCo2 eq. 4 to 6.
        """
        hidden = self.embed_codewords(step, codewords) + dot(reconstruction, step["concat_reconstruction"])
        return self.finish_step(step, codewords, hidden)

    def fold_step(self, step: Params) -> Params:
        """One step's network, multiplied out as far as it is linear; `folded_output` runs it on candidates.

        The first hidden state and the first block's products are a codeword's part, here a table, plus the part of the
        sum so far, of which all candidates of a beam share one; the last block's down projection goes through the
        output projection. Half the products of `step_output` remain for a candidate of qinco2-S; equal up to rounding.

        Returns: codebook [K, D]; hidden [K, E], context_hidden [D, E]; with blocks raised [K, H], context_raised [D, H],
          down [L-1, H, E], up [L-1, E, H] (of the blocks after the first) and last [H, D]; with E != D out_proj [E, D].
        """
        hidden = self.embed_codewords(step, step["codebook"])
        folded = {"codebook": step["codebook"], "hidden": hidden, "context_hidden": step["concat_reconstruction"]}
        if self.projected:
            folded["out_proj"] = step["out_proj"]
        if self.blocks > 0:
            folded["raised"] = dot(hidden, step["up"][0])
            folded["context_raised"] = dot(step["concat_reconstruction"], step["up"][0])
            folded |= {"down": step["down"][:-1], "up": step["up"][1:]}
            folded["last"] = dot(step["down"][-1], step["out_proj"]) if self.projected else step["down"][-1]
        return folded

    def folded_output(self, folded: Params, codes: jax.Array, reconstruction: jax.Array) -> jax.Array:
        """f_m of candidate codes [N, A] of every sum so far [N, D]: float32 [N, A, D].

        `folded` is one step's `fold_step`; the network runs in the type of its leaves, all but the codewords' own sum.
        """
        rows, kept = codes.shape
        chosen = codes.reshape(-1)
        narrow = reconstruction.astype(folded["hidden"].dtype)

        def first(table: str, context: str) -> jax.Array:
            shared = dot(narrow, folded[context])[:, None]
            return (folded[table][chosen].reshape(rows, kept, -1) + shared).reshape(rows * kept, -1)

        hidden = first("hidden", "context_hidden")
        raised = first("raised", "context_raised") if self.blocks > 0 else None
        for block in range(self.blocks - 1):
            hidden = hidden + dot(jax.nn.relu(raised), folded["down"][block])
            raised = dot(hidden, folded["up"][block])
        output = dot(hidden, folded["out_proj"], jnp.float32) if self.projected else hidden.astype(jnp.float32)
        if self.blocks > 0:
            output = output + dot(jax.nn.relu(raised), folded["last"], jnp.float32)
        if self.outer_skip:
            output = folded["codebook"][chosen] + output
        return output.reshape(rows, kept, self.dimension)

    def check_codes(self, codes: jax.Array) -> int:
        """Number of codebooks m that `codes` [..., m] holds.

        Raises:
          ValueError: if m is not within 1..M.
        """
        used = codes.shape[-1] if codes.ndim else 0
        if not 1 <= used <= self.codebooks:
            raise ValueError(f"codes must end in 1 to {self.codebooks} codebooks, got shape {tuple(codes.shape)}")
        return used

    def standardised_sums(self, params: Params, codes: jax.Array) -> jax.Array:
        """Sums after 1, 2, .., m codes in standardised space: codes [..., m] give [m, ..., D]."""
        used = self.check_codes(codes)
        first = params["first_codebook"][codes[..., 0]]
        if used == 1:
            return first[None]

        def add_step(reconstruction, inputs):
            step, code = inputs
            reconstruction = reconstruction + self.step_output(step, step["codebook"][code], reconstruction)
            return reconstruction, reconstruction

        steps = jax.tree.map(lambda leaf: leaf[: used - 1], params["steps"])
        _, later = jax.lax.scan(add_step, first, (steps, jnp.moveaxis(codes[..., 1:], -1, 0)))
        return jnp.concatenate([first[None], later])

    @partial(jax.jit, static_argnums=0)
    def partial_reconstructions(self, params: Params, codes: jax.Array) -> jax.Array:
        """Reconstructions from the first 1, 2, .., m codes: [..., m] int give [m, ..., D] in the units of z.

        These are prefixes of one code; `assign.encode_all_prefixes` gives the better code of every length.
        """
        return self.unstandardise(params, self.standardised_sums(params, codes))

    @partial(jax.jit, static_argnums=0)
    def decode(self, params: Params, codes: jax.Array) -> jax.Array:
        """Reconstruction z_q [..., D] float32 from codes [..., m] for any 1 <= m <= M.

        Raises:
          ValueError: if m is not within 1..M.
        """
        return self.unstandardise(params, self.standardised_sums(params, codes)[-1])

    def residuals(self, params: Params, z: jax.Array, codes: jax.Array) -> jax.Array:
        """What each step had to code, standardised: z [..., D] and codes [..., m] give [m, ..., D] (the first is z)."""
        target = self.standardise(params, z)
        before = jnp.concatenate([jnp.zeros_like(target)[None], self.standardised_sums(params, codes)[:-1]])
        return target - before

    def training_loss(self, params: Params, z: jax.Array, codes: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Loss of given codes and its parts; codes are constants, chosen beforehand by `assign.encode`.

        loss = sum_m mean (xhat_m+1 - y)^2 + sum_m>=1 mean (stop_gradient(xhat_m) + S_m[k_m] - y)^2, all in
        standardised space, the second sum only with pre-selection. Steps are not detached from each other.

        Args:
          params: the quantizer's tree.
          z: [..., D] vectors.
          codes: [..., m] int32.
        Returns: (loss scalar, {"mse_loss", "preselection_loss" scalars, "mse_per_step" [m] in standardised space,
          "error_per_step" [m] squared error summed over coordinates in the units of z}).
        Source: QINCo2 section 3.3.
        """
        target = self.standardise(params, z)
        sums = self.standardised_sums(params, codes)
        rows = tuple(range(1, sums.ndim))
        errors = jnp.square(sums - target)
        mse_per_step = jnp.mean(errors, axis=rows)
        mse_loss = jnp.sum(mse_per_step)
        preselection_loss = jnp.zeros(())
        if self.preselect > 0 and sums.shape[0] > 1:
            tables = params["steps"]["preselection"][: sums.shape[0] - 1]
            chosen = jax.vmap(lambda table, code: table[code])(tables, jnp.moveaxis(codes[..., 1:], -1, 0))
            preselection_loss = jnp.sum(
                jnp.mean(jnp.square(jax.lax.stop_gradient(sums[:-1]) + chosen - target), axis=rows)
            )
        scale = jnp.square(jax.lax.stop_gradient(params["data_std"]))
        parts = {
            "mse_loss": mse_loss,
            "preselection_loss": preselection_loss,
            "mse_per_step": mse_per_step,
            "error_per_step": jnp.mean(jnp.sum(errors * scale, axis=-1), axis=rows[:-1]),
        }
        return mse_loss + preselection_loss, jax.lax.stop_gradient(parts)
