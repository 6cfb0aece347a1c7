"""Run an exported program. Needs jax, numpy and flatbuffers, nothing else; stands beside every program as load.py.

    run = load("FOLDER"); outputs = run(*inputs)          # about.json says which
    python FOLDER/load.py INPUT.npy [INPUT.npy ...] OUTPUT.npy

A program is code: run those that you have made or trust.
"""
import hashlib
import json
import pathlib
import sys

import jax
import numpy as np
from jax import export as jax_export


def load(folder):
    """The program of a folder as a function of its inputs; keys ``[B]`` may also be given as their uint32 data.

    Errors:
        ValueError for a folder without a program, or files that are not those that were written.
    """
    folder, files = pathlib.Path(folder), {}
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        for name, sha256 in about["sha256"].items():
            files[name] = (folder / name).read_bytes()
            if hashlib.sha256(files[name]).hexdigest() != sha256:
                raise ValueError(f"{folder / name} is damaged or changed: export it again")
    except (OSError, KeyError) as error:
        raise ValueError(f"{folder} holds no exported program ({error})") from error
    program = jax_export.deserialize(bytearray(files["program.bin"]))
    with np.load(folder / "weights.npz", allow_pickle=False) as file:
        weights = jax.device_put(dict(file))
    call = jax.jit(program.call)

    def plain(x):
        is_key = isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if is_key else x

    def run(*inputs):
        return call(weights, *map(plain, inputs))

    run.about = about
    return run


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    *sources, target = sys.argv[1:]
    np.save(target, load(pathlib.Path(__file__).parent)(*(np.load(name, allow_pickle=False) for name in sources)))
