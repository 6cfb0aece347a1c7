"""Networks of flax.nnx, of equinox, or any class whose objects are trees of arrays, called as linen modules are."""
import dataclasses
import functools
import inspect
import re
from typing import Any, Callable

import jax
import jax.numpy as jnp

from indigo_jax.typing import Array, Params

_KEYS = ("rngs", "key")  # of a constructor: what its initial numbers are drawn with
_VALUE = re.compile(r"/(value|raw_value|_value)$")  # what flax.nnx puts at the end of every path


@functools.lru_cache(maxsize=None)  # one class for one network, so that its objects are equal
def adapted(network: Callable[..., Any]) -> type:
    """A class that makes the same network, but as a linen module: ``init``, ``apply``, ``clone``, fields to store.

    For a network whose objects are pytrees of arrays: a class of ``flax.nnx`` (0.12 or later), of equinox, or
    your own. It is called ``network(...)(x, t)`` on pictures ``[B, H, W, 3]`` and times ``[B]``, as the others here.
    What its constructor takes, but for ``rngs`` (``flax.nnx.Rngs``) or ``key`` (``jax.random.key``), are its fields,
    and travel in files: numbers, strings, and tuples of them.

    The floating-point arrays in it are its parameters, each under its path in the tree. All else stays as the
    constructor makes it from a fixed key, and so nothing in it can change while it runs: dropout must be switched off,
    and statistics of batches are frozen. Outside of ``jax.jit`` every call makes the network anew, which is slow.

    Args:
        network: the class.

    Returns:
        A frozen dataclass of the same name. One that is adapted already, or a linen module, is given back.

    Errors:
        TypeError for a constructor with ``*args``, ``**kwargs``, or a field without a name of its own.

    >>> @jax.tree_util.register_dataclass
    ... @dataclasses.dataclass
    ... class Scale:
    ...     a: Any
    ...     def __call__(self, x, t):
    ...         return self.a * x
    >>> module = adapted(lambda start=2.0: Scale(jnp.asarray(start)))(start=3.0)
    >>> params = module.init(jax.random.key(0))
    >>> params, float(module.apply(params, 1.0, 0.0))
    ({'params': {'a': Array(3., dtype=float32, weak_type=True)}}, 3.0)
    """
    if hasattr(network, "apply") and hasattr(network, "init"):
        return network
    parameters = [each for each in _parameters(network) if each.name not in _KEYS]
    wrong = [str(each) for each in parameters if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD,
                                                               each.POSITIONAL_ONLY)]
    if wrong:
        raise TypeError(f"{_name(network)}: its constructor takes {wrong[0]}, which no file can tell: give each "
                        "argument a name")
    fields = [(each.name, Any, dataclasses.field(default=each.default) if each.default is not each.empty
               else dataclasses.field()) for each in parameters]
    return dataclasses.make_dataclass(_name(network), fields, bases=(Adapted,), frozen=True, kw_only=True, namespace={
        "network": staticmethod(network), "__module__": network.__module__, "__doc__": network.__doc__})


class Adapted:
    """What :func:`adapted` makes its classes of."""

    network: Callable[..., Any]

    def init(self, key: Array, *inputs: Any) -> Params:
        """``{"params": {...}}``: the network's floating-point arrays, nested by their paths. Inputs are not needed."""
        del inputs
        leaves, _ = jax.tree_util.tree_flatten_with_path(self._made(key))
        tree = {}
        for path, leaf in leaves:
            if _is_parameter(leaf):
                *folders, last = _path(path)
                branch = functools.reduce(lambda branch, folder: branch.setdefault(folder, {}), folders, tree)
                branch[last] = jnp.asarray(leaf)
        return {"params": tree}

    def apply(self, variables: Params, *inputs: Any, **options: Any) -> Any:
        """``network(*inputs, **options)`` with these arrays in it."""
        leaves, structure = jax.tree_util.tree_flatten_with_path(self._made(jax.random.key(0)))
        filled = [functools.reduce(lambda branch, name: branch[name], _path(path), variables["params"])
                  if _is_parameter(leaf) else leaf for path, leaf in leaves]
        return jax.tree_util.tree_unflatten(structure, filled)(*inputs, **options)

    def clone(self, **changes: Any) -> "Adapted":
        """The same with other fields."""
        return dataclasses.replace(self, **changes)

    def __getattr__(self, name: str) -> Any:
        """What the class of the network says of all its objects, as ``reach``."""
        if name.startswith("_") or not inspect.isclass(type(self).network):
            raise AttributeError(name)
        found = inspect.getattr_static(type(self).network, name)
        if callable(found) or hasattr(found, "__get__"):
            raise AttributeError(name)
        return found

    def _made(self, key):
        arguments = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        taken = [each.name for each in _parameters(type(self).network)]
        if "rngs" in taken:
            from flax import nnx
            arguments["rngs"] = nnx.Rngs(key)
        elif "key" in taken:
            arguments["key"] = key
        return type(self).network(**arguments)


def _parameters(network):
    """What a constructor takes; of a class its ``__init__``, since its metaclass may hide that."""
    found = list(inspect.signature(network.__init__ if inspect.isclass(network) else network).parameters.values())
    return found[1:] if inspect.isclass(network) else found


def _is_parameter(leaf):
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape") and jnp.issubdtype(leaf.dtype, jnp.floating)


def _path(path):
    """The names of a path, ``[("conv", "kernel")]``."""
    text = "/".join(str(next(value for value in (getattr(each, name, None) for name in ("name", "key", "idx"))
                             if value is not None)) for each in path)
    return _VALUE.sub("", text).split("/")


def _name(network):
    return getattr(network, "__name__", type(network).__name__).replace("<lambda>", "Network")
