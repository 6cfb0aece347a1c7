"""``--method indi``: a network that restores directly, in one step or a few."""
import dataclasses
import functools

import jax.numpy as jnp

from indigo_jax import denoisers, operators, paths, samplers, tiles
from indigo_jax.methods import base
from indigo_jax.methods.flags import flag


class Indi(base.Restoration):
    """InDI (Delbracio & Milanfar 2023) with the noise mode of the weights."""

    name = "indi"
    summary = "a network that restores directly, trained on pairs"
    when = "nothing is known but the kind of damage; fast; 4x enlargement"
    needs, cost = "nothing", "--steps, 1"
    tasks = ("auto", "denoise", "deblur", "nonuniform", "sr", "jpeg")
    border, kind_of_weights = "reflect", "restorer"

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Settings:
        weights: str = flag("indi-photo", "the network; see: indigo weights list", metavar="NAME|PATH", file="weights")
        steps: int = flag(1, "1 is nearest to the truth on average; about 5 look sharper where detail was lost, as by "
                             "blur or 4x sr, and make noise and grain stronger", low=1, high=10_000)
        spacing: str = flag("uniform", "the grid of times for several steps", choices=paths.SPACINGS)
        tile: int | None = flag(None, "largest side of the pieces that large pictures are restored in; less needs less "
                                      "memory (default: 1024)", low=64, high=16384, metavar="PIXELS")

    def load(self):
        network = base.open_network(self.settings.weights, "restorer")
        learned = {"nonuniform": "deblur"}.get(self.task, self.task)
        if learned not in ("auto", *network.info["tasks"]):
            raise ValueError(f"the weights {self.settings.weights} were not trained for {self.task}; use auto or one "
                             f"of {', '.join(network.info['tasks'])}, or other weights")
        self.networks = {"restorer": network}

    def plan(self, height, width):
        return base.plan_of(self.networks["restorer"], height, width, tile=self.largest or self.settings.tile)

    def enlarged(self, y):
        """For super-resolution: bicubic."""
        return y if self.scale == 1 else jnp.clip(operators.upsample(self.scale)(jnp.asarray(y)), -1, 1)

    def solve(self, params, y, keys, *, plan, given):
        del given
        module, _, info = self.networks["restorer"]
        network = tiles.by_plan(functools.partial(module.apply, params[0]), plan)
        restorer = denoisers.of(network, info, y=y if getattr(module, "condition_on_y", False) else None)
        times = paths.indi_times(self.settings.steps, self.settings.spacing)
        x, _ = samplers.sample(samplers.indi(restorer, times, noise=restorer.noise), keys, y)
        return base.Solved(jnp.clip(x, -1.0, 1.0))

    def evaluations(self, solved):
        return self.settings.steps

    def facts(self, reports):
        return {"steps": self.settings.steps, **super().facts(reports)}

    def line(self, reports):
        return base.count(self.settings.steps, "step")
