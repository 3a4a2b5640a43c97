"""The report of a fleet: a page with its nodes, what is on each of them, and why there.

Owns the markup of that page, which needs no script. It is given plans by node, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from devpolicy._core.views.names import devices
from devpolicy._core.views.page import page, stylesheet, text
from devpolicy._core.views.plan_parts import framed, legend, reasons

if TYPE_CHECKING:
    from devpolicy._core.host import Host
    from devpolicy._core.placement.plan import Plan


class Placed(NamedTuple):
    """One component, or one of its replicas, on its node."""

    name: str
    plan: Plan
    facts: tuple[str, str, str]
    """What is told of it in a line: where it executes, its GiB, what was granted."""
    elsewhere: Sequence[tuple[str, str]]
    """Other nodes, with why it is not there."""


class UsedNode(NamedTuple):
    """A node, with what is on it in the order in which that was planned."""

    name: str
    host: Host
    labels: Mapping[str, str]
    components: Sequence[Placed]


class About(NamedTuple):
    """What the whole report is about."""

    policy: str
    fleet: str
    digest: str
    version: str
    notes: Sequence[str] = ()
    """What is told of the plan as a whole: its warnings, and what was not searched."""


def fleet_report(
    nodes: Sequence[UsedNode], unused: Sequence[tuple[str, Host]], faults: Mapping[str, str], about: About
) -> str:
    """Return the page of a plan: `nodes` are used, `unused` are not, `faults` cannot be."""
    title = f"Where components run under {about.policy}"
    told = f"fleet {about.fleet} · {about.digest} · devpolicy {about.version}"
    body = "\n".join(
        [
            f"<header><h1>{text(title)}</h1><p>{text(told)}</p>{_listed('notes', about.notes)}</header><main>",
            _overview(nodes),
            *(_section(number, node) for number, node in enumerate(nodes)),
            _others(unused, faults),
            f"</main><footer>{legend()}<p>Each picture shows a component with what those before it take of its devices "
            "(others). In it the thin line is the model from its first module to its last; dashed parts only execute "
            "on that device.</p></footer>",
        ]
    )
    return page(title, body, css=stylesheet("report.css", "fleet.css"))


def _overview(nodes: Sequence[UsedNode]) -> str:
    columns = ["component", "executes on", "GiB", "granted"]
    if not any(one.facts[2] for node in nodes for one in node.components):
        columns.pop()
    head = "".join(f'<th scope="col">{name}</th>' for name in ("node", *columns))
    rows: list[str] = []
    for number, node in enumerate(nodes):
        for one in node.components:
            # On a narrow screen each cell shows its column's name.
            told = zip(columns, (one.name, *one.facts), strict=False)
            cells = "".join(f'<td data-host="{column}">{text(fact)}</td>' for column, fact in told)
            rows.append(f'<tr><td data-host="node"><a href="#node-{number}">{text(node.name)}</a></td>{cells}</tr>')
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="frame" role="region" aria-label="Components by nodes" tabindex="0"><table>{body}</table></div>'


def _section(number: int, node: UsedNode) -> str:
    labels = ", ".join(f"{name}={value}" for name, value in node.labels.items())
    about = " · ".join(filter(None, (devices(node.host), labels)))
    placed = "".join(_article(one, node.host) for one in node.components)
    return (
        f'<section id="node-{number}"><h2>{text(node.name)}</h2><p>{text(about)}</p><div class="placed">{placed}</div>'
        "</section>"
    )


def _article(one: Placed, host: Host) -> str:
    elsewhere = [f"not on {node}: {reason}" for node, reason in one.elsewhere]
    return (
        f"<article><h3>{text(one.name)}</h3>{framed(one.plan, host)}"
        f"<details><summary>Reasons<span> for {text(one.name)}</span></summary>"
        f"{_listed('reasons', [*elsewhere, *reasons(one.plan)])}</details></article>"
    )


def _others(unused: Sequence[tuple[str, Host]], faults: Mapping[str, str]) -> str:
    told = [f"{names}: {devices(host)}" for names, host in unused]
    told += [f"{node}: it cannot be used: {reason}" for node, reason in faults.items()]
    return f"<section><h2>Nodes without components</h2>{_listed('others', told)}</section>" if told else ""


def _listed(name: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{text(line)}</li>" for line in lines)
    return f'<ul class="{name}">{items}</ul>' if items else ""
