"""The commands: which there are, and running one of them."""
import sys

from indigo_jax import __version__
from indigo_jax.cli import cache, degrade, demo, evaluate, interrupts, methods, restore, weights
from indigo_jax.cli.messages import UsageError
from indigo_jax.cli.parsing import Parser, unknown_arguments


def run(argv=None) -> int:
    """Run one command; returns the exit code. See :func:`indigo_jax.cli.main`."""
    interrupts.prog = "indigo"
    try:
        args, unknown = parser(sys.argv[1:] if argv is None else argv).parse_known_args(argv)
        interrupts.prog = args.parser.prog
        if unknown:
            raise UsageError(unknown_arguments(args.parser, unknown))
        return args.run(args)
    except UsageError as error:
        print(f"{error.prog or interrupts.prog}: {error}", file=sys.stderr)
        return 2


def parser(argv):
    """The parser of ``argv``."""
    parser = Parser(prog="indigo", description="Restore pictures: noise, blur, low resolution, JPEG artefacts.")
    parser.add_argument("--version", action="version", version=f"indigo_jax {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    restore.add(commands, argv)
    for command in (methods, degrade, evaluate, weights, cache, demo):
        command.add(commands)
    return parser
