"""Every command on a page is one that its program takes; those of ``indigo restore`` run, on tiny pictures."""
import importlib
import os
import pathlib
import re
import shlex

import jax
import numpy as np
import pytest

from eval import command
from indigo_jax import cli, methods
from tests import fake_method
from tests.paths import ROOT
from tests.test_cli import photo
from tests.test_readme import PAGES
from train import common, distributed

PLACES = {"CONFIG": "train/configs/indi_photo_small.py", "PICTURES": "pictures", "RUN": "run", "RESULTS": "results"}


def lines():
    """``(page, line)`` of every command in the blocks of the pages, those of several lines in one."""
    for page, text in PAGES.items():
        for _, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if re.match(r"indigo |python3? -m (train|eval)\.", line):
                    yield page, re.sub(r"\$\{?\w+\}?", "value", line)


def commands():
    """``(page, words)`` of each."""
    for page, line in lines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        words = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("();<>|&"):
                words.append(PLACES.get(word, word))
            elif words:
                yield page, words
                words = []


INDIGO = [(page, words[1:]) for page, words in commands() if words[0] == "indigo"]
MODULES = [(page, words[2], words[3:]) for page, words in commands()
           if words[0].startswith("python") and words[1:2] == ["-m"] and re.match(r"(train|eval)\.", words[2])]
RESTORE = [(page, words) for page, words in INDIGO if words[0] == "restore" and "ct" not in words]


def named(commands):
    return [f"{page}: {' '.join(map(str, words))}"[:90] for page, *words in commands]


def test_the_pages_have_commands():
    pages = {page for page, _ in INDIGO}
    assert {"README.md", "docs/index.md", "docs/how-to/pictures.md", "docs/how-to/weights.md"} <= pages
    assert len(INDIGO) > 15 and len(MODULES) > 8


@pytest.mark.parametrize("page, words", INDIGO, ids=named(INDIGO))
def test_every_command_is_one_that_the_program_takes(page, words):
    _, unknown = cli._parser(words).parse_known_args(words)
    assert not unknown


@pytest.mark.parametrize("page, module, words", MODULES, ids=named(MODULES))
def test_every_script_takes_its_flags(page, module, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(distributed, "_join", lambda *_: None)
    seen = []
    if module in ("eval.export", "eval.benchmark"):
        monkeypatch.setattr(command, "run", lambda parser, work: seen.append(work) or 0)
        assert importlib.import_module(module).main(words) == 0
    elif module == "train.plan":
        plan = importlib.import_module(module)

        def plans(config, topology, **more):
            seen.append(config)
            raise ValueError("only read")
        monkeypatch.setattr(plan, "plans", plans)
        monkeypatch.setattr(plan.plan_chips, "start_cpu", lambda count: None)
        assert plan.main(words) == 2
    else:
        rest = distributed.from_command_line(module, words)
        seen.append(common.config_from_command_line(rest, program=module, kind=object))
    assert seen


@pytest.mark.parametrize("page, words", RESTORE, ids=named(RESTORE))
def test_commands_of_the_pages_run(page, words, tmp_path, monkeypatch):
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
    args, _ = cli._parser(words).parse_known_args(words)
    for name in args.inputs:
        photo(name if pathlib.Path(name).suffix else f"{name}/a.png", 16, 16)
    photo("mask.png", 16, 16)
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
