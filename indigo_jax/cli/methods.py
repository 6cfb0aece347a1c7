"""``indigo methods``: which there are, what they need and cost, when to take which."""
import textwrap

from indigo_jax.cli.parsing import add_command


def add(commands):
    """The command's parser."""
    add_command(commands, "methods", run, "The methods of restore, and when to take which.")


def run(args):
    """Print the table; returns the exit code."""
    del args
    from indigo_jax.methods import METHODS, TASKS, choose
    for name, method in METHODS.items():
        print(f"{name}: {method.summary}")
        for title, text in (("tasks", ", ".join(method.tasks)), ("needs", method.needs),
                            ("network calls", method.cost), ("take it when", method.when)):
            print(textwrap.fill(text, 100, initial_indent=f"    {title + ':':<15}", subsequent_indent=" " * 19))
    print("auto takes:")
    for task in TASKS:
        for flags in ((), ("kernel",)) if task == "deblur" else ((),):
            given = " --kernel FILE" if flags else ""
            choice = choose(task, flags)
            print(f"    --task {task}{given}: {choice.method} ({choice.why})")
    return 0
