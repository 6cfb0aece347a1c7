"""The table of captured shakes: what belongs together, what the numbers are; no network is run."""
import types

import numpy as np
import pytest
from PIL import Image

from eval import tables
from eval.tables import captured
from indigo_jax import images, operators


@pytest.fixture
def folder(tmp_path):
    """A picture moved by two pixels, as a kernel that correlates moves it, and another that is as it was."""
    (tmp_path / "gt").mkdir()
    random = np.random.default_rng(0)
    truth = np.uint8(random.integers(0, 256, (48, 48)))
    kernel = np.zeros((5, 5), np.uint8)
    kernel[2, 4] = 255
    still = np.zeros((5, 5), np.uint8)
    still[2, 2] = 255
    for name, taps in (("k1", kernel), ("k2", still)):
        Image.fromarray(taps).save(tmp_path / "gt" / f"{name}.png")
    Image.fromarray(truth).save(tmp_path / "gt" / "a.png")
    Image.fromarray(np.roll(truth, -2, axis=1)).save(tmp_path / "a_k1.png")
    Image.fromarray(np.uint8(np.clip(truth + random.normal(0, 9, truth.shape), 0, 255))).save(tmp_path / "a_k2.png")
    return tmp_path


def test_pairs_have_their_truth_and_the_kernel_that_correlates(folder):
    (name, y, truth, kernel), _ = captured.pairs(folder)
    assert name == "a_k1" and kernel.sum() == pytest.approx(1.0) and y.shape == truth.shape == (48, 48, 3)
    made = operators.blur(np.asarray(kernel, np.float32), correlate=True)(truth[None])[0]
    np.testing.assert_allclose(made[4:-4, 4:-4], y[4:-4, 4:-4], atol=1e-5)


def test_moves_do_not_count_and_ratios_are_those_of_squared_errors(folder, monkeypatch):
    """Every method gives the picture back, but the one that is told the kernel: it has the half of the error."""
    def load(name, *, task, **settings):
        truth = images.read(folder / "gt" / "a.png").pixels

        def restore(picture):
            return (picture._replace(pixels=(picture.pixels + truth) / 2) if settings else picture), None

        assert task == "deblur" and settings.get("kernel_is", "auto") == "auto"
        return restore

    monkeypatch.setattr(captured.methods, "load", load)
    args = types.SimpleNamespace(data=folder, limit=None)
    name, rows, text = captured.table(args, None, None, "python -m eval.tables --method captured")
    second = [row for row in rows if row["picture"] == "a_k2"]
    assert [row["method"] for row in second] == [captured.INPUT, "indi", captured.FOUND, captured.TOLD]
    assert [row["ratio"] for row in second] == pytest.approx([4, 4, 4, 1], rel=1e-3)
    assert rows[0]["psnr"] > 60  # moved by two pixels, and nothing else
    assert name == "captured" and "error ratio below 3" in text and "1 of 2" in text.splitlines()[2]


@pytest.mark.parametrize("flags, said", [([], "needs --data"), (["--data", "."], "gt/KERNEL.png")])
def test_what_is_missing_is_said(flags, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tables.main(["--method", "captured", *flags, "-o", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err
