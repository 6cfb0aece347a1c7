"""INDIGO+'s encoder of degradations, of KDSR's checkpoints, as parameters of :class:`models.DegradationEncoder`."""
import re

import numpy as np

from indigo_jax import models
from indigo_jax.convert import strict
from indigo_jax.typing import Params

SIGNATURE = ("E.0.weight", "mlp.0.weight", "compress.0.weight")


def kdsr(state_dict: dict[str, np.ndarray]) -> Params:
    """Parameters for ``models.DegradationEncoder(**kdsr_arguments(state_dict))``.

    Args:
        state_dict: ``{torch parameter name: numpy array}``: ``E.0...``, ``mlp.0...``, ``compress.0...``, without the
            ``E_st.`` that stands before them in a whole checkpoint.

    Returns:
        The linen variables dict, in float32.

    Errors:
        ValueError unless every array is used once and every parameter is found, with its shape.

    Source: the student encoder of Xia et al., Knowledge distillation based degradation estimation for blind
    super-resolution, ICLR 2023 (arXiv 2211.16928).
    """
    arguments = kdsr_arguments(state_dict)
    blocks = arguments["num_blocks"]
    last = {2 + blocks + 2 * i: f"conv_{i}" for i in range(3)}
    scopes = [(r"E\.0$", "conv_in"), (r"mlp\.0$", "dense_0"), (r"mlp\.2$", "dense_1"), (r"compress\.0$", "dense_out"),
              *((rf"E\.{2 + i}\.body\.0$", f"block_{i}_conv1") for i in range(blocks)),
              *((rf"E\.{2 + i}\.body\.2$", f"block_{i}_conv2") for i in range(blocks)),
              *((rf"E\.{place}$", ours) for place, ours in last.items())]
    params = strict.from_torch(state_dict, tuple(scopes))
    return strict.check(params, models.DegradationEncoder(**arguments), inputs=((1, 8, 8, 3),), source="the encoder")


def kdsr_arguments(state_dict: dict[str, np.ndarray]) -> dict:
    """The constructor arguments of :class:`models.DegradationEncoder` that names and shapes tell.

    Errors:
        ValueError if it is no such checkpoint.
    """
    shapes = {name: np.shape(value) for name, value in state_dict.items()}
    first, out = shapes.get("E.0.weight", ()), shapes.get("compress.0.weight", ())
    blocks = {int(match[1]) for name in shapes if (match := re.match(r"E\.(\d+)\.body\.", name))}
    if len(first) != 4 or len(out) != 2 or not blocks:
        raise ValueError("not KDSR's encoder of degradations: no E.0.weight, E.2.body.0.weight and compress.0.weight "
                         f"among its {len(shapes)} names")
    return {"channels": first[0], "num_blocks": len(blocks), "embedding": out[0]}
