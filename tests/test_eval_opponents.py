"""The table of BIRD's opponents: its cases, that nothing blind looks at the kernel, one line of each kind, Markdown."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.measure import ALIGNED, PSNR
from eval.tables import opponents
from indigo_jax import denoisers, operators, restoration, rng, schedules
from indigo_jax.methods import base
from tests import guided_networks
from tests.oracles import GaussianDiffusion

KEYS = rng.image_keys(0, [0, 1])
X = 0.4 * rng.normal(KEYS, jnp.zeros((2, 16, 16, 3)))
SCHEDULE = schedules.linear(100)
PRIOR = denoisers.Prior(GaussianDiffusion(0.0, 0.4).denoiser(SCHEDULE), SCHEDULE)


@pytest.mark.parametrize("task", opponents.TASKS)
def test_cases_are_what_they_say(task):
    case = opponents.make(task, X, KEYS)
    problem = opponents.problem_of(task, case)
    assert problem.shape == (16, 16, 3)
    left = problem.residual(case.x) / problem.sigma
    assert (left > 1.5).all() if task == "wrong" else (abs(left - 1) < 0.35).all()
    one = opponents.make(task, X[1:], KEYS[1:])
    np.testing.assert_allclose(one.y, case.y[1:], atol=1e-6)


def test_singular_values_of_all_rays():
    problem = opponents.problem_of("ct", opponents.make("ct", X, KEYS))
    values, to_basis, from_basis = opponents.ray_svd(16)
    noise = rng.normal(KEYS, jnp.zeros_like(X))
    adjoint = operators.base.adjoint_of(problem.operator, noise)
    np.testing.assert_allclose(from_basis(values**2 * to_basis(noise)), adjoint(problem.operator(noise)), atol=1e-5)
    np.testing.assert_allclose(to_basis(from_basis(to_basis(noise))), to_basis(noise), atol=1e-4)


def test_kernels_that_blind_dps_knows_are_of_the_kind_and_no_cases():
    kernels = np.asarray(restoration.kernel_of(jnp.asarray(opponents.kernel_examples("motion"))))
    assert kernels.shape == (opponents.EXAMPLES, 9, 9)
    case = opponents.make("motion", X, KEYS)
    assert np.abs(kernels - np.asarray(case.given["kernel"])[:1]).sum(axis=(1, 2)).min() > 1e-3


BLIND = [line for line in opponents.LINES if "motion" in line.tasks and line.title.split(",")[0] in (
    "BlindDPS", "GDP", "GibbsDDRM")]


@pytest.mark.slow
@pytest.mark.parametrize("line", BLIND, ids=lambda line: line.title)
def test_a_blind_line_does_not_look_at_the_kernel(line, monkeypatch):
    monkeypatch.setattr(opponents, "STEPS", 3)
    problem = opponents.problem_of("motion", opponents.make("motion", X, KEYS))

    def restore(kernel):
        return line.restore(PRIOR, problem._replace(operator=operators.blur(kernel)), "motion")

    kernels = jnp.zeros((2, 2, 9, 9)).at[0, :, 4, 4].set(1.0).at[1, :, 0, 0].set(1.0)
    one, other = jax.jit(lambda: [restore(kernel) for kernel in kernels[:2]])()
    np.testing.assert_array_equal(one, other)
    assert np.isfinite(one).all()


def test_its_markdown():
    rows = [{"task": task, "picture": "a", "method": method, "evaluations": 100, PSNR: psnr, ALIGNED: psnr + 1}
            for task in ("motion", "sr8") for method, psnr in (("input", 20.0), ("other", 23.0))]
    text = opponents.to_markdown(rows)
    assert "| blind deblurring, 9x9 motion | input | 100 | 20.00 | 21.00 |" in text
    assert "|  | other | 100 | **23.00** | **24.00** |" in text and text.count("| **23.00** |  |") == 1


def test_every_task_has_its_input_first_and_bird():
    for task in opponents.TASKS:
        titles = [line.title for line in opponents.LINES if task in line.tasks]
        assert titles[0] == "input" and any(title.startswith("BIRD") for title in titles) and len(titles) > 3


@pytest.mark.parametrize("task", opponents.TASKS)
def test_every_line_is_a_program_of_its_cases(task, tmp_path, monkeypatch):
    """Traced as the table traces it: what must be numbers is not part of the program."""
    monkeypatch.setattr(opponents, "STEPS", 10)
    opponents.kernel_examples.cache_clear()
    network = base.open_network(str(guided_networks.write_prior(tmp_path / "prior.safetensors")), "prior")
    case = opponents.make(task, X, KEYS)
    for line in opponents.LINES:
        if task in line.tasks:
            made = opponents.group(task, line, network, 16)
            for _ in range(2):  # nothing of the first program is left in the second
                x, _ = jax.eval_shape(lambda *args: made.restore(*args), made.params, case)
                assert x.shape == X.shape, line.title
