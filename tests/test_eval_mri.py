"""The table of accelerated MRI: its measurements, its baselines, its Markdown."""
import jax
import jax.numpy as jnp
import numpy as np

from eval import problems
from eval.measure import PSNR, psnr_of
from eval.tables import mri
from indigo_jax import operators, rng

SIDE = mri.SIDE


def test_a_quarter_of_the_columns_and_noise_of_the_samples_alone():
    x, keys = jnp.zeros((3, SIDE, SIDE, 3)), rng.image_keys(0, [0, 1, 2])
    problem = mri.measured(4, x, keys)
    y, taken = np.asarray(problem.y), np.asarray(problem.operator.mask)[..., 0] > 0
    assert taken.mean() == 0.25 and (taken[0] != taken[1]).any()
    assert (y[~taken] == 0).all() and abs(y[taken].std() / mri.SIGMA - 1) < 0.03
    assert (mri.measured(4, x[1:2], keys[1:2]).y == problem.y[1:2]).all()


def test_total_variation_is_better_than_nothing(monkeypatch):
    monkeypatch.setattr(mri, "STRENGTHS", (0.01,))
    pictures = problems.phantoms(mri.SIDE, mri.COUNT)
    x, keys = pictures.at(SIDE, 0)
    assert len(pictures.names) == 1 + mri.COUNT and x.shape == (1 + mri.COUNT, SIDE, SIDE, 3)
    problem = mri.measured(4, x[:2], keys[:2])
    first, (smooth,) = jax.jit(lambda: (mri.zero_filled(None, problem), mri.total_variation(None, problem)))()
    assert (psnr_of(jnp.clip(smooth, -1, 1), x[:2]) > psnr_of(jnp.clip(first, -1, 1), x[:2]) + 1).all()


def test_zero_filling_of_everything_is_the_picture():
    x = problems.phantoms(mri.SIDE, mri.COUNT).at(SIDE, 0)[0][:1]
    operator = operators.mri(jnp.ones((SIDE, SIDE)))
    np.testing.assert_allclose(operator.zero_filled(operator(x)), x, atol=1e-5)


def test_its_markdown():
    rows = [{"acceleration": acceleration, "picture": name, "method": method, "evaluations": 0, PSNR: psnr}
            for acceleration in (4, 8) for method, values in (("zero filling", (20, 22)), ("other", (23, 21)))
            for name, psnr in zip("ab", values)]
    text = mri.to_markdown(rows)
    assert text.count("| 21.00 |") == 2 and "| other | 0 | **22.00** | -1.00 |" in text and "| 8x | zero" in text
