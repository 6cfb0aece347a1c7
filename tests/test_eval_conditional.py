"""The table of InDI and a diffusion given y: tiny networks, its rows, its command."""
import numpy as np
import pytest

from eval import problems, tables
from eval.configs import photo_degradations
from eval.tables import conditional
from indigo_jax import schedules, weights
from tests import networks


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    arguments = {"width": 8, "multipliers": [1], "num_res_blocks": 1, "patch_size": 2, "condition_on_y": True}
    module = networks.models.RestorationUNet(**{**arguments, "multipliers": (1,)})
    x = np.zeros((1, 16, 16, 3), np.float32)
    shapes = networks.jax.eval_shape(lambda: module.init(networks.jax.random.key(0), x, np.ones(1, np.float32), x))
    random = np.random.default_rng(0)
    params = networks.jax.tree.map(lambda leaf: (0.1 * random.standard_normal(leaf.shape)).astype(np.float32), shapes)
    schedule = schedules.to_json("flow", num_timesteps=30, time_scale=1.0)
    weights.save(folder / "given.safetensors", params, {
        "architecture": "RestorationUNet", "arguments": arguments, "schedule": schedule, "prediction": "flow",
        "condition": "y", "range": [-1, 1], "name": "given"})
    return {"given": folder / "given.safetensors", "indi": networks.write_weights(folder / "indi.safetensors"),
            "prior": networks.write_denoiser(folder / "prior.safetensors")}


@pytest.mark.slow
def test_its_command(files, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(conditional, "SIDE", 32)
    degradations = photo_degradations.get_config()[:2]
    monkeypatch.setattr(photo_degradations, "get_config", lambda: degradations)
    given = ["--method", "conditional", "--limit", "1", "--against", str(files["indi"]), "-o", str(tmp_path), "--lpips"]
    monkeypatch.delenv("INDIGO_LPIPS", raising=False)
    assert tables.main([*given[:-1], "--weights", str(files["given"]), "--steps", "1", "3"]) == 0
    text = (tmp_path / "given_scikit_image_conditional.md").read_text()
    assert text.count("| InDI |") == 2 and text.count("| diffusion given y |") == 2 and text.count("| input |") == 1
    rows = (tmp_path / "given_scikit_image_conditional.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * (1 + 2 * 2) and "--steps 1 3" in text and "2 degradations" in text
    assert tables.main([*given[:-1], "--weights", str(files["prior"])]) == 2
    assert "give one of train.diffusion --condition y" in capsys.readouterr().err


def test_small_pictures_are_named(files):
    pictures = problems.Pictures("", ["a.png"], [np.zeros((20, 200, 3), np.uint8)])
    with pytest.raises(ValueError, match="a.png is smaller than 128 x 128 pixels"):
        list(conditional.results({}, pictures, [1], 0, ()))
