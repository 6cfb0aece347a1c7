"""What a person says of a foreign checkpoint, and what becomes of it."""
import dataclasses
from typing import Any, NamedTuple

from indigo_jax.typing import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What a checkpoint may not say of itself; None: as it says, or what is usual.

    Attributes:
        image_size: side of the pictures of its training.
        schedule: of the noise, over 1000 steps: linear, scaled_linear or cosine.
        prediction: eps, x0 or v.
        heads, head_channels: of attention: their number on every level, or their width.
        attention_order: of guided diffusion, how the rows of q, k and v lie: "legacy", by head, or "new".
        num_groups: of every GroupNorm.
        label: of a network with classes, the one to believe in, from 0; "mean" for the mean of all.
        scaling_factor, shift_factor: of an autoencoder: diffusion works on ``scaling_factor (z - shift_factor)``.
        context: a file ``.npy`` with the embedding of the empty text ``[L, D]``, for a prior that was made for texts;
            or ``.npz`` with "context" and, for Stable Diffusion XL, "pooled" ``[D]``.
        prompt: the same of a text, towards which the prior is then guided without a classifier.
        prompt_scale: how strongly; 5 where a prompt is given.
        autoencoder: weights, by name or path, of the autoencoder whose latents a prior knows.
        encoder: a checkpoint of the network that makes the condition of INDIGO+'s invertible one.
    """

    image_size: int | None = None
    schedule: str | None = None
    prediction: str | None = None
    heads: int | None = None
    head_channels: int | None = None
    attention_order: str | None = None
    num_groups: int | None = None
    label: int | str | None = None
    scaling_factor: float | None = None
    shift_factor: float | None = None
    context: str | None = None
    autoencoder: str | None = None
    encoder: str | None = None
    prompt: str | None = None
    prompt_scale: float | None = None


class Converted(NamedTuple):
    """A network of ours with foreign parameters.

    Attributes:
        module: the linen module.
        params: its variables.
        info: what :func:`weights.save` needs beside architecture and arguments.
        notes: what a person should know, sentences.
    """

    module: Any
    params: Params
    info: dict
    notes: tuple[str, ...] = ()


def first_of(names) -> str:
    """The first three, for an error.

    >>> first_of("abcd")
    'a, b, c, ...'
    """
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "nothing"
