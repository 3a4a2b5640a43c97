"""The policy that is proposed: the least that makes every model fit on every host.

Owns the candidates and their order. What keeps results as they are comes before what changes them, and a model that is
whole on its devices before one of which a part is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import NamedTuple

from devpolicy._core.errors import Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.language.policy import Policy
from devpolicy._core.model.tree import ModelTree
from devpolicy._core.placement.choice import choose
from devpolicy._core.placement.plan import Plan
from devpolicy._core.toml.writer import quote, write_key
from devpolicy._core.verbs.joint import JointPlanner, Request

SCHEMA = "./policy.schema.json"


class Wanted(NamedTuple):
    """One model that the policy is for; a component has a name."""

    component: str | None
    reference: str | None
    """What the policy or a test calls the model; `None` where its size is not known."""
    tree: ModelTree | None
    about: str = ""
    """What a comment says of it."""
    target: str | None = None
    """The consumer behind a component of a pipeline: it may have no way to a device of the policy."""

    @property
    def name(self) -> str:
        """What people call it."""
        return self.component or PurePath((self.reference or "the model").removesuffix(".toml")).name


@dataclass(frozen=True, slots=True)
class Draft:
    """A policy's text, and what it does where memory is short."""

    prefer: tuple[str, ...]
    quantization: str | None = None
    overflow: bool = False

    def text(self, wanted: Sequence[Wanted], about: str) -> str:
        """Return the policy without its tests."""
        terms = [quote(one) for one in self.prefer]
        lines = [
            f"#:schema {SCHEMA}",
            "#",
            f"# {about} Written by `devpolicy init`, and yours to change.",
            "",
            f"prefer = {terms[0] if len(terms) == 1 else '[' + ', '.join(terms) + ']'}",
        ]
        if self.overflow:
            lines.append('overflow = "cpu"  # what does not fit is stored in RAM')
        if self.quantization is not None:
            lines += ["", "[loading]", f'quantization = "{self.quantization}"  # in full it does not fit']
        for one in wanted:
            if one.component is not None:
                lines += ["", f"[component.{write_key(one.component)}]", *_component(one)]
        return "\n".join(lines) + "\n"


def _component(one: Wanted) -> Iterator[str]:
    if one.reference is not None:
        yield f"model = {quote(one.reference)}" + (f"  # {one.about}" if one.about else "")
    else:
        yield f"# {one.about or 'its size is not known here'}: say what it `needs`, and it is planned beside the others"
        yield '# needs = "2 GiB"'


def candidates(hosts: Sequence[Host]) -> Iterator[Draft]:
    """Yield drafts, those first that change least."""
    kinds = dict.fromkeys(str(one.type) for host in hosts for one in host.accelerators if one.fault is None)
    accelerated = tuple(kinds)
    if accelerated and all(host.accelerators for host in hosts):
        yield Draft(accelerated)
        yield Draft(accelerated, overflow=True)
    yield Draft((*accelerated, "cpu"))
    yield Draft((*accelerated, "cpu"), overflow=True)
    yield Draft((*accelerated, "cpu"), quantization="nf4")


Plans = dict[str | None, Plan]


def plans(policy: Policy, wanted: Sequence[Wanted], host: Host) -> Plans:
    """Return the plans of all models of which anything is known, by component. Raises `DevPolicyError`.

    It raises `Unsatisfiable` too where another component has no device.
    """
    if any(one.component is not None for one in wanted):
        joint = JointPlanner(host)
        made: Plans = {}
        for one in wanted:
            if one.reference is not None:
                for placed in joint.place_copies(Request(policy, one.component)):
                    made[one.component] = placed.plan
            else:
                device_of(policy, one, host)
        return made
    (one,) = wanted
    return {None: JointPlanner(host).place_copies(Request(policy, None, one.tree))[0].plan}


def device_of(policy: Policy, one: Wanted, host: Host) -> str:
    """Return the device of a component whose size is not known. Raises `Unsatisfiable`."""
    return choose(policy.for_component(one.component), host, target=one.target).device.to_torch_str()


class Chosen(NamedTuple):
    """A draft, its text, and its plans on each host."""

    draft: Draft
    text: str
    plans: tuple[Plans, ...]


def choose_draft(wanted: Sequence[Wanted], hosts: Sequence[Host], about: str, parse: Callable[[str], Policy]) -> Chosen:
    """Return the first draft that plans on every host. Raises `Unsatisfiable`, that of the last, where none does."""
    refused: Unsatisfiable | None = None
    where = ""
    for draft in candidates(hosts):
        text = draft.text(wanted, about)
        policy, made = parse(text), []
        try:
            for host in hosts:
                where = host.name or "this machine"
                made.append(plans(policy, wanted, host))
            return Chosen(draft, text, tuple(made))
        except Unsatisfiable as found:
            refused = found
    assert refused is not None  # INVARIANT: there is a candidate
    first = refused.diagnostics[0]
    notes = (*first.notes, f"on {where}; in full, in four bits, and with a part of it in RAM were tried")
    # Without its place: the draft is no file of the user's.
    raise Unsatisfiable([replace(first, place=None, notes=notes)])
