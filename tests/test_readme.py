"""README and documentation do what they say: the first block restores a picture, the second runs the tests."""
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from eval.figures import people
from indigo_jax.methods import METHODS
from tests.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
         for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
CODE = [(page, code) for page, text in PAGES.items()
        for code in re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)]
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
NOT_IN_THE_REFERENCE = {"__init__", "arrays", "checkpoints", "cli", "demo", "export", "sharding", "spelling", "typing"}
COMMANDS = {"restore", "degrade", "evaluate", "weights", "methods", "cache", "demo"}
SETUP = re.compile(r"(^|[;&|]\s*)(python3? -m venv|pip install|python3? -m pip)\b")


def test_first_block_installs_degrades_and_restores():
    lines = BLOCKS[0].splitlines()
    order = [next(i for i, line in enumerate(lines) if word in line)
             for word in ("-m venv", "pip install", "indigo degrade", "indigo restore")]
    assert order == sorted(order)


def test_second_block_installs_and_runs_the_tests():
    lines = BLOCKS[1].splitlines()
    assert any("pip install" in line and '".[test]"' in line for line in lines)
    assert "pytest" in lines[-1]


def test_every_line_of_which_method_has_its_picture_here_and_on_the_first_page_of_the_documentation():
    def lines(page):
        return re.search(r"^\| what is wrong \| command .*?\n\n", PAGES[page], flags=re.MULTILINE | re.DOTALL).group()

    assert lines("docs/index.md") == lines("README.md").replace("](docs/", "](")
    shown = re.findall(r"\| !\[[^]]+\]\(docs/tasks/people_(\w+)\.jpg\) \|$", lines("README.md"), flags=re.MULTILINE)
    assert shown == list(people.FIGURES) and len(shown) == len(lines("README.md").split("\n")) - 4
    assert len({(ROOT / f"docs/tasks/people_{name}.jpg").read_bytes() for name in shown}) == len(shown)


def run_block(block, folder):
    """Run a block in ``folder`` with this interpreter's package, without the lines that set up an environment."""
    binaries = pathlib.Path(sys.executable).parent
    script = "\n".join(line for line in block.splitlines() if not SETUP.search(line))
    if not (binaries / "indigo").exists():  # not installed: the checkout
        script = "indigo() { python -c 'import sys, indigo_jax.cli as c; sys.exit(c.main())' \"$@\"; }\n" + script
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "PYTHONWARNINGS")}
    environment["PATH"] = os.pathsep.join([str(binaries), environment["PATH"]])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    run = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, capture_output=True,
                         text=True, encoding="utf-8", timeout=900)
    assert run.returncode == 0, f"{script}\n{run.stdout}\n{run.stderr}"


@pytest.fixture(scope="module")
def first_block(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    run_block(BLOCKS[0], folder)
    return folder


def test_first_block_restores_the_picture(first_block):
    skimage = pytest.importorskip("skimage")
    name = re.search(r"data/([\w.]+)", BLOCKS[0]).group(1)
    photo, degraded, restored = (np.asarray(Image.open(path).convert("RGB"), np.float64) for path in (
        pathlib.Path(skimage.__path__[0], "data", name), first_block / "degraded.png", first_block / "restored.png"))
    assert photo.shape == degraded.shape == restored.shape

    def psnr(image):
        return 10 * np.log10(255**2 / np.mean((image - photo) ** 2))

    assert psnr(restored) > psnr(degraded) + 3  # a difference that a person sees


def test_first_block_writes_before_and_after(first_block):
    with Image.open(first_block / "restored.png") as restored, Image.open(first_block / "compare.png") as compare:
        assert compare.width >= 2 * restored.width and compare.height >= restored.height


@pytest.mark.parametrize("page, code", CODE, ids=[f"{page}-{index}" for index, (page, _) in enumerate(CODE)])
def test_python_blocks_run(page, code):
    exec(compile(code, page, "exec"), {"__name__": "page"})


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", PAGES[page]):
        assert (ROOT / page).parent.joinpath(link).exists(), link


def test_paths_in_the_algorithm_table_exist():
    rows = [line for line in PAGES["docs/design.md"].splitlines() if line.startswith("|") and "`tests/" in line]
    assert rows
    for path in re.findall(r"`((?:indigo_jax|tests|train|eval)/[\w/.]+)`", "\n".join(rows)):
        assert (ROOT / path).exists(), path


def test_every_page_is_in_the_menu_and_every_module_in_the_reference():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        assert page == "README.md" or page.removeprefix("docs/") in menu, page
    public = {path.stem for path in (ROOT / "indigo_jax").iterdir()
              if path.suffix == ".py" or (path / "__init__.py").exists()}
    shown = {pathlib.Path(page).stem for page in PAGES if page.startswith("docs/api/")}
    assert public - shown == NOT_IN_THE_REFERENCE


def test_commands_of_the_pages_are_known():
    """Every ``indigo NAME`` and ``python -m train.NAME`` or ``eval.NAME`` on a page exists."""
    for page, text in PAGES.items():
        for name in re.findall(r"python -m ((?:train|eval)\.\w+)", text):
            assert importlib.util.find_spec(name), f"{page}: {name}"
        for name in re.findall(r"(?:^|`)indigo (\w+)", text, flags=re.MULTILINE):
            assert name in COMMANDS, f"{page}: indigo {name}"


# ---------------------------------------------------------------------------------------------------- pages of methods

def headings(page):
    """``{anchor: text}`` of a page's headings, anchors as MkDocs makes them."""
    text = re.sub(r"^```.*?^```$", "", PAGES[page], flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()): heading for heading in found}


def section(page, anchor):
    """The text from a heading to the next of its rank or above; "" for none: the whole page."""
    if not anchor:
        return PAGES[page]
    mark, rest = re.search(rf"^(#+) {re.escape(headings(page)[anchor])}$(.*)", PAGES[page],
                           flags=re.MULTILINE | re.DOTALL).groups()
    return re.split(rf"^#{{1,{len(mark)}}} ", rest, flags=re.MULTILINE)[0]


METHOD_ROWS = re.findall(r"^\| \[([\w-]+)\]\((\w+\.md)#?([\w-]*)\) \| [^|]+ \| ([^|]+) \|",
                         PAGES["docs/methods/index.md"], flags=re.MULTILINE)


def test_the_page_of_all_methods_has_each_with_its_tasks():
    assert [(name, tasks) for name, _, _, tasks in METHOD_ROWS] == [
        (name, ", ".join(method.tasks)) for name, method in METHODS.items()]


@pytest.mark.parametrize("name, page, anchor, tasks", METHOD_ROWS, ids=[row[0] for row in METHOD_ROWS])
def test_every_method_has_a_heading_equations_settings_and_its_wins_and_losses(name, page, anchor, tasks):
    found, text = headings(f"docs/methods/{page}"), section(f"docs/methods/{page}", anchor)
    heading = found[anchor] if anchor else next(iter(found.values()))
    assert heading.split()[0].strip(":").lower() == name
    for part in ("**It wins**", "**It loses**", "**Settings**"):
        assert part in text, part
    assert name == "look" or re.search(r"^    .*(=|<-|minimise|\|A x - y)", text, flags=re.MULTILINE)
    for flag in re.findall(r"`--([\w-]+)", text.split("**Settings**")[1].split("**It wins**")[0]):
        known = {*METHODS[name].Settings.__dataclass_fields__, "scale", "task"}
        assert flag.replace("-", "_") in known, flag


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_links_to_headings_lead_to_one(page):
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", PAGES[page]):
        other = (ROOT / page).parent.joinpath(target).resolve() if target else ROOT / page
        assert anchor in headings(other.relative_to(ROOT).as_posix()), anchor


def test_the_numbers_of_calibration_are_those_of_the_results():
    measured = {}
    for part in (ROOT / "eval/results/calibration.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        for line in part.splitlines()[3:]:
            cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
            if len(cells) > 5:
                measured[(part.splitlines()[0], *cells[:3])] = cells[3:]
    page = re.search(r"calibration:start -->\n(.*)<!-- calibration:end", PAGES["docs/methods/posteriors.md"], re.DOTALL)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.group(1).splitlines()[2:]]
    assert len(rows) == 12
    for row in rows:
        parts = [measured[(problem, *row[:3])] for problem in (
            "Gaussian, average pooling", "Gaussian, inpainting", "Gaussian, blur", "two modes, inpainting")]
        assert row[3:] == [*(", ".join(part[:2]) for part in parts), parts[3][3]]
