"""`devpolicy model`: list and show structures without weights. Capturing is a module of its own.

Owns the list of models, and the lines and the table that describe one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.commands.capture import capture_model
from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.group import Group
from devpolicy._core.cli.inputs import load_model, model_help
from devpolicy._core.cli.table import facts, table
from devpolicy._core.language.policy import Workload
from devpolicy._core.memory.sizing import size_model
from devpolicy._core.sizes import format_size
from devpolicy._core.views.names import count

if TYPE_CHECKING:
    from devpolicy._core.model.tree import ModelTree

_TOKENS = 1000


@click.group(name="model", cls=Group, short_help="List, show and capture models: the catalogue, files, checkpoints.")
def command() -> None:
    """List, show and capture models: the catalogue, model files, checkpoints."""


command.add_command(capture_model)


@command.command(name="list")
@common()
@pass_context
def list_models(ctx: CliContext) -> None:
    """List the models of the catalogue. They have their published sizes and no weights.

    \b
    Example:
      devpolicy model list
    """
    from devpolicy._core.model.catalogue import load, model_catalogue

    trees = {name: load(name) for name in model_catalogue()}
    trees = dict(sorted(trees.items(), key=lambda item: (item[1].bytes_as(), item[0])))
    if ctx.json:
        ctx.print_json({"schema": 1, "models": [_summary(tree) for tree in trees.values()]})
        return
    rows = [
        [
            name,
            count(tree.parameters),
            format_size(tree.bytes_as()),
            str(len(_blocks(tree))),
            dict(tree.metadata).get("about", ""),
        ]
        for name, tree in trees.items()
    ]
    head = ["model", "parameters", "size", "blocks", "what it is"]
    ctx.out.print(table(head, rows, width=ctx.out.width, right=(1, 2, 3), prose=True, styles={0: "device", 4: "dim"}))


@command.command(name="show", short_help="Show a model's modules with their sizes.", epilog=f"MODEL: {model_help}")
@click.argument("model", shell_complete=complete.models)
@common()
@pass_context
def show_model(ctx: CliContext, model: str) -> None:
    """Show a model's modules with their classes and sizes, tied tensors, and the blocks that must stay whole.

    Modules that differ only in numbers share a row, in the notation of a rule's `match`.

    \b
    Examples:
      devpolicy model show llama-3.1-8b
      devpolicy model show ./checkpoint --format json
    """
    tree = load_model(ctx, model)
    if ctx.json:
        ctx.print_json({"schema": 1, "model": _everything(tree)})
        return
    told = dict(tree.metadata)
    cache = _cache(tree)
    pairs = [
        ("model", f"{tree.name}: {told['about']}" if "about" in told else tree.name),
        ("size", f"{tree.parameters:,} parameters, {format_size(tree.bytes_as())}"),
        ("context", f"{tree.context:,} tokens" if tree.context else ""),
        ("KV cache", f"{format_size(cache)} per {_TOKENS:,} tokens of one sequence" if cache else ""),
        ("blocks", f"{len(_blocks(tree))}, kept whole: {', '.join(sorted(tree.no_split))}" if tree.no_split else ""),
        *(("tied", " = ".join(group)) for group in tree.ties),
        ("quantised", _quantised(tree)),
        ("partial", tree.incomplete_reason or ""),
    ]
    lines = facts([(name, text) for name, text in pairs if text], width=ctx.out.width)
    ctx.out.print([*lines, "", *_modules(tree, ctx.out.width)])


def _quantised(tree: ModelTree) -> str:
    """Return how a checkpoint is quantised and what it stores, empty where it is not. Sizes above are without."""
    found = tree.quantization
    if found is None:
        return ""
    stored = "" if found.stored is None else f", {format_size(found.stored)} as stored"
    known = f"`{found.scheme}`" if found.scheme else f"`{found.method}`: {found.problem}"
    return f"{known}{stored}; sizes are without"


def _modules(tree: ModelTree, width: int) -> Any:
    from devpolicy._core.views.collapse_ranges import collapse_ranges

    sizes = _sizes(tree)
    rows = collapse_ranges(
        (module.path, (module.class_name, sizes[at])) for at, module in enumerate(tree.modules) if module.path
    )
    root = [["(the whole model)", "1", tree.modules[0].class_name, format_size(sizes[0])]]
    body = [
        [row.pattern, str(len(row.paths)), row.key[0], format_size(row.key[1]) if row.key[1] else "-"] for row in rows
    ]
    return table(["module", "count", "class", "each"], [*root, *body], width=width, right=(1, 3), styles={2: "dim"})


def _sizes(tree: ModelTree) -> list[int]:
    """Return the bytes of each module with all that is inside it, tied tensors at their first name."""
    sizing = size_model(tree, Workload())
    sums = [weights + buffers for weights, buffers in zip(sizing.weights, sizing.buffers, strict=True)]
    for position in range(len(sums) - 1, 0, -1):
        sums[tree.parents[position]] += sums[position]
    return sums


def _blocks(tree: ModelTree) -> list[str]:
    """Return the paths of the outermost modules that must stay whole."""
    blocks: list[str] = []
    position = 0
    while position < len(tree.modules):
        if tree.modules[position].class_name in tree.no_split:
            blocks.append(tree.modules[position].path)
            position = tree.subtree_end[position]
        else:
            position += 1
    return blocks


def _cache(tree: ModelTree) -> int:
    return sum(size_model(tree, Workload(context=_TOKENS)).kv_cache)


def _summary(tree: ModelTree) -> dict[str, Any]:
    return {
        "name": tree.name,
        "description": dict(tree.metadata).get("about"),
        "parameters": tree.parameters,
        "bytes": tree.bytes_as(),
        "dtype": tree.dtype,
        "blocks": len(_blocks(tree)),
        "context": tree.context,
    }


def _everything(tree: ModelTree) -> dict[str, Any]:
    sizes = _sizes(tree)
    return {
        **_summary(tree),
        "no_split": sorted(tree.no_split),
        "ties": [list(group) for group in tree.ties],
        "kv_cache_per_1000_tokens": _cache(tree),
        "partial": tree.incomplete_reason,
        "modules": [
            {"path": module.path, "class": module.class_name, "bytes": sizes[at]}
            for at, module in enumerate(tree.modules)
        ],
    }
