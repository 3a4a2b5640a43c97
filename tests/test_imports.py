"""The import table of the architecture, read from the source; and what `import devpolicy` really loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

import pytest

import devpolicy

PACKAGE = Path(devpolicy.__file__).parent
CORE = PACKAGE / "_core"

# Each may import those before it and nothing else of ours.
LEAVES = (
    "public",
    "text",
    "errors",
    "sizes",
    "codes",
    "shipped",
    "files",
    "disk_cache",
    "toml",
    "connected",
    "ranges",
    "child_process",
    "names",
    "threads",
    "loaders",
    "left_host",
)

_VALUES = (*LEAVES, "loading", "device", "host", "model", "abilities")
_ENGINE = (*_VALUES, "language", "memory", "cost", "placement")

# What a room of `_core` may import at module level, and inside functions, beside itself.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    **{leaf: LEAVES[:place] for place, leaf in enumerate(LEAVES)},
    "device": LEAVES,
    "host": (*LEAVES, "device"),
    "loading": LEAVES,
    "model": (*LEAVES, "loading", "device"),
    "abilities": (*LEAVES, "loading", "device"),
    "language": _VALUES,
    "memory": (*_VALUES, "language"),
    "cost": (*_VALUES, "language", "memory"),
    "placement": (*_VALUES, "language", "memory", "cost"),
    "planning": _ENGINE,
    "views": (*_ENGINE, "planning"),
    "verbs": (*_ENGINE, "planning"),
    "targets": (*LEAVES, "loading", "device", "host", "model", "abilities", "memory", "placement"),
    "certify": _ENGINE,
    "fleet": (*_ENGINE, "planning", "verbs", "targets", "certify"),
    "dry_run": (*_ENGINE, "verbs", "targets", "simulation", "simulator"),
    "review": (*_ENGINE, "planning", "verbs", "fleet", "dry_run", "targets"),
    "playground": (*_ENGINE, "planning", "views", "verbs", "devpolicy"),
    "starter": (*_ENGINE, "planning", "views", "verbs", "targets", "review"),
    "conformance": (*_ENGINE, "verbs", "simulation"),
    "strategies": _ENGINE,
    "simulation": (*_VALUES, "simulator", "verbs", "fleet"),
    "simulator": LEAVES,
    "doctor": (*LEAVES, "host", "simulation"),
    "cli": (
        *_ENGINE,
        "planning",
        "views",
        "verbs",
        "targets",
        "fleet",
        "certify",
        "dry_run",
        "review",
        "starter",
        "playground",
        "simulation",
        "simulator",
        "doctor",
        "devpolicy",
    ),
    # The public face: the package's own `__init__`, `errors`, `testing`.
    "devpolicy": (
        *_ENGINE,
        "verbs",
        "targets",
        "fleet",
        "review",
        "conformance",
        "strategies",
        "simulation",
        "simulator",
        "cli",
    ),
}

# Convenience methods that import upward, inside the function. A new one is a decision: write it down here.
CONVENIENCE: dict[str, set[str]] = {
    "device.component": {"verbs", "targets"},  # resolve_device, from_policy; to_haystack, from_haystack
    "review.fuzz": {"devpolicy"},  # the strategies for models, where Hypothesis is installed
    "placement.plan": {"targets", "dry_run", "views"},  # Plan.to_hf_kwargs, verify, dry_run, _repr_html_
    "targets.haystack_components.applying": {"verbs"},  # a policy decides for components, as `resolve` does
    "targets.haystack_components.deciding": {"verbs"},
    "targets.haystack_components.filling": {"verbs"},
    "verbs.context": {"targets"},  # Haystack's components ask the policy in use
}

HEAVY = {
    *("accelerate", "haystack", "numpy", "safetensors", "scipy", "spacy", "torch", "transformers"),
    *("click", "highspy", "hypothesis", "psutil", "pynvml", "pytest", "ray", "rich"),
}
MAY_BE_HEAVY = ("cli", "conformance", "dry_run", "simulation", "simulator", "strategies", "devpolicy")


class Import(NamedTuple):
    """One import statement's target: where it stands, what it names, and whether it runs with its module."""

    module: str
    line: int
    target: str
    at_import: bool

    @property
    def part(self) -> str:
        return part_of(self.module)

    @property
    def place(self) -> str:
        """The module's name within `_core`, which `CONVENIENCE` lists."""
        return self.module.removeprefix("_core.")

    @property
    def ours(self) -> str | None:
        """The part of ours that is imported."""
        package, _, rest = self.target.partition(".")
        return part_of(rest) if package == "devpolicy" else None

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.target}"


def part_of(module: str) -> str:
    """Return the room of `_core` that a module stands in, `devpolicy` for what is outside of it."""
    parts = module.split(".")
    return parts[1] if parts[0] == "_core" and len(parts) > 1 else "devpolicy"


class _Reader(ast.NodeVisitor):
    """Collects imports; what stands under `if TYPE_CHECKING:` never runs and is left out."""

    def __init__(self, module: str, package: str) -> None:
        self.module, self.package = module, package
        self.functions = 0
        self.found: list[Import] = []

    def _add(self, node: ast.stmt, target: str) -> None:
        self.found.append(Import(self.module, node.lineno, target, at_import=not self.functions))

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._add(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        source = resolve_name("." * node.level + (node.module or ""), self.package)
        for alias in node.names:
            # `from devpolicy._core import verbs` names a room, `from devpolicy import Plan` the package.
            submodule = source == "devpolicy._core" and is_module(alias.name)
            self._add(node, f"{source}.{alias.name}" if submodule else source)

    def _visit_function(self, node: ast.AST) -> None:
        self.functions += 1
        self.generic_visit(node)
        self.functions -= 1

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = _visit_function  # noqa: N815 - ast names them

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) not in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            self.visit(node.test)
            for child in node.body:
                self.visit(child)
        for child in node.orelse:
            self.visit(child)


def is_module(name: str) -> bool:
    return (CORE / f"{name}.py").is_file() or (CORE / name).is_dir()


def imports() -> Iterator[Import]:
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = ("devpolicy", *file.relative_to(PACKAGE).with_suffix("").parts)
        package = ".".join(parts[:-1])
        inside = parts[1:-1] if parts[-1] == "__init__" else parts[1:]
        reader = _Reader(".".join(inside) or "__init__", package)
        reader.visit(ast.parse(file.read_bytes(), str(file)))
        yield from reader.found


IMPORTS = list(imports())


def test_every_room_stands_in_the_table():
    rooms = {path.stem for path in CORE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} == set(MAY_IMPORT) - {"devpolicy"}


def test_the_reader_finds_imports_at_all():
    assert any(one.ours == "errors" for one in IMPORTS)
    assert any(one.target == "torch" for one in IMPORTS)


def test_no_module_imports_upward_as_it_loads():
    wrong = [one for one in IMPORTS if one.at_import and not allowed(one)]
    assert not wrong, "\n".join(map(str, wrong))


def test_functions_import_upward_only_in_convenience_methods():
    wrong = [
        one
        for one in IMPORTS
        if not one.at_import and not allowed(one) and one.ours not in CONVENIENCE.get(one.place, ())
    ]
    assert not wrong, "\n".join(map(str, wrong))


def test_every_convenience_method_is_used():
    used = {(one.place, one.ours) for one in IMPORTS if not one.at_import and not allowed(one)}
    assert {(module, part) for module, rooms in CONVENIENCE.items() for part in rooms} - used == set()


def test_heavy_libraries_are_imported_late():
    wrong = [
        one
        for one in IMPORTS
        if one.at_import and one.target.partition(".")[0] in HEAVY and one.part not in MAY_BE_HEAVY
    ]
    assert not wrong, "\n".join(map(str, wrong))


def allowed(one: Import) -> bool:
    return one.ours is None or one.ours == one.part or one.ours in MAY_IMPORT.get(one.part, ())


def loaded_by(statement: str, cwd: Path) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after `statement`."""
    command = [sys.executable, "-I", "-c", f"{statement}\nimport sys\nprint(*sys.modules)"]
    run = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.split()}


@pytest.mark.parametrize(
    "statement",
    ["import devpolicy", "from devpolicy import *", "import devpolicy; devpolicy.Policy.parse('prefer = \"cuda\"')"],
)
def test_none_of_the_heavy_libraries_is_loaded(statement, tmp_path):
    assert loaded_by(statement, tmp_path) & HEAVY == set()
