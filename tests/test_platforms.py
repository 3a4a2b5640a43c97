"""The tests can be collected on Windows, and what is skipped there has a reason that is listed.

Owns no behaviour of the product: what is looked at is the text of the tests.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.skips import listed

HERE = Path(__file__).parent
POSIX_MODULES = {"fcntl", "pty", "termios", "resource", "pwd", "grp"}
POSIX_SIGNALS = {"SIGHUP", "SIGKILL", "SIGALRM", "SIGQUIT"}
FILES = [file for file in sorted(HERE.rglob("*.py")) if file.parent.name not in ("attack", "guard", "silicon")]
"""`tests/attack` is not collected on Windows, and the suite of silicon is run by hand."""


def reasons(tree: ast.Module) -> Iterator[str]:
    """Yield what a module's skips say that depend on the system."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("skipif"):
            condition = ast.unparse(node.args[0])
            if any(word in condition for word in ("sys.platform", "os.name", "hasattr(os", "'/proc", "'/dev")):
                yield from (ast.literal_eval(one.value) for one in node.keywords if one.arg == "reason")


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield what runs when a module is imported: everything but the bodies of functions."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += [*node.decorator_list, *node.args.defaults]
        elif not isinstance(node, ast.Lambda):
            pending += ast.iter_child_nodes(node)


def posix_only(tree: ast.Module) -> Iterator[str]:
    """Yield what a module takes from POSIX alone when it is imported."""
    for node in at_import(tree):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names if one.name in POSIX_MODULES)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "signal" and node.attr in POSIX_SIGNALS:
            yield ast.unparse(node)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HERE)))
def test_windows_collects_it_and_its_skips_have_reasons(file):
    tree = ast.parse(file.read_text("utf-8"))
    assert list(posix_only(tree)) == []
    assert [reason for reason in reasons(tree) if not listed(reason)] == []
