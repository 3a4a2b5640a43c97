"""Coverage: the rules and preferences that decided something in the tests of a policy, and on which hosts.

Owns the table of rules and hosts. A rule that fires in no test is one that can be removed without a test noticing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from devpolicy._core.language.policy import Policy
from devpolicy._core.review.outcome import overflow_name, term_names, variants_of
from devpolicy._core.review.run import Result
from devpolicy._core.review.suites import Suite


@dataclass(frozen=True, slots=True)
class Coverage:
    """One policy: for each rule and each term of `prefer`, on how many tested hosts it fired."""

    policy: str
    hosts: tuple[str, ...]
    fired: dict[str, tuple[str, ...]]
    """Rules, `prefer TERM` and `overflow`, with the hosts on which they decided something."""

    @property
    def never(self) -> list[str]:
        """What fired on no host."""
        return [name for name, hosts in self.fired.items() if not hosts]


def deciders(policy: Policy, *, as_asked: bool = False, overflow: bool = True) -> list[str]:
    """Return what can decide something in a policy: `prefer TERM`, rules and `overflow`, of its top and components.

    `as_asked` skips the rules of profiles that were not selected.
    """
    # The top level applies to components too, and by itself only if there are none.
    found: list[str] = []
    for variant in variants_of(policy, as_asked=as_asked):
        names: list[str | None] = [entry.name for entry in variant.components]
        for name in names or [None]:
            flat = variant.for_component(name)
            found += term_names(variant, name, flat.prefer)
            found += [rule.name for rule in flat.rules]
            found += [overflow_name(variant, name)] if overflow and flat.overflow else []
    return list(dict.fromkeys(found))


def coverage(suites: Sequence[Suite], results: Iterable[Result]) -> list[Coverage]:
    """Return the coverage of each policy that was tested, over all files that test it."""
    by_file: dict[str, list[Result]] = {}
    for result in results:
        by_file.setdefault(result.suite, []).append(result)
    found: list[Coverage] = []
    for source in dict.fromkeys(suite.policy for suite in suites):
        of_policy = [suite for suite in suites if suite.policy == source]
        tests = [bound for suite in of_policy for bound in suite.tests]
        cases = [case for suite in of_policy for one in by_file.get(suite.name, ()) for case in one.cases]
        if not tests:
            continue
        seen: dict[str, set[str]] = {}
        for case in cases:
            seen.setdefault(case.base, set()).update(case.fired)
        fired = {name: tuple(host for host in seen if name in seen[host]) for name in deciders(tests[0].policy)}
        found.append(Coverage(source, tuple(seen), fired))
    return found
