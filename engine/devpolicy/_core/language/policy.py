"""What a policy says, as frozen values.

Owns `Policy` and its parts. They are made by `devpolicy._core.language.read` from TOML and read by
`devpolicy._core.placement`; they know neither a host nor a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from devpolicy._core.errors import Diagnostic, Place
    from devpolicy._core.host import Accelerator, Host
    from devpolicy._core.language.cases import PolicyTest
    from devpolicy._core.language.comparisons import SizeTest
    from devpolicy._core.language.conditions import Condition
    from devpolicy._core.language.devices import DeviceClass
    from devpolicy._core.language.merging import Layer
    from devpolicy._core.language.patterns import Pattern
    from devpolicy._core.language.profiles import Profile

Split = Literal["when-needed", "never", "balanced", "fastest"]
Ties = Literal["refuse", "follow", "skip"]
Basis = Literal["free", "total"]


@dataclass(frozen=True, slots=True)
class DeviceSelector:
    """Devices that a policy names: a type (`cuda`), one device (`cuda:1`), a class of `[devices]`, `cpu` or `disk`.

    `count` devices are needed at least and used at most, and with `same` (`"name"`, `"memory"`, `"capability"`)
    they must be alike; `count` 0 means any number.
    """

    type: str
    id: int | None = None
    count: int = 0
    same: tuple[str, ...] = ()
    cls: DeviceClass | None = None

    def names(self, one: Accelerator) -> bool:
        """Whether an accelerator is one of those that the term speaks of, whatever their number."""
        return one.type == self.type and self.id in (None, one.id) and (self.cls is None or not self.cls.unlike(one))

    def __str__(self) -> str:
        if self.cls is not None:
            return self.cls.name
        return self.type if self.id is None else f"{self.type}:{self.id}"


@dataclass(frozen=True, slots=True)
class Amount:
    """An amount of memory: bytes plus a fraction of a basis."""

    size: int = 0
    percent: float = 0.0

    def of(self, basis: int) -> int:
        """Bytes of this amount where 100 % is `basis`, rounded down; a percentage has six decimals."""
        # In integers: a float would be off by bytes on a large device, and 29 % is not a float's 29 %.
        return self.size + basis * round(self.percent * 10**6) // 10**8


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: which modules, and what is done with them and their subtrees."""

    name: str
    """`offload.lm_head` for a shorthand, its own `name`, else `rule 3` (counted from 1 as written)."""
    match: tuple[Pattern, ...] = ()
    cls: tuple[str, ...] = ()
    """Globs of class names."""
    size: SizeTest | None = None
    prefer: tuple[DeviceSelector, ...] = ()
    offload: tuple[DeviceSelector, ...] = ()
    together: bool = False
    ties: Ties | None = None
    on_exhausted: Literal["error", "next"] = "error"
    reason: str = ""
    component: str | None = None
    """The name in `[component.NAME]` where it is written there."""
    when: Condition | None = None
    """The rule applies only on hosts of which this holds."""
    layer: str = field(default="", compare=False)
    """The text or the profile that it comes from, empty for the policy's own text: the nearer one comes first."""
    place: Place | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class MemoryRule:
    """What `[memory]` says of one term; `None` leaves a key to a less specific entry or the default."""

    term: DeviceSelector
    basis: Basis | None = None
    cap: Amount | None = None
    headroom: Amount | None = None
    kv_cache: Amount | None = None
    """`reserve.kv_cache`: replaces the derived figure."""
    activations: Amount | None = None
    """`reserve.activations`: replaces the derived figure."""
    place: Place | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Workload:
    """What the memory beside the weights is derived from."""

    context: int | None = None
    batch: int = 1
    dtype: str | None = None
    kv_dtype: str | None = None
    new_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Component:
    """One `[component.NAME]`: `None` leaves a key to the layers below, as `devpolicy._core.language.layers` says."""

    name: str
    """As written: a component's name, or a glob of names."""
    type: str | None = None
    """A glob of the class paths that it is meant for."""
    model: str | None = None
    """A catalogue name, a path (relative to `folder`) or a hub id."""
    needs: int | None = None
    """Bytes that it takes of one device, where there is no model to compute them from."""
    share: Amount | None = None
    """The largest percentage of each device's budget that it may take."""
    target: str | None = None
    prefer: tuple[DeviceSelector, ...] | None = None
    overflow: tuple[DeviceSelector, ...] | None = None
    avoid: tuple[DeviceSelector, ...] = ()
    split: Split | None = None
    ties: Ties | None = None
    rules: tuple[Rule, ...] = ()
    memory: tuple[MemoryRule, ...] = ()
    disk_path: str | None = None
    workload: tuple[tuple[str, Any], ...] = ()
    """The keys of `Workload` that it sets."""
    require: Condition | None = None
    folder: str | None = None
    """The folder of the policy's file; `None` where it was read from text."""
    place: Place | None = field(default=None, compare=False)
    prefer_place: Place | None = field(default=None, compare=False)
    model_place: Place | None = field(default=None, compare=False)

    @property
    def is_glob(self) -> bool:
        """Whether the name stands for several components."""
        return "*" in self.name or "?" in self.name


@dataclass(frozen=True, slots=True)
class Asked:
    """What is laid over a policy on every host, last: a profile by its name, and values as `--set` takes them."""

    profile: str | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as written in one TOML text, or what it says of one component (`for_component`)."""

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
    require: Condition | None = None
    profiles: tuple[Profile, ...] = ()
    """Variants that were not laid over the policy yet: `for_host` does."""
    asked: Asked = Asked()
    """What was not laid over the policy yet, beside profiles that apply by themselves (`asking`): `for_host` does."""
    components: tuple[Component, ...] = ()
    """As written."""
    share: Amount | None = None
    """The largest percentage of each device's budget that may be taken; only `for_component` sets it."""
    target: str | None = None
    """The consumer that is planned for; only `for_component` sets it."""
    required: tuple[Condition, ...] = ()
    """What a host must have for the component, beside `require`; only `for_component` sets it."""
    hosts: tuple[tuple[str, Host], ...] = field(default=(), compare=False)
    """The `[host.NAME]` tables, for the tests. No plan depends on them."""
    tests: tuple[PolicyTest, ...] = field(default=(), compare=False)
    schema: int = 1
    left_out: tuple[Rule, ...] = field(default=(), compare=False)
    """The rules whose `when` does not hold on the host that it was applied to."""
    applied: tuple[str, ...] = field(default=(), compare=False)
    """The profiles that were laid over it."""
    text: Layer | None = field(default=None, compare=False, repr=False)
    """What was written, with the way back to each key."""
    source: str = field(default="<string>", compare=False)
    prefer_place: Place | None = field(default=None, compare=False)
    warnings: tuple[Diagnostic, ...] = field(default=(), compare=False)
    """What is said without effect, in text order."""
    notices: tuple[Diagnostic, ...] = field(default=(), compare=False)
    """What was left open when the policy was applied to a host."""

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
        profile: str | None = None,
        overrides: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Policy:
        """Return what the policy says on one host, without profiles and rules that do not apply there.

        Laid over the policy are, each over the one before: the profiles whose `when` holds, the `profile` that is
        asked for by name (else that of `asking`), and `overrides`, each `KEY=VALUE` as `--set` takes it. `environment`
        is where `env.NAME` is looked up; without it, profiles that ask for it are left out, which is a warning of the
        plan (DP506). The verbs do this for the host that they are given; on what it returned for that host, they change
        nothing more.

        Raises `Unsatisfiable` (DP305) where two profiles that apply by themselves set one key, and `PolicyError`.
        """
        from devpolicy._core.language.profiles import applying

        return applying(self.overlaid(host, profile=profile, overrides=overrides, environment=environment), host)

    def overlaid(
        self,
        host: Host,
        *,
        profile: str | None = None,
        overrides: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Policy:
        """Return what `for_host` does, with all rules: what their `when` asks may be asked of other hosts again."""
        from devpolicy._core.language.profiles import overlaid

        return overlaid(self, host, profile, overrides, environment)

    def asking(self, profile: str | None = None, overrides: Sequence[str] = ()) -> Policy:
        """Return the policy as it is when `profile` and `overrides` are asked for on every host, whichever it will be.

        Which profiles apply by themselves is still the host's matter; they stay weaker. Raises `PolicyError` for a
        profile that the policy does not have, and for values that it cannot take.
        """
        from devpolicy._core.language.profiles import asking

        return asking(self, profile, overrides)

    def for_component(self, name: str | None, cls: str | None = None) -> Policy:
        """Return what the policy says of one component, all its layers merged: a policy without components.

        `cls` is the path of the component's class, where it is known. `name` may be one that the policy does not have.
        """
        from devpolicy._core.language.layers import merged

        return merged(self, name, cls)
