"""Stable Diffusion as a prior of latents: its UNet, given the empty text, as :class:`models.PromptedUNet`."""
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from indigo_jax.convert.diffusers_unet import diffusers_unet, diffusers_unet_arguments
from indigo_jax.typing import Array, Params

_LENGTH = 77  # of every text


def latent_prior(state_dict: dict[str, np.ndarray], config: dict[str, Any], context: np.ndarray,
                 empty: np.ndarray | None = None) -> Params:
    """Parameters for ``models.PromptedUNet(**latent_prior_arguments(config, context))``.

    Args:
        state_dict: of the UNet in the names of diffusers; see :func:`diffusers_unet`.
        config: see :func:`diffusers_unet_arguments`.
        context: embedding of the text ``[L, D]`` that the prior always sees; :func:`empty_text`.
        empty: that of the empty text ``[L, D]``, for a network with a ``prompt_scale``.

    Returns:
        The linen variables dict, in float32.

    Errors:
        ValueError unless every array is used once and every parameter is found, with its shape.
    """
    latent_prior_arguments(config, context)
    if empty is not None and np.shape(empty) != np.shape(context):
        raise ValueError(f"the text has an embedding {list(np.shape(context))} and the empty text one of "
                         f"{list(np.shape(empty))}: give both of one length")
    unet = diffusers_unet(state_dict, config)["params"]
    without = {} if empty is None else {"empty_context": np.asarray(empty, np.float32)}
    return {"params": {"context": np.asarray(context, np.float32), **without, "unet": unet}}


def latent_prior_arguments(config: dict[str, Any], context: np.ndarray) -> dict:
    """The constructor arguments of :class:`models.PromptedUNet`.

    Errors:
        ValueError for a context of other channels, and for a config of another network.
    """
    arguments = diffusers_unet_arguments(config)
    channels, shape = arguments.pop("context_dim"), np.shape(context)
    if len(shape) != 2 or shape[1] != channels or not np.isfinite(context).all():
        raise ValueError(f"the context of a text is [words, {channels}] here and finite, not {list(shape)}")
    return {**arguments, "prompt_length": shape[0], "prompt_channels": shape[1]}


def empty_text(state_dict: dict[str, np.ndarray], *, num_heads: int | None = None, activation: str = "quick_gelu",
               pad: int | None = None) -> np.ndarray:
    """The embedding of the empty text by CLIP's text encoder (``CLIPTextModel``), which needs no tokenizer.

    The words are the beginning, the end, and then padding; the last but one and the last of the vocabulary are
    beginning and end.

    Args:
        state_dict: ``{torch parameter name: numpy array}``: ``text_model.embeddings...``, ``text_model.encoder...``,
            ``text_model.final_layer_norm...``, also without their first word.
        num_heads: of attention; default: of 64 channels each.
        activation: of its layers, quick_gelu (CLIP of OpenAI; Stable Diffusion 1) or gelu (2).
        pad: the word of the padding; default: the end.

    Returns:
        ``[L, D]`` float32, L being 77, or as many words as it takes.

    Errors:
        ValueError for another network, or arrays of wrong shapes.

    Source: Radford et al., Learning transferable visual models from natural language supervision, ICML 2021
    (arXiv 2103.00020), section 2.4: a causal transformer with layer normalisation before each part.
    """
    return _encoded(state_dict, num_heads, activation, pad)[1]


def empty_text_of_xl(first: dict[str, np.ndarray], second: dict[str, np.ndarray], options: dict, others: dict
                     ) -> tuple[np.ndarray, np.ndarray]:
    """The embedding of the empty text as Stable Diffusion XL has it, of both of its encoders.

    Of each encoder what its last layer but one gives, side by side; and of the second, which has a projection, the end
    of the text after the last layer, projected: the text as a whole.

    Args:
        first, second: of ``CLIPTextModel`` and ``CLIPTextModelWithProjection``, as for :func:`empty_text`.
        options, others: those of :func:`empty_text` for the first and for the second.

    Returns:
        context ``[L, D1 + D2]``, pooled ``[P]``, float32.

    Errors:
        ValueError as :func:`empty_text`, or for a second encoder without a projection.

    Source: Podell et al., SDXL, 2023 (arXiv 2307.01952), section 2.1.
    """
    projection = second.get("text_projection.weight")
    if projection is None:
        raise ValueError("the second text encoder is no CLIPTextModelWithProjection: no text_projection.weight among "
                         f"its {len(second)} names")
    inner = {name: value for name, value in second.items() if name != "text_projection.weight"}
    defaults = {"num_heads": None, "activation": "quick_gelu", "pad": None}
    (one, _), (two, last) = (_encoded(state, **{**defaults, **given})
                             for state, given in ((first, options), (inner, others)))
    return np.concatenate([one, two], axis=1), np.asarray(projection, np.float32) @ last[1]


def _encoded(state_dict, num_heads, activation, pad):
    """Before the last layer, and after all of them and the norm."""
    state = {re.sub(r"^text_model\.", "", name): jnp.asarray(value, jnp.float32) for name, value in state_dict.items()}
    words, places = (state.get(f"embeddings.{name}_embedding.weight") for name in ("token", "position"))
    if words is None or places is None or "final_layer_norm.weight" not in state:
        raise ValueError("not a CLIPTextModel: no text_model.embeddings.token_embedding.weight, "
                         f"position_embedding.weight and final_layer_norm.weight among its {len(state)} names")
    if activation not in ("quick_gelu", "gelu"):
        raise ValueError(f"a text encoder with the activation {activation!r}; known are quick_gelu and gelu")
    count, length, end = words.shape[0], min(_LENGTH, places.shape[0]), words.shape[0] - 1
    tokens = np.full(length, end if pad is None else pad)
    tokens[:2] = (count - 2, end)
    x = words[tokens] + places[:length]
    layers = 1 + max((int(match[1]) for name in state if (match := re.match(r"encoder\.layers\.(\d+)\.", name))),
                     default=-1)
    before = x
    try:
        for layer in range(layers):
            before = x
            x = _layer(state, f"encoder.layers.{layer}", x, num_heads or max(x.shape[1] // 64, 1), activation)
        return np.asarray(before), np.asarray(_norm(state, "final_layer_norm", x))
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a whole CLIPTextModel ({error})") from error


def _layer(state, name, x, num_heads, activation) -> Array:
    """``x += attention(norm(x))``, each word seeing itself and those before it; ``x += mlp(norm(x))``."""
    length, channels = x.shape
    h = _norm(state, f"{name}.layer_norm1", x)
    q, k, v = (_linear(state, f"{name}.self_attn.{part}_proj", h).reshape(length, num_heads, -1) for part in "qkv")
    scores = jnp.einsum("ihc,jhc->hij", q, k) * q.shape[-1]**-0.5
    scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
    h = jnp.einsum("hij,jhc->ihc", jax.nn.softmax(scores), v).reshape(length, channels)
    x = x + _linear(state, f"{name}.self_attn.out_proj", h)
    h = _linear(state, f"{name}.mlp.fc1", _norm(state, f"{name}.layer_norm2", x))
    h = h * jax.nn.sigmoid(1.702 * h) if activation == "quick_gelu" else jax.nn.gelu(h, approximate=False)
    return x + _linear(state, f"{name}.mlp.fc2", h)


def _linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _norm(state, name, x):
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean((x - mean)**2, axis=-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]
