"""A local server that speaks the hub's protocol as far as headers need it: redirects, ranges, refusals."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class LocalHub:
    """The server's state: folders by the names of their models, what it refuses, and what it sent."""

    repositories: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "right"
    status: int | None = None
    """Answered to everything."""
    ignores_ranges: bool = False
    change: Callable[[bytes], bytes] = lambda body: body
    """What becomes of the bytes of a file on their way."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Sizes that are announced in place of the true ones."""
    loops: bool = False
    sent: int = 0
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """Run a hub on a free port."""
    hub = LocalHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            hub.requests.append(self.path)
            path = unquote(self.path)
            if hub.status is not None:
                return self._say(hub.status, b"{}", {"Retry-After": "7"})
            if hub.loops and "/cdn" not in path and "/resolve/" in path:
                return self._say(302, b"", {"Location": self.path})
            api = re.fullmatch(r"/api/models/([^/?]+/[^/?]+)(?:/revision/([^/?]+))?(?:\?.*)?", path)
            if api:
                return self._info(*api.groups())
            resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            if resolve:  # the hub redirects to where large files are
                name, commit, file = resolve.groups()
                if self._may(name):
                    self._say(302, b"", {"Location": f"/cdn/{name}/{file}", "X-Repo-Commit": commit})
                return None
            name, _, file = path.removeprefix("/cdn/").rpartition("/")
            return self._file(hub.repositories[name] / file)

        def _may(self, name: str) -> bool:
            if name not in hub.repositories:
                self._say(401, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})
            elif name in hub.gated and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self._say(401, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "restricted"})
            else:
                return True
            return False

        def _info(self, name: str, revision: str | None) -> None:
            if name not in hub.repositories:
                self._may(name)
            elif revision not in (None, "main", "v1", COMMIT):
                self._say(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            else:  # the hub tells everybody which files a gated model has
                files = [file for file in sorted(hub.repositories[name].iterdir()) if file.is_file()]
                siblings = [
                    {"rfilename": file.name, "size": hub.sizes.get(file.name, file.stat().st_size)} for file in files
                ]
                self._say(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode())

        def _file(self, file: Path) -> None:
            size = file.stat().st_size
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked is None or hub.ignores_ranges:
                with file.open("rb") as opened:
                    return self._say(200, hub.change(opened.read(1 << 20)), length=size)
            begin, end = int(asked[1]), min(int(asked[2]), size - 1)
            with file.open("rb") as opened:
                opened.seek(begin)
                body = opened.read(end + 1 - begin)
            return self._say(206, hub.change(body), {"Content-Range": f"bytes {begin}-{end}/{size}"})

        def _say(
            self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None
        ) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(length or len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            if length is not None:
                self.close_connection = True
            self.end_headers()
            self.wfile.write(body)
            hub.sent += len(body)

    return Handler
