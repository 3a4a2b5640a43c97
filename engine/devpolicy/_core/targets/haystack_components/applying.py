"""A policy for the components of a pipeline that is there already, built in code and not warmed up.

Owns how an instance keeps what its init parameters said. A component that has loaded its model is refused: its weights
are where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.public import public
from devpolicy._core.targets.haystack_components.deciding import (
    Decider,
    asked_names,
    check_names,
    decider,
    path_of,
    takes_any,
    tell,
    undecided,
)
from devpolicy._core.targets.haystack_components.filling import named_now
from devpolicy._core.targets.haystack_components.forms import given_device, kept, written
from devpolicy._core.targets.haystack_components.signatures import takes_of
from devpolicy._core.targets.haystack_components.survey import Resolved
from devpolicy._core.targets.haystack_components.table import KWARGS, Takes, TakesNone

if TYPE_CHECKING:
    from collections.abc import Collection

    from devpolicy._core.host import Host
    from devpolicy._core.language.policy import Policy

_LOADED = (
    *("pipeline", "model", "_model", "embedding_backend", "_embedding_backend"),
    *("_cross_encoder", "_similarity_model", "_asr_model", "_backend"),
)
"""Attributes in which components keep what they have loaded; a text there is a model's name."""
_PARAMETERS = (
    *("device", "backend", "type", "converter", "model", "model_name", "model_name_or_path"),
    *("onnx_execution_provider", "encode_kwargs", "parallel"),
    *KWARGS,
)


@public("devpolicy.haystack")
def apply(
    pipeline: Any,
    policy: Policy | str | PathLike[str],
    host: Host | str | PathLike[str] | None = None,
    *,
    components: Collection[str] | None = None,
) -> list[Resolved]:
    """Give the components of a pipeline their devices by a policy, before it is warmed up; return what was decided.

    Components inside of others have the path to them for a name: `agent.chat_generator`. `components` names those that
    are decided, by default all that take a device. `host` is by default that of the `use_policy` block around this
    call, else this machine. Either all components are changed or none.

    Raises `DevPolicyError` for what is no pipeline, for a component that has loaded its model, or has no attribute for
    what would be written (DP509), and for a name in `components` that no component has (DP510); and as
    `devpolicy.resolve` does.
    """
    wanted = asked_names(components)
    if not _is_pipeline(pipeline):
        hint = "a saved pipeline is decided while it is loaded, by `decide`; a component is added to a pipeline first"
        raise DevPolicyError(
            [Diagnostic("", f"`apply` takes a pipeline, not a value of type {type(pipeline).__name__}", help=hint)]
        )
    by = decider(policy, host)
    instances, shared = instances_of(pipeline)
    by.known = instances
    check_names([name for name in wanted or () if name not in shared], instances)
    resolved, changes, told = [], [], [_shared(name, one) for name, one in shared.items() if _asked(name, by, wanted)]
    for name, one in instances.items():
        if wanted is not None and name not in wanted:
            continue
        takes, named = _takes(name, one, instances), _asked(name, by, wanted)
        if not isinstance(takes, Takes) or (takes.form == "text" and not named):
            if named or takes_any(takes):
                told.append(undecided(name, path_of(type(one)), takes, list(instances)))
            continue
        result, change = _decided(by, name, one, takes)
        resolved.append(result)
        changes.append(change)
    if told and wanted is not None:
        raise DevPolicyError(told)
    for result, change in zip(resolved, changes, strict=True):
        tell(result.decision)
        for holder, attribute, value in change:
            setattr(holder, attribute, value)
    warn(told)
    return resolved


def _takes(name: str, one: Any, instances: Collection[str]) -> Takes | TakesNone | None:
    """Return what an instance takes. One that only handed its device on takes none any more: those inside of it do."""
    takes = takes_of(type(one), params_of(one))
    inside = any(other.startswith(f"{name}.") for other in instances)
    handed_on = isinstance(takes, Takes) and not takes.known and inside and _attribute(one, "device") is None
    return None if handed_on else takes


def warn(findings: Collection[Diagnostic]) -> None:
    """Warn of findings that belong to no decision."""
    from devpolicy._core.verbs.context import emit_warnings

    emit_warnings(list(findings), strict=False)


def _asked(name: str, by: Decider, wanted: Collection[str] | None) -> bool:
    """Whether the caller or the policy names a component."""
    return by.names(name) if wanted is None else name in wanted


def _shared(name: str, first: str) -> Diagnostic:
    message = f"component `{name}` is the same object as `{first}`, by whose name it is decided"
    return Diagnostic("DP509", message, help=f"name `{first}`, or make two components", severity="warning")


def instances_of(pipeline: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the components of a pipeline by name, each before those inside of it; and further names of the same ones.

    An object that is there several times, in two tools, say, has the first of its names.
    """
    seen: set[int] = set()
    first: dict[int, str] = {}
    found = [pair for name, one in pipeline.walk() for pair in _with_inner(name, one, seen)]
    instances = {name: one for name, one in found if first.setdefault(id(one), name) == name}
    return instances, {name: first[id(one)] for name, one in found if name not in instances}


def _with_inner(name: str, one: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    yield name, one
    if id(one) in seen:
        return
    seen.add(id(one))
    for step, inner in _inside(vars(one), "", seen):
        yield from _with_inner(f"{name}.{step}" if step else name, inner, seen)


def _inside(value: Any, at: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yield the components next inside a value, by the path of attributes, keys and places in lists."""
    entries: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, Mapping):
        entries = iter(value.items())
    elif isinstance(value, list | tuple):
        entries = iter(enumerate(value))
    for key, inner in entries:
        if isinstance(key, str) and key.startswith("__"):  # Haystack's own, among them the pipeline around
            continue
        step = str(key).lstrip("_")
        path = f"{at}.{step}" if at else step
        if _is_component(inner):
            yield path, inner
        elif _is_pipeline(inner):
            yield from ((f"{at}.{name}" if at else name, one) for name, one in inner.walk())
        elif isinstance(inner, Mapping | list | tuple):
            yield from _inside(inner, path, seen)
        elif type(inner).__module__.startswith("haystack.tools") and id(inner) not in seen:
            seen.add(id(inner))
            own = vars(inner)
            # A tool of a pipeline makes a component around it, which is not saved: the pipeline itself is.
            whole = "_pipeline" in own
            yield from _inside(
                {key: value for key, value in own.items() if not whole or key != "_component"}, path, seen
            )


def _is_component(value: Any) -> bool:
    return not isinstance(value, type) and hasattr(value, "__haystack_input__")


def _is_pipeline(value: Any) -> bool:
    return not isinstance(value, type) and hasattr(value, "walk") and hasattr(value, "get_component")


def params_of(one: Any) -> dict[str, Any]:
    """Return the init parameters of an instance that matter here, as it keeps them."""
    takes = takes_of(type(one), {})
    holder = getattr(one, takes.holder) if isinstance(takes, Takes) and takes.holder else one
    found = {name: getattr(holder, own) for name in _PARAMETERS if (own := _attribute(holder, name))}
    return {name: value for name, value in found.items() if name == "device" or value is not None}


def _attribute(holder: Any, name: str) -> str | None:
    """Return the attribute in which an instance keeps an init parameter: its name, or that with an underscore."""
    return next((own for own in (name, f"_{name}") if own in vars(holder)), None)


def _decided(by: Decider, name: str, one: Any, takes: Takes) -> tuple[Resolved, list[tuple[Any, str, Any]]]:
    """Return what is decided for one instance, and the attributes that change."""
    if loaded(one, takes):
        message = f"component `{name}` has loaded its model, which stays where it is"
        raise DevPolicyError(Diagnostic("DP509", message, help="apply the policy before `warm_up` and the first run"))
    named_now(one)
    params, path = params_of(one), path_of(type(one))
    decision = by.decision(name, path, takes, params)
    holder = getattr(one, takes.holder) if takes.holder else one
    change = []
    values = written(takes, params, decision.device, decision.plan, decision.copies)
    device_too = _attribute(holder, "device") is not None
    for parameter, value in kept(takes, params, values, device_too=device_too).items():
        attribute = _attribute(holder, parameter)
        if attribute is None:
            hint = "give the device when it is made, or load the pipeline with `decide`"
            message = f"component `{name}` ({type(one).__name__}) keeps no attribute `{parameter}`"
            raise DevPolicyError(Diagnostic("DP509", message, help=hint))
        change.append((holder, attribute, value))
    return Resolved(name, path, decision, given_device(takes, params)), change


def loaded(one: Any, takes: Takes) -> bool:
    """Whether a component holds a model that it has loaded."""
    own = {name: value for name, value in vars(one).items() if name != takes.holder}
    if takes.holder:
        own |= {name: value for name, value in vars(getattr(one, takes.holder)).items() if name in _LOADED}
    held = (own.get(name) for name in _LOADED if not _is_pipeline(own.get(name)))
    return any(value is not None and not isinstance(value, str | PathLike) for value in held) or any(
        hasattr(value, "named_parameters") for value in own.values()
    )
