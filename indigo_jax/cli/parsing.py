"""The parser of all commands: wrong usage is one line, numbers have limits, flags of methods are their settings."""
import argparse
import difflib
import math
import re
import typing

from indigo_jax.cli.messages import UsageError

COMMON = ("kernel", "mask", "sigma_255")  # flags of methods that are shown without a method


class Parser(argparse.ArgumentParser):
    """Raises :class:`UsageError`."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **options)

    def error(self, message):
        found = re.match(r"argument ([^:]*): invalid choice: '(.*)' \(choose from (.*)\)$", message, re.DOTALL)
        if found:
            choices = [choice.strip(" '") for choice in found[3].split(",")]
            message = f"unknown {found[1]} {found[2]!r}; {did_you_mean(found[2], choices)}"
        elif "required: " in message:
            message = f"{message}; see {self.prog} --help"
        wrong = UsageError(message)
        wrong.prog = self.prog
        raise wrong


def did_you_mean(word, choices):
    """The nearest of the choices, and all of them, or where there are very many the nearest alone."""
    close = difflib.get_close_matches(word, choices, n=1)
    if close and len(choices) > 25:
        return f"did you mean {close[0]!r}? --help has all"
    return (f"did you mean {close[0]!r}? " if close else "") + f"There is: {', '.join(choices)}"


def unknown_arguments(parser, unknown):
    """What to say of arguments that no flag takes."""
    flag = next((word for word in unknown if word.startswith("-")), unknown[0])
    options = [option for option in parser._option_string_actions if option.startswith("--")]
    if not flag.startswith("-"):
        return f"unexpected argument {flag!r}; see {parser.prog} --help"
    return f"unknown option {flag.split('=')[0]}; {did_you_mean(flag.split('=')[0], options)}"


def number(kind, low, high, unit=""):
    """An argument that is a number of a kind within limits."""
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            limits = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of at least {low:g}"
            raise argparse.ArgumentTypeError(f"give {what} {limits}{unit}, not {text!r}")
        return value
    return parse


def add_command(commands, name, run, description):
    """The parser of one command."""
    parser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(run=run, parser=parser)
    return parser


def add_files(parser, verb):
    """The arguments of commands that make pictures of pictures."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="picture files, or folders (with all below)")
    parser.add_argument("-o", "--output", required=True, metavar="OUTPUT", default=argparse.SUPPRESS, help=(
        f"where the {verb} picture goes: a picture name for one INPUT file, else a folder, which keeps the subfolders "
        "of INPUT and gets PNG files, so that nothing is lost by saving"))
    parser.add_argument("--skip-existing", action="store_true", help=(
        "leave out pictures for which a file of the result's name is there, whoever made it and whatever is in it"))
    parser.add_argument("--no-cache", action="store_true", help=(
        "compile everything anew, and keep nothing; see: indigo cache"))
    parser.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=0, help="of all noise")


def add_settings(parser, owners, method):
    """The flags of all methods; those of other methods than ``method`` (or, without one, uncommon ones) are hidden.

    Args:
        owners: ``{method: {name: (field, flag)}}``.
        method: the one that was named, or None.
    """
    order = [method] * (method is not None) + [name for name in owners if name != method]
    for name in dict.fromkeys(flag for owner in order for flag in owners[owner]):
        owner = next(owner for owner in order if name in owners[owner])
        field, known = owners[owner][name]
        if known.choices and owner != method:  # whatever any method knows; which one is meant is settled later
            every = [choice for flags in owners.values() if name in flags for choice in flags[name][1].choices]
            known = known._replace(choices=tuple(dict.fromkeys(every)))
        shown = name in owners[method] if method else name in COMMON
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, default=argparse.SUPPRESS,
                            help=_help(field, known) if shown else argparse.SUPPRESS, **_kind(field, known))


def _help(field, known):
    text = known.help.replace("%", "%%")
    if known.tasks:
        text = f"{' or '.join(known.tasks)}: {text}"
    if field.default is None or field.default is False or "(default:" in text:
        return text
    return f"{text} (default: {field.default})"


def _kind(field, known):
    types = typing.get_args(field.type) or (field.type,)
    if bool in types:
        return {"action": "store_true"}
    options = {"metavar": known.metavar} if known.metavar else {}
    if known.choices:
        return {"choices": known.choices}
    for kind in (int, float):
        if kind in types and not known.file:
            unit = " pixels" if known.metavar == "PIXELS" else ""
            return {"type": number(kind, known.low, known.high, unit), "metavar": known.metavar or "N"}
    return options
