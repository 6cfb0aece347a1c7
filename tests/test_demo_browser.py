"""The page in a browser: upload, restore, slide, paint, cancel, download; two people at once; no other hosts."""
import contextlib
import importlib
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from indigo_jax import images, methods
from tests import networks
from tests.paths import ROOT

CHROMIUM = os.environ.get("CHROMIUM")  # whoever names one wants these tests to run, and nothing to be missing
if not CHROMIUM:
    CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    pytest.importorskip("gradio", reason="needs the extra demo")
    pytest.importorskip("playwright.sync_api", reason="needs the extra dev, of which playwright is")
playwright = importlib.import_module("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, as of: apt-get install chromium")
PATIENCE = 120  # seconds
SERVER = """
import sys, time
from indigo_jax import cli, methods
from indigo_jax.demo import work
load, tick = methods.load, work.Job.tick
methods.load = lambda name, **settings: load(name, weights=sys.argv[1], **settings)
work.Job.tick = lambda job, *x: (time.sleep(0.4), tick(job, *x))  # so that there is something to see, and to cancel
sys.exit(cli.main(["demo", "--port", sys.argv[2]]))
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return networks.write_denoiser(tmp_path_factory.mktemp("net") / "tiny.safetensors")


@contextlib.contextmanager
def serving(tiny, folder, before=""):
    """A server in a process of its own, on one device; ``before`` is run in it first. Gives its address."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0", "TMPDIR": str(folder),
                   "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    folder.mkdir(exist_ok=True)
    with open(folder / "log", "w+") as log:
        server = subprocess.Popen([sys.executable, "-c", before + SERVER, str(tiny), str(port)], env=environment,
                                  cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        since = time.monotonic()
        while "http://127.0.0.1" not in (folder / "log").read_text():
            assert server.poll() is None and time.monotonic() < since + PATIENCE, (folder / "log").read_text()
            time.sleep(0.2)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(60)
    assert not list(folder.glob("indigo-demo-*"))  # what was uploaded is gone


@pytest.fixture(scope="module")
def url(tiny, tmp_path_factory):
    """The address of the server of most tests."""
    with serving(tiny, tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, url):
    """A function that opens the page as a new person; afterwards nothing was asked of other hosts."""
    contexts, hosts = [], set()

    def visit():
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 800}))
        page = contexts[-1].new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.goto(url)
        page.locator("#go").wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert {host for host in hosts if host} == {url.split("/")[2]}


def upload(page, folder, seed=0, name="picture.png", side=48):
    """Upload a picture of noise; returns its path."""
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    path = pathlib.Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    page.locator("#upload input[type=file]").set_input_files(path)
    says(page, f"{side} x {side} pixels")
    return path


def says(page, text):
    page.locator("#status", has_text=text).wait_for()


def restored(page, folder):
    """What the download button gives."""
    page.locator("#download").wait_for()
    with page.expect_download() as download:
        page.locator("#download").click()
    target = pathlib.Path(folder, f"result-{download.value.suggested_filename}")
    download.value.save_as(target)
    return target


def test_upload_restore_slide_and_download(visit, tiny, tmp_path):
    page = visit()
    path = upload(page, tmp_path, name="picture.tif")
    page.locator("#go").click()
    says(page, "of the network")
    file = restored(page, tmp_path)
    assert file.name == "result-picture-restored.tif"
    alone, _ = methods.load("look", weights=str(tiny))(images.read(path))
    np.testing.assert_allclose(images.read(file).pixels, alone.pixels, atol=1.01 / 127.5)
    says(page, "look: 5 network evaluations")
    box, bottom = page.locator("#slider").bounding_box(), page.viewport_size["height"]
    assert box["y"] > 0 and box["y"] + box["height"] < bottom and page.locator("#go").bounding_box()["y"] < bottom
    before = page.locator("#slider").screenshot()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 150, y, steps=5)
    page.mouse.up()
    assert page.locator("#slider").screenshot() != before


def test_the_way_is_shown(visit, tmp_path):
    page = visit()
    upload(page, tmp_path, side=64)
    page.get_by_label("noise", exact=True).click()
    page.locator("#more button").first.click()
    page.locator("#method input").click()
    page.get_by_role("option", name="hqs").click()
    page.locator("#steps textarea, #steps input").first.fill("4")
    page.locator("#go").click()
    says(page, "hqs: 4 network evaluations")
    page.get_by_role("tab", name="On the way").click()
    page.locator("#way-line", has_text="What the network was given").wait_for()
    for number in range(1, 5):
        page.locator("#way", has_text=f"call {number} of 4").wait_for()
    assert page.locator("#way img").count() >= 4


def test_what_was_uploaded_and_made_is_deleted(browser, tiny, tmp_path):
    """As after 70 minutes, here after some seconds."""
    sooner = "from indigo_jax.demo import page; page._CLEANING = (1, 6); page.make_examples = lambda folder: []\n"
    with serving(tiny, tmp_path / "server", sooner) as address:
        [folder] = (tmp_path / "server").glob("indigo-demo-*")
        page = browser.new_context().new_page()
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(address)
        page.locator("#go").wait_for()
        upload(page, tmp_path)
        page.locator("#go").click()
        says(page, "look: 5 network evaluations")
        since = time.monotonic()
        while left := [path for path in folder.rglob("*") if path.is_file()]:
            assert time.monotonic() < since + 30, left
            time.sleep(0.5)
        page.context.close()


def test_what_is_painted_is_filled_and_the_rest_stays(visit, tmp_path):
    page = visit()
    path = upload(page, tmp_path)
    page.get_by_label("holes").click()
    says(page, "Paint over the holes")
    page.locator("#go").click()
    says(page, "nothing is painted, so there is nothing to fill")
    canvas = page.locator("#editor canvas").first
    canvas.wait_for()
    page.wait_for_timeout(2000)  # it draws the picture when it likes
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 30, y)
    page.mouse.down()
    page.mouse.move(x + 30, y, steps=5)
    page.mouse.up()
    page.wait_for_timeout(500)
    page.locator("#go").click()
    says(page, "hqs: 10 network evaluations")
    old, new = (np.asarray(Image.open(each), int) for each in (path, restored(page, tmp_path)))
    rows, columns = np.nonzero((old != new).any(axis=-1))
    assert 20 < len(rows) < 48 * 48 / 2 and rows.min() > 8 and rows.max() < 40
    assert abs(columns.mean() - 24) < 4 and abs(rows.mean() - 24) < 4


def test_what_is_cancelled_stops_and_the_next_one_runs(visit, tmp_path):
    page = visit()
    upload(page, tmp_path)
    page.get_by_label("noise", exact=True).click()
    page.locator("#more button").first.click()
    page.locator("#method input").click()
    page.get_by_role("option", name="hqs").click()
    page.locator("#steps textarea, #steps input").first.fill("300")
    page.locator("#go").click()
    says(page, re.compile(r"call \d+ of 300"))  # a quick one may go unseen
    page.locator("#stop").click()
    says(page, "Cancelled.")
    page.locator("#steps textarea, #steps input").first.fill("2")
    page.locator("#go").click()
    says(page, "hqs: 2 network evaluations")


def test_two_people_with_one_file_name_get_their_own(visit, tmp_path):
    pages = visit(), visit()
    paths = [upload(page, tmp_path / str(seed), seed) for seed, page in enumerate(pages)]
    for page in pages:
        page.locator("#go").click()
    says(pages[1], "waiting for the restoration before this one")
    for path, page in zip(paths, pages):
        old, new = (np.asarray(Image.open(each), float) for each in (path, restored(page, path.parent)))
        other = np.asarray(Image.open(next(each for each in paths if each != path)), float)
        assert np.corrcoef(old.ravel(), new.ravel())[0, 1] > np.corrcoef(other.ravel(), new.ravel())[0, 1] + 0.2


def test_what_cannot_be_done_is_one_line_without_folders(visit, tmp_path):
    page = visit()
    page.locator("#go").click()
    says(page, "upload a picture first")
    (tmp_path / "text.png").write_text("no picture at all")
    page.locator("#upload input[type=file]").set_input_files(tmp_path / "text.png")
    says(page, "text.png: text, not a picture that can be read; convert it to PNG, JPEG, WebP, BMP or TIFF")
    assert "Traceback" not in page.content() and str(ROOT) not in page.content()


def test_the_server_listens_to_this_machine_alone(url):
    """One that listens at 0.0.0.0 answers at every address of the machine, 127.0.0.2 among them."""
    answers = []
    for host in ("127.0.0.1", "127.0.0.2"):
        with socket.socket() as one:
            answers.append(one.connect_ex((host, int(url.rpartition(":")[2]))) == 0)
    assert answers == [True, False]


def test_no_file_is_given_that_is_not_the_pages_own(url):
    here = pathlib.Path.cwd() / "setup.cfg"
    names = ("/etc/passwd", here, ROOT / "indigo_jax/weights/manifest.json", "../../etc/passwd", "%2e%2e/etc/passwd")
    for name in names:
        for way in ("gradio_api/file=", "file=", "gradio_api/file/", "static/"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"{url}/{way}{name}", timeout=PATIENCE)
            with caught.value as answer:
                assert answer.code in (403, 404, 405) and b"root:" not in answer.read()
