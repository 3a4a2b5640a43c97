"""What tests ask of a page and of a picture without a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

HOSTILE = """</script><script>alert(1)</script><img src=x onerror=alert(2)>"'`&]]>\u202e\x1b[31m"""
"""A name as a stranger may write it."""
SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """The elements of a page with their attributes, the texts of style and scripts, and the data."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self._open: str | None = None
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in self.inline:
            self.inline[tag].append("")
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open in self.inline:
            self.inline[self._open][-1] += data

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.elements}

    @property
    def data(self) -> Any:
        return json.loads(zlib.decompress(base64.b64decode(self.inline["script"][0])))

    @property
    def policy(self) -> str:
        return next(str(attrs["content"]) for name, attrs in self.elements if "http-equiv" in attrs)


def hashed(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def bars(svg: str) -> list[list[float]]:
    """Return the widths of the parts of each bar that an SVG draws, in its units."""
    found = []
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        paths = [path.get("d", "") for path in group.findall(f"{SVG}path")]
        widths = [float(match[1]) for path in paths if (match := re.match(r"M[\d.]+ 16h([\d.]+)v13", path))]
        found += [widths] if widths else []
    return found
