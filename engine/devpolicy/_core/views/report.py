"""The report: a page with the matrix of verdicts, and the placement and the reasons of each.

Owns the markup and the data of the page. The script (`assets/report.js`) shows and filters; every figure is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from devpolicy._core.text import visible
from devpolicy._core.views.matrix import CPU, FITS, MOVED, REFUSED, Cell
from devpolicy._core.views.names import devices
from devpolicy._core.views.page import asset, page, stylesheet, text
from devpolicy._core.views.plan_parts import PICTURE, legend

if TYPE_CHECKING:
    from devpolicy._core.host import Host

_TIMES, _NONE = " \N{MULTIPLICATION SIGN} ", "\N{EN DASH}"
WORDS = {
    FITS: "fits",
    MOVED: "fits with a part kept elsewhere",
    CPU: "executes on the CPU",
    REFUSED: "does not fit",
}
_MARKS = {MOVED: " + part", CPU: " CPU"}


class About(NamedTuple):
    """What the whole report is about."""

    policy: str
    component: str | None
    target: str | None
    version: str


def report(cells: Sequence[Cell], hosts: Sequence[Host], about: About) -> str:
    """Return the page. `cells` come by model, scheme and host, the hosts in their order."""
    models = list(dict.fromkeys(cell.model for cell in cells))
    schemes = list(dict.fromkeys(cell.quantization for cell in cells))
    title = f"Where models run under {about.policy}"
    body = "\n".join(
        [
            f"<header><h1>{text(title)}</h1>{_about(about, len(models), len(hosts), len(schemes))}</header>",
            _controls(schemes),
            '<main id="main"><section class="frame" aria-label="Verdicts">' + _table(cells, hosts) + "</section>",
            '<aside id="detail" aria-label="The chosen cell" hidden></aside></main>',
            _legend(),
        ]
    )
    return page(title, body, css=stylesheet("report.css"), script=asset("report.js"), data=_data(cells))


def _about(about: About, models: int, hosts: int, schemes: int) -> str:
    parts = [f"component {about.component}"] if about.component else []
    parts += [f"for {about.target}"] if about.target else []
    parts += [
        _TIMES.join(
            f"{number} {word if number == 1 else f'{word}s'}"
            for number, word in ((models, "model"), (hosts, "host"), (schemes, "quantization"))
        ),
        f"devpolicy {about.version}",
    ]
    return f"<p>{text(' · '.join(parts))}</p>"


def _controls(schemes: Sequence[str]) -> str:
    boxes = "".join(
        f'<label><input type="checkbox" name="scheme" value="{text(one)}" checked>{text(one)}</label>'
        for one in schemes
    )
    verdicts = [
        ("", "every verdict"),
        (FITS, "fits"),
        (MOVED, "fits, a part elsewhere"),
        (CPU, "on the CPU"),
        (REFUSED, "does not fit"),
    ]
    options = "".join(f'<option value="{value}">{label}</option>' for value, label in verdicts)
    return (
        '<form id="filter" role="search"><label class="grow">Filter <input type="search" id="words" '
        'placeholder="model, host or quantization" autocomplete="off" spellcheck="false"></label>'
        f'<label>Show <select id="verdict">{options}</select></label>'
        f"<fieldset><legend>Quantization</legend>{boxes}</fieldset>"
        '<output id="count" aria-live="polite"></output></form>'
        "<noscript><p>The filter and the placements need JavaScript; the verdicts below do not.</p></noscript>"
    )


def _table(cells: Sequence[Cell], hosts: Sequence[Host]) -> str:
    heads = "".join(
        f'<th scope="col"><b>{text(host.name or "this machine")}</b><small>{text(_short(host))}</small></th>'
        for host in hosts
    )
    bodies = []
    number = 0
    for model, of_model in groupby(cells, key=lambda cell: cell.model):
        lines: list[str] = []
        for scheme, row in groupby(of_model, key=lambda cell: cell.quantization):
            name = f'<b class="{"name" if not lines else "name again"}">{text(model)}</b>'
            drawn = []
            for cell in row:
                drawn.append(_button(cell, number))
                number += 1
            lines.append(f'<tr><th scope="row">{name} <i>{text(scheme)}</i></th>{"".join(drawn)}</tr>')
        bodies.append(f"<tbody>{''.join(lines)}</tbody>")
    corner = '<th scope="col"><b>model</b><small>quantization</small></th>'
    head = f"<thead><tr>{corner}{heads}</tr></thead>"
    return f'<table role="grid" aria-label="Models by hosts">{head}{"".join(bodies)}</table>'


def _short(host: Host) -> str:
    told = devices(host)
    for maker in ("NVIDIA GeForce ", "NVIDIA ", "AMD ", "Apple ", "Intel "):
        told = told.replace(maker, "")
    return told.replace(" x ", _TIMES)


def _button(cell: Cell, number: int) -> str:
    about = f"{cell.model}, {cell.quantization}, on {cell.host}, {WORDS[cell.verdict]}"
    bar = ""
    if cell.verdict == REFUSED:
        first, second = _NONE, "no"
    else:
        first, second = f"{cell.full}%", _tokens(cell.context) + _MARKS.get(cell.verdict, "")
        about += f", longest context {cell.context:,} tokens" if cell.context else ""
        bar = f'<svg aria-hidden="true"><rect width="{min(100, cell.full)}%" height="3"/></svg>'
    # What is heard begins with what is seen, so that people who speak to their computer can name it.
    label = text(f"{first} {second}: {about}")
    return (
        f'<td data-host="{text(cell.host)}">'
        f'<button type="button" class="{cell.verdict}" data-cell="{number}" tabindex="{0 if number == 0 else -1}" '
        f'aria-label="{label}"><b>{first}</b> <small>{second}</small>{bar}</button></td>'
    )


def _tokens(context: int | None) -> str:
    return f"{context // 1024}k" if context and context >= 1024 else str(context or _NONE)


def _legend() -> str:
    return (
        '<footer><ul class="verdicts"><li><span class="fits"></span>fits</li><li><span class="moved"></span>'
        'fits, and a part is kept elsewhere</li><li><span class="cpu"></span>executes on the CPU</li>'
        '<li><span class="refused"></span>does not fit</li></ul>'
        f"{legend()}"
        "<p>A percentage is how full the fullest device is, of what the policy allows. Beside it is the longest "
        "context of one sequence. Times are predicted and not measured. In a picture the thin line is the model from "
        "its first module to its last; dashed parts only execute on that device.</p></footer>"
    )


def _data(cells: Iterable[Cell]) -> dict[str, Any]:
    """Return the data of the script: each text once, and a cell as positions among them."""
    texts: dict[str, int] = {}

    def number(value: str) -> int:
        return texts.setdefault(value, len(texts))

    found = [
        {
            "model": number(visible(cell.model)),
            "scheme": number(cell.quantization),
            "host": number(visible(cell.host)),
            "verdict": cell.verdict,
            "says": number(_verdict(cell)),
            "facts": [[number(label), number(visible(value))] for label, value in cell.facts],
            "reasons": [number(visible(reason)) for reason in cell.reasons],
            **({"picture": number(cell.picture)} if cell.picture else {}),
        }
        for cell in cells
    ]
    return {"texts": list(texts), "cells": found, "width": PICTURE}


def _verdict(cell: Cell) -> str:
    words = WORDS[cell.verdict]
    return f"{words[0].upper()}{words[1:]}" + (
        "" if cell.verdict == REFUSED else f"; the fullest device is {cell.full}% full"
    )
