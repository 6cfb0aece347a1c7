"""A training that takes a second: a network of two convolutions. As a config file of ``train.indi``, and for tests."""
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from PIL import Image

from indigo_jax import operators
from train.indi import IndiConfig


class TwoConvolutions(nn.Module):
    """``x + t G(x)``; every axis of a kernel that counts is divisible by 4."""

    width: int = 16
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, t):
        first = nn.Conv(self.width, (3, 3), dtype=self.dtype, name="conv_in")
        h = nn.silu(first(x))
        return x + t[:, None, None, None] * nn.Conv(3, (3, 3), dtype=self.dtype, name="conv_out")(h).astype(jnp.float32)


def get_config() -> IndiConfig:
    return IndiConfig(
        model=TwoConvolutions(), degradation=operators.random_gaussian_noise((10.0, 50.0)), tasks=("denoise",),
        num_steps=20, batch_size=16, crop=8, margin=0, loss="l2", learning_rate=1e-3, warmup_steps=2, ema=0.9,
        checkpoint_every=5, log_every=1, eval_every=0, data_threads=1, cache=True)


def tiny(pictures, workdir, **changes) -> IndiConfig:
    return dataclasses.replace(get_config(), data=str(pictures), workdir=str(workdir), **changes)


def write_pictures(folder):
    """Small smooth pictures in train/ and val/; returns the folder."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 2)):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            smooth = np.cumsum(rng.normal(size=(20, 24, 3)), axis=1)
            Image.fromarray(np.uint8(np.clip(128 + 12 * smooth, 0, 255))).save(folder / split / f"{i}.png")
    return folder


def numbers(state):
    """All arrays of a state (or of a part of it) on the host."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(jax.device_get(state))]
