"""What a refusal says.

Owns the findings of an entry of `prefer` whose devices do not hold what is open, of a plan for which no entry fits, and
of a model that a consumer cannot take as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from devpolicy._core.abilities import Target, targets
from devpolicy._core.errors import Diagnostic
from devpolicy._core.language.policy import DeviceSelector, ResolvedPolicy
from devpolicy._core.memory.budgets import DeviceBudget
from devpolicy._core.model.tree import WHY_NOT, ModelTree
from devpolicy._core.placement.apply_rules import Refused
from devpolicy._core.placement.search import Problem
from devpolicy._core.sizes import format_size


def no_room(problem: Problem) -> Refused:
    """Return the refusal of an entry whose devices do not hold what is open."""
    context, assignment = problem.context, problem.assignment
    if problem.units and not (assignment.clusters or assignment.pinned or assignment.runs_on_main):
        message = f"everything is kept elsewhere, and nothing is left that would run on `{context.kind}`"
        return Refused(Diagnostic("DP411", message, help="leave some module where it runs"))
    if not problem.mains:
        message = (
            f"weights are kept elsewhere, and rules run modules on `{context.kind}` devices "
            "that leave the main device to chance"
        )
        return Refused(Diagnostic("DP410", message, help="run them on one device, or keep nothing elsewhere"))
    open_ = [one for number, one in enumerate(context.devices) if number in context.open]
    largest = max(open_, key=lambda one: one.budget)
    largest_has = f"the largest, `{largest}`, has {format_size(max(0, largest.budget))} {_left_by([largest])}"
    fixed = min((context.fixed(number) for number in context.open), default=0)
    on_main = problem.streaming + problem.main_load + problem.main_cache + fixed
    if assignment.runs_on_main and len(open_) > 1 and on_main > largest.budget:
        why = next(iter(assignment.runs_on_main.values()))
        largest_has = largest_has.replace("the largest,", "and the largest device,", 1)
        return Refused(Diagnostic("DP301", f"{why}: that needs {format_size(on_main)}, {largest_has}"))
    need = problem.sums.with_cache[-1] + sum(problem.pinned.values()) + on_main
    need += assignment.stored["cpu"] if context.unified else 0
    names = f"`{open_[0]}`" if len(open_) == 1 else f"{len(open_)} `{context.kind}` devices"
    if context.policy.split == "never" and len(open_) > 1:
        message = f"needs {format_size(need)} on one `{context.kind}` device, and {largest_has}"
    else:
        have = f"{format_size(sum(max(0, one.budget) for one in open_))} {_left_by(open_)}"
        message = f"needs {format_size(need)}, and {names} {'has' if len(open_) == 1 else 'have'} {have}"
    return Refused(Diagnostic("DP301", message))


def _left_by(devices: Sequence[DeviceBudget]) -> str:
    """Name what was taken off before the figure of a budget: headroom, other components, all but a share."""
    left = "after headroom and other components" if any(one.used_by_others for one in devices) else "after headroom"
    if any(one.for_loading for one in devices):
        left += " and room for loading"
    return f"{left}, within its share" if any(one.share for one in devices) else left


def no_preference() -> Diagnostic:
    """Return the finding of a policy, made in Python, that lists nothing to run on."""
    return Diagnostic(
        "DP301", "`prefer` lists no device", help='list what may be used, the best first: `"cuda"`, `"cpu"`'
    )


def nothing_fits(
    policy: ResolvedPolicy, tree: ModelTree, refusals: Sequence[tuple[DeviceSelector, Diagnostic]]
) -> list[Diagnostic]:
    """Return the finding of a plan for which no entry of `prefer` fits.

    Where the devices were there and one rule or consumer stood in the way, its own finding is returned; else DP301
    lists each entry with its reason.
    """
    if not policy.prefer:
        return [no_preference()]
    notes = tuple(f"`{selector}`: {finding.message}" for selector, finding in refusals)
    specific = {finding.code: finding for _, finding in refusals if finding.code != "DP301"}
    if len(specific) == 1 and not any(
        finding.code == "DP301" and "needs" in finding.message for _, finding in refusals
    ):
        finding = next(iter(specific.values()))
        others = tuple(f"`{selector}`: {other.message}" for selector, other in refusals if other is not finding)
        return [replace(finding, notes=(*finding.notes, *others))]
    listed = ", ".join(f"`{selector}`" for selector in policy.prefer)
    return [
        Diagnostic("DP301", f"nothing in `prefer` can hold `{tree.name}`: {listed}", policy.prefer_place, "", notes)
    ]


_FILES = {
    "safetensors": "safetensors checkpoints",
    "gguf": "GGUF files",
    "onnx": "ONNX files",
    "diffusers": "folders of pipelines",
}


def not_read(tree: ModelTree, consumer: Target) -> Diagnostic:
    """Return the finding of a model in a format that a consumer does not load as it is stored."""
    stored = format_size(tree.bytes_as())
    notes: tuple[str, ...] = ()
    if consumer.name in ("hf", "haystack"):
        sizes = " or ".join(f"{format_size(tree.parameters * size)} in {size * 8} bits" for size in (2, 4))
        message = f"`{consumer.name}` dequantises GGUF files: the {stored} of `{tree.name}` become {sizes}"
        notes = tuple(text for key, text in tree.metadata if key == WHY_NOT)
        hint = "plan it for an engine of GGUF files, `--target llama.cpp`, or plan the checkpoint that it was made from"
    else:
        message = f"`{consumer.name}` does not read {_FILES[tree.format]}, such as that of `{tree.name}`"
        readers = [f"`{name}`" for name, one in targets().items() if tree.format in one.abilities.reads]
        hint = f"plan it for one that does: {' or '.join(readers)}"
        if "gguf" in consumer.abilities.reads:
            hint += "; or name a GGUF file of the model"
    return Diagnostic("DP412", message, notes=notes, help=hint)


def not_known(tree: ModelTree) -> Diagnostic:
    """Return the finding of a model that is not known in full, where a consumer takes a map of it."""
    message = f"the structure of `{tree.name}` is not known in full"
    hint = 'plan for one device, which needs no map: `target = "torch"`, or `--to torch`'
    if tree.quantization is not None:
        hint = "install the libraries that know its family: `pip install 'devpolicy[hf]'`"
    return Diagnostic("DP407", message, notes=(tree.incomplete_reason or "",), help=hint)
