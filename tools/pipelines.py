"""Makes `fixtures/pipelines.toml`: how each pipeline class of diffusers is streamed. `python -m tools.pipelines`.

Owns the reading of two attributes of classes from diffusers' source, without importing it: `model_cpu_offload_seq`, the
components of which one at a time is on the device, and `_exclude_from_cpu_offload`, those that stay there.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

FIXTURE = Path(__file__).parents[1] / "fixtures" / "pipelines.toml"
_NAMES = ("model_cpu_offload_seq", "_exclude_from_cpu_offload")


def classes() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return for each class with a sequence what it is, and what it excludes; attributes are inherited by name."""
    spec = find_spec("diffusers")
    if spec is None or spec.origin is None:
        raise SystemExit("diffusers is not installed")
    own: dict[str, dict[str, object]] = {}
    bases: dict[str, list[str]] = {}
    for file in sorted((Path(spec.origin).parent / "pipelines").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
                own[node.name] = dict(filter(None, map(_attribute, node.body)))
    found = {}
    for name in sorted(own):
        sequence = _inherited(name, _NAMES[0], own, bases)
        if isinstance(sequence, str):
            excluded = _inherited(name, _NAMES[1], own, bases)
            found[name] = sequence, tuple(excluded) if isinstance(excluded, list) else ()
    return found


def text() -> str:
    """Return the file: classes by what they share."""
    shared: dict[tuple[str, tuple[str, ...]], list[str]] = defaultdict(list)
    for name, value in classes().items():
        shared[value].append(name)
    lines = [
        "# How pipelines of diffusers are streamed: written by `python -m tools.pipelines`.",
        f'diffusers = "{version("diffusers")}"',
    ]
    for (sequence, excluded), names in sorted(shared.items(), key=lambda item: item[1]):
        lines += ["", "[[pipeline]]", f"classes = [{_listed(names)}]", f'sequence = "{sequence}"']
        lines += [f"stays = [{_listed(excluded)}]"] if excluded else []
    return "\n".join(lines) + "\n"


def _attribute(node: ast.stmt) -> tuple[str, object] | None:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in _NAMES:
        return node.targets[0].id, ast.literal_eval(node.value)
    return None


def _inherited(name: str, attribute: str, own: dict[str, dict[str, object]], bases: dict[str, list[str]]) -> object:
    if attribute in own.get(name, {}):
        return own[name][attribute]
    found = (_inherited(base, attribute, own, bases) for base in bases.get(name, ()) if base != name)
    return next((value for value in found if value is not None), None)


def _listed(names: object) -> str:
    return ", ".join(f'"{name}"' for name in names)  # type: ignore[attr-defined]


if __name__ == "__main__":
    FIXTURE.write_text(text(), encoding="utf-8")
    print(f"{len(classes())} classes in {FIXTURE}")
