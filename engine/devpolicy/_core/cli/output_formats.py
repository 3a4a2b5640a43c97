"""What a consumer takes, written out.

Owns `--to`: for each consumer the expression that gives its form, and how that is printed to be copied.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from devpolicy._core.cli.context import to_json

if TYPE_CHECKING:
    from devpolicy._core.device import ComponentDevice
    from devpolicy._core.host import Host
    from devpolicy._core.placement.plan import Plan


class OutputFormat(NamedTuple):
    """One form: the consumer it is planned for, what a plan and a device are in it, and how a shell is given it."""

    target: str | None
    """`None`: whichever the policy names."""
    of_plan: Callable[[Plan, Host], Any]
    of_device: Callable[[ComponentDevice], Any] | None = None
    """`None` where a device alone says nothing."""
    shell: Callable[[Any], str] | None = None
    """The form as text to be pasted, where that is no Python."""


def _llama_cpp(plan: Plan, host: Host) -> list[str]:
    from devpolicy._core.targets.llama_cpp import to_llama_cpp

    return to_llama_cpp(plan).to_flags()


def _llama_cpp_python(plan: Plan, host: Host) -> dict[str, Any]:
    from devpolicy._core.targets.llama_cpp import to_llama_cpp_python

    return to_llama_cpp_python(plan)


def _environment(plan: Plan, host: Host) -> dict[str, str]:
    from devpolicy._core.targets.environment import environment

    return environment(plan, host)


def _exports(variables: dict[str, str]) -> str:
    from devpolicy._core.targets.environment import shell

    return shell(variables)


OUTPUT_FORMATS = {
    "hf": OutputFormat("hf", lambda plan, _: plan.to_hf_kwargs(), lambda device: device.to_hf()),
    "pipeline": OutputFormat(
        "hf", lambda plan, _: plan.to_pipeline_kwargs(), lambda device: device.update_hf_kwargs({}, overwrite=True)
    ),
    "haystack": OutputFormat("haystack", lambda plan, _: plan.device.to_dict(), lambda device: device.to_dict()),
    "torch": OutputFormat("torch", lambda plan, _: plan.device.to_torch_str(), lambda device: device.to_torch_str()),
    "spacy": OutputFormat("spacy", lambda plan, _: plan.device.to_spacy(), lambda device: device.to_spacy()),
    "llama.cpp": OutputFormat("llama.cpp", _llama_cpp, shell=lambda flags: f"{shlex.join(flags)}\n"),
    "llama-cpp-python": OutputFormat("llama.cpp", _llama_cpp_python),
    "env": OutputFormat(None, _environment, shell=_exports),
}


DEVICE_FORMATS = [name for name, form in OUTPUT_FORMATS.items() if form.of_device is not None]
"""The forms in which a device can be told without a model."""


def written(form: OutputFormat, plans: Mapping[str | None, Plan], host: Host, *, as_json: bool) -> str:
    """Return plans in a form, as JSON or as text to be copied: one alone, or several by their components' names."""
    values = {name: form.of_plan(plan, host) for name, plan in plans.items()}
    if as_json:
        return to_json(values.get(None, values))
    if form.shell is None:
        return literal(values.get(None, values)) + "\n"
    return "\n".join(("" if name is None else f"# {name}\n") + form.shell(value) for name, value in values.items())


def literal(value: object) -> str:
    """Return a value as Python source, each entry of a dictionary on a line of its own; text alone without quotes."""
    return value if isinstance(value, str) else _source(value, "")


def _source(value: object, indent: str) -> str:
    if not isinstance(value, dict) or not value:
        return repr(value)
    inside = indent + "    "
    entries = "".join(f"{inside}{key!r}: {_source(entry, inside)},\n" for key, entry in value.items())
    return f"{{\n{entries}{indent}}}"
