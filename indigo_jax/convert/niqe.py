"""The parameters of NIQE in the official program's file as the arrays that :func:`metrics.load_niqe` reads."""
import pathlib

import numpy as np

from indigo_jax import metrics
from indigo_jax.convert import checkpoint


def read_niqe(source) -> dict[str, np.ndarray]:
    """``mean [36]`` and ``cov [36, 36]`` in float64.

    Args:
        source: the official ``modelparameters.mat`` (``mu_prisparam``, ``cov_prisparam``), or an ``.npz`` with these
            arrays, with ``mu_pris_param`` and ``cov_pris_param``, or with our own names.

    Errors:
        ValueError for a source that is not there, or not such parameters.
    """
    path = pathlib.Path(source)
    if path.suffix == ".mat":
        arrays = _read_mat(path)
    else:
        arrays = {name: np.asarray(value) for name, value in checkpoint.read(path).tensors.items()}
    mean, cov = metrics.niqe_parameters(arrays, str(path))
    return {"mean": mean, "cov": cov}


def _read_mat(path):
    from scipy import io
    try:
        with open(path, "rb") as stream:
            found = io.loadmat(stream)
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; check the path") from None
    except Exception as error:  # a broken file fails in many ways
        raise ValueError(f"{path}: not a .mat file of MATLAB up to version 7 ({error})") from error
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
