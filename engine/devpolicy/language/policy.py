"""What a policy says, as frozen values.

Owns `Policy` and its parts. They are made by `devpolicy.language.read` from TOML and read by
`devpolicy.placement`; they know neither a host nor a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from devpolicy.errors import Diagnostic, Place
    from devpolicy.host import Accelerator, Host
    from devpolicy.language.cases import PolicyTest
    from devpolicy.language.comparisons import SizeTest
    from devpolicy.language.conditions import Condition
    from devpolicy.language.devices import DeviceClass
    from devpolicy.language.merging import Layer
    from devpolicy.language.patterns import Pattern
    from devpolicy.language.profiles import Profile

Split = Literal["when-needed", "never", "balanced", "fastest"]
Ties = Literal["refuse", "follow", "skip"]
Basis = Literal["free", "total"]


@dataclass(frozen=True, slots=True)
class Term:
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
    prefer: tuple[Term, ...] = ()
    offload: tuple[Term, ...] = ()
    together: bool = False
    ties: Ties | None = None
    on_exhausted: Literal["error", "next"] = "error"
    reason: str = ""
    when: Condition | None = None
    """The rule applies only on hosts of which this holds."""
    place: Place | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class MemoryRule:
    """What `[memory]` says of one term; `None` leaves a key to a less specific entry or the default."""

    term: Term
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
class Policy:
    """A policy as written in one TOML text."""

    prefer: tuple[Term, ...] = ()
    overflow: tuple[Term, ...] = ()
    avoid: tuple[Term, ...] = ()
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
        from devpolicy.language.read import parse

        return parse(text, source)

    @classmethod
    def load(cls, name: str | PathLike[str]) -> Policy:
        """Read a policy file, or a shipped policy by its name (`"offload-lm-head"`).

        Raises `PolicyError`; where there is no such file, with the likely name.
        """
        from devpolicy.language.read import load

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
        asked for by name, and `overrides`, each `KEY=VALUE` as `--set` takes it. `environment` is where `env.NAME` is
        looked up; without it, profiles that ask for it are left out, which is a warning of the plan (DP506). The verbs
        call this for the host that they are given; what it returns is the same on that host.

        Raises `Unsatisfiable` (DP305) where two profiles that apply by themselves set one key, and `PolicyError`.
        """
        from devpolicy.language.profiles import on_host

        return on_host(self, host, profile, overrides, environment)
