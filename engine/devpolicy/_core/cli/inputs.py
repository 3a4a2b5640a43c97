"""The arguments that name policies, hosts and models, and how they are read.

Owns what `--model NAME=M` and `--host -` mean. The values' own class methods read them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import click

from devpolicy._core.cli import complete, complete_keys
from devpolicy._core.cli.context import CliContext
from devpolicy._core.cli.report import painted, rendered
from devpolicy._core.errors import DevPolicyError, Diagnostic, PolicyError
from devpolicy._core.host import Host
from devpolicy._core.language.layers import addresses, stem_of
from devpolicy._core.language.merging import Merged
from devpolicy._core.language.policy import Policy, apply_overlays
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.sizes import format_size
from devpolicy._core.toml.tables import did_you_mean
from devpolicy._core.verbs.inputs import asked_in_environment, policy_in_environment

F = TypeVar("F", bound=Callable[..., Any])

_NAMED = re.compile(r"([^=/\\.][^=/\\]*)=(.+)", re.DOTALL)
"""A component's name may be any text; one that looks like the beginning of a path is none."""

policy_argument = click.argument("policy", shell_complete=complete.policies)

host_option = click.option(
    "--host",
    metavar="HOST",
    shell_complete=complete.hosts,
    help="A host of the catalogue or a host file. Default, and with -: this machine.",
)

NO_MODEL = "none, so only devices are chosen: `--model` names one"
"""The line of a report that was made without a model."""

model_help = (
    "A model of the catalogue, a model file, a checkpoint folder, a GGUF file, a hub id in the local cache, or "
    "hf://ORG/NAME."
)


def model_option(*, required: bool) -> Callable[[F], F]:
    """Return the option that names one model."""
    return click.option("--model", metavar="MODEL", required=required, shell_complete=complete.models, help=model_help)


component_option = click.option(
    "--component",
    metavar="NAME",
    shell_complete=complete_keys.components,
    help="The component to plan, by its name in the policy.",
)

_PROFILE_HELP = "A profile to apply, in addition to those that apply by themselves"
_profile_option = click.option(
    "--profile",
    metavar="NAME",
    shell_complete=complete_keys.profiles,
    help=f"{_PROFILE_HELP}. Default: DEVPOLICY_PROFILE.",
)
_test_profile_option = click.option(
    "--profile",
    metavar="NAME",
    shell_complete=complete_keys.profiles,
    help=f"{_PROFILE_HELP}, in tests that name none. Tests never read DEVPOLICY_PROFILE.",
)
_set_option = click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    shell_complete=complete_keys.keys,
    help="Set a dotted key of the policy, after everything else. VALUE is TOML, or text without quotes.",
)


def overlay_options(command: F) -> F:
    """Add `--profile` and `--set`."""
    return _profile_option(_set_option(command))


def test_overlay_options(command: F) -> F:
    """Add `--profile` and `--set` for tests, which read no environment variable."""
    return _test_profile_option(_set_option(command))


def on_host(policy: Policy, host: Host, profile: str | None, overrides: Sequence[str]) -> Policy:
    """Return a policy with what belongs to a host, and what the command line and the environment lay over it."""
    return apply_overlays(policy_in_environment(policy, profile=profile, overrides=overrides), host)


def on_every_host(policy: Policy, profile: str | None, overrides: Sequence[str]) -> Policy:
    """Return a policy that is asked on many hosts with what the command line and `DEVPOLICY_PROFILE` lay over it."""
    return asked_in_environment(policy, profile=profile, overrides=overrides)


def overlay_facts(policy: Policy) -> list[tuple[str, str]]:
    """Return the profile and the overrides that are laid over a policy, as labelled values."""
    asked = policy.overrides
    told = [] if asked.profile is None else [("profile", asked.profile)]
    return [*told, *([("set", ", ".join(asked.values))] if asked.values else [])]


def files_of(policy: Policy) -> list[str]:
    """Return the files that a policy was read from: its own, those that it builds on, the models of its components."""
    layers = [policy.layer]
    found: list[str] = []
    for layer in layers:  # grows while it is read; ends, because `extends` allows no circles
        origins = layer.origins
        if isinstance(origins, Merged):
            layers += origins.layers
        elif origins.folder(()) is not None:
            found.append(origins.source)
    named = [Path(one.folder or ".") / name for one in policy.components for name in one.models]
    return [*found, *map(str, named)]


def check_component(policy: Policy, component: str | None, models: Iterable[str | None] = ()) -> None:
    """Raise `PolicyError`, DP202, where a policy with components has none of this name, and none of `models` has it."""
    entries = policy.components
    if component is None or not entries or component in models:
        return
    if not any(addresses(entry, stem_of(entries, component)) for entry in entries):
        known = did_you_mean(component, [entry.name for entry in entries])
        raise PolicyError(Diagnostic("DP202", f"the policy has no component `{component}`", help=known))


def how_to_name(option: str) -> str:
    """Return the way out where no model is given: the option of the command that takes one."""
    return f"write `{option} MODEL`: a name that `devpolicy model list` shows, a file or a folder"


def check_model(policy: Policy, component: str | None, *, given: bool, option: str = "--model") -> None:
    """Raise `DevPolicyError` where neither the command nor the policy names a model."""
    if not given and component is None:
        names = [entry.name for entry in policy.components if not entry.is_glob]
        hint = how_to_name(option)
        if names:
            hint = f"name the component: `--component {names[0]}`; or {hint}"
        raise DevPolicyError([Diagnostic("", "no model is given", help=hint)])


def load_host(ctx: CliContext, name: str | None, policy: Policy | None = None) -> Host:
    """Return a host by name or path, this machine for `None` and `-`."""
    if name is None or name == "-":
        with ctx.working("asking this machine"):
            found = Host.probe(disk_path=policy.disk_path if policy else None)
        if not found.memory:
            why = "; ".join(f"{source}: {fault}" for source, fault in found.faults)
            hint = "name a host with `--host`: `devpolicy host list` shows them"
            unknown = Diagnostic("", f"the memory of this machine is not known ({why})", help=hint, severity="warning")
            ctx.err.print(painted(rendered([unknown])))
        return found
    return Host.load(name)


def load_model(ctx: CliContext, name: str, architecture: str | None = None) -> ModelTree:
    """Return a model. Anything but a name of the catalogue can be slow, and shows that it is being read."""
    from devpolicy._core.model.catalogue import model_catalogue

    if name in model_catalogue() or Path(name).suffix == ".toml":
        return ModelTree.load(name, architecture=architecture)
    if name.startswith("hf://") and architecture is None:
        from devpolicy._core.model.hub import from_hub

        def announce(files: int, size: int) -> None:
            if ctx.for_people:
                what = f"{files} file{'s' * (files > 1)} of {format_size(size)}"
                ctx.err.print(f"{name}: {what}, only the headers are read")

        with ctx.progress(f"reading headers of {name}") as progress:
            return from_hub(name, progress=progress, announce=announce)
    with ctx.working(f"reading {name}"):
        return ModelTree.load(name, architecture=architecture)


def named_models(given: Sequence[str]) -> dict[str | None, str]:
    """Return `--model` options by component: one model without a name under `None`, or all with names."""
    for text in given:
        if text.startswith("=") or text.endswith("=") or not text.strip():
            missing = "model" if text.endswith("=") or not text.strip() else "component"
            hint = "write `--model NAME=MODEL`, or `--model MODEL`: a name of the catalogue, a file or a folder"
            raise DevPolicyError([Diagnostic("", f"`--model {text}` names no {missing}", help=hint)])
    named = [_NAMED.fullmatch(text) for text in given]
    if len(given) == 1 and named[0] is None:
        return {None: given[0]}
    result: dict[str | None, str] = {}
    for text, found in zip(given, named, strict=True):
        if found is None:
            raise DevPolicyError(f"several models need names: write `--model NAME={text}`")
        name, model = found.groups()
        if name in result:
            raise DevPolicyError(f"component `{name}` is given twice")
        result[name] = model
    return result


def trees_of(
    ctx: CliContext, policies: Sequence[Policy], given: Sequence[str], *, drawn: bool = False
) -> list[ModelTree | None]:
    """Return the models to plan policies for: those given, also globs of the catalogue, else those of their tests.

    Without any it is `None` alone: the policies' own components, or the device choice. With `drawn` models come from
    elsewhere too. Raises `DevPolicyError` if there are rules and nothing names a model that they could match.
    """
    from devpolicy._core.model.catalogue import model_catalogue
    from devpolicy._core.review.outcome import components_of, variants_of

    said = [variant for policy in policies for variant in variants_of(policy, as_asked=True)]
    of_tests = [test.model.text for policy in policies for test in policy.tests if test.model is not None]
    own = any(map(components_of, said))
    names: list[str] = []
    for name in given or ([] if own else of_tests):
        glob = any(sign in name for sign in "*?[")
        names += [known for known in model_catalogue() if fnmatchcase(known, name)] if glob else [name]
    if given and not names:
        hint = "`devpolicy model list` shows them"
        raise DevPolicyError(Diagnostic("", f"no model of the catalogue is like `{given[0]}`", help=hint))
    if not names and not own and not drawn and any(one.rules for one in said):
        hint = "give `--model`, or a `[[test]]` with one"
        raise DevPolicyError(Diagnostic("", "a policy has rules, and no model says what they match", help=hint))
    return _told_apart({name: load_model(ctx, name) for name in names}) or ([] if drawn else [None])


def _told_apart(trees: Mapping[str, ModelTree]) -> list[ModelTree | None]:
    """Return the models; those that have one name (of their class, say) are named as they were given."""
    uses = Counter(tree.name for tree in trees.values())
    return [tree if uses[tree.name] == 1 else replace(tree, name=given) for given, tree in trees.items()]
