"""Findings for other programs: GitHub's annotations, and SARIF.

Owns how a finding with its place is written for them. Both forms are described by those who read them: "Workflow
commands for GitHub Actions", and OASIS "Static Analysis Results Interchange Format" 2.1.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from devpolicy._core.codes import CODES
from devpolicy._core.errors import Diagnostic, Place

SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def github(findings: Iterable[Diagnostic]) -> str:
    """Return findings as workflow commands, one to a line: GitHub shows them beside the lines that they are about."""
    return "".join(f"{_command(finding)}\n" for finding in findings)


def _command(finding: Diagnostic) -> str:
    keys: dict[str, object] = {}
    if finding.place is not None:
        place = finding.place
        keys = {"file": place.source, "line": place.line, "col": place.column, "endColumn": place.column + place.length}
    keys["title"] = finding.code or "devpolicy"
    listed = ",".join(f"{key}={_escaped(str(value), ':,')}" for key, value in keys.items())
    return f"::{finding.severity} {listed}::{_escaped(_told(finding))}"


def _escaped(text: str, more: str = "") -> str:
    return "".join(f"%{ord(sign):02X}" if sign in f"%\r\n{more}" else sign for sign in text)


def _told(finding: Diagnostic) -> str:
    lines = [finding.message, *finding.notes, *([f"help: {finding.help}"] if finding.help else [])]
    return "\n".join(lines)


def sarif(findings: Iterable[Diagnostic], version: str) -> dict[str, Any]:
    """Return findings as a SARIF 2.1.0 log with one run.

    A result is about a place in a file: what is told without one (no such policy, wrong usage) is a notification of the
    run, which then did not succeed. GitHub refuses a whole log for one result without a location.
    """
    told = list(findings)
    results = [finding for finding in told if finding.place is not None and finding.code]
    others = [finding for finding in told if finding.place is None or not finding.code]
    codes = list(dict.fromkeys(finding.code for finding in results))
    return {
        "$schema": SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": {"name": "devpolicy", "version": version, "rules": [_rule(code) for code in codes]}},
                # Columns count characters, as TOML's do, and not UTF-16 units, which is SARIF's default.
                "columnKind": "unicodeCodePoints",
                "invocations": [
                    {
                        "executionSuccessful": all(finding.severity != "error" for finding in others),
                        "toolConfigurationNotifications": [_notification(finding) for finding in others],
                    }
                ],
                "results": [_result(finding, codes) for finding in results],
            }
        ],
    }


def _rule(code: str) -> dict[str, Any]:
    title, explanation = CODES[code]
    texts = {"shortDescription": title, "fullDescription": explanation, "help": explanation}
    return {"id": code, **{key: {"text": text} for key, text in texts.items()}}


def _result(finding: Diagnostic, codes: list[str]) -> dict[str, Any]:
    return {"ruleId": finding.code, "ruleIndex": codes.index(finding.code), **_finding(finding)}


def _notification(finding: Diagnostic) -> dict[str, Any]:
    return {**({"descriptor": {"id": finding.code}} if finding.code else {}), **_finding(finding)}


def _finding(finding: Diagnostic) -> dict[str, Any]:
    places = {} if finding.place is None else {"locations": list(_locations(finding.place))}
    return {"level": finding.severity, "message": {"text": _told(finding)}, **places}


def _locations(place: Place) -> Iterator[dict[str, Any]]:
    region = {"startLine": place.line, "startColumn": place.column, "endColumn": place.column + place.length}
    path = Path(place.source)
    uri = path.as_uri() if path.is_absolute() else quote(path.as_posix())
    yield {"physicalLocation": {"artifactLocation": {"uri": uri}, "region": region}}
