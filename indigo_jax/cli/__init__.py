"""The command line: ``indigo restore | methods | degrade | evaluate | weights | cache | demo``. It parses and tells.

Exit codes: 0 all done; 1 some file failed, each named with its reason, the others written; 2 wrong usage, one line that
says what to type instead; 130 interrupted. No device is started before something has to be computed.
"""


def main(argv=None) -> int:
    """Run one command; returns the exit code. ``--help`` and ``--version`` leave by ``SystemExit(0)``.

    Args:
        argv: its words; None: those of this process, which is then one of our own, ended at once by Ctrl-C.
    """
    from indigo_jax.cli import interrupts  # nothing is imported before Ctrl-C is heard
    if argv is None:
        interrupts.begin()
    try:
        from indigo_jax.cli import commands
        code = commands.run(argv)
        if argv is None:
            interrupts.check()
            interrupts.stop()
        return code
    except KeyboardInterrupt:
        if argv is None:
            interrupts.end()
        import sys
        print(interrupts.line(), file=sys.stderr)
        return 130
