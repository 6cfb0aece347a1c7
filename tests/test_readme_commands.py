"""Every command on a page runs, on tiny settings, or is listed here with the reason why it does not."""
import importlib
import os
import pathlib
import re
import shlex

import jax
import numpy as np
import pytest

from indigo_jax import cli, methods
from indigo_jax.cli import commands as of_indigo
from tests import fake_method, small_world
from tests.paths import ROOT
from tests.test_cli import photo
from tests.test_readme import PAGES
from train import loop

PLACES = {"CONFIG": "train/configs/indi_photo_small.py", "PICTURES": "pictures", "RUN": "run", "RESULTS": "results",
          "FOLDER": "cbsd68", "PHOTOGRAPHS": "cbsd68", "PORTRAITS": "faces_utk200",
          "...": "--config eval/configs/folder.py --data pictures --output samples"}
NOT_RUN = {  # commands, and why
    "indigo degrade value -o degraded.png --operator gaussian-noise --sigma-255 25":
        "runs as it stands in test_readme.py",
    "indigo weights convert hf:google/ddpm-celebahq-256 -o celeba.safetensors --revision COMMIT":
        "needs the network; test_convert_hub.py converts one of a server of its own",
    "indigo demo": "serves until it is stopped; test_demo_browser.py",
    "python -m eval.benchmark scaling --json --two-processes":
        "starts two processes more, which compile anew; test_benchmark_scaling.py",
    "python -m eval.benchmark scaling --json --batch 8 --sizes 128 --topologies v5e:2x2 v5e:4x4 v5e:8x8 v5e:16x16 "
    "v5p:8x8x16": "compiles for TPUs, which needs libtpu",
    # names of commands in a sentence, with words that stand for others or with none
    **dict.fromkeys(("indigo restore", "indigo restore --method", "indigo restore --method NAME",
                     "indigo restore --method NAME --help", "indigo restore --task ...", "indigo restore --samples K",
                     "indigo evaluate --inception", "indigo weights export", "indigo weights convert",
                     "python -m train.indi",
                     "python -m train.diffusion --config train/configs/diffusion_conditional.py"),
                    "no whole command"),
}
TOPOLOGIES = {"v5e:16x16": "cpu:4", "v4:4x4x4": "cpu:4", "v5e:1x1": "cpu:1"}  # TPUs need libtpu
TINY = {  # what is added, by the beginning of a command; of all that fit
    "indigo restore y.png -o x.png --method latent-indigo": "--steps 2",
    "python -m eval.run": "--limit 1 --metrics psnr --batch 1",
    "python -m eval.run ...": "--steps 2",
    "python -m train.plan": "--alone",
    "python -m train.plan --config train/configs/diffusion_imagenet.py": "--fsdp 2",
    "python -m eval.export": "--size 16 16 --platforms cpu",
    "python -m eval.benchmark": "--sizes 16 --repeats 1",
    "python -m eval.benchmark indi": "--steps 1",
    "python -m eval.figures": "--limit 1 --steps 1 2 --crop 32",
    "python -m eval.benchmark latent-indigo": "--time 16",
    "python -m eval.tables": "--limit 1",
    "python -m eval.tables --method reproduction": None,
    "python -m eval.tables --method calibration": None,
    "python -m eval.tables --method all": "--tasks denoise --methods once",
    "python -m eval.tables --method bird": "--tasks denoise --methods once wiener",
    "python -m eval.tables --method coverage": "--tasks sr --methods ddnm",
    "python -m eval.tables --method latent-indigo":
        "--chain-steps 2 --kinds guided --degradations plain --seeds 0 --raw-colors",
    "python -m eval.figures --method people": "--figure noise",
    "python -m eval.figures --method posteriors": "--figure inpaint",
    "python -m eval.figures --method latent-indigo": "--chain-steps 2 --figure drift",
}
BEFORE = {  # a command that makes what another one needs, where it is not there
    "drunet.safetensors": "indigo weights convert drunet_color.pth -o drunet.safetensors",
    "vae.safetensors": "indigo weights convert stable-diffusion-2-1 -o vae.safetensors --from vae",
    "latents.safetensors": "indigo weights convert stable-diffusion-2-1 -o latents.safetensors --from latent-unet "
                           "--autoencoder vae.safetensors",
    "runs/ae": "python -m train.autoencoder --config train/configs/autoencoder_faces.py --data pictures --workdir "
               "runs/ae",
    "inception.safetensors":
        "indigo weights convert pt_inception-2015-12-05-6726825d.pth -o inception.safetensors",
}


def lines():
    """``(page, line)`` of every command of the pages, in a block or in a sentence."""
    for page, text in PAGES.items():
        for block in re.findall(r"^ *```\w*\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"indigo |python3? -m (train|eval)\.", line):
                    yield page, re.sub(r"\$\{?\w+\}?", "value", line)
        text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
        for line in re.findall(r"`((?:indigo [a-z]|python3? -m (?:train|eval)\.)[^`]*)`", text):
            yield page, " ".join(line.split())


def commands():
    """``(page, words)`` of each, once."""
    seen = set()
    for page, line in lines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split, words = True, []
        for word in [*lexer, ";"]:
            if not set(word) <= set("();<>|&"):
                words.append(word)
            elif words:
                if " ".join(words) not in seen:
                    yield page, words
                seen.add(" ".join(words))
                words = []


COMMANDS = list(commands())
DONE = [(page, words) for page, words in COMMANDS if " ".join(words) not in NOT_RUN]
INDIGO = [(page, words[1:]) for page, words in DONE if words[0] == "indigo"]
NETWORKS = ("drunet.safetensors", "prior.safetensors")  # of the pages that tell how they are made
RESTORE = [(page, words) for page, words in INDIGO if words[0] == "restore" and "--help" not in words
           and "ct" not in words and not set(NETWORKS) & set(words)]
REAL = [(page, words) for page, words in DONE if (page, words[1:]) not in RESTORE]


def named(commands):
    return [f"{page}: {' '.join(words)}"[:90] for page, words in commands]


def test_the_pages_have_commands():
    pages = {page for page, _ in COMMANDS}
    assert {"README.md", "docs/how-to/pictures.md", "docs/how-to/weights.md", "docs/results.md"} <= pages
    assert len(RESTORE) > 12 and len(REAL) > 40


def test_what_is_not_run_is_on_a_page():
    assert set(NOT_RUN) <= {" ".join(words) for _, words in COMMANDS}


@pytest.mark.parametrize("page, words", INDIGO, ids=named(INDIGO))
def test_every_command_is_one_that_the_program_takes(page, words):
    if "--help" not in words:
        _, unknown = of_indigo.parser(words).parse_known_args(words)
        assert not unknown


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    small_world.write_files(folder)
    small_world.bundle(folder / "bundle")
    return folder


def tiny(words):
    """The words of a small piece of the same work."""
    line = " ".join(words)
    more = [flags for start, flags in TINY.items() if re.match(rf"{re.escape(start)}( |$)", line)]
    words = [each for word in words for each in PLACES.get(TOPOLOGIES.get(word, word), TOPOLOGIES.get(word, word)
                                                           ).split()]
    words += [] if None in more else [word for flags in more for word in flags.split()]
    return [*words, "--lpips", ""] if "--lpips" in words else words


def run(words):
    """The exit code; ``--help`` leaves with its own."""
    for name, line in BEFORE.items():
        if name in words and words[words.index(name) - 1] not in ("-o", "--workdir") and not os.path.exists(name):
            assert line.split() != words and run(line.split()) == 0
    words = tiny(words)
    try:
        if words[0] == "indigo":
            return cli.main(words[1:])
        if words[2].startswith("train.") and words[2] != "train.plan":
            return loop.main(words[2], words[3:])
        return importlib.import_module(words[2]).main(words[3:])
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("page, words", REAL, ids=named(REAL))
def test_commands_run(page, words, world, monkeypatch, capsys):
    small_world.enter(world, monkeypatch)
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    if "train.plan" not in words:  # several devices are only planned for
        monkeypatch.setattr(jax, "devices", lambda *_: first)
    for name in ("x.png", "clean.png", "slice.png", "whole.png"):
        pathlib.Path(name).unlink(missing_ok=True)
    if page == "docs/how-to/weights.md":  # whose prior is one of latents
        words = ["latents.safetensors" if word == "prior.safetensors" else word for word in words]
    assert run(words) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    if "-o" in words:
        assert os.path.exists(words[words.index("-o") + 1])
    else:
        assert out or "train" in words[2]


@pytest.mark.parametrize("page, words", RESTORE, ids=named(RESTORE))
def test_restoring_runs(page, words, tmp_path, monkeypatch):
    """With a method that needs no network in place of the one that is meant, whose settings are made all the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INDIGO_CACHE", str(tmp_path / "cache"))
    first = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: first)
    made = []

    def load(name, *, task="auto", scale=None, **settings):
        made.append(methods.METHODS[name].Settings(**settings))
        return fake_method.Fake(scale=scale)
    monkeypatch.setattr(methods, "load", load)
    args, _ = of_indigo.parser(words).parse_known_args(words)
    for name in args.inputs:
        photo(name if pathlib.Path(name).suffix else f"{name}/a.png", 16, 16)
    for name in ("mask.png", "m.png"):
        photo(name, 16, 16)
    np.save("k.npy", np.ones((3, 3)) / 9)
    for flag, value in vars(args).items():
        if flag in ("weights", "prior", "inn", "autoencoder") and str(value).endswith(".safetensors"):
            pathlib.Path(value).write_bytes((ROOT / "indigo_jax/weights/photo.safetensors").read_bytes())
    assert cli.main(words) == 0 and made
    output = pathlib.Path(args.output)
    assert (output.with_stem(f"{output.stem}-1") if args.samples > 1 else output).exists()
    for flag in ("report", "compare"):
        if flag in vars(args):
            assert os.path.exists(getattr(args, flag))
