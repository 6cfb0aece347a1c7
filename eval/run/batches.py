"""Pictures of any size and number through one fixed program per canvas: grouped, filled up, split over the devices.

A picture is continued by reflection up to the canvas of its method's plan (few sizes), degraded there,
cut to its size, continued again and restored: what lies outside tells the method nothing new. Every device runs the
same program on the same number of pictures whatever the number of devices, and each for itself. So what comes out for
a picture depends on the picture, its id and that number alone; on CPUs only after :func:`sharding.fix_threads`.
"""
import functools
import math
from typing import Iterable, Iterator, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval.problems import from_uint8, to_uint8
from indigo_jax import rng, sharding, tiles
from indigo_jax.methods import Restoration

_AREA = 512**2  # pixels of a tile, up to which a device takes the whole batch
_DEGRADE, _SAMPLE = 0, 1  # what a picture's key is folded with


class Job(NamedTuple):
    """One picture to do.

    Attributes:
        name: within its data set; its key comes from it.
        digest: of its pixels.
        truth: uint8 ``[H, W, 3]``.
        given: the picture to degrade, or with paired data the measurement; of the same shape.
    """

    name: str
    digest: str
    truth: np.ndarray
    given: np.ndarray


class Restored(NamedTuple):
    """A picture under each of D degradations: inputs, and restorations or the mean of several, uint8
    ``[D, H, W, 3]``; no NaN: bool ``[D]``; the several ones themselves uint8 ``[D, K, H, W, 3]``, or None of one."""

    job: Job
    y: np.ndarray
    x: np.ndarray
    finite: np.ndarray
    samples: np.ndarray | None = None


def restored(jobs: Iterable[Job], method: Restoration, degradations: tuple, *, mesh: jax.sharding.Mesh, batch: int,
             seed: int = 0, samples: int = 1) -> Iterator[Restored]:
    """Degrade and restore every picture.

    Args:
        jobs: read lazily; as many are held as canvases have batches that are not full.
        method: that restores; what its pictures lack of knowledge is estimated.
        degradations: of type :class:`eval.problems.Degradation`.
        mesh: this process's devices.
        batch: pictures per device, of up to 512 x 512.
        seed: of all keys.
        samples: restorations of each picture; the keys of all but the first are folded with their number.

    Yields:
        :class:`Restored`, out of order.

    Errors:
        ValueError for a degradation that changes the size.
    """
    params, running = jax.device_put(method.params, sharding.replicated(mesh)), None
    for layout, group in _groups(jobs, method, mesh, batch):
        following = group, _start(params, method, degradations, group, layout, mesh, batch, seed, samples)
        yield from _finish(running)
        running = following
    yield from _finish(running)


def _groups(jobs, method, mesh, batch):
    """``(layout, jobs)``: as many as the devices take at a time, or at the end fewer."""
    waiting = {}
    for job in jobs:
        layout = method.plan(*job.given.shape[:2])
        waiting.setdefault(layout, []).append(job)
        if len(waiting[layout]) == _rows(layout, batch) * mesh.size:
            yield layout, waiting.pop(layout)
    yield from waiting.items()


def _rows(layout, batch):
    """Pictures per device."""
    return max(1, batch * _AREA // max(_AREA, math.prod(layout.tile)))


def _start(params, method, degradations, group, layout, mesh, batch, seed, samples):
    """Send a group of at most the whole number to the devices, the last picture repeated; does not wait."""
    rows = [_placed(job, layout) for job in group]
    arrays, _ = sharding.pad_batch({name: np.stack([row[name] for row in rows]) for name in rows[0]},
                                   _rows(layout, batch) * mesh.size)
    return program(method, degradations, seed, layout, mesh, samples)(params, sharding.put_batch(arrays, mesh))


def _finish(running):
    """The pictures of a group, without what it was filled up with, each of its own size."""
    if running is not None:
        group, outputs = running
        y, x, finite, *drawn = (np.asarray(output) for output in outputs)
        for i, job in enumerate(group):
            height, width = job.given.shape[:2]
            yield Restored(job, y[i, :, :height, :width], x[i, :, :height, :width], finite[i],
                           *(each[i, :, :, :height, :width] for each in drawn))


def _placed(job, layout):
    """A picture on its canvas, and which of its rows and columns the canvas repeats."""
    rows, columns = (np.pad(np.arange(size, dtype=np.int32), (0, canvas - size), "reflect")
                     for size, canvas in zip(job.given.shape[:2], layout.canvas))
    return {"pixels": job.given[rows][:, columns], "rows": rows, "columns": columns,
            "id": np.asarray(rng.name_id(job.name), np.uint32)}


@functools.lru_cache(maxsize=64)
def program(method: Restoration, degradations: tuple, seed: int, layout: tiles.Plan, mesh: jax.sharding.Mesh,
            samples: int = 1):
    """The one program of a canvas: ``(params, batch) -> (y, x, finite)`` ``[B, D, ...]``, of several samples also all
    of them ``[B, D, K, ...]``."""
    known = method.given(np.zeros((*layout.canvas, 3), np.float32), lambda array, **_: jnp.asarray(array)[None])

    def for_one_device(params, batch):
        x = from_uint8(batch["pixels"])
        keys = rng.image_keys(seed, batch["id"])
        own = [each.keys(keys) for each in degradations]
        inputs = [_degraded(each, x, rng.fold(key, _DEGRADE)) for each, key in zip(degradations, own)]
        continued = jax.vmap(lambda y, rows, columns: y[:, rows][:, :, columns], in_axes=(1, 0, 0), out_axes=1)
        y = continued(jnp.stack(inputs), batch["rows"], batch["columns"])  # in the upper left corner, then reflected

        def restore_one(arguments):
            y, keys = arguments
            y = from_uint8(y)

            def draw(keys):
                return method.solve(params, y, keys, plan=layout, given={**known, **method.estimated(y)}).x

            if samples == 1:
                x = draw(keys)
                return to_uint8(x), jnp.isfinite(x).all(axis=(1, 2, 3))
            x = jax.lax.map(draw, jnp.stack([keys, *(rng.fold(keys, k) for k in range(1, samples))]))
            finite = jnp.isfinite(x).all(axis=(0, 2, 3, 4))
            return to_uint8(x.mean(axis=0)), finite, jnp.moveaxis(to_uint8(x), 0, 1)

        found = jax.lax.map(restore_one, (y, jnp.stack([rng.fold(key, _SAMPLE) for key in own])))
        return tuple(jnp.moveaxis(output, 0, 1) for output in (y, *found))

    return sharding.same_program(for_one_device, mesh)


def _degraded(degradation, x, keys):
    y = degradation.make(keys)(x, keys=keys)
    if y.shape != x.shape:
        raise ValueError(f"the degradation {degradation.task} makes {list(y.shape[1:3])} of a picture of "
                         f"{list(x.shape[1:3])}; use one that keeps the size, as random_super_resolution")
    return to_uint8(y)
