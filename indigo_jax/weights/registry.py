"""Networks of other packages under names that weights files may use.

A file never makes anything run: its architecture is a name, and a name is looked up among the networks of this package,
then among those that the user's own program has registered, then among those that the user has listed in the
environment variable ``INDIGO_NETWORKS`` as ``package.module:Class``, several with commas between.
"""
import functools
import importlib
import inspect
import os
import re
from typing import Any, Callable, NamedTuple

from indigo_jax.spelling import near

VARIABLE = "INDIGO_NETWORKS"


class Registered(NamedTuple):
    """A network of another package.

    Attributes:
        module: its class, made with the keyword arguments of the file.
        kind: what its weights usually are, of :data:`weights.KINDS`; None: as the file says.
        inputs: ``inputs(module) -> shapes`` that it can be called with; None: those that are usual for its kind.
    """

    module: Callable[..., Any]
    kind: str | None = None
    inputs: Callable[[Any], tuple[tuple[int, ...], ...]] | None = None


_REGISTERED: dict[str, Registered] = {}


def register(name: str, module: Callable[..., Any], *, kind: str | None = None, inputs: Callable | None = None) -> None:
    """Let weights files use a network of yours: saved, loaded, restored with and trained like those here.

    A prior is called ``module.apply(params, x [B, H, W, 3], t [B])`` and a restorer likewise; one that takes pictures
    of any size says with an attribute ``reach`` how many pixels far it sees. Trained by ``train.diffusion`` or
    ``train.indi`` it has a field ``dtype``, if any, that numpy knows.

    Args:
        name: of its class, which is what training writes into its files.
        module: the class, a ``flax.linen.Module``; or one of ``flax.nnx``, equinox or another whose objects are
            pytrees, which :func:`models.adapted` makes one of.
        kind: of :data:`weights.KINDS`, as "prior" or "restorer"; default: as the file says.
        inputs: ``inputs(module) -> shapes`` that it can be called with, as ``((1, 64, 64, 3), (1,))`` for a prior;
            default: these, with the side of the pictures that the file names.

    Errors:
        ValueError for a name of this package's, or a kind that there is not.
    """
    from indigo_jax.weights import checking
    if not isinstance(name, str):
        raise ValueError("the name comes first: weights.register('MyNet', MyNet)")
    if name in checking.ARCHITECTURES:
        raise ValueError(f"{name} is a network of this package; give yours another name")
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"a network's name is that of a class, not {name!r}")
    if not (isinstance(module, (type, functools.partial)) or inspect.isroutine(module)):
        raise ValueError(f"register takes the class of {name}, not one of its objects: its arguments are in the files")
    if kind is not None and kind not in checking.KINDS:
        raise ValueError(f"unknown kind {kind!r}{near(kind, checking.KINDS)}; there are {', '.join(checking.KINDS)}")
    _REGISTERED[name] = Registered(_linen(module), kind, inputs)


def find(name: str) -> Registered | None:
    """The network of a name: registered, or listed in ``INDIGO_NETWORKS``; None for neither.

    Errors:
        ValueError for an entry of ``INDIGO_NETWORKS`` that is no ``package.module:Class`` or cannot be imported.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    for entry in filter(None, (each.strip() for each in os.environ.get(VARIABLE, "").split(","))):
        place, _, attribute = entry.partition(":")
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", entry):
            raise ValueError(f"{VARIABLE}: {entry!r} is not package.module:Class")
        if name not in (entry, attribute):
            continue
        try:
            return Registered(_linen(getattr(importlib.import_module(place), attribute)))
        except (ImportError, AttributeError, TypeError) as error:
            raise ValueError(f"{VARIABLE}: {entry} cannot be imported ({error}); install its package, or add its "
                             "folder to PYTHONPATH") from error
    return None


def names() -> list[str]:
    """Those under which :func:`find` knows networks, as far as they are well written."""
    listed = os.environ.get(VARIABLE, "").split(",")
    return [*_REGISTERED, *(entry.partition(":")[2].strip() for entry in listed if ":" in entry)]


def _linen(network):
    from indigo_jax import models
    return models.adapted(network)
