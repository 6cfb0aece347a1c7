"""Averages of parameters in a table of names and arrays, told from the others by a word of their names."""
import re
from typing import Any

# names of the averaged parameters and of the others in files of training runs, the usual first
AVERAGED = ("ema", "model_ema", "params_ema", "ema_state_dict", "state_dict_ema", "model_ema_state_dict", "ema_model",
            "ema_params", "g_ema", "G_ema", "netG_ema", "net_ema", "unet_ema", "ema_net", "ema_denoiser", "shadow")
OTHERS = ("model", "state_dict", "params", "model_state_dict", "module", "net", "network", "unet", "denoiser",
          "generator", "netG", "G", "weights", "teacher", "online_model")
_WRAPPERS = {*OTHERS, "_orig_mod", "denoise_fn", "diffusion", "diffusion_model", "online"}
_MARKS = {*AVERAGED, *(mark for name in _WRAPPERS for mark in (f"ema_{name}", f"{name}_ema"))}


def apart(flat: dict[str, Any]) -> tuple[tuple[str, dict] | None, tuple[str, dict] | None]:
    """``(average, other)``, each ``(where, {name: array})`` or None.

    The averages take the names of the others: ``ema_model.a.weight`` that of ``model.a.weight``. What is not averaged
    (an autoencoder, a text encoder) is in both. Averages with none beside them lose their mark.

    Args:
        flat: ``{name: array}``, the arrays with a shape and a number of axes, ``ndim``.
    """
    marked = {mark: values for mark, values in _marked(flat).items() if any(value.ndim for value in values.values())}
    rest = {name: value for name, value in flat.items() if not name.startswith(tuple(marked))}
    pairs = {mark: pair for mark, values in marked.items() if (pair := _beside(mark, values, rest))}
    if pairs:
        other = {name: value for name, value in flat.items() if not name.startswith(tuple(pairs))}
        average = dict(other)
        for mark, (names, name_of) in pairs.items():
            average |= {names.get(name) or name_of(name): value for name, value in marked[mark].items()}
        return (_listed(pairs), average), (_listed(name_of("") for _, name_of in pairs.values()), other)
    alone = {mark: values for mark, values in marked.items() if {*mark.split(".")[:-2]} <= _WRAPPERS
             and any("." in name for name in values)}  # latent diffusion's, without dots, are of no use alone
    if alone:
        return (_listed(alone), {_scopes(mark[:-1])[-1] + name: value for mark, values in alone.items()
                                 for name, value in values.items()}), None
    return None, ("", flat) if any(value.ndim for value in flat.values()) else None


def _marked(flat):
    """``{"ema_model.": {name behind it: array}}``."""
    found = {}
    for name, value in flat.items():
        scopes = name.split(".")[:-1]
        place = next((place for place, word in enumerate(scopes) if word in _MARKS), None)
        if place is not None:
            mark = ".".join(scopes[:place + 1]) + "."
            found.setdefault(mark, {})[name.removeprefix(mark)] = value
    return found


def _beside(mark, averaged, rest):
    """Where the parameters are of which these are averages, or None: ``({averaged name: name in rest}, name_of)``.

    The names behind a wrapper of the averages are those behind some place in the rest; ``name_of`` puts any there.
    Latent diffusion's averages have lost their dots.
    """
    words = {re.sub("^ema_|_ema$", "", word) for word in mark.split(".")}
    arrays = {name: value for name, value in averaged.items() if value.ndim}
    squeezed = str if any("." in name for name in arrays) else lambda name: name.replace(".", "")
    best = 0, None
    for probe in list(arrays)[:3]:
        tried = {(wrapper, place) for wrapper in _scopes(probe) for name, value in rest.items()
                 if value.shape == arrays[probe].shape for place in _scopes(name)
                 if squeezed(name.removeprefix(place)) == probe.removeprefix(wrapper)}
        for wrapper, place in sorted(tried, key=lambda pair: (
                len(pair[0]), -len(words.intersection(pair[1].split("."))), len(pair[1]), pair)):
            inside = {wrapper + squeezed(name.removeprefix(place)): name for name in rest if name.startswith(place)}
            names = {name: inside[name] for name, value in averaged.items()
                     if name in inside and rest[inside[name]].shape == value.shape}
            count = sum(name in arrays for name in names)
            if 2 * count > len(arrays) and count > best[0]:
                best = count, (names, lambda name, wrapper=wrapper, place=place: place + name.removeprefix(wrapper))
            if count == len(arrays):
                return best[1]
    return best[1]


def _scopes(name):
    """All that may stand before a name: ``""``, ``"a."``, ``"a.b."`` of ``a.b.weight``."""
    words = name.split(".")
    return [".".join([*words[:count], ""]) for count in range(len(words))]


def _listed(scopes):
    return ", ".join(sorted({scope.rstrip(".") for scope in scopes}))
