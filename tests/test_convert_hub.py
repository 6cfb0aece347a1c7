"""``hf:OWNER/NAME`` by the hub's own client, from a small server on this machine that answers as the hub does."""
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse

import numpy as np
import pytest
from safetensors.numpy import save

from indigo_jax import weights
from indigo_jax.cli import main
from tests import foreign
from tests.paths import ROOT

pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "someone/drunet-tiny"
STATE = {name: np.ascontiguousarray(value)
         for name, value in foreign.drunet({"widths": (4, 6), "num_blocks": 1}).items()}
FILES = {"model.safetensors": save(STATE), "config.json": b"{}", "README.md": b"# tiny", "model.bin": b"not fetched"}


class Hub(http.server.BaseHTTPRequestHandler):
    """One repository at one commit."""

    fetched = []

    def do_GET(self):
        path = urllib.parse.unquote(self.path.partition("?")[0])
        if path.startswith(f"/api/models/{NAME}/tree/"):
            return self._json([{"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                               for name, data in FILES.items()])
        if path in [f"/api/models/{NAME}{end}" for end in ("", "/revision/main", f"/revision/{COMMIT}")]:
            return self._json({"_id": "1", "id": NAME, "modelId": NAME, "sha": COMMIT, "private": False, "tags": [],
                               "siblings": [{"rfilename": name} for name in FILES]})
        name = path.rpartition("/")[2]
        if path in (f"/{NAME}/resolve/{COMMIT}/{name}", f"/{NAME}/resolve/main/{name}") and name in FILES:
            if self.command == "GET":
                self.fetched.append(name)
            return self._send(FILES[name], {"ETag": f'"{hashlib.sha1(FILES[name]).hexdigest()}"',
                                            "X-Repo-Commit": COMMIT})
        self._send(b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}, 404)

    do_HEAD = do_GET

    def _json(self, value):
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, data, headers, status=200):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_repository_is_fetched_once_and_then_read_without_the_network(endpoint, tmp_path, monkeypatch, capsys):
    """First by two processes at once, which share a cache."""
    def start(*words):
        variables = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1",
                     "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu",
                     "HF_ENDPOINT": endpoint}
        for name in ("HF_HUB_OFFLINE", "HF_TOKEN"):
            variables.pop(name, None)
        command = [sys.executable, "-m", "indigo_jax.cli", "weights", "convert", *words]
        return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                cwd=tmp_path)

    out, other = tmp_path / "out.safetensors", tmp_path / "other.safetensors"
    both = [start(f"hf:{NAME}", "-o", str(path)) for path in (out, other)]
    for process in both:
        assert process.communicate(timeout=600) and process.returncode == 0
    assert weights.load(out)[2]["source"] == weights.load(other)[2]["source"]
    source = weights.load(out, kind="prior")[2]["source"]
    assert source["name"] == f"hf:{NAME}" and source["revision"] == COMMIT
    assert source["sha256"] == {"model.safetensors": hashlib.sha256(FILES["model.safetensors"]).hexdigest()}
    assert set(Hub.fetched) == {"model.safetensors", "config.json"}

    count = len(Hub.fetched)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))  # the client is not asked: it may be in this process
    for words in (["--offline"], ["--revision", COMMIT]):
        assert main(["weights", "convert", f"hf:{NAME}", "-o", str(out), *words]) == 0
    assert len(Hub.fetched) == count
    blobs = tmp_path / "hub" / f"models--{NAME.replace('/', '--')}" / "blobs"
    (blobs / "abc.incomplete").touch()  # as a download leaves that is stopped
    assert main(["weights", "convert", f"hf:{NAME}", "-o", str(out), "--offline"]) == 2
    assert "only a part of it is in the cache of the hub" in capsys.readouterr().err

    absent = start("hf:someone/absent", "-o", str(out))
    errors = absent.communicate(timeout=600)[1]
    assert absent.returncode == 2 and errors.count("\n") == 1 and "hf:someone/absent: cannot be fetched" in errors
