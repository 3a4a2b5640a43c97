"""The tests of a first policy.

Owns what is proposed to be tested, and that only what passes is kept: every test is run by the runner of
`devpolicy test`, with the files that it names, before anyone sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from devpolicy._core.errors import Unsatisfiable
from devpolicy._core.host import Host
from devpolicy._core.language.policy import Policy
from devpolicy._core.placement.plan import Plan
from devpolicy._core.review.runner import run_all
from devpolicy._core.review.suites import gather
from devpolicy._core.starter.draft import Chosen, Wanted, device_of, plans
from devpolicy._core.toml.writer import quote, write_key, write_value
from devpolicy._core.views.names import device_range

_ANYWHERE = ("1x8gb", "1x24gb", "2x24gb", "macbook-m3-36gb", "cpu-only")
"""Hosts of the catalogue that differ much: a policy is tried on them beside its own."""
POLICY = "policy.toml"


def proposed(
    chosen: Chosen, wanted: Sequence[Wanted], hosts: Sequence[tuple[str, Host]], policy: Policy
) -> Iterator[str]:
    """Yield tests as text: what each host does now, that others stay within their memory, that too little is refused.

    `hosts` come with what a test calls them.
    """
    for (called, host), made in zip(hosts, chosen.plans, strict=True):
        for one in wanted:
            if one.component in made:
                yield _of_plan(called, one, made[one.component])
            else:
                # Where its class has no way to the policy's device, a test of the policy alone would not see that.
                device = device_of(policy, one, host)
                keys = {"host": called, **_component(one), "expect": device}
                yield _block(f"{one.name} runs on {device} of {_stem(called)}", keys)
    if any(one.reference is not None for one in wanted):
        of_all = [one for one in wanted if one.component is None]
        yield _block(
            "on other machines it fits too, or is refused",
            {"hosts": list(_ANYWHERE), **_model(of_all), "always": ["placed_or_refused", "within_budget"]},
        )
        yield from _refused(wanted, policy)


def _of_plan(called: str, one: Wanted, plan: Plan) -> str:
    resident = all(unit.device == unit.runs_on for unit in plan.placements.values())
    where = device_range(map(str, plan.placements.devices))
    keys: dict[str, object] = {"host": called, **_model([one]), **_component(one), "expect": _expected(plan)}
    always = ["within_budget", *(["resident"] if resident else [])]
    return _block(f"{one.name} runs on {where} of {_stem(called)}", {**keys, "always": always})


def _expected(plan: Plan) -> object:
    """Return what a test expects of a plan: one device, or the devices of its first and its last module."""
    units = plan.placements
    if len({str(unit.device) for unit in units.values()}) == 1 and len(units.devices) == 1:
        return str(units.devices[0])
    if len(units.devices) == 1:
        return {"**": {"runs_on": str(units.devices[0])}}
    ends = [path for path, unit in units.items() if unit.bytes]
    return {path: {"runs_on": str(units[path].runs_on)} for path in dict.fromkeys((ends[0], ends[-1]))}


def _refused(wanted: Sequence[Wanted], policy: Policy) -> Iterator[str]:
    """Yield a test with a host of the catalogue that has too little room."""
    for name in _ANYWHERE:
        for one in wanted:
            if one.tree is None:
                continue
            try:
                plans(policy, wanted, Host.load(name))
            except Unsatisfiable as refused:
                about = {"host": name, **_model([one]), **_component(one), "expect_error": refused.code}
                yield _block(f"{name} is refused, with the reason", about)
                return


def _stem(called: str) -> str:
    return Path(called).name.removesuffix(".toml")


def _model(wanted: Sequence[Wanted]) -> dict[str, object]:
    own = next((one.reference for one in wanted if one.component is None), None)
    return {} if own is None else {"model": own}


def _component(one: Wanted) -> dict[str, object]:
    return {} if one.component is None else {"component": one.component}


def _block(name: str, keys: Mapping[str, object]) -> str:
    wide = max(len(key) for key in ("name", *keys))
    pairs = [("name", quote(name)), *((key, write_value(value)) for key, value in keys.items())]
    return "[[test]]\n" + "".join(f"{write_key(key).ljust(wide)} = {text}\n" for key, text in pairs)


def kept(text: str, blocks: Sequence[str], files: Mapping[str, str]) -> list[str]:
    """Return those of the tests that pass for a policy. `files` are what it names, by their paths from it."""
    with TemporaryDirectory(prefix="devpolicy-") as folder:
        for path, content in files.items():
            target = Path(folder) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content, encoding="utf-8", newline="\n")
        policy = Path(folder) / POLICY
        policy.write_text(joined(text, blocks), encoding="utf-8", newline="\n")
        results = run_all(gather([str(policy)]), jobs=1)
    return [block for block, result in zip(blocks, results, strict=True) if result.passed]


def joined(text: str, blocks: Sequence[str]) -> str:
    """Return the policy with its tests."""
    return "\n".join([text, *blocks])
