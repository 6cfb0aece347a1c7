"""The notebooks of the documentation run, from their first cell to their last, at tiny settings."""
import json
import pathlib
import re

import jax
import matplotlib.pyplot as plt
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "docs/notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
TINY = {"NUM_STEPS = 1500": "NUM_STEPS = 4", "SIDE, BATCH = 32, 16": "SIDE, BATCH = 16, 2",
        "[80:176, 112:208]": "[80:128, 112:160]", "[16:112, 176:272]": "[16:48, 200:232]",
        'schedules.respace(prior, 40, "log_snr")': 'schedules.respace(prior, 4, "log_snr")'}


def code(notebook):
    """The code of each cell, at tiny settings."""
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            text = "".join(cell["source"])
            for usual, tiny in TINY.items():
                text = text.replace(usual, tiny)
            yield text


def test_there_are_three_and_every_tiny_setting_is_one_of_theirs():
    assert len(NOTEBOOKS) == 3
    texts = "".join("".join(cell["source"]) for file in NOTEBOOKS for cell in json.loads(file.read_text())["cells"])
    assert all(usual in texts for usual in TINY)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_runs(notebook, capsys):
    space = {"__name__": "__main__"}
    try:
        for number, text in enumerate(code(notebook)):
            with jax.numpy_dtype_promotion("standard"):  # as whoever runs a notebook has it
                exec(compile(text, f"{notebook.name}, cell {number}", "exec"), space)
    finally:
        plt.close("all")
    assert capsys.readouterr().out


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_it_is_small_and_says_nothing_of_a_machine(notebook):
    text = notebook.read_text()
    cells = json.loads(text)["cells"]
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1)) and len(text) < 200_000
    assert any(cell.get("outputs") for cell in cells)
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert not any(output["output_type"] == "error" for output in outputs)
    assert not re.search(r"/(home|work|tmp|root)/", text)
    for target in re.findall(r"\]\(((?!http)[^)#\\]+)\)", "".join("".join(cell["source"]) for cell in cells)):
        assert (FOLDER / target).exists(), target
