"""A hub on this machine: serves the files of one folder as one commit of one model, and counts what is asked of it."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MODEL, COMMIT = "owner/pico", "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(folder: Path):
    """Yield (address, list of the paths asked for)."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, body: bool) -> None:
            asked.append(self.path)
            api, files = f"/api/models/{MODEL}", f"/{MODEL}/resolve/{COMMIT}/"
            names = sorted(path.name for path in folder.iterdir())
            if self.path.split("?")[0] == f"{api}/revision/{COMMIT}":
                info = {"id": MODEL, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
                return self._send(200, json.dumps(info).encode(), body)
            if self.path.split("?")[0] == f"{api}/tree/{COMMIT}":
                tree = [{"type": "file", "path": n, "oid": n, "size": (folder / n).stat().st_size} for n in names]
                return self._send(200, json.dumps(tree).encode(), body)
            if self.path.startswith(files) and (folder / self.path.removeprefix(files)).is_file():
                content = (folder / self.path.removeprefix(files)).read_bytes()
                etag = hashlib.sha256(content).hexdigest()
                return self._send(200, content, body, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
            code = "RevisionNotFound" if self.path.startswith(f"{api}/") else "RepoNotFound"
            return self._send(404, b"{}", body, {"X-Error-Code": code})

        def _send(self, status: int, content: bytes, body: bool, headers: dict | None = None) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
