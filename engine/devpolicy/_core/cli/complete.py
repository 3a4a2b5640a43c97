"""What a shell may complete.

Owns the candidates for policies, hosts, models, modules and codes. Whatever fails, a completion offers nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from click.shell_completion import CompletionItem

from devpolicy._core.errors import DevPolicyError

if TYPE_CHECKING:
    import click

_MOST = 200


def policies(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete shipped policies, then TOML files."""
    from devpolicy._core.names import shipped_names

    return _items(shipped_names("policy"), incomplete) + _files(incomplete)


def targets(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the targets that come with the package."""
    from devpolicy._core.abilities import NAMED

    return _items(NAMED, incomplete)


def hosts(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the catalogue of hosts, then TOML files."""
    from devpolicy._core.names import shipped_names

    return _items(shipped_names("host"), incomplete) + _files(incomplete)


def fleets(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the catalogue of fleets, then TOML files and folders."""
    from devpolicy._core.names import shipped_names

    return _items(shipped_names("fleet"), incomplete) + _files(incomplete, folders=True)


def models(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the catalogue of models, then files and folders, also behind `NAME=`."""
    from devpolicy._core.names import shipped_names

    name, equals, started = incomplete.rpartition("=")
    found = _items(shipped_names("model"), started) + _files(started, folders=True)
    return [CompletionItem(name + equals + item.value, item.type) for item in found] if equals else found


def modules(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a module's path, one level at a time, once the model is on the command line."""
    from devpolicy._core.model.catalogue import load

    model = context.params.get("model")
    if not model:
        return []
    try:
        paths = [module.path for module in load(model, fetch=False).modules if module.path]
    except DevPolicyError:
        return []
    depth = incomplete.count(".")
    return _items((path for path in paths if path.count(".") == depth), incomplete)


def codes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a code, with its title."""
    from devpolicy._core.codes import CODES

    wanted = incomplete.upper()
    return [CompletionItem(code, help=told.title) for code, told in CODES.items() if code.startswith(wanted)]


def _items(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    matching = (CompletionItem(name) for name in names if name.startswith(incomplete))
    return [item for item, _ in zip(matching, range(_MOST), strict=False)]


def _files(incomplete: str, *, folders: bool = False) -> list[CompletionItem]:
    """Offer TOML files, and folders to descend into; the shell's own completion cannot be mixed with names."""
    return [item for item, _ in zip(_found(incomplete, folders=folders), range(_MOST), strict=False)]


def _found(incomplete: str, *, folders: bool) -> Iterator[CompletionItem]:
    cut = incomplete.rfind("/") + 1
    above, start = incomplete[:cut], incomplete[cut:]
    try:
        entries = sorted(Path(above or ".").iterdir())
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(start) or (entry.name.startswith(".") and not start):
            continue
        if entry.is_dir():
            yield CompletionItem(above + entry.name + ("" if folders else "/"))
        elif entry.suffix == ".toml":
            yield CompletionItem(above + entry.name)
