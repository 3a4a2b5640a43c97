"""Malformed policies are data: each file in `tests/cases/bad` says which findings it expects, and where.

A line `# expect: CODE LINE:COLUMN TEXT` stands for one finding; TEXT, if given, is part of its message or help.
"""

import re
from pathlib import Path

import jsonschema
import pytest
import tomli

import devpolicy
from devpolicy._core.codes import CODES
from devpolicy._core.language.read import parse
from devpolicy._core.language.schema import policy_schema
from devpolicy.errors import Diagnostic, PolicyError

CASES = sorted((Path(__file__).parents[1] / "cases" / "bad").glob("*.toml"))
EXPECTATION = re.compile(r"# expect: (DP\d+) (\d+):(\d+)(?: (.+?))?\r?")

ABOUT_SHAPE = {"DP102", "DP103", "DP105", "DP107"}
"""What the JSON schema finds too; a value's own grammar it knows in part only."""


def findings(case: Path) -> list[Diagnostic]:
    with pytest.raises(PolicyError) as raised:
        parse(case.read_bytes(), case.name)
    return list(raised.value.diagnostics)


def expectations(case: Path) -> list[tuple[str, ...]]:
    lines = case.read_bytes().decode(errors="replace").split("\n")
    return [found.groups("") for line in lines if (found := EXPECTATION.fullmatch(line))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_every_finding_is_reported_at_its_place_and_in_order(case):
    expected, found = expectations(case), findings(case)
    places = [(finding.code, finding.place.line, finding.place.column) for finding in found if finding.place]
    assert places == [(code, int(line), int(column)) for code, line, column, _ in expected]
    for finding, (*_, text) in zip(found, expected, strict=True):
        assert text in f"{finding.message}\n{finding.help}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.stem)
def test_every_message_follows_the_grammar(case):
    for finding in findings(case):
        assert finding.code in CODES
        for text in [finding.message, finding.label, finding.help, *finding.notes]:
            outside = re.sub(r"`[^`]*`", "", text)
            assert not text.endswith(".")
            assert text[:1] == text[:1].lower()
            assert not re.search(
                r"\b(DeviceSelector|Amount|Pattern|SizeTest|Rule|Policy|Kind|None|NoneType)\b", outside
            )


def is_about_shape(case: Path) -> bool:
    # Which entries speak for a component is beyond a schema.
    return any(code in ABOUT_SHAPE and "here or at the top" not in text for code, *_, text in expectations(case))


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if is_about_shape(case)],
    ids=lambda case: case.stem,
)
def test_the_schema_refuses_what_is_wrong_in_shape(case):
    data = tomli.loads(case.read_text(encoding="utf-8"))
    assert not jsonschema.Draft7Validator(policy_schema()).is_valid(data)


def test_there_is_a_case_for_every_code_of_the_reader():
    core = Path(devpolicy.__file__).parent / "_core"
    sources = [*core.joinpath("language").glob("*.py"), *core.joinpath("toml").glob("*.py")]
    raised = {code for source in sources for code in re.findall(r'"(DP[125]\d\d)"', source.read_text(encoding="utf-8"))}
    # No text can show them: see test_load.py, test_overlays.py and test_components.py.
    elsewhere = {"DP109", "DP112", "DP506", "DP508"}
    assert raised - elsewhere == {expected[0] for case in CASES for expected in expectations(case)}
