"""What an invertible network says of a picture and a measurement, image by image; and how it learns from one image."""
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, cast

import jax
import jax.numpy as jnp

from indigo_jax.arrays import mean_square, norm, rms
from indigo_jax.restoration.operator_inn import operator_inn
from indigo_jax.typing import Array, InvertibleNetwork, Operator, Params

if TYPE_CHECKING:
    import optax  # takes a moment to import, and most methods do without it


class InnEnergy(NamedTuple):
    """Functions of :func:`inn_energy`; ``params`` and ``opt_state`` are those of ``start``, ``u`` is ``[B, H, W, C]``.

    Attributes:
        start: ``start(num_images) -> (params, opt_state)``.
        energy: ``energy(params, u) -> (energies [B], residuals [B])``.
        swapped: ``swapped(params, u) -> g^-1(y, d)``, the picture with the measurement as its coarse part.
        residual: ``residual(params, u) -> [B]``, the root mean square of ``y - c``.
        refine: ``refine(params, opt_state, u, active) -> (params, opt_state)``: one step down ``mean (y - c)^2``,
            or none where the boolean ``active`` is false.
    """

    start: Callable
    energy: Callable
    swapped: Callable
    residual: Callable
    refine: Callable


def inn_energy(inn: InvertibleNetwork | Operator, measured: Array, *, cond: Array | None = None,
               weights: tuple[float, float] = (2.5, 1.0), distance: Callable[[Array, Array], Array] | None = None,
               optimizer: "optax.GradientTransformation | None" = None) -> InnEnergy:
    """``E(u) = w_1 |y - c| + w_2 distance(v, u)`` with ``(c, d) = g(u)``, ``v = g^-1(y, d)``.

    Args:
        inn: g; with an optimizer each image has parameters of its own, all leaves ``[B, ...]``. An operator is taken
            as :func:`operator_inn` has it.
        measured: y in the units of the network ``[B, h, w, C]``.
        cond: conditions ``[B, D]``.
        weights: ``(w_1, w_2)``.
        distance: ``[B, H, W, C] x 2 -> [B]``; the norm ``|v - u|`` where None.
        optimizer: for ``refine``.

    Errors:
        ValueError for an optimizer where there is nothing to learn; from the functions, for coarse pictures of another
        size than y, or distances that are not one per image.
    """
    network = cast(InvertibleNetwork, inn if hasattr(inn, "inverse") else operator_inn(cast(Operator, inn)))
    if optimizer is not None and not jax.tree.leaves(network.params):
        raise ValueError("refine changes the parameters of an invertible network, and this one has none: leave it out")

    def call(function, params, *arguments):
        if optimizer is None:
            return function(params, *arguments, cond)

        def one(params, arguments, cond):
            arguments, cond = jax.tree.map(lambda a: a[None], (arguments, cond))
            return jax.tree.map(lambda a: a[0], function(params, *arguments, cond))

        return jax.vmap(one)(params, arguments, cond)

    def forward(params, u):
        coarse, details = call(network.forward, params, u)
        if coarse.shape != measured.shape:
            raise ValueError(f"the network's coarse pictures are {coarse.shape[1:]}, the measurements "
                             f"{measured.shape[1:]}: it was made for another scale, or the start has another size")
        return coarse, details

    def start(num_images: int) -> tuple[Params, Any]:
        if optimizer is None:
            return network.params, None
        params = jax.tree.map(lambda a: jnp.broadcast_to(a, (num_images, *a.shape)), network.params)
        with jax.numpy_dtype_promotion("standard"):
            return params, optimizer.init(params)

    def energy(params, u):
        coarse, details = forward(params, u)
        total = weights[0] * norm(measured - coarse)
        if weights[1]:
            other = call(network.inverse, params, measured, details)
            distances = norm(other - u) if distance is None else distance(other, u)
            if distances.shape != total.shape:
                raise ValueError(f"distance must give one number per image [{u.shape[0]}], got {distances.shape}")
            total = total + weights[1] * distances
        return total, rms(measured - coarse)

    def swapped(params, u):
        return call(network.inverse, params, measured, forward(params, u)[1])

    def residual(params, u):
        return rms(measured - forward(params, u)[0])

    def refine(params, opt_state, u, active):
        import optax
        grads = jax.grad(lambda params: jnp.sum(mean_square(measured - forward(params, u)[0])))(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, refined = optimizer.update(grads, opt_state, params)
        return jax.tree.map(lambda a, b: jnp.where(active, a, b), (optax.apply_updates(params, updates), refined),
                            (params, opt_state))

    return InnEnergy(start, energy, swapped, residual, refine)
