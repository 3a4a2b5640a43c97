"""What a policy decides for Haystack's components, and the callback that writes it into a saved pipeline.

Owns how a component's class, name and own model become a request to the planner, and which components are decided.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from os import PathLike
from typing import TYPE_CHECKING, Any

from devpolicy._core.abilities import target_of
from devpolicy._core.errors import DevPolicyError, Diagnostic, ModelError, Unsatisfiable
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.public import public
from devpolicy._core.targets.haystack import restore_order
from devpolicy._core.targets.haystack_components.forms import lost, own_loading, unplanned, written
from devpolicy._core.targets.haystack_components.names import loading, saved_components
from devpolicy._core.targets.haystack_components.signatures import takes_of
from devpolicy._core.targets.haystack_components.table import ANY_MAP, ONE_DEVICE, Takes, TakesNone
from devpolicy._core.toml.tables import did_you_mean, suggest

if TYPE_CHECKING:
    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy
    from devpolicy._core.verbs.context import PolicyContext
    from devpolicy._core.verbs.decision import Decision
    from devpolicy._core.verbs.joint import Request

PreInit = Callable[[str, type, dict[str, Any]], None]
"""Haystack's `component_pre_init`: the component's name, its class, and its init parameters, to be changed in place."""


class Decider:
    """One policy on one host, asked for components that are planned beside each other."""

    def __init__(self, policy: Policy, block: PolicyContext) -> None:
        self.policy = policy
        self.block = block
        self.known: Collection[str] = ()
        """The names of the pipeline's components, where they are known."""
        self._sizes: dict[str, ModelTree | None] = {}

    def decision(self, name: str | None, path: str, takes: Takes, params: Mapping[str, Any]) -> Decision:
        """Decide for a component. Its own model gives the size where the policy says none."""
        from devpolicy._core.verbs.joint import Request

        target = self._target(name, path, takes)
        own = tuple(own_loading(takes, params))
        request = Request(self.policy, name, component_class=path, target=target, own=own)
        if not request.on(self.block.joint.host).has_size and takes.checkpoint:
            tree = self._size_of(own_model(takes, params))
            if tree is not None:
                one = tree.incomplete_reason and target_of(target).abilities.maps
                request = replace(request, model=tree, target=ONE_DEVICE if one else target)
        several = name is not None and self.policy.for_component(name, path).replicas != 1
        if several and takes.pool is not None:
            request = replace(request, target=takes.single.target)  # each copy is whole
        with _named(name, path):
            decision = self._without_siblings(self.block.decide(request), name)
        if several and (takes.pool is None or not decision.copies):
            decision = replace(decision, warnings=(*decision.warnings, _one_copy(name, path, takes)))
        finding = self._left_out(request, path, takes, decision)
        return decision if finding is None else replace(decision, warnings=(*decision.warnings, finding))

    def _left_out(self, request: Request, path: str, takes: Takes, decision: Decision) -> Diagnostic | None:
        """Return a warning of what the policy asks of loading that the component is not given."""
        if decision.plan is None:
            left_out = unplanned(takes, replace(request, own=()).on(self.block.joint.host).resolved)
            what = f"gets a device alone, without {' and '.join(left_out)}: its size is not known"
            hint = "give it `needs`, or a `model` that can be read here"
        else:
            left_out = lost(takes, decision.plan)
            what = f"has no parameter for {' and '.join(left_out)}, which its plan counts with"
            hint = "without it the component loads what its own default says, which may take more memory"
        if not left_out:
            return None
        return Diagnostic("DP509", f"{_shown(request.component, path)} {what}", help=hint, severity="warning")

    def names(self, name: str | None) -> bool:
        """Whether the policy has an entry of exactly this name."""
        return name is not None and any(entry.name == name for entry in self.policy.components)

    def _without_siblings(self, decision: Decision, name: str | None) -> Decision:
        """Return a decision that takes no component for another's misspelling which is there itself."""
        entries = [entry.name for entry in self.policy.components]
        if name is None or suggest(name, entries) not in self.known:
            return decision
        return replace(decision, warnings=tuple(one for one in decision.warnings if one.code != "DP508"))

    def _target(self, name: str | None, path: str, takes: Takes) -> str:
        """Return the consumer that is planned for: the class's own, or what the policy asks of it within that."""
        wanted = self.policy.for_component(name, path).target if name is not None else None
        if wanted is None or takes.target not in (ANY_MAP, ONE_DEVICE):
            return takes.target
        if wanted == "spacy":
            return "haystack-spacy"
        # Whether a class without a row takes a map is known to whoever wrote it.
        return (
            ANY_MAP if target_of(wanted).abilities.maps and (takes.target == ANY_MAP or not takes.known) else ONE_DEVICE
        )

    def _size_of(self, model: str | None) -> ModelTree | None:
        """Return the structure of a model that can be read here without the network; `None` else."""
        if model is not None and model not in self._sizes:
            self._sizes[model] = readable(model)
        return self._sizes[model] if model is not None else None


@contextmanager
def _named(name: str | None, path: str) -> Iterator[None]:
    """Name the component in a refusal that does not: a pipeline has several."""
    try:
        yield
    except Unsatisfiable as refused:
        first, *rest = refused.diagnostics
        if first.message.startswith("component `"):
            raise
        named = replace(first, message=f"{_shown(name, path)}: {first.message}")
        raise Unsatisfiable([named, *rest]) from None


def _one_copy(name: str | None, path: str, takes: Takes) -> Diagnostic:
    hint = "name a component for each copy: `NAME/0`, `NAME/1`"
    why = "its class runs one copy"
    if takes.pool is not None:
        why, hint = "its size is not known", "give it a `model` or `needs`"
    message = f"{_shown(name, path)} gets one device, and not one for each of its `replicas`: {why}"
    return Diagnostic("DP509", message, help=hint, severity="warning")


def undecided(
    name: str | None,
    path: str,
    takes: TakesNone | Takes | None,
    inside: Collection[str] = (),
    *,
    what: str = "takes no device",
) -> Diagnostic:
    """Return the finding for a component that was named, and takes no device."""
    within = [one for one in inside if name is not None and one.startswith(f"{name}.")]
    within = [one for one in within if not any(other.startswith(f"{one}.") for other in within)]
    hint = "take it out, or plan for it beside the pipeline"
    if isinstance(takes, TakesNone):
        hint = takes.instead
        what = f"takes its device as `{takes.annotated}`, which is not written" if takes.annotated else what
    elif within:
        hint = f"what is inside of it has a name of its own: `{within[0]}`"
    return Diagnostic("DP509", f"{_shown(name, path)} {what}", help=hint, severity="warning")


def takes_any(takes: TakesNone | Takes | None) -> bool:
    """Whether a component takes the accelerator that it finds, and cannot be told another."""
    return isinstance(takes, TakesNone) and takes.takes_any


def decider(policy: Policy | str | PathLike[str], host: Host | str | PathLike[str] | None) -> Decider:
    """Return what decides by a policy on a host: by default that of the block around, else this machine."""
    from devpolicy._core.verbs.context import PolicyContext, current_context
    from devpolicy._core.verbs.inputs import host_of, policy_of

    loaded = policy_of(policy)
    return Decider(
        loaded, current_context(host) or PolicyContext(loaded, None if host is None else host_of(host, loaded))
    )


def tell(decision: Decision, more: Collection[Diagnostic] = ()) -> None:
    """Warn of what a decision has to say."""
    from devpolicy._core.verbs.context import emit_warnings

    emit_warnings([*decision.warnings, *more], strict=False)


def path_of(component: Any) -> str:
    """Return the path of a component's class."""
    return f"{component.__module__}.{component.__qualname__}"


def own_model(takes: Takes, params: Mapping[str, Any]) -> str | None:
    """Return the checkpoint that a component names: keyword arguments win over the parameter, as with Haystack."""
    kwargs = params.get(takes.kwargs or "")
    named = kwargs.get("model") if isinstance(kwargs, Mapping) else None
    for value in (named, *(params.get(name) for name in ("model_name_or_path", "model_name", "model", "_model"))):
        if isinstance(value, str | PathLike):
            return str(value)
    return None


def readable(model: str) -> ModelTree | None:
    from devpolicy._core.model.catalogue import load

    # A hub id of a model that is in the catalogue has the same last part.
    for name in dict.fromkeys((model, model.rpartition("/")[2].lower())):
        try:
            return load(name, fetch=False)
        except ModelError:
            continue
    return None


def _shown(name: str | None, path: str) -> str:
    cls = path.rpartition(".")[2]
    return f"`{cls}`" if name is None else f"component `{name}` ({cls})"


class Decide:
    """The callback of `decide`."""

    def __init__(self, by: Decider, components: Collection[str] | None) -> None:
        self._by = by
        self._components = components
        self._checked: object = None

    def __call__(self, name: str, component: type, init_params: dict[str, Any]) -> None:
        """Change the init parameters of one component."""
        made = loading()
        name = made.name or name
        names = [one.name for one in saved_components(made.pipeline)] if made.pipeline is not None else [name]
        if made.pipeline is not self._checked:
            self._checked = made.pipeline
            self._by.known = names
            check_names(self._components or (), names)
        takes, path = takes_of(component, init_params), path_of(component)
        asked = self._components is None or name in self._components
        named = asked and (self._components is not None or self._by.names(name))
        if not asked or not isinstance(takes, Takes) or (takes.form == "text" and not named):
            if named or (asked and takes_any(takes)):
                self._complain(undecided(name, path, takes, names))
            restore_order(name, component, init_params)
            return
        decision = self._by.decision(name, path, takes, init_params)
        tell(decision)
        init_params |= written(takes, init_params, decision.device, decision.plan, decision.copies)

    def _complain(self, finding: Diagnostic) -> None:
        from devpolicy._core.verbs.context import emit_warnings

        if self._components is not None:
            raise DevPolicyError(replace(finding, severity="error"))
        emit_warnings([finding], strict=False)


def likely(name: str, names: Collection[str]) -> str:
    """Return the help line for a name that a pipeline does not have: a glob, or one whose path is missing."""
    meant = [one for one in names if "*" in name and fnmatchcase(one, name)]
    if meant:
        return f"write out what it means: {', '.join(f'`{one}`' for one in meant[:3])}" + " …" * (len(meant) > 3)
    inner = [one for one in names if one.rpartition(".")[2] == name]
    return f"did you mean `{inner[0]}`?" if inner else did_you_mean(name, list(names))


def asked_names(components: Any) -> tuple[str, ...] | None:
    """Return `components` as a tuple; `None` for all. Raises `DevPolicyError` for what is no list of names."""
    if components is None:
        return None
    if isinstance(components, str):
        raise DevPolicyError(f"`components` is a list of names, not the text `{components}`")
    names = tuple(components) if isinstance(components, Iterable) else (components,)
    wrong = [type(one).__name__ for one in names if not isinstance(one, str)]
    if wrong:
        raise DevPolicyError(f"`components` is a list of names, and holds a value of type {wrong[0]}")
    return names


def check_names(wanted: Collection[str], names: Collection[str]) -> None:
    """Raise `DevPolicyError` (DP510) for names that no component of a pipeline has."""
    findings = [
        Diagnostic("DP510", f"the pipeline has no component `{one}`", help=likely(one, names))
        for one in wanted
        if one not in names
    ]
    if findings:
        raise DevPolicyError(findings)


@public("devpolicy.haystack")
def decide(
    policy: Policy | str | PathLike[str],
    host: Host | str | PathLike[str] | None = None,
    *,
    components: Collection[str] | None = None,
) -> PreInit:
    """Return a `component_pre_init` callback with which `policy` decides the devices of a saved pipeline.

    Every component that takes a device, in whatever form, gets that of the policy's component of the same name, with
    what else its plan asks of loading (dtype, offload folder); a device that was saved is taken out wherever it would
    win. A component inside of another has the path to it for a name: `agent.chat_generator`. `components` names those
    that are decided, by default all that take a device. For the others, order is restored.

    All of them are planned beside each other, where the policy says what they need or their own model can be read
    here. `host` is by default that of the `use_policy` block around this call, else this machine, probed once. What
    `devpolicy.resolve` raises while the pipeline loads reaches the caller as the `__cause__` of Haystack's
    `DeserializationError`, and so does a name in `components` that no component has, or one of a component that takes
    no device.
    """
    return Decide(decider(policy, host), asked_names(components))
