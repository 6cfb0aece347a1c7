"""Where the optional shared pictures, packs and reference numbers lie; tests that need them skip without them."""
import os
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _find():
    candidates = [os.environ.get("INDIGO_SHARED"), ROOT.parent / "shared"]
    for candidate in candidates:
        if candidate and (pathlib.Path(candidate) / "data").is_dir():
            return pathlib.Path(candidate).resolve()
    return None


SHARED = _find()
needs_shared = pytest.mark.skipif(
    SHARED is None, reason="needs the reference data: set INDIGO_SHARED to a folder with data/ and fixtures/")
