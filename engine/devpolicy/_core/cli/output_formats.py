"""What a consumer takes, written out.

Owns `--to`: for each consumer the expression that gives its form, and how that is printed to be copied.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from devpolicy._core.abilities import NAMED, Target, TargetError, target_named, targets
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.text import described, json_text, visible, visible_line
from devpolicy._core.toml.tables import did_you_mean

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


def _one(plan: Plan) -> ComponentDevice:
    return plan.component_device


def _llama_cpp(plan: Plan, host: Host) -> list[str]:
    from devpolicy._core.targets.llama_cpp import to_llama_cpp

    return to_llama_cpp(plan).to_flags()


def _llama_cpp_python(plan: Plan, host: Host) -> dict[str, Any]:
    from devpolicy._core.targets.llama_cpp import to_llama_cpp_python

    return to_llama_cpp_python(plan)


def _onnx(plan: Plan, host: Host) -> list[Any]:
    from devpolicy._core.targets.onnx import onnx_providers

    return [(name, options) if options else name for name, options in onnx_providers(plan, host)]


def _onnx_model(plan: Plan, host: Host) -> dict[str, Any]:
    from devpolicy._core.targets.onnx import onnx_model_kwargs

    return onnx_model_kwargs(plan, host)


def _diffusers(plan: Plan, host: Host) -> dict[str, Any]:
    from devpolicy._core.targets.diffusers import diffusers_settings

    return diffusers_settings(plan)


def _vllm(plan: Plan, host: Host) -> dict[str, object]:
    from devpolicy._core.targets.stages import vllm

    return vllm(plan, host)


def _sglang(plan: Plan, host: Host) -> dict[str, object]:
    from devpolicy._core.targets.stages import sglang

    return sglang(plan, host)


def _exllamav3(plan: Plan, host: Host) -> dict[str, Any]:
    from devpolicy._core.targets.exllamav3 import exllamav3

    return exllamav3(plan, host)


def _settings(told: dict[str, Any]) -> str:
    after = "".join(f"# start it after {name}\n" for name in told.get("starts_after", ()))
    after += "".join(f"# add {option}\n" for option in told.get("add", ()))
    return f"{after}{_exports(told['env'])}{shlex.join(told['arguments'])}\n"


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
    "haystack": OutputFormat("haystack", lambda plan, _: _one(plan).to_dict(), lambda device: device.to_dict()),
    "torch": OutputFormat("torch", lambda plan, _: _one(plan).to_torch_str(), lambda device: device.to_torch_str()),
    "spacy": OutputFormat("spacy", lambda plan, _: _one(plan).to_spacy(), lambda device: device.to_spacy()),
    "llama.cpp": OutputFormat("llama.cpp", _llama_cpp, shell=lambda flags: f"{shlex.join(flags)}\n"),
    "llama-cpp-python": OutputFormat("llama.cpp", _llama_cpp_python),
    "diffusers": OutputFormat("diffusers", _diffusers),
    "onnx": OutputFormat("onnx", _onnx),
    "sentence-transformers-onnx": OutputFormat("onnx", _onnx_model),
    "vllm": OutputFormat("vllm", _vllm, shell=_settings),
    "sglang": OutputFormat("sglang", _sglang, shell=_settings),
    "ktransformers": OutputFormat("ktransformers", _sglang, shell=_settings),
    "exllamav3": OutputFormat("exllamav3", _exllamav3),
    "env": OutputFormat(None, _environment, shell=_exports),
}


def forms_of(target: Target) -> list[str]:
    """Return the names of a target's forms, those of other packages included."""
    return [*(name for name, form in OUTPUT_FORMATS.items() if form.target == target.name), *target.forms]


def form_named(name: str) -> OutputFormat:
    """Return a form by its name. Raises `TargetError` with the likely one."""
    found = OUTPUT_FORMATS.get(name)
    if found is not None:
        return found
    others = {form: target for target in targets().values() for form in target.forms}
    if name not in others:
        raise TargetError(f"unknown form `{name}`: {did_you_mean(name, [*OUTPUT_FORMATS, *others])}")
    target = others[name]
    return OutputFormat(target.name, partial(_of_other_package, target, name))


def _of_other_package(target: Target, name: str, plan: Plan, host: Host) -> Any:
    """Return a form that another package writes. Raises `TargetError` where it fails, or its value is no JSON."""
    try:
        value = target.forms[name](plan, host)
        json_text(value), _source(value, "")  # it may be nested too deeply for either
    except (DevPolicyError, KeyboardInterrupt):
        raise
    except BaseException as broken:  # one that exits, too: whatever it is, it is no end of this process
        message = f"the target `{target.name}` cannot write its form `{name}`: {described(broken)}"
        raise TargetError(message) from broken
    return value


class FormName(click.ParamType[str]):
    """The name of a form: ours, or one of a target of another package."""

    name = "form"

    def __init__(self, more: Sequence[str] = ()) -> None:
        self._more = tuple(more)
        """Names of forms that are not of one plan."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name. Fails where no target has such a form."""
        if value in self._more:
            return value
        try:
            form_named(value)
        except TargetError as unknown:
            self.fail(str(unknown), param, ctx)
        return value

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the word of the help."""
        return "FORM"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the names of forms."""
        return [CompletionItem(name) for name in (*OUTPUT_FORMATS, *self._more) if name.startswith(incomplete)]


class TargetName(FormName):
    """The name of a target: ours, or one of another package."""

    name = "target"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name. Fails where there is no such target."""
        try:
            found = target_named(value)
        except TargetError as broken:
            self.fail(str(broken), param, ctx)
        if found is None:
            self.fail(f"unknown target `{value}`: {did_you_mean(value, targets())}", param, ctx)
        return found.name

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the word of the help."""
        return "TARGET"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the names of targets."""
        return [CompletionItem(name) for name in NAMED if name.startswith(incomplete)]


DEVICE_FORMATS = [name for name, form in OUTPUT_FORMATS.items() if form.of_device is not None]
"""The forms in which a device can be told without a model."""


def written(
    form: OutputFormat, plans: Mapping[str | None, Plan], host: Host | Mapping[str | None, Host], *, as_json: bool
) -> str:
    """Return plans in a form, as JSON or as text to be copied: one alone, or several by their components' names.

    `host` is the one that all of them are for, or that of each.
    """
    values = {
        name: form.of_plan(plan, host[name] if isinstance(host, Mapping) else host) for name, plan in plans.items()
    }
    if as_json:
        return json_text(values.get(None, values))
    if form.shell is None:
        return literal(values.get(None, values)) + "\n"
    # A name may hold anything, also the end of a line: what stands behind it would be a command.
    heads = {name: "" if name is None else f"{visible_line(f'# {name}')}\n" for name in values}
    return "\n".join(heads[name] + in_shell(form.shell, value) for name, value in values.items())


def _words(value: object) -> Iterator[str]:
    """Yield the texts that a form is made of."""
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, str):
        yield value
    elif isinstance(value, Sequence):
        for one in value:
            yield from _words(one)


def in_shell(shell: Callable[[Any], str], value: Mapping[str, Any] | Sequence[str]) -> str:
    """Return words or variables as text for a shell. Raises `DevPolicyError` for what a terminal would not show."""
    hidden = next((word for word in _words(value) if visible(word) != word or "##[" in word), None)
    if hidden is not None:
        message = (
            f"`{hidden}` holds characters that are not seen, or a command of a CI log, and is not written for a shell"
        )
        raise DevPolicyError([Diagnostic("DP104", message, help="it is a name in the host file or in the model")])
    return shell(value)


def literal(value: object) -> str:
    """Return a value as Python source, each entry of a dictionary on a line of its own; text alone without quotes.

    Text is a program's, and an escape would change it: `DevPolicyError` is raised where a terminal would not show it as
    it is, or a CI log would take a line of it for a command. In Python source an escape is what it stands for.
    """
    if not isinstance(value, str):
        return "\n".join(map(visible_line, _source(value, "").split("\n")))
    if any(visible_line(line) != line for line in value.split("\n")):
        message = "this form holds characters that are not seen, or a command of a CI log, and is not written as text"
        raise DevPolicyError([Diagnostic("DP104", message, help="JSON escapes them: `--format json`")])
    return value


def _source(value: object, indent: str) -> str:
    if not isinstance(value, dict) or not value:
        return repr(value)
    inside = indent + "    "
    entries = "".join(f"{inside}{key!r}: {_source(entry, inside)},\n" for key, entry in value.items())
    return f"{{\n{entries}{indent}}}"
