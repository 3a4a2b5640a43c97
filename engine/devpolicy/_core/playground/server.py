"""A server for the playground on this machine.

Owns the answers to a browser's requests: the site's own files from memory, to this machine alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath

_TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
    ".wasm": "application/wasm", ".zip": "application/zip", ".json": "application/json",
}  # fmt: skip
ADDRESS = "127.0.0.1"


def server(files: Mapping[str, bytes], port: int) -> ThreadingHTTPServer:
    """Return a server of these files that listens on this machine. Raises `OSError` where the port is taken."""

    class Handler(BaseHTTPRequestHandler):
        server_version = "devpolicy"

        def do_GET(self) -> None:
            """Answer with a file."""
            name = self.path.partition("?")[0].lstrip("/") or "index.html"
            content = files.get(name)
            # Another site's page may know this address by a name of its own.
            host = (self.headers.get("Host") or "").partition(":")[0]
            if content is None or host not in (ADDRESS, "localhost"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", _TYPES.get(PurePosixPath(name).suffix, "application/octet-stream"))
            self.send_header("Content-Length", str(len(content)))
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing of each request."""

    return ThreadingHTTPServer((ADDRESS, port), Handler)
