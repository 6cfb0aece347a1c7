"""Tiles leave no seams: the step across their borders is not above that elsewhere; and what is exact is exact."""
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import skimage.data

from indigo_jax import images, methods, operators, tiles
from indigo_jax.methods import METHODS, base, pieces
from indigo_jax.methods.hqs import Hqs
from indigo_jax.methods.indigo import Indigo
from indigo_jax.methods.known import KnownOperator
from tests import guided_networks, networks
from tests.test_methods import ROWS, from_file


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return {**guided_networks.write_all(folder), "restorer": networks.write_weights(folder / "restorer.safetensors"),
            "denoiser": networks.write_denoiser(folder / "denoiser.safetensors")}


def ramp(height, width):
    """A smooth picture: grey values that rise to the right and downwards."""
    rows, columns = np.mgrid[:height, :width]
    return np.repeat((0.8 * rows / height + 0.8 * columns / width - 0.8)[..., None], 3, axis=2).astype(np.float32)


def photograph(height, width):
    x = skimage.data.astronaut()[:height, :width].astype(np.float32) / 127.5 - 1
    return np.clip(x + 0.1 * np.random.default_rng(0).standard_normal(x.shape).astype(np.float32), -1, 1)


def borders(plan: tiles.Plan, axis: int, scale: int = 1) -> set[int]:
    """Places at which one tile begins to take part, or another ends to, along an axis."""
    side, tile = plan.canvas[axis], plan.tile[axis]
    margin = plan.overlap // 4 if plan.margin is None else plan.margin
    starts = tiles.starts(side, tile, plan.overlap)
    return {place for start in starts[1:] for place in (start + margin, start + plan.overlap - margin)} | {
        place for start in starts[:-1] for place in (start + tile - margin, start + tile - plan.overlap + margin)}


def steps(x: np.ndarray, plan: tiles.Plan, *, cut: int = 0) -> tuple[float, float]:
    """Mean absolute difference of neighbouring rows and columns: the largest at borders of tiles, and elsewhere.

    The pictures ``[..., H, W, C]`` begin ``cut`` pixels from the top left of the plan's canvas, and may end before it.
    """
    at, elsewhere, x = [], [], x.reshape(-1, *x.shape[-3:])
    for axis in (0, 1):
        found = np.abs(np.diff(x, axis=1 + axis)).mean(axis=(0, 2 - axis, 3))
        places = {place - cut for place in borders(plan, axis)}
        assert places & set(range(1, len(found) + 1)), "no border of a tile lies in the picture"
        near = {place + shift for place in places for shift in (-1, 0, 1)}
        for i, value in enumerate(found):
            (at if i + 1 in places else elsewhere if i + 1 not in near else []).append(value)
    return max(at), max(elsewhere)


def tiled(name, files, **changes):
    """The method of a row in the table of all methods, with tiles as small as they come."""
    given = {**ROWS[name], **changes}
    task, scale = given.pop("task"), given.pop("scale", None)
    method = methods.load(name, task=task, scale=scale,
                          **{key: from_file(files, value) for key, value in given.items()})
    method.largest = 64
    if name == "look":
        method.jpeg.largest = 64
    return method


@pytest.mark.parametrize("name", METHODS)
def test_a_ramp_has_no_seams(name, files):
    method = tiled(name, files)
    any_size = method.takes_any_size
    height, width = (200, 280) if any_size else (24, 40)
    y = ramp(height // method.scale, width // method.scale)
    plan = method.plan(*(side + 2 * method.margin() for side in (height, width)))
    assert plan.count > 1, "a picture in one piece shows nothing"
    seeds = range(24) if name == "bird" else range(1)  # its results are noise where its network is
    found = [method(images.Picture(y, grey=False), seed=seed) for seed in seeds]
    at, elsewhere = steps(np.stack([x.pixels for x, _ in found]), found[0][1].plan, cut=method.margin())
    assert at <= 1.05 * elsewhere, (at, elsewhere)


def test_a_seam_is_seen():
    """The measure itself: tiles that are not blended leave steps in what looks beyond their borders."""
    def mean_of_tile(x):
        return x - 0.2 * jnp.mean(x, axis=(1, 2), keepdims=True)

    x, plan = ramp(96, 160)[None], tiles.Plan((96, 160), (64, 64), 16)
    smooth = np.asarray(tiles.by_plan(mean_of_tile, plan)(jnp.asarray(x)))[0]
    at, elsewhere = steps(smooth, plan)
    assert at < 1.05 * elsewhere
    hard = np.asarray(tiles.by_plan(mean_of_tile, plan._replace(margin=8))(jnp.asarray(x)))[0]
    at, elsewhere = steps(hard, plan._replace(margin=8))
    assert at > 3 * elsewhere


# ---------------------------------------------------------------- exact tiles

@pytest.mark.parametrize("tile", [64, 192, 256])
def test_a_network_of_finite_reach_gives_the_same_in_tiles_of_any_size(tile, files):
    network = base.open_network(files["denoiser"], "prior")
    x, sigma = jnp.asarray(photograph(320, 320))[None], jnp.full(1, 0.1)
    layout = base.plan_of(network, 320, 320, tile=tile)
    assert layout.count > 1 or tile == 256

    def denoise(x):
        return network.module.apply(network.params, x, sigma)

    np.testing.assert_allclose(tiles.by_plan(denoise, layout)(x), denoise(x), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("tile", [64, 384, 448, 512])
def test_photo_in_tiles_is_photo_of_the_whole(tile):
    network = base.open_network("photo", "prior")
    x, sigma = jnp.asarray(photograph(512, 512))[None], jnp.full(1, 0.1)
    layout = base.plan_of(network, 512, 512, tile=tile)
    assert layout.count > 1 or tile == 512

    def denoise(x):
        return network.module.apply(network.params, x, sigma)

    np.testing.assert_allclose(tiles.by_plan(denoise, layout)(x), denoise(x), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name, settings", [("once", {}), ("indi", {"tile": 128}), ("indi", {"tile": 128, "steps": 3}),
                                            ("hqs", {})])
def test_the_bundled_networks_leave_no_seams_on_a_photograph(name, settings):
    method = methods.load(name, task="denoise", **settings)
    method.largest = None if "tile" in settings else 384
    y = photograph(512, 512)
    x, report = method(images.Picture(y))
    assert report.plan.count > 1
    at, elsewhere = steps(x.pixels, report.plan)
    assert at <= elsewhere


BLENDED = [name for name, kind in METHODS.items()
           if issubclass(kind, (KnownOperator, Indigo)) and not issubclass(kind, Hqs)]


@pytest.mark.slow
@pytest.mark.parametrize("name", BLENDED)
def test_blended_tiles_leave_no_seams_on_a_photograph(name):
    """With the bundled networks of one size: what a result errs by has no larger steps at borders of tiles than
    elsewhere. The other methods' tiles are exact, see below."""
    given = {key: value for key, value in ROWS[name].items() if not str(value).startswith("@")}
    task, scale = given.pop("task"), given.pop("scale", None)
    given |= {"steps": 8} if "steps" in given else {}
    given |= {} if issubclass(METHODS[name], Indigo) else {"weights": "faces64"}
    method = methods.load(name, task=task, scale=scale, **given)
    height, width = (192, 256) if name == "latent-indigo" else (96, 128)
    x = skimage.data.astronaut()[:height, 150:150 + width].astype(np.float32) / 127.5 - 1
    y = np.clip(x + 0.1 * np.random.default_rng(0).standard_normal(x.shape).astype(np.float32), -1, 1)
    if method.scale > 1:
        y = np.asarray(operators.average_pool(method.scale)(jnp.asarray(x[None])))[0]
    found, report = method(images.Picture(y))
    assert report.plan.count > 1, "a picture in one piece shows nothing"
    at, elsewhere = steps(found.pixels - x, report.plan)
    assert at <= 1.05 * elsewhere, (at, elsewhere)


# ---------------------------------------------------------------- piece by piece

def test_a_large_picture_piece_by_piece_is_that_of_the_whole(files, monkeypatch):
    method = methods.load("once", task="denoise", weights=files["denoiser"], sigma_255=20.0, copies=1)
    y = images.Picture(photograph(320, 448))
    whole, one = method(y)
    monkeypatch.setattr(pieces, "LARGE", 1)
    monkeypatch.setattr(pieces, "_TILE", 192)
    found, report = method(y)
    np.testing.assert_allclose(found.pixels, whole.pixels, atol=1e-5)
    assert report.plan.count == 12 == report.evaluations == method.expected(y)[0] and report.plan.tile == (192, 192)
    assert report.residual == pytest.approx(one.residual, rel=1e-5) and report.sigma == pytest.approx(one.sigma)


def test_pieces_of_odd_sizes_reach_every_pixel():
    plan = pieces.layout(1001, 777, reach=36, tile=192)
    seen = np.zeros((1001, 777, 3), np.float32)
    found, changed = pieces.restored(lambda piece: piece + 0.5, seen, plan)
    assert (found == 0.5).all() and changed == pytest.approx(0.5)
    rows, columns = pieces.starts(plan)
    assert all(start % 4 == 0 for start in rows + columns) and rows[-1] + 192 >= 1001


def test_the_level_of_a_large_picture_is_found_in_parts_of_it(files, monkeypatch):
    method = methods.load("once", task="denoise", weights=files["denoiser"])
    x = ramp(400, 400) + 0.1 * np.random.default_rng(0).standard_normal((400, 400, 3)).astype(np.float32)
    assert pieces.sample(x).shape == (400, 400, 3) and pieces.sample(x[:, :200]).shape == (400, 200, 3)
    monkeypatch.setattr(pieces, "_BLOCK", 64)
    assert pieces.sample(x).shape == (256, 256, 3)
    monkeypatch.setattr(pieces, "LARGE", 1)
    _, report = method(images.Picture(x))
    assert report.sigma == pytest.approx(0.1, rel=0.1)
    assert report.evaluations == method.expected(images.Picture(x))[0]


def peak_memory(path, *flags):
    """Bytes that ``indigo restore`` holds at the most; the result lies beside the picture, as out.tif."""
    run = subprocess.run([sys.executable, "-c", "import resource, sys; from indigo_jax import cli; code = cli.main("
                          "sys.argv[1:]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)",
                          "restore", str(path), "-o", str(path.with_name("out.tif")), "--yes", *flags],
                         capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return 1024 * int(run.stdout.split()[-1])


def noisy_tile(side):
    x = skimage.data.astronaut()[:side, :side]
    return np.clip(x + np.random.default_rng(0).normal(0, 12, x.shape), 0, 255).astype(np.uint8)


@pytest.mark.slow
def test_peak_memory_does_not_grow_with_copies_of_the_picture(tmp_path):
    """24 and 48 megapixels: a pixel more costs at most 32 bytes, those of the picture, of its result, and 8 more."""
    peaks = {}
    for rows in (8, 16):
        x = np.tile(noisy_tile(500), (rows, 12, 1))
        images.write(tmp_path / "in.tif", x)
        peaks[x.shape[0] * x.shape[1]] = peak_memory(tmp_path / "in.tif", "--task", "denoise")
    (small, first), (large, second) = peaks.items()
    assert (second - first) / (large - small) < 32


@pytest.mark.slow
def test_a_hundred_megapixels_pass_in_four_gigabytes(tmp_path):
    images.write(tmp_path / "in.tif", np.tile(noisy_tile(500), (20, 20, 1)))
    assert peak_memory(tmp_path / "in.tif") < 4e9  # nothing said: it looks, and finds noise
    found = images.read_rgb8(tmp_path / "out.tif")
    assert found.shape == (10_000, 10_000, 3)
    middle = found[4000:4500, 4000:4500].astype(float)  # a whole tile
    clean = skimage.data.astronaut()[:500, :500]
    assert np.abs(middle - clean).mean() < 0.6 * np.abs(noisy_tile(500) - clean.astype(float)).mean()
