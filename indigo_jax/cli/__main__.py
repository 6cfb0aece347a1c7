"""``python -m indigo_jax.cli`` is ``indigo``."""
import sys

from indigo_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
