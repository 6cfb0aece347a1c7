"""What every converter shares: nested trees, and the check against the network itself."""
import jax
import jax.numpy as jnp
import numpy as np


def nest(tensors: dict[str, np.ndarray]) -> dict:
    """``{"a/b": array}`` as ``{"params": {"a": {"b": array}}}``, in float32."""
    tree = {}
    for name, value in tensors.items():
        *folders, leaf = name.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[leaf] = np.asarray(value, np.float32)
    return {"params": tree}


def check(params: dict, module, *, size: int, source: str) -> dict:
    """``params`` if they are exactly those of ``module``: same names, same shapes.

    Errors:
        ValueError that names what is missing, unknown or of another shape.
    """
    x, t = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.float32)
    wanted = _shapes(jax.eval_shape(module.init, jax.random.key(0), x, t))
    given = _shapes(params)
    for kind, names in (("lacks", wanted.keys() - given.keys()), ("has unknown", given.keys() - wanted.keys())):
        if names:
            raise ValueError(f"{source} {kind} {', '.join(sorted(names)[:4])} ({len(names)} in all) for "
                             f"{type(module).__name__}")
    for name, shape in wanted.items():
        if given[name] != shape:
            raise ValueError(f"{source}: {name} has the shape {given[name]}, {type(module).__name__} needs {shape}")
    return params


def _shapes(tree):
    return {"/".join(str(key.key) for key in path[1:]): tuple(leaf.shape)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
