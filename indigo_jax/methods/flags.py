"""The settings of a method as flags: help, range, choices and tasks of a field are said once, at the field."""
import dataclasses
import math
from typing import Any, NamedTuple

from indigo_jax.spelling import near


class Flag(NamedTuple):
    """What is known of a field of a method's ``Settings``.

    Attributes:
        help: one sentence; what the default means where it is None.
        low, high: limits of a number.
        choices: of a name.
        tasks: for which the field means something; () for all.
        metavar: how its value is shown.
        file: what its value is read from: "weights", "mask", "kernel", "angles" or "grid"; "" where it is said itself.
    """

    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    metavar: str | None = None
    file: str = ""


def flag(default: Any, help: str, **known) -> Any:
    """A field of a ``Settings`` with its default and all that :class:`Flag` has."""
    return dataclasses.field(default=default, metadata={"flag": Flag(help, **known)})


def flags_of(settings) -> dict[str, tuple[dataclasses.Field, Flag]]:
    """The flags of a ``Settings``, class or instance, by name."""
    return {field.name: (field, field.metadata["flag"]) for field in dataclasses.fields(settings)
            if "flag" in field.metadata}


def check_values(settings, task: str) -> None:
    """Refuse values out of range, unknown names, and what is for other tasks: ValueError with the field's name."""
    for name, (field, known) in flags_of(settings).items():
        value = getattr(settings, name)
        if value is None or (field.default is not None and value == field.default):
            continue
        if known.tasks and task not in known.tasks:
            raise ValueError(f"{name} is for {' and '.join(known.tasks)}, not for {task}; leave it out")
        if known.choices and isinstance(value, str) and value not in known.choices:
            raise ValueError(f"{name} must be one of {', '.join(known.choices)}; got {value!r}"
                             f"{near(value, known.choices)}")
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not known.low <= value <= known.high:
            raise ValueError(f"{name} must be {limits(known)}, got {value}")


def limits(known: Flag) -> str:
    """``"from 1 to 8"``, or ``"at least 1"``."""
    return f"from {known.low:g} to {known.high:g}" if math.isfinite(known.high) else f"at least {known.low:g}"
