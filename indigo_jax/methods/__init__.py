"""Methods of restoration as a person calls them: a picture goes in, a picture comes out. One file and one row each.

    restore = methods.load("hqs", task="deblur", kernel=kernel)
    restored, report = restore(images.read("blurred.png"))

The fields of a method's ``Settings`` are its arguments here and its flags in ``indigo restore --method NAME --help``.
"""
from indigo_jax.methods.auto import Choice, choose
from indigo_jax.methods.base import TASKS, Report, Restoration, Solved
from indigo_jax.methods.bird import Bird
from indigo_jax.methods.blind import Blind
from indigo_jax.methods.daps import Daps
from indigo_jax.methods.ddnm import Ddnm
from indigo_jax.methods.ddrm import Ddrm
from indigo_jax.methods.diffpir import Diffpir
from indigo_jax.methods.dps import Dps
from indigo_jax.methods.hqs import Hqs
from indigo_jax.methods.indi import Indi
from indigo_jax.methods.indigo import Indigo
from indigo_jax.methods.jpeg import Jpeg
from indigo_jax.methods.latent_indigo import LatentIndigo
from indigo_jax.methods.look import Look
from indigo_jax.methods.once import Once
from indigo_jax.methods.pigdm import Pigdm
from indigo_jax.methods.pnp_flow import PnpFlow
from indigo_jax.methods.reddiff import Reddiff
from indigo_jax.methods.tmpd import Tmpd

METHODS: dict[str, type[Restoration]] = {
    method.name: method for method in (
        Indi, Once, Look, Jpeg, Hqs, Blind, Diffpir, Bird, Ddnm, Ddrm, Daps, Dps, Pigdm, Tmpd, Reddiff, PnpFlow, Indigo,
        LatentIndigo)}

__all__ = ["Choice", "Indigo", "METHODS", "Report", "Restoration", "Solved", "TASKS", "choose", "load"]


def load(name: str, *, task: str = "auto", scale: int | None = None, devices=None, **settings) -> Restoration:
    """A method ready to restore pictures, its networks loaded.

    Args:
        name: of :data:`METHODS`.
        task: what to undo, of the method's ``tasks``.
        scale: of sr: how many times larger; default 4.
        devices: where it may run; default: all of this process.
        settings: of the method's ``Settings``; see ``METHODS[name].Settings``.

    Errors:
        ValueError (also :class:`weights.WeightsError`), one line, for what does not fit together.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; there are {', '.join(METHODS)}")
    method = METHODS[name]
    unknown = [key for key in settings if key not in {field for field in method.Settings.__dataclass_fields__}]
    if unknown:
        raise ValueError(f"{name} has no setting {unknown[0]!r}; it has "
                         f"{', '.join(method.Settings.__dataclass_fields__)}")
    return method(method.Settings(**settings), task=task, scale=scale, devices=devices)
