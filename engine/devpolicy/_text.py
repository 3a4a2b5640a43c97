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
    r"""Return one line of text with everything that is not seen written as an escape: ESC as `\x1b`.

    Text that has been through it is left as it is. Backslashes are not doubled: it is for people to read.

    >>> visible("a\x1b[31m\nb")
    'a\\x1b[31m\\nb'
    """
    if text.isprintable():
        return text
    return "".join(_escaped(sign) if category(sign) in _HIDDEN else sign for sign in text)


def visible_line(text: str) -> str:
    r"""Return one line as `visible` does, and such that a CI log takes it for no command.

    >>> visible_line("  ::error::x")
    '  \\x3a:error::x'
    """
    start = len(text) - len(text.lstrip())
    return (
        visible(text[:start] + _COMMAND.sub(_neutral, text[start:])) if "::" in text or "##[" in text else visible(text)
    )


def _neutral(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]):02x}"


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
