import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpolicy._core import errors
from devpolicy._core.codes import CODES
from devpolicy._core.errors import MOST_SHOWN, WIDEST
from devpolicy._core.text import visible
from devpolicy.errors import DevPolicyError, Diagnostic, Place, PolicyError

LINE = st.text(st.characters(exclude_characters="\n"), max_size=400)


@given(LINE.filter(bool), st.data())
def test_the_carets_stand_below_what_is_meant(line, data):
    column = data.draw(st.integers(1, len(line)))
    length = data.draw(st.integers(1, len(line) - column + 1))
    finding = Diagnostic("DP104", "m", Place("x.toml", 7, column, length, line))
    *_, shown, carets = finding.render().split("\n")
    assert len(shown) <= len("7 | ") + WIDEST or not line.replace("\t", " ").isprintable()
    first = carets.index("^")
    meant = visible(line[column - 1].replace("\t", " "))
    assert shown[first : first + len(meant)] in {meant, "…"} or shown[first] == "…"
    assert first + carets.count("^") <= len(shown)


def test_a_finding_looks_like_a_compilers():
    place = Place("policy.toml", 17, 1, 6, 'prefre = ["cuda:1"]')
    notes = ("a note\nof one line",)
    help_ = "did you mean `prefer`?\nit has two lines"
    finding = Diagnostic("DP103", "unknown key `prefre`", place, "not a rule key", notes, help_)
    assert finding.render() == (
        "error[DP103]: unknown key `prefre`\n"
        "  --> policy.toml:17:1\n"
        "   |\n"
        '17 | prefre = ["cuda:1"]\n'
        "   | ^^^^^^ not a rule key\n"
        "   |\n"
        "   = note: a note\\nof one line\n"
        "   = help: did you mean `prefer`?\n"
        "           it has two lines"
    )


def test_a_long_line_is_shown_around_the_place():
    line = "x" * 500 + "HERE" + "y" * 500
    shown = Diagnostic("DP104", "m", Place("x.toml", 1, 501, 4, line)).render()
    assert "HERE" in shown
    assert "…x" in shown
    assert "y…" in shown


def test_an_error_shows_the_first_findings_and_holds_all():
    error = PolicyError(Diagnostic("DP104", f"finding {number}") for number in range(MOST_SHOWN + 5))
    assert str(error).endswith(f"finding {MOST_SHOWN - 1}\n\nand 5 more findings")
    assert len(error.diagnostics) == MOST_SHOWN + 5
    assert error.code == "DP104"


ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DevPolicyError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_can_be_handed_to_another_process(kind):
    for findings in ("text", [Diagnostic("DP104", "m", Place("x", 1, 1, 1, "a"))]):
        error = kind(findings)
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.diagnostics) == (kind, str(error), error.diagnostics)


@pytest.mark.parametrize("code", CODES)
def test_a_title_is_no_sentence_and_an_explanation_is_one(code):
    title, explanation = CODES[code]
    assert title[0].islower() or title.startswith("TOML")
    assert not title.endswith(".")
    assert explanation.endswith(".")
