"""`dry_run`: a plan, a model and a host in, a `DryRun` out.

Owns what callers may give, how much the model is called with, and which process runs it: a model that is known by its
configuration runs in a child, so that nothing of it stays; a module of the caller's runs here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from devpolicy._core.dry_run.child import Request, Sizes, ask
from devpolicy._core.dry_run.result import LONGEST, TIMEOUT, DryRun
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.host import Host
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.plan import Plan
from devpolicy._core.verbs.inputs import HostLike, tree_of

if TYPE_CHECKING:
    from devpolicy._core.dry_run.attempt import Progress

NEW_TOKENS = 4
"""Tokens that are generated where nobody says how many."""
_DEFAULT_TOKENS = 512
"""Tokens of a plan that does not say what it was made for."""


class DryRunError(DevPolicyError):
    """A plan that cannot be tried here, or a model whose class is unknown."""


def dry_run(
    plan: Plan,
    model: Any,
    host: HostLike | None = None,
    *,
    prompt: int | None = None,
    new_tokens: int | None = None,
    batch: int | None = None,
    inputs: Mapping[str, Any] | None = None,
    architecture: str | None = None,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> DryRun:
    """Load and run a model as a plan says, on the simulated host, and return what happened.

    See `Plan.dry_run`, which this is the body of.
    """
    machine = host if isinstance(host, Host) else Host.probe() if host is None else Host.load(host)
    sizes = _sizes(plan, prompt, new_tokens, batch)
    limit = TIMEOUT if timeout is None else timeout
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit <= LONGEST:
        raise DryRunError(f"`timeout` is a number of seconds up to {LONGEST}, got {_shown(timeout)}")
    tell = progress or (lambda done, of: None)
    if hasattr(model, "named_modules"):
        from devpolicy._core.dry_run.module import run_module

        return run_module(plan, model, machine, sizes, inputs, tell)
    if inputs is not None:
        raise DryRunError("`inputs` are for a module: they cannot be handed to another process")
    tree = tree_of(model, architecture)
    return ask(request_of(plan, tree, machine, sizes), tell, limit)


def request_of(plan: Plan, tree: ModelTree, host: Host, sizes: Sizes) -> Request:
    """Return what the child is asked. Raises `DryRunError` for a model without a configuration."""
    if not tree.config:
        message = f"nothing says what code `{tree.name}` is: it was not read from a Transformers configuration"
        help_ = "name the checkpoint folder or its `config.json`, or hand in the module itself: `plan.dry_run(module)`"
        raise DryRunError(Diagnostic("", message, help=help_))
    if tree.incomplete_reason is not None:
        raise DryRunError(Diagnostic("DP407", f"`{tree.name}` cannot be tried", notes=(tree.incomplete_reason,)))
    if tree.quantization is not None or plan.loading.scheme != "none":
        when = "" if tree.quantization else " while it is loaded"
        message = f"`{tree.name}` is quantised{when}, and a dry run builds the code of the model without its quantiser"
        hint = "try the checkpoint that it was made from" if tree.quantization else "leave `loading.quantization` out"
        raise DryRunError(Diagnostic("DP417", message, help=hint))
    if plan.loading.adapters:
        message = (
            f"the plan of `{tree.name}` has adapters, and a dry run loads none: it would hold less than is planned"
        )
        raise DryRunError(Diagnostic("", message, help="try the plan of the model without `adapter`"))
    return Request(plan, host, tree.name, tree.config, tree.loading.architecture, tree.source, sizes)


def sizes_of(plan: Plan) -> Sizes:
    """Return the batch, the prompt and the new tokens of the workload that a plan was made for."""
    return _sizes(plan, None, None, None)


def _sizes(plan: Plan, prompt: int | None, new_tokens: int | None, batch: int | None) -> Sizes:
    for name, given, least in (("prompt", prompt, 1), ("new_tokens", new_tokens, 0), ("batch", batch, 1)):
        if given is not None and (isinstance(given, bool) or not isinstance(given, int) or given < least):
            raise DryRunError(f"`{name}` is a whole number from {least} on, got {_shown(given)}")
    context = plan.loading.context or _DEFAULT_TOKENS
    new = new_tokens if new_tokens is not None else min(NEW_TOKENS, context - 1)
    return batch or plan.loading.batch or 1, prompt or max(1, context - new), new, plan.loading.beams


def _shown(value: object) -> str:
    """Return a number as it is, and of anything else, which may not be shown, its type."""
    short = isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 31)
    return str(value) if short else f"a value of type {type(value).__name__}"
