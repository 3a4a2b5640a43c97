"""One self-contained page.

Owns the frame of a page: its colours in light, dark and print, and a content security policy that allows the page's
own style and script by their hashes and nothing else, so that no text in it can load or run anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path

from devpolicy._core.text import markup
from devpolicy._core.views.colors import DARK, LIGHT, variables
from devpolicy._core.views.picture import VARIABLES, style

ASSETS = Path(__file__).parent / "assets"


def text(value: object) -> str:
    """Return a value as text of a page: characters that are not seen are written out, and nothing is markup."""
    return markup(str(value))


def asset(name: str) -> str:
    """Return one of the package's own style sheets or scripts."""
    return (ASSETS / name).read_text("utf-8")


def stylesheet(*names: str) -> str:
    """Return the colours, the rules of pictures and these style sheets."""
    dark = f"@media screen and (prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}"
    rules = f":root{{color-scheme:light dark;{variables(LIGHT)}}}{dark}{style(VARIABLES)}"
    return "\n".join([rules, *map(asset, names)])


def page(title: str, body: str, *, css: str, script: str = "", data: object = None) -> str:
    """Return a page. `body` is markup, `data` anything that JSON can hold, which a script finds as `#data`."""
    run = _hash(script) if script else "'none'"
    holds = f'<script type="text/plain" id="data">{packed(data)}</script>\n<script>{script}</script>\n'
    scripts = holds if script else ""
    ready = "" if script else " data-ready"  # else the script says so
    allowed = f"default-src 'none'; style-src {_hash(css)}; script-src {run}; base-uri 'none'; form-action 'none'"
    return (
        f'<!doctype html>\n<html lang="en"{ready}>\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{allowed}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{css}</style>\n</head>\n<body>\n{body}\n"
        f"{scripts}</body>\n</html>\n"
    )


def packed(data: object) -> str:
    """Return data as compressed JSON in letters: a twelfth of its size, and nothing in it can be markup."""
    plain = json.dumps(data, ensure_ascii=True, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(plain, 9)).decode()


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"
