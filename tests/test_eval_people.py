"""The table for people: what is damaged how, and what the table says; no network is run."""
import numpy as np
import pytest

from eval.tables import people
from indigo_jax import methods

IMAGE = np.random.default_rng(0).integers(0, 256, (260, 300, 3), np.uint8)


def damage(task, seed=0):
    return task.make(IMAGE, np.random.default_rng(seed))


@pytest.mark.parametrize("task", people.TASKS, ids=[task.title for task in people.TASKS])
def test_a_damage_is_that_of_its_title_and_repeatable(task):
    first, again, other = damage(task), damage(task), damage(task, 1)
    side = people.SIDE // 4 if task.task == "sr" else people.SIDE
    assert first.y.shape == (side, side, 3) and first.truth.shape == (people.SIDE, people.SIDE, 3)
    np.testing.assert_array_equal(first.y, again.y)
    assert (first.y == np.round(first.y)).all() and 0 <= first.y.min() and first.y.max() <= 255
    if not task.title.startswith(("nothing wrong", "4x smaller", "JPEG")):  # nothing is drawn there
        assert (first.y != other.y).any()
    assert methods.choose(task.task, tuple(first.settings)).method in methods.METHODS


def test_noise_has_its_strength_and_kind():
    by_title = {task.title: task for task in people.TASKS}
    flat = np.full_like(IMAGE, 128)
    for title, equal in (("noise, sigma 25", False), ("film grain, sigma 25", True),
                         ("correlated noise, sigma 25", False), ("grey file, sigma 25", True)):
        noise = by_title[title].make(flat, np.random.default_rng(0)).y - 128
        assert 24 < noise.std() < 26 and (noise[..., 0] == noise[..., 1]).all() == equal
        neighbours = np.corrcoef(noise[:, 1:, 0].ravel(), noise[:, :-1, 0].ravel())[0, 1]
        assert (neighbours > 0.2) == title.startswith("correlated")


def test_a_blurred_picture_is_cut_out_of_a_larger_one():
    """What lies beyond its border has come in: a picture that is white around the part that is cut."""
    image = np.full((260, 260, 3), 255, np.uint8)
    top = (260 - people.SIDE) // 2
    image[top:top + people.SIDE, top:top + people.SIDE] = 0
    task = next(task for task in people.TASKS if task.task == "deblur")
    y = task.make(image, np.random.default_rng(0)).y
    assert y[0].mean() > 30 and y[people.SIDE // 2, people.SIDE // 2].mean() < 10


def test_scribbles_cover_what_they_say():
    task = next(task for task in people.TASKS if task.task == "inpaint")
    mask = damage(task).settings["mask"]
    assert 0.92 < mask.mean() <= 0.95 and set(np.unique(mask)) == {0.0, 1.0}


def test_the_table_compares_picture_by_picture_and_marks_the_best():
    def row(picture, method, psnr, lpips=None):
        return {"task": "noise", "picture": picture, "method": method, "psnr": psnr, "lpips": lpips, "seconds": 0.25}

    rows = [row("a", people.INPUT, 20.0), row("b", people.INPUT, 30.0), row("a", "median", 25.0),
            row("b", "median", 26.0), row("a", "indigo (once)", 27.0), row("b", "indigo (once)", 29.0)]
    lines = people.to_markdown(rows).splitlines()
    assert lines[2] == f"| noise | {people.INPUT} | 25.00 |  | 0.25 |" and lines[3] == "|  | median | 25.50 |  | 0.25 |"
    assert lines[4] == "|  | indigo (once) | **28.00** | -1.00 | 0.25 |"  # on b the picture as it is was better
    assert "LPIPS" in people.to_markdown([{**each, "lpips": 0.5} for each in rows]).splitlines()[0]


@pytest.mark.parametrize("task, name", [(task, name) for task in people.TASKS[::4] + people.TASKS[-5:]
                                        for name in task.cheap if name != "BM3D" and "90" not in task.title],
                         ids=lambda each: each if isinstance(each, str) else each.title)
def test_other_methods_bring_a_picture_nearer_to_the_truth(task, name):
    """Squares on a slope, away from the border: whatever is wrong, no method makes it worse. JPEG of quality 90 is not
    asked: hardly anything is wrong there."""
    down, across = np.mgrid[:240, :240]
    squares = 40 * (across // 14 % 2 ^ down // 14 % 2)
    image = np.stack([100 + 60 * np.sin(down / 17 + channel) + squares for channel in range(3)], axis=2)
    wrong = task.make(np.round(image).astype(np.uint8), np.random.default_rng(0))
    found = [255 * np.clip(one, 0, 1) for one in task.cheap[name](wrong.y / 255, wrong)]
    assert all(one.shape == wrong.truth.shape for one in found)
    inside = slice(48, -48)
    error = min(np.mean((one - wrong.truth)[inside, inside]**2) for one in found)
    before = wrong.y if wrong.y.shape == wrong.truth.shape else np.repeat(np.repeat(wrong.y, 4, 0), 4, 1)
    assert error <= (1.5 if "unsharp" in name else 1.02) * np.mean((before - wrong.truth)[inside, inside]**2)
