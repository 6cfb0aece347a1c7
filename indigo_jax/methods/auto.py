"""``--method auto``: which method measured best for what is wrong with a picture and what is known of it."""
from typing import NamedTuple


class Choice(NamedTuple):
    """The method that is taken, and why: the end of a sentence."""

    method: str
    why: str


_CHOICES = {  # task: what measured best on pictures that nothing was tuned on; see docs/results.md
    "auto": Choice("look", "it looks for noise and what JPEG has left; for blur or too few pixels say --task"),
    "denoise": Choice("once", "one call at the noise level has the least error"),
    "sr": Choice("hqs", "a denoiser held to what shrinking leaves errs least; --method indi is quick"),
    "jpeg": Choice("jpeg", "it holds to what the file's rounding allows"),
    "inpaint": Choice("hqs", "it fills holes with the least error"),
    "nonuniform": Choice("indi", "it looks at each place alone; --method bird looks for a grid of kernels"),
    "ct": Choice("diffpir", "it had the least error on phantoms")}
_KNOWN_BLUR = Choice("hqs", "the kernel is known")
_UNKNOWN_BLUR = Choice("blind", "it looks for the kernel; --method indi is quick and modest")


def choose(task: str, flags=(), owners=None) -> Choice:
    """The method for a task and for what is given.

    Args:
        task: of :data:`indigo_jax.methods.TASKS`.
        flags: names of the settings that are given.
        owners: ``{method: names of its settings}`` of those that may be taken: one that lacks a given one is not.

    Errors:
        ValueError where no method takes all that is given.

    >>> choose("deblur", ["kernel"]).method, choose("jpeg").method
    ('hqs', 'jpeg')
    """
    first = _CHOICES.get(task) or (_KNOWN_BLUR if "kernel" in flags else _UNKNOWN_BLUR)
    if owners is None or first.method in owners and set(flags) <= owners[first.method]:
        return first
    for method, names in owners.items():
        if set(flags) <= names:
            return Choice(method, f"it is the first that takes {' and '.join(f'--{name}' for name in sorted(flags))}"
                          .replace("_", "-"))
    raise ValueError(f"no method takes all of {', '.join(f'--{name}' for name in sorted(flags))}".replace("_", "-"))
