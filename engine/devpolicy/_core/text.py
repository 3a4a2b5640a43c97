"""Text that was read from files, as it is shown to people.

Owns what a terminal or a CI log would take for a command: it is written as an escape, and never sent.
"""

from __future__ import annotations

import re
from unicodedata import category

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of what is not seen: controls, formats (bidirectional ones too), surrogates, line breaks."""
_COMMAND = re.compile(r"(?<=#)#(?=\[)|(?<!.):(?=:)", re.DOTALL)
"""What makes a line a workflow command for GitHub's runner: `##[` anywhere in it, or `::` at its beginning."""


def visible(text: str) -> str:
    r"""Return one line of text with everything that is not seen written as an escape: ESC as `\u001b`.

    Text that has been through it is left as it is. Backslashes are not doubled: it is for people to read.

    >>> visible("a\x1b[31m\nb")
    'a\\u001b[31m\\nb'
    """
    if text.isprintable():
        return text
    return "".join(_escaped(sign) if category(sign) in _HIDDEN else sign for sign in text)


def visible_line(text: str) -> str:
    r"""Return one line as `visible` does, and such that a CI log takes it for no command.

    >>> visible_line("  ::error::x")
    '  \\u003a:error::x'
    """
    start = len(text) - len(text.lstrip())
    return (
        visible(text[:start] + _COMMAND.sub(_neutral, text[start:])) if "::" in text or "##[" in text else visible(text)
    )


def _neutral(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _escaped(sign: str) -> str:
    """Return an escape that TOML, JSON and Python read alike, so that a quoted text is still what it was."""
    if sign in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[sign]
    return f"\\u{ord(sign):04x}" if ord(sign) < 0x10000 else f"\\U{ord(sign):08x}"


def json_text(value: object) -> str:
    r"""Return a value as JSON, ASCII only, so that no encoding can spoil it; no line is a command of a CI log.

    >>> print(json_text(["##[error]x"]), end="")
    [
      "#\u0023[error]x"
    ]
    """
    import json  # here, as `html` below: each start loads this module, and few need them

    return json.dumps(value, indent=2).replace("##[", "#\\u0023[") + "\n"


def markup(text: str) -> str:
    """Return one line as text of HTML, of SVG or of an attribute there, and such that a CI log takes it for no command.

    >>> markup('"##[error]<b>"')
    '&quot;#&#35;[error]&lt;b&gt;&quot;'
    """
    from html import escape

    return escape(visible(text), quote=True).replace("##[", "#&#35;[")


LONGEST_LINE = 500
"""Characters of what a library or a driver says that are kept."""


def one_line(text: object) -> str:
    """Return text from a library or a driver as one line that can be written as UTF-8, at most 500 characters."""
    raw = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return " ".join(raw.encode(errors="replace").decode().split())[:LONGEST_LINE]


def described(broken: BaseException) -> str:
    """Return the type and the message of an exception, also of one whose message cannot be made."""
    try:
        return f"{type(broken).__name__}: {broken}"
    except Exception:  # noqa: BLE001 - the class is a stranger's
        return type(broken).__name__
