"""A method without a network, for tests of what happens around one; as a program it is ``indigo`` with this method.

It turns pictures into their negatives, a grey value darker for each seed and sample, in ``FAKE_SECONDS`` each.
"""
import dataclasses
import os
import sys
import time
from typing import Any

import numpy as np

from indigo_jax import methods, tiles
from indigo_jax.methods import base
from indigo_jax.methods.flags import flag

CALLS = 4  # that it tells of


class Fake(base.Restoration):
    """The negative; where a mask is given, only of what it marks."""

    name = "fake"
    summary = when = needs = cost = "-"
    tasks = ("auto", "inpaint")

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings:
        strength: float = flag(1.0, "of the change", low=0, high=1)
        mask: Any = flag(None, "where", tasks=("inpaint",), file="mask")

    def load(self):
        if os.environ.get("FAKE_LOADS"):
            raise ValueError("networks must not be loaded")
        self.networks = {"restorer": base.Network(None, np.zeros(10), {
            "name": "fake", "sha256": "0" * 64, "kind": "restorer"})}

    def __call__(self, picture, *, seed=0, sample=0, device=None, progress=None):
        time.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
        for _ in range(CALLS if progress else 0):
            progress()
        values = np.clip(-self.settings.strength * picture.pixels - (seed + sample) / 127.5, -1, 1)
        if self.settings.mask is not None:
            values = np.where(self.settings.mask[..., None] > 0, picture.pixels, values)
        size = picture.pixels.shape[:2]
        return picture._replace(pixels=values), base.Report(1, tiles.Plan(size, size, 0))

    def evaluations(self, solved):
        return CALLS

    def plan(self, height, width):
        return tiles.Plan((height, width), (height, width), 0)

    def seconds(self, plan):
        return 200.0

    def warning(self, picture):
        return None


def add():
    """Make it one of the methods of this process."""
    methods.METHODS["fake"] = Fake


if __name__ == "__main__":
    from indigo_jax import cli
    add()
    sys.exit(cli.main())
