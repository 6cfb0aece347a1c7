"""What the page does with a picture: results of the command line, one at a time, one line for an error."""
import threading
import time

import jax
import numpy as np
import pytest
from PIL import Image

from indigo_jax import cli, images, methods
from indigo_jax.demo import work
from indigo_jax.methods.progress import show
from tests import networks


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    return str(networks.write_denoiser(tmp_path_factory.mktemp("net") / "tiny.safetensors"))


@pytest.fixture(scope="module")
def desk():
    return work.Desk(jax.local_devices()[:1])


def photo(seed=0, height=16, width=16, **fields):
    pixels = np.random.default_rng(seed).uniform(-1, 1, (height, width, 3)).astype(np.float32)
    return images.Picture(pixels, **fields)


def asked(denoiser, task="denoise", method="hqs", **given):
    return work.Asked(task, method, 4, 0, {"weights": denoiser, "steps": 3, **given})


def result(desk, picture, what):
    return desk.submit(picture, what).future.result(timeout=300)


def test_the_result_is_that_of_the_method(desk, denoiser):
    job = desk.submit(photo(), asked(denoiser))
    restored, line = job.future.result(timeout=300)
    alone, report = methods.load("hqs", task="denoise", weights=denoiser, steps=3)(photo())
    np.testing.assert_allclose(restored.pixels, alone.pixels, atol=1e-5)
    assert line.startswith("hqs: 3 network evaluations")
    assert job.done == job.total == report.evaluations == 3


@pytest.fixture(scope="module")
def restorer(tmp_path_factory):
    return str(networks.write_weights(tmp_path_factory.mktemp("net") / "restorer.safetensors"))


def test_the_way_is_what_the_network_was_given(desk, denoiser, restorer):
    """Of InDI the first is the picture with a little noise; all are those that a program of its own hands out."""
    picture = photo(height=64, width=64)
    job = desk.submit(picture, asked(restorer, method="indi"))
    restored, _ = job.future.result(timeout=300)
    assert [caption for _, caption in job.way] == ["call 1 of 3", "call 2 of 3", "call 3 of 3"]
    np.testing.assert_allclose(job.way[0][0].astype(int), work.view(picture).astype(int), atol=12)
    seen = []
    show(methods.load("indi", task="denoise", weights=restorer, steps=3))(picture, progress=seen.append)
    for (shown, _), x in zip(job.way, seen, strict=True):
        np.testing.assert_array_equal(shown, work.view(images.Picture(x[0])))
    assert not np.array_equal(job.way[1][0], job.way[2][0])


def test_the_way_has_about_ten_pictures_without_a_margin(desk, denoiser):
    picture, kernel = photo(height=40, width=30), np.full((3, 3), 1 / 9, np.float32)
    job = desk.submit(picture, asked(denoiser, "deblur", kernel=kernel, steps=24, sigma_255=10.0))
    job.future.result(timeout=300)
    assert job.done == 24 and 10 <= len(job.way) <= 13 and {shown.shape for shown, _ in job.way} == {(40, 30, 3)}


def test_tiles_and_calls_that_are_no_picture_are_not_shown(desk, denoiser):
    job = desk.submit(photo(), asked(denoiser))
    job.begin(methods.load("hqs", task="denoise", weights=denoiser, steps=3))
    for shape in ((2, 16, 16, 3), (1, 8, 16, 3), (1, 16, 16, 4)):
        job.tick(np.zeros(shape, np.float32))
    job.future.result(timeout=300)
    assert all(shown.shape == (16, 16, 3) for shown, _ in job.way)


def test_the_page_is_asked_to_listen_to_this_machine_alone(monkeypatch):
    """What the server then does: test_demo_browser.py."""
    page, known = importorskip(), {}

    class Built:
        def queue(self, **_):
            return self

        def launch(self, **arguments):
            known.update(arguments)
            raise OSError("that is enough")

    monkeypatch.setattr(page, "build", lambda desk, folder: Built())
    monkeypatch.setattr(page.signal, "signal", lambda *_: None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    assert cli.main(["demo", "--port", "7861"]) == 2
    assert known["server_name"] == "127.0.0.1" and known["server_port"] == 7861 and known["share"] is False


def test_a_method_that_is_ready_is_used_again_with_another_mask_and_level(desk, denoiser, monkeypatch):
    masks = [1 - np.pad(np.ones((4, 4), np.float32), ((top, 12 - top), (4, 8))) for top in (2, 7)]
    first, second = (asked(denoiser, "inpaint", mask=mask, sigma_255=level) for mask, level in zip(masks, (5.0, 30.0)))
    result(desk, photo(), first)
    fresh = methods.load("hqs", task="inpaint", **second.given)(photo())[0]
    monkeypatch.setattr(methods, "load", None)  # would fail
    restored, _ = result(desk, photo(), second)
    np.testing.assert_allclose(restored.pixels, fresh.pixels, atol=1e-5)
    kept = masks[1] > 0
    np.testing.assert_array_equal(restored.pixels[kept], photo().pixels[kept])
    with pytest.raises(ValueError, match="sigma_255 must be from 0 to 255"):
        result(desk, photo(), asked(denoiser, "inpaint", mask=masks[0], sigma_255=300.0))


def test_one_at_a_time_and_a_cancelled_one_stops(desk, denoiser, monkeypatch):
    result(desk, photo(), asked(denoiser))  # compiled
    reached, go_on, tick = threading.Event(), threading.Event(), work.Job.tick

    def slow(job, *x):
        reached.set()
        assert go_on.wait(60)
        tick(job, *x)

    monkeypatch.setattr(work.Job, "tick", slow)
    first, second, third = (desk.submit(photo(seed), asked(denoiser)) for seed in range(3))
    assert reached.wait(60)
    time.sleep(0.1)
    assert first.began and second.began is None and third.began is None
    assert second.progress() == (None, "waiting for the restoration before this one")
    third.cancel()
    assert third.future.cancelled()
    first.cancel()
    go_on.set()
    with pytest.raises(work.Cancelled):
        first.future.result(timeout=60)
    assert first.done == 0
    assert np.isfinite(second.future.result(timeout=60)[0].pixels).all() and second.done == 3
    share, line = second.progress()
    assert 0 < share < 1 and line.startswith("call 3 of 3 of the network")


def test_too_many_waiting_and_too_large_results_are_refused(desk, denoiser, monkeypatch):
    monkeypatch.setattr(work, "MAX_WAITING", -1)
    with pytest.raises(work.Refused, match="try again"):
        desk.submit(photo(), asked(denoiser))
    monkeypatch.setattr(work, "MAX_PIXELS", 16 * 16 * 15)
    with pytest.raises(work.Refused, match="64 x 64 pixels, more than the limit of 3,840"):
        desk.submit(photo(), asked(denoiser, "sr"))


@pytest.mark.parametrize("task, method, given, says", [
    ("auto", "auto", {}, "look"), ("deblur", "auto", {}, "blind"), ("deblur", "auto", {"kernel": 1}, "hqs"),
    ("jpeg", "auto", {"steps": 5}, "indi"), ("denoise", "diffpir", {}, "diffpir"),
    ("deblur", "hqs", {}, "does not do this without the kernel"), ("jpeg", "bird", {}, "does not do this; take"),
    ("denoise", "hqs", {"strength": 0.5}, "takes no strength"),
    ("sr", "auto", {"strength": 0.5}, "no method takes strength"),
])
def test_the_method_is_that_of_the_command_line(task, method, given, says):
    try:
        assert work.choose(work.Asked(task, method, given=given)).method == says
    except work.Refused as error:
        assert says in str(error)


def test_masks_are_what_is_painted_at_the_size_of_the_picture():
    layer = np.zeros((4, 6, 4), np.uint8)
    layer[1, 2] = 255, 0, 0, 255
    mask = work.mask_of([layer, np.zeros_like(layer)], 8, 12)
    assert mask.dtype == np.float32 and mask.sum() == 8 * 12 - 4 and not mask[2:4, 4:6].any()
    with pytest.raises(work.Refused, match="nothing is painted"):
        work.mask_of([], 8, 12)
    with pytest.raises(work.Refused, match="nothing is left"):
        work.mask_of([np.full((8, 12, 4), 255, np.uint8)], 8, 12)


def test_views_lie_on_white_and_fit():
    picture = photo(height=2, width=3, alpha=np.zeros((2, 3), np.float32))
    assert (work.view(picture) == 255).all()
    assert work.view(photo(height=2, width=3), 4).shape == (8, 12, 3)
    assert work.view(photo(height=10, width=3200)).shape == (5, 1600, 3)


@pytest.mark.parametrize("name, format_, fields, suffix", [
    ("a.JPG", "JPEG", {}, ".jpg"), ("b.png", "WEBP", {}, ".webp"), ("c.tif", "TIFF", {}, ".tif"),
    ("d.bmp", "BMP", {"alpha": np.ones((16, 16), np.float32)}, ".png")])
def test_results_have_the_format_of_the_upload_and_a_place_of_their_own(tmp_path, name, format_, fields, suffix):
    one, other = (work.write_result(tmp_path, f"/elsewhere/{name}", photo(seed, format=format_, **fields))
                  for seed in range(2))
    assert one != other and one.endswith(f"{name[0]}-restored{suffix}")
    with Image.open(one) as first, Image.open(other) as second:
        assert first.size == (16, 16) and first.tobytes() != second.tobytes()


def test_what_is_old_is_deleted_but_for_what_is_kept(tmp_path):
    for name in ("a/old.png", "example.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("a picture")
    time.sleep(0.6)
    (tmp_path / "new.png").write_text("a picture")
    work.clean(tmp_path, 0.5, {tmp_path / "example.png"})
    assert {path.name for path in tmp_path.rglob("*.png")} == {"new.png", "example.png"}
    work.clean(tmp_path, 3600)
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_uploads_have_limits(tmp_path, monkeypatch):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    np.save(tmp_path / "k.npy", np.array([[2.0, -1.0]]))
    monkeypatch.setattr(work, "MAX_PIXELS", 1000)
    errors = []
    for read, name in ((work.read_picture, "a.png"), (work.read_kernel, "k.npy")):
        with pytest.raises(ValueError) as error:
            read(tmp_path / name)
        errors.append(work.said(error.value))
    assert errors[0] == "a.png: 40 x 30 pixels, more than the limit of 1,000; make it smaller or cut it into pieces"
    assert errors[1].startswith("k.npy: a blur kernel has no negative entries")
    monkeypatch.setattr(work, "MAX_BYTES", 10)
    with pytest.raises(work.Refused, match="^a.png: more than 0 MB"):
        work.read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("error, says", [
    (ValueError("/srv/them/secret/a.png: no\nsuch file in /etc/x"), "a.png: no such file in x"),
    (ValueError("kernel file C:\\Users\\me\\k.npy: bad"), "kernel file k.npy: bad"),
    (ValueError("sigma_255 must be from 0 to 255"), "noise level must be from 0 to 255"),
    (KeyError("/srv/them"), "something went wrong here, and whoever runs this page finds it in the log"),
    (MemoryError(), "not enough memory; take a smaller picture")])
def test_errors_are_one_line_without_folders(error, says):
    assert work.said(error) == says


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["demo"]) == 2
    assert capsys.readouterr().err == (
        "indigo demo: needs gradio, which the extra demo installs: pip install 'indigo-jax[demo]'\n")


def test_examples_are_pictures_of_the_formats_they_say(tmp_path):
    page = importorskip()
    examples = page.make_examples(tmp_path)
    assert {task for _, _, task in examples} <= set(page._TASKS)
    for _, path, _ in examples:
        assert images.read(path).pixels.shape[0] >= 48


@pytest.mark.parametrize("text, says", [("x", "'x' is not a number"), ("", None), (" 12 ", 12.0)])
def test_numbers_that_are_none_are_refused(text, says):
    page = importorskip()
    try:
        assert page._given("denoise", photo(), text, None, None, 1, None).get("sigma_255") == says
    except work.Refused as error:
        assert says in str(error)


def importorskip():
    pytest.importorskip("gradio", reason="needs the extra demo")
    from indigo_jax.demo import page
    return page
