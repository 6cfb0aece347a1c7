"""The page of failure cases names tests that exist; and those of its cases that no other file has."""
import ast
import functools
import pathlib
import re
import struct
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

from indigo_jax import denoisers, guidance, images, methods, operators, restoration, rng, schedules
from indigo_jax.cli import commands
from tests import fake_method, test_cli_jobs as jobs
from tests.paths import ROOT
from tests.test_cli import photo, tree
from tests.test_images import chunk

elsewhere, restore = jobs.elsewhere, jobs.restore  # fixtures
PAGE = (ROOT / "docs" / "failure_cases.md").read_text(encoding="utf-8")
TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and "| case" not in line]


@functools.cache
def names_in(name):
    tree = ast.parse((ROOT / "tests" / name).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_case_has_a_test_that_exists_or_a_reason():
    numbers = [int(row.split("|")[1]) for row in ROWS if row.split("|")[1].strip().isdigit()]
    assert numbers == list(range(1, 51)) and len(ROWS) >= 66
    for row in ROWS:
        found = TEST.findall(row)
        assert found or "does not apply" in row, row
        for file, test in found:
            assert test in names_in(file), f"{file}::{test}"


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_flat_pictures_have_no_noise_and_no_nan(value, tmp_path):
    flat = jnp.full((1, 40, 40, 3), value)
    for level in (restoration.noise_level(flat), restoration.patch_noise_level(flat)[0]):
        assert np.isfinite(level).all() and (np.asarray(level) < 1e-3).all()
    images.write(tmp_path / "a.png", np.asarray(flat[0]))
    np.testing.assert_array_equal(images.read(tmp_path / "a.png").pixels, flat[0])


def test_an_empty_folder_is_wrong_usage(restore, tmp_path):
    (tmp_path / "in").mkdir()
    code, out, err = restore("in", "-o", "out")
    assert code == 2 and not out and len(err) == 1 and "in: no pictures in this folder, at any depth" in err[0]


def test_operators_at_the_ends_of_their_range():
    x, keys = jnp.linspace(-1, 1, 192).reshape(1, 8, 8, 3), rng.image_keys(0, [0])
    np.testing.assert_array_equal(operators.gaussian_noise(sigma=0.0)(x, keys=keys), x)
    assert np.std(operators.gaussian_noise(sigma=1.0)(jnp.zeros((1, 64, 64, 3)), keys=keys)) == pytest.approx(1, 0.03)
    np.testing.assert_array_equal(operators.inpaint(jnp.ones((8, 8)))(x), x)
    assert np.isfinite(operators.inpaint(jnp.zeros((8, 8)))(x)).all()
    for quality in (1.0, 100.0):
        assert np.isfinite(operators.jpeg(quality)(x)).all()


def test_guidance_of_nothing_changes_nothing():
    schedule = schedules.linear()
    plain = denoisers.from_x0(lambda x_t, t: 0.5 * x_t, schedule)
    guided = guidance.energy(lambda x0: jnp.sum(x0**2, axis=(1, 2, 3)), 0.0)(plain)
    x, t = jnp.linspace(-1, 1, 48).reshape(1, 4, 4, 3), jnp.array([500])
    for one, other in zip(plain(x, t)[:2], guided(x, t)[:2]):
        np.testing.assert_array_equal(one, other)


def test_a_result_that_is_not_finite_is_a_failure(restore, monkeypatch):
    photo("a.png")
    call = fake_method.Fake.__call__

    def diverge(self, picture, **more):
        result, report = call(self, picture, **more)
        return result._replace(pixels=result.pixels * np.float32("nan")), report
    monkeypatch.setattr(fake_method.Fake, "__call__", diverge)
    before = tree(".")
    code, out, err = restore("a.png", "-o", "b.png")
    assert code == 1 and len(err) == 1 and "b.png: 1,800 of 1,800 values are not finite" in err[0]
    assert tree(".") == before


def test_every_flag_is_looked_at():
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "indigo_jax" / "cli").glob("*.py"))
    settings = {field for method in methods.METHODS.values() for field in method.Settings.__dataclass_fields__}
    by_name = commands.parser(["restore"])._subparsers._group_actions[0].choices
    parsers = [*by_name.items(), *((f"weights {name}", each) for name, each in
                                   by_name["weights"]._subparsers._group_actions[0].choices.items())]
    for command, parser in parsers:
        for action in parser._actions:
            name = action.dest
            if name in ("help", "version") or name in settings or not action.option_strings:
                continue
            looked = re.search(rf'args\.{name}\b|"{name}"', source)
            assert looked, f"indigo {command} --{name}"


def test_too_many_pixels_are_answered_with_what_can_be_done(tmp_path):
    side = 11_000  # 121 megapixels in some kilobytes
    rows = zlib.compress(bytes((side // 8 + 1) * side))
    data = (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
            + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    pathlib.Path(tmp_path / "a.png").write_bytes(data)
    with pytest.raises(images.ImageError, match="more than the limit of 120,000,000; make it smaller or cut it into"):
        images.read(tmp_path / "a.png")


def test_names_on_the_page_are_text():
    pytest.importorskip("gradio", reason="needs the extra demo")
    from indigo_jax.demo import page
    assert "<img" not in page._line("<img src=x onerror=alert(1)>.png: text") and "&lt;img" in page._line("<img>")
