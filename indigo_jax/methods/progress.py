"""Progress inside a picture: networks that tell of their calls while a compiled program runs."""
import itertools
import threading
from typing import Any, Callable

import jax
import numpy as np


class Telling:
    """Stands in the place of a network module, and calls ``tell()`` on the host before each of its calls.

    Args:
        module: a linen module.
        tell: is told, in no particular order with what else the program does. Under differentiation it is told of the
            forward passes; nothing is computed otherwise than without it.
        shows: whether it is handed what the network is given, ``tell(x)``.
    """

    def __init__(self, module: Any, tell: Callable[..., None], *, shows: bool = False):
        self.__dict__.update(_module=module, _tell=tell, _shows=shows)

    def __getattr__(self, name):
        return getattr(self.__dict__["_module"], name)

    def apply(self, *arguments, **options):
        """That of the module."""
        self._tell(*(arguments[1:2] if self._shows else ()))  # the first are the parameters
        return self._module.apply(*arguments, **options)

    def clone(self, **changes) -> "Telling":
        """That of the module, telling, too."""
        return Telling(self._module.clone(**changes), self._tell, shows=self._shows)


class Listeners:
    """Who listens to which run of a program: a program is compiled once, its runs are told apart by a number.

    Attributes:
        show: whether listeners are handed what the network is given, ``listener(x)``; by :func:`show`.
    """

    def __init__(self):
        self.show = False
        self._listening, self._numbers, self._lock = {}, itertools.count(1), threading.Lock()

    def add(self, listener: Callable[..., None]) -> np.int32:
        """The number of a run, for the program."""
        with self._lock:
            number = next(self._numbers) % 2**31
            self._listening[number] = listener
        return np.int32(number)

    def remove(self, number) -> None:
        """The run has ended."""
        self._listening.pop(int(number), None)

    def telling(self, module: Any, number) -> Telling:
        """A network that tells the listener of a run; inside of a program."""
        return Telling(module, lambda *x: jax.debug.callback(self._heard, number, *x), shows=self.show)

    def _heard(self, number, *x):
        listener = self._listening.get(int(number))
        if listener is not None:
            listener(*(np.asarray(each) for each in x))


def show(restoration: Any) -> Any:
    """A method whose ``progress`` is called with what its first network is given at each call, ``progress(x)``.

    x is float ``[b, h, w, c]``: the picture on its way where the method works on whole pictures in pixels, else tiles
    or latents. To be said before the first run, whose compiled program differs by it; its results by rounding alone.
    """
    restoration._listeners.show = True
    return restoration
