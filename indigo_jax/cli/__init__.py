"""The command line: ``indigo restore | methods | degrade | evaluate | weights | cache | demo``. It parses and tells.

Exit codes: 0 all done; 1 some file failed, each named with its reason, the others written; 2 wrong usage, one line that
says what to type instead. No device is started before something has to be computed.
"""
import os
import signal
import sys

from indigo_jax import __version__
from indigo_jax.cli import cache, degrade, demo, evaluate, methods, restore, weights
from indigo_jax.cli.messages import UsageError
from indigo_jax.cli.parsing import Parser, unknown_arguments


def main(argv=None) -> int:
    """Run one command; returns the exit code. ``--help`` and ``--version`` leave by ``SystemExit(0)``."""
    prog = "indigo"
    try:
        args, unknown = _parser(sys.argv[1:] if argv is None else argv).parse_known_args(argv)
        prog = args.parser.prog
        if unknown:
            raise UsageError(unknown_arguments(args.parser, unknown))
        code = args.run(args)
        if argv is None:  # all is said, so a late Ctrl-C has nothing to interrupt
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return code
    except UsageError as error:
        print(f"{error.prog or prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prog}: interrupted; what has been written is whole, the rest is not there", file=sys.stderr)
        if argv is None:  # a process of our own: do not wait for the picture that is being computed
            sys.stdout.flush()
            os._exit(130)
        return 130


def _parser(argv):
    parser = Parser(prog="indigo", description="Restore pictures: noise, blur, low resolution, JPEG artefacts.")
    parser.add_argument("--version", action="version", version=f"indigo_jax {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    restore.add(commands, argv)
    for command in (methods, degrade, evaluate, weights, cache, demo):
        command.add(commands)
    return parser
