"""Which class stands behind each network of a model folder, how it is built, and which parameters it must have."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from spresso_jax.checkpoints.weights import ModelFolderError, Network, check_shapes
from spresso_jax.clap.classes import CLASSES as CLAP_CLASSES
from spresso_jax.nn.lora import LEAVES, merge
from spresso_jax.shapes import CLIP_FRAMES, EMBEDDING_CHANNELS, HOP

CLASSES = {
    "audio_ae": ("spresso_jax.audio_ae.autoencoder", "AudioAutoencoder"),
    "clap": ("spresso_jax.clap.model", "Clap"),
    "dit": ("spresso_jax.dit.model", "DiT"),
    "latent_encoder": ("spresso_jax.diffusion_autoencoder.encoder", "LatentEncoder"),
    "projector": ("spresso_jax.diffusion_autoencoder.encoder", "Projector"),
    "quantizer": ("spresso_jax.quantizer.qinco", "Qinco"),
}
# Classes that may stand in a network's place: a text tower alone serves the DiT, though it compares no sounds.
STAND_INS = {"clap": CLAP_CLASSES}


def network_class(name: str, class_name: str = "") -> type:
    """Class of the network called `name`, imported on demand; `class_name` may name one that stands in its place.

    Raises:
      ModelFolderError: for an unknown name.
    """
    if name not in CLASSES:
        raise ModelFolderError(f"unknown network {name!r}: a model folder may hold {', '.join(sorted(CLASSES))}")
    module, attribute = CLASSES[name]
    if class_name in STAND_INS.get(name, {}):
        module, attribute = STAND_INS[name][class_name], class_name
    return getattr(importlib.import_module(module), attribute)


def build(name: str, network: Network) -> Any:
    """The module that `network.config` describes.

    Raises:
      ModelFolderError: if the file was written for another class, or the class refuses the config.
    """
    made = network_class(name, network.class_name)
    if network.class_name and network.class_name != made.__name__:
        raise ModelFolderError(f"{name} was written by the class {network.class_name}, here it is {made.__name__}")
    try:
        return made(**network.config)
    except (TypeError, ValueError) as error:
        raise ModelFolderError(f"the config of {name} does not fit {made.__name__}: {error}") from error


def parameter_shapes(name: str, module: Any) -> Any:
    """The tree of shapes and types of the parameters that `module` would create; computes nothing.

    Raises:
      ModelFolderError: if the sizes in the config contradict each other.
    """
    try:
        return jax.eval_shape(lambda key: _init(name, module, key), jax.random.key(0))
    except (TypeError, ValueError) as error:
        raise ModelFolderError(f"the config of {name} does not fit {type(module).__name__}: {error}") from error


def check_parameters(name: str, module: Any, params: Any) -> None:
    """Compares parameters with the shapes that `module` would create.

    Raises:
      ModelFolderError: naming the first parameter that is missing, unknown or of another shape.
    """
    check_shapes(params, parameter_shapes(name, module), f"{name}.safetensors")


def prepared(name: str, network: Network, on_cpu: bool) -> tuple[Any, Any]:
    """Module and parameters on the device; adapters are folded in, and a CPU computes in float32.

    Raises:
      ModelFolderError: if the parameters do not belong to the config, or the config to the class.
    """
    module = build(name, network)
    check_parameters(name, module, network.params)
    params, changes = network.params, {}
    if name == "dit" and module.lora_rank:
        params, changes = merge(params, module.lora_alpha), {"lora_rank": 0}
    if on_cpu and getattr(module, "dtype", "float32") != "float32":
        changes["dtype"] = "float32"
    if changes:
        module = build(name, Network({**network.config, **changes}, {}, network.class_name))
    return module, jax.device_put(params)


def without_decoder_parts(dit: Network) -> Network:
    """The text-to-audio DiT inside a codec's: without the third stream and the adapters, which only added to it.

    Adapters that were folded into their kernels before the model was saved cannot be taken out; they stay.
    """

    def kept(tree: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: kept(value) if isinstance(value, Mapping) else value
            for name, value in tree.items()
            if name not in (*LEAVES, "down", "down_bias")
        }

    changes = {"third_stream": False, "down_bias_init": None, "lora_rank": 0}
    return Network({**dit.config, **changes}, kept(dit.params), dit.class_name)


def _init(name: str, module: Any, key: jax.Array) -> Any:
    if name == "quantizer":
        return module.init(key)
    return module.init(key, *_example_inputs(name, module))["params"]


def _example_inputs(name: str, module: Any) -> tuple:
    """The smallest inputs that make a module create all of its parameters."""
    if name == "audio_ae":
        return (jnp.zeros((1, 8 * HOP, 1)),)
    if name == "latent_encoder":
        frames = -(-CLIP_FRAMES // module.patch) * module.patch
        return (jnp.zeros((1, frames, module.latent_channels)),)
    if name == "projector":
        return (jnp.zeros((1, 1, EMBEDDING_CHANNELS)),)
    if name == "dit":
        x = jnp.zeros((1, 2 * module.patch, module.latent_channels))
        text = jnp.zeros((1, module.text_tokens, module.text_width))
        return x, jnp.zeros((1,)), text, jnp.zeros((1, module.text_tokens), bool)
    text = jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    return (jnp.zeros((1, module.samples, 1)), *text) if hasattr(module, "samples") else text
