"""``indigo demo``: a web page that restores pictures."""
import importlib.util

from indigo_jax.cli.messages import UsageError, one_line
from indigo_jax.cli.parsing import add_command, number


def add(commands):
    """The command's parser."""
    parser = add_command(commands, "demo", run, "A web page that restores pictures.")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=(
        "where to listen; 0.0.0.0 lets the whole network in"))
    parser.add_argument("--port", type=number(int, 1, 65535), default=7860, metavar="N", help="of the page")


def run(args):
    """Serve the page until interrupted."""
    if importlib.util.find_spec("gradio") is None:
        raise UsageError("needs gradio, which the extra demo installs: pip install 'indigo-jax[demo]'")
    from indigo_jax.demo import page, work
    try:
        desk = work.Desk()
    except RuntimeError as error:
        raise UsageError(f"no device to compute on ({one_line(error)}); set JAX_PLATFORMS=cpu") from error
    try:
        page.launch(args.host, args.port, desk)
    except OSError as error:
        raise UsageError(f"cannot listen at {args.host}:{args.port} ({one_line(error)}); give another --port or "
                         "--host") from error
    return 0
