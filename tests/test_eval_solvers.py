"""The table of solvers: its errors where the flow is known, a network's flow, its Markdown and its command."""
import numpy as np
import pytest

from eval import problems, tables
from eval.tables import solvers
from indigo_jax.methods import base
from tests import guided_networks

BY_NAME = {(solver.title, solver.spacing): solver for solver in solvers.SOLVERS}
DDIM, SECOND = BY_NAME["DDIM", "log_snr"], BY_NAME["DPM-Solver++ 2M", "log_snr"]


def test_the_order_of_each_shows_on_gaussian_pictures():
    found = solvers.gaussian_errors(0, (DDIM, SECOND), (50, 100))
    ratios = {title: found[title, "log_snr", 50] / found[title, "log_snr", 100] for title in (DDIM.title, SECOND.title)}
    assert 1.8 < ratios[DDIM.title] < 2.2 and 3 < ratios[SECOND.title] < 5
    assert found[SECOND.title, "log_snr", 50] < 0.2 * found[DDIM.title, "log_snr", 100]


def test_steps_are_those_of_the_evaluations():
    heun = BY_NAME["Heun (EDM)", "asinh"]
    assert [2 * heun.steps(count) - 1 for count in (15, 25)] == [15, 25] and heun.steps(100) == 50
    assert DDIM.steps(25) == SECOND.steps(25) == 25


def test_of_a_network_more_evaluations_come_nearer(tmp_path, monkeypatch):
    network = base.open_network(str(guided_networks.write_prior(tmp_path / "prior.safetensors")), "prior")
    pictures = problems.Pictures("noise", ["a", "b"], list(
        np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)))
    found = solvers.face_results(network, pictures, 16, 0, (DDIM, SECOND), (4, 32), flow=60)
    assert found[None] > 45
    for solver in (DDIM, SECOND):
        few, many = (found[solver.title, "log_snr", count][0] for count in (4, 32))
        assert many > few + 5
    assert all(np.isfinite(restored) for _, restored in (found[key] for key in found if key))


def test_bold_is_no_worse_than_a_hundred_of_ddim():
    rows = [{"solver": name, "spacing": "s", "evaluations": count, "error": error, "nearness": -error,
             "restoration": 30.0 - error} for name, values in (("DDIM", (0.4, 0.2)), ("other", (0.2, 0.3)))
            for count, error in zip((10, 100), values)]
    text = solvers.to_markdown(rows)
    assert "| DDIM | s | 0.4000 | **0.2000** |" in text and "| other | s | **0.2000** | 0.3000 |" in text
    assert "| DDIM | s | -0.40 | **-0.20** |" in text and "| DDIM | s | 29.60 | **29.80** |" in text


def test_the_command_writes_its_table(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(solvers, "gaussian_errors", lambda seed: {("DDIM", "s", 10): 0.1 + seed})
    monkeypatch.setattr(solvers, "face_results", lambda *_: {None: 50.0, ("DDIM", "s", 10): (20.0, 30.0)})
    assert tables.main(["--method", "solvers", "--seed", "2", "--limit", "1", "-o", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.md")
    text = path.read_text()
    assert text.endswith(capsys.readouterr().out) and "| DDIM | s | **2.1000** |" in text
    assert "python -m eval.tables --method solvers --limit 1 --seed 2`" in text
    assert tables.main(["--method", "solvers", "--weights", "x", "-o", str(tmp_path)]) == 2


@pytest.mark.slow
def test_with_25_evaluations_2m_is_nearer_to_the_flow_of_faces_than_ddim_with_a_hundred():
    network = base.open_network(solvers.WEIGHTS, "prior")
    found = solvers.face_results(network, problems.open_pictures(limit=2), 64, 0, (DDIM, SECOND), (25, 100), flow=200)
    assert found[None] > 40 and found[SECOND.title, "log_snr", 25][0] > found[DDIM.title, "log_snr", 100][0]
