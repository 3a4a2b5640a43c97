"""A policy in its two states.

Owns `Policy`, what a text says with its profiles and components, and `ResolvedPolicy`, what it says of one component:
flat and typed, the only form that placement, lint and review see. `devpolicy._core.language.read` makes the first,
`devpolicy._core.language.layers` the second.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from devpolicy._core.errors import Diagnostic, PolicyError
from devpolicy._core.host import Host
from devpolicy._core.language.components import Component
from devpolicy._core.language.fields import SCHEMA_VERSION, Split
from devpolicy._core.language.loading import LoadingTable
from devpolicy._core.language.memory import Basis, MemoryRule, said_of
from devpolicy._core.language.nodes import Node, Nodes
from devpolicy._core.language.rules import Rule, Ties
from devpolicy._core.language.values import Amount, DeviceSelector
from devpolicy._core.language.wishes import ContextRange, Replicas, Wish
from devpolicy._core.language.workload import Workload
from devpolicy._core.public import public

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from devpolicy._core.errors import Place
    from devpolicy._core.host import Accelerator
    from devpolicy._core.language.conditions import Condition
    from devpolicy._core.language.merging import ConfigLayer
    from devpolicy._core.language.profiles import Profile
    from devpolicy._core.language.tests import PolicyTest

__all__ = [
    "Amount",
    "Basis",
    "Component",
    "ContextRange",
    "DeviceSelector",
    "LoadingTable",
    "MemoryRule",
    "Overrides",
    "Policy",
    "ResolvedPolicy",
    "Rule",
    "Split",
    "Ties",
    "Wish",
    "Workload",
    "apply_overlays",
]  # fmt: skip

T = TypeVar("T")


@public("devpolicy")
@dataclass(frozen=True, slots=True)
class ResolvedPolicy:
    """What a policy says of one component, all overlays applied: no profiles, no components.

    `Policy.for_component` gives it for any host, `Policy.for_host` for one.
    """

    prefer: tuple[DeviceSelector, ...] = ()
    overflow: tuple[DeviceSelector, ...] = ()
    avoid: tuple[DeviceSelector, ...] = ()
    split: Split = "when-needed"
    ties: Ties = "refuse"
    rules: tuple[Rule, ...] = ()
    memory: tuple[MemoryRule, ...] = ()
    disk_path: str | None = None
    """Where rewritten weights go: for a policy that was loaded from a file, resolved against its folder."""
    workload: Workload = Workload()
    loading: LoadingTable = LoadingTable()
    require: Condition | None = None
    component: str | None = None
    """The component that it is about; `None` is the policy's top."""
    needs: int | None = None
    """Bytes that the component takes of one device, where the policy says them and no model."""
    share: Amount | None = None
    """The largest percentage of each device's budget that may be taken."""
    target: str | None = None
    """The consumer that is planned for."""
    relax: tuple[Wish, ...] = ()
    """The order in which wishes give way, as written; empty is the default order."""
    replicas: Replicas = 1
    """So many copies, each on accelerators of its own."""
    node: Node | None = None
    """On which machine of several it may run."""
    nodes: Nodes = "pack"
    """Whether replicas fill a machine, or are on as many as there are."""
    required: tuple[Condition, ...] = ()
    """What a host must have for the component, beside `require`."""
    several_models: bool = field(default=False, compare=False)
    """Whether it is about one model of several: then a rule of its own may be meant for another."""
    left_out: tuple[Rule, ...] = field(default=(), compare=False)
    """The rules whose `when` does not hold on the host."""
    applied: tuple[str, ...] = field(default=(), compare=False)
    """The profiles that were applied."""
    notices: tuple[Diagnostic, ...] = field(default=(), compare=False)
    """Warnings of every plan that is made by it."""
    prefer_place: Place | None = field(default=None, compare=False)

    def for_host(self, host: Host) -> ResolvedPolicy:
        """Return it without the rules whose `when` does not hold on `host`."""
        left_out = tuple(rule for rule in self.rules if rule.when is not None and rule.when.unmet(host))
        if not left_out:
            return self
        rules = tuple(rule for rule in self.rules if rule not in left_out)
        return replace(self, rules=rules, left_out=(*self.left_out, *left_out))

    def memory_of(self, what: Accelerator | str) -> MemoryRule:
        """Return the settings of `[memory]` for an accelerator, `"cpu"` or `"disk"`. Raises `Unsatisfiable` (DP306)."""
        if not self.memory:
            return MemoryRule(DeviceSelector(what if isinstance(what, str) else what.type))
        return said_of(what, self.memory)


@dataclass(frozen=True, slots=True)
class Overrides:
    """What is applied to a policy on every host, last: a profile by its name, and values as `--set` takes them."""

    profile: str | None = None
    values: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] | None = None
    """The variables that profiles ask for; `None` where the environment is not read."""


@public("devpolicy")
@dataclass(frozen=True, slots=True, repr=False)
class Policy:
    """What a TOML text says, with what it `extends`: its top, its components, its profiles, its tests.

    `Policy.load` and `Policy.parse` make it; to change one, change its text or use `with_overrides`. The attributes
    that are called like keys are those of the top.
    """

    layer: ConfigLayer = field(compare=False)
    """What is written, with the way back to each key: profiles, components and values are applied to it."""
    top: ResolvedPolicy
    components: tuple[Component, ...] = ()
    """As written. Their order decides which is planned first, and which glob is nearer."""
    profiles: tuple[Profile, ...] = ()
    overrides: Overrides = Overrides()
    hosts: tuple[tuple[str, Host], ...] = field(default=(), compare=False)
    """The `[host.NAME]` tables, for the tests. No plan depends on them."""
    tests: tuple[PolicyTest, ...] = field(default=(), compare=False)
    schema: int = SCHEMA_VERSION
    source: str = field(default="<string>", compare=False)
    """What messages call the text."""
    warnings: tuple[Diagnostic, ...] = field(default=(), compare=False)
    """What has no effect, in text order."""
    _memo: dict[Hashable, object] = field(default_factory=dict, init=False, compare=False)

    @classmethod
    def parse(cls, text: str | bytes, source: str = "<string>") -> Policy:
        """Read a policy from TOML text. Raises `PolicyError` with every finding and its place."""
        from devpolicy._core.language.read import parse

        return parse(text, source)

    @classmethod
    def load(cls, name: str | PathLike[str]) -> Policy:
        """Read a policy file, or a shipped policy by its name (`"offload-lm-head"`).

        Raises `PolicyError`; where there is no such file, with the likely name.
        """
        from devpolicy._core.language.read import load

        return load(name)

    def for_host(
        self,
        host: Host,
        *,
        component: str | None = None,
        component_class: str | None = None,
        profile: str | None = None,
        overrides: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> ResolvedPolicy:
        """Return what the policy says on one host, of a component or of the top.

        Applied are, each over the one before: the profiles whose `when` holds, the `profile` that is asked for by
        name, and `overrides`, each `KEY=VALUE` as `--set` takes it. `environment` is where `env.NAME` is looked up;
        without it, profiles that ask for it are left out, which is a warning of the plan (DP506). `component_class` is
        the path of the component's class.

        Raises `Unsatisfiable` (DP305) where two profiles that apply by themselves set one key, and `PolicyError`.
        """
        asked = self
        if profile is not None or overrides or environment is not None:
            asked = self.with_overrides(profile=profile, values=overrides, environment=environment)
        applied = apply_overlays(asked, host)
        resolved = applied.top if component is None else applied.for_component(component, component_class)
        return resolved.for_host(host)

    def for_component(self, name: str | None, component_class: str | None = None) -> ResolvedPolicy:
        """Return what the policy says of one component on any host: the profiles are left out, all rules are in.

        `component_class` is the path of the component's class, where it is known. `name` may be one that the policy
        does not have. Raises `PolicyError` (DP202) where nothing says where the component runs.
        """
        if not all(text is None or isinstance(text, str) for text in (name, component_class)):
            raise PolicyError("a component and its class are named by text")
        if not self.components:
            return self.top if name == self.top.component else replace(self.top, component=name)
        from devpolicy._core.language.layers import resolve

        return self.remembered(("component", name, component_class), lambda: resolve(self, name, component_class))

    def with_overrides(
        self,
        *,
        profile: str | None = None,
        values: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Policy:
        """Return the policy with a `profile` and `values` (`KEY=VALUE`, as `--set` takes them) applied on every host.

        Profiles that apply by themselves stay weaker; `environment` is where their `env.NAME` is looked up. Raises
        `PolicyError` for a profile that the policy does not have, and for values that it cannot take.
        """
        from devpolicy._core.language.profiles import with_overrides

        return with_overrides(self, profile, values, environment)

    def remembered(self, what: Hashable, make: Callable[[], T]) -> T:
        """Return what was made of this policy before, else make it: a policy never changes."""
        if what not in self._memo:
            self._memo[what] = make()
        return self._memo[what]  # type: ignore[return-value]  # `what` says which

    def __repr__(self) -> str:
        parts = [f"prefer {', '.join(map(str, self.prefer))}"] if self.prefer else []
        counts = {"rule": self.rules, "component": self.components, "profile": self.profiles, "test": self.tests}
        parts += [f"{len(listed)} {name}{'s' * (len(listed) > 1)}" for name, listed in counts.items() if listed]
        return f"<Policy {self.source!r}: {'; '.join(parts) or 'empty'}>"

    # The top's keys.

    @property
    def prefer(self) -> tuple[DeviceSelector, ...]:
        """Where modules run."""
        return self.top.prefer

    @property
    def overflow(self) -> tuple[DeviceSelector, ...]:
        """Where weights that do not fit are kept."""
        return self.top.overflow

    @property
    def avoid(self) -> tuple[DeviceSelector, ...]:
        """Devices that are never used."""
        return self.top.avoid

    @property
    def split(self) -> Split:
        """How many devices of a term are used."""
        return self.top.split

    @property
    def relax(self) -> tuple[Wish, ...]:
        """The order in which wishes give way."""
        return self.top.relax

    @property
    def ties(self) -> Ties:
        """What happens to a rule that would part tied tensors."""
        return self.top.ties

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules in the order in which they count."""
        return self.top.rules

    @property
    def memory(self) -> tuple[MemoryRule, ...]:
        """The settings of `[memory]` for each device."""
        return self.top.memory

    @property
    def disk_path(self) -> str | None:
        """Where rewritten weights go."""
        return self.top.disk_path

    @property
    def workload(self) -> Workload:
        """The work to plan for: memory beside the weights depends on it."""
        return self.top.workload

    @property
    def loading(self) -> LoadingTable:
        """How the model is loaded, instead of by the checkpoint's own settings."""
        return self.top.loading

    @property
    def require(self) -> Condition | None:
        """What a host must have."""
        return self.top.require


def apply_overlays(policy: Policy, host: Host) -> Policy:
    """Return a policy with the profiles and the values that belong to one host applied: it has no profiles.

    It is made once for all hosts to which the same profiles apply. Raises `Unsatisfiable` (DP305), and `PolicyError`
    for anything but a host.
    """
    if not isinstance(host, Host):
        help_ = f"write `Host.load({host!r})`" if isinstance(host, str) else "such as `Host.load(NAME)`"
        message = f"a policy is asked on a `Host`, not on a value of type {type(host).__name__}"
        raise PolicyError(Diagnostic("DP102", message, help=help_))
    if not policy.profiles and policy.overrides == Overrides():
        return policy
    from devpolicy._core.language.profiles import applied

    return applied(policy, host)
