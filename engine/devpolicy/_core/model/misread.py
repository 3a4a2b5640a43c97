"""Checkpoints that a library would read wrongly: it looks for other weights than are stored, or cannot run them.

Owns the reasons, and the ways out. Each was seen: weights made anew, scales left out, a first forward that failed.
"""

from __future__ import annotations

from devpolicy._core.loading.quantization import Quantization, Scheme, SchemeSupport
from devpolicy._core.model.conversion import converted, left_experts, outdated_skip, tied_module
from devpolicy._core.model.form import NotHeld, both_figures
from devpolicy._core.model.tree import ModelTree


def misread(
    tree: ModelTree, quantization: Quantization, scheme: Scheme, support: SchemeSupport, dtype: str | None
) -> NotHeld | None:
    """Return why a library would not find the weights that it looks for, or not run them; `None` where it does."""
    settings, figures = dict(quantization.settings), both_figures(tree, dtype)
    key = next((key for key in scheme.skips if settings.get(key) is not None), next(iter(scheme.skips), ""))
    refused = "" if support.refuses is None else support.refuses(settings)
    if refused:
        return NotHeld(refused, figures)
    tied = None if support.runs_tied else tied_module(tree, scheme, settings)
    if tied is not None:
        reason = (
            f"`{key}` does not name `{tied}`, whose weight is tied, so that the library would convert the module alone"
        )
        return NotHeld(reason, figures, help=f"add `{tied}` to `{key}` in its `config.json`")
    plain, paths = frozenset(quantization.plain or ()), converted(tree, scheme, settings)
    wrong = next((path for path in tree.index if path in plain and path in paths), None)
    if wrong is not None:
        hint = f"add `{wrong}`, and all others that it stores so, to `{key}` in its `config.json`" if key else ""
        return NotHeld(f"it stores `{wrong}` as it is, and the library would convert it", figures, help=hint)
    experts = left_experts(tree, scheme, settings)
    if experts and not scheme.plain_too and (scheme.packs_experts if quantization.plain is None else experts - plain):
        reason = "it stores its experts quantised one by one, and the library keeps those of a layer as one full weight"
        anew = f'load it as it was before, with `loading.quantization = "{scheme.name}"`'
        hint = "plan it for an engine that keeps them so, such as `vllm`" if scheme.packs_experts else anew
        return NotHeld(reason, figures, help=hint)
    name, path = outdated_skip(tree, scheme, settings) if quantization.plain is None else ("", "")
    if name:
        reason = f"`{key}` names `{name}`, by which the library leaves nothing of `{path}`: it may be stored either way"
        return NotHeld(reason, figures, help="plan the folder of the checkpoint, which tells", planned=False)
    return None
