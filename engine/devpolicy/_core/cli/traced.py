"""The trace of one module of a plan, on one host and on a node: which units hold it, and what decided them.

Owns how a path is looked up in a plan, and the lines of its trace, for `why` and `why --fleet`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devpolicy._core.errors import Diagnostic, ModelError

if TYPE_CHECKING:
    from devpolicy._core.model.tree import ModelTree
    from devpolicy._core.placement.plan import Placement, Plan


def check_module(module: str, tree: ModelTree) -> None:
    """Raise `ModelError` where the model has no such module."""
    if module in tree.index:
        return
    holder = module.rpartition(".")[0]
    if module in set(tree.tensor_names()):
        hint = f"ask for `{holder}`, the module that holds it"
        raise ModelError(Diagnostic("DP203", f"`{module}` is a tensor, and plans place modules", help=hint))
    from devpolicy._core.toml.tables import did_you_mean, suggest

    paths = [path for path in tree.index if path]
    near = suggest(module, paths)
    while holder and holder not in tree.index:
        holder = holder.rpartition(".")[0]
    children = [tree.modules[child].path for child in tree.children(tree.index[holder])]
    hint = f"did you mean `{near}`?" if near else did_you_mean(module, children)
    hint += f"\n{tree.listed_by}"
    raise ModelError(Diagnostic("DP202", f"`{tree.name}` has no module `{module}`", help=hint))


def units_of(plan: Plan, module: str) -> dict[str, Placement]:
    """Return the units that hold a module, or that are inside of it."""
    # A placement is asked for by any path; a module without tensors inside a divided container has none.
    return {_unit_of(plan, path): unit for path, unit in plan.placements.below(module).items()}


def traced(plan: Plan, module: str) -> dict[str, Any]:
    """Return for JSON where a module is, what decided it, and what became of each preference and wish."""
    told, units = plan.to_dict(), units_of(plan, module)
    notes = {path: plan.trace.of(path) for path in units} if plan.trace else {}
    return {
        "module": module,
        "placements": {path: told["placements"][path] for path in units},
        "notes": {path: lines for path, lines in notes.items() if lines},
        "prefer": [{"term": term, "outcome": outcome} for term, outcome in (plan.trace.terms if plan.trace else ())],
        **({} if plan.granted is None else {key: told[key] for key in ("granted", "not_granted")}),
    }


def _unit_of(plan: Plan, path: str) -> str:
    """Return the path of the unit that holds a module."""
    units = set(plan.placements)
    while path not in units and path:
        path = path.rpartition(".")[0]
    return path
