"""What the keys of a test assert: each passes where it is so, and fails, with what decided it, where it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from devpolicy import Policy
from devpolicy._core.review.coverage import coverage, deciders
from devpolicy._core.review.run import Result
from devpolicy._core.review.runner import run_all
from devpolicy._core.review.suites import Suite, bind_policy, gather, selected
from devpolicy.errors import PolicyError

POLICY = """
prefer = ["cuda", "mps"]

[offload]
lm_head = "disk"

[host.tiny]
memory = "8 GiB"
"""


def suite(test: str, policy: str = POLICY) -> Suite:
    return bind_policy(Policy.parse(f'{policy}\n[[test]]\nname = "t"\n{test}\n', "p.toml"), "p.toml")


def result(test: str, policy: str = POLICY) -> Result:
    (found,) = run_all([suite(test, policy)], jobs=1)
    return found


ON_LLAMA = 'host = "2x24gb"\nmodel = "llama-3.1-8b"\n'
TRUE = [
    'expect = { lm_head = "disk", "model.layers.{0..15}" = "cuda:0", model.norm = "cuda" }',
    "expect = { model.layers.3.mlp.down_proj = 'cuda:0' }",
    'expect = { lm_head = { device = "disk", runs_on = "cuda:0" } }',
    'expect = { lm_head = { runs_on = "cuda" } }',
    'by = { lm_head = "offload.lm_head", "model.**" = "prefer" }',
    'expect = { "**" = { runs_on = "cuda:0" } }',
    'always = ["placed_or_refused", "within_budget", "never_on:cpu"]',
]
FALSE = [
    ('expect = { lm_head = "cuda:0" }', "`lm_head` is on `disk`, and `cuda:0` was expected", "offload.lm_head"),
    ('expect = { "model.layers.*" = "cuda:1" }', "`model.layers.0` and 31 more are on `cuda:0`", "prefer"),
    ('expect = { lm_head = { runs_on = "cuda:1" } }', "`lm_head` is executing on `cuda:0`, and `cuda:1`", "lm_head"),
    ('by = { model.norm = "offload.lm_head" }', "`model.norm` is decided by `prefer`, and `offload.lm_head`", "prefer"),
    ('expect = "cuda:0"', "`lm_head` is on `disk`, and `cuda:0` was expected", "offload.lm_head"),
    ('expect_error = "DP301"', "it is placed, and DP301 was expected", "fits"),
    ('always = "resident"', "`resident` does not hold: `lm_head` is stored on `disk`", ""),
    ('always = ["one_type", "never_on:disk"]', "`never_on:disk` does not hold: `lm_head` is stored on `disk`", ""),
]


@pytest.mark.parametrize("test", TRUE)
def test_what_is_so_passes(test: str) -> None:
    assert result(ON_LLAMA + test).passed


@pytest.mark.parametrize(("test", "said", "noted"), FALSE)
def test_what_is_not_so_fails_with_what_decided_it(test: str, said: str, noted: str) -> None:
    (finding,) = result(ON_LLAMA + test).findings
    assert finding.code == "DP511"
    assert finding.message.startswith("`t` fails on 2x24gb: ")
    assert said in finding.message
    assert noted in "".join(finding.notes)
    assert finding.place is not None
    assert finding.place.source == "p.toml"


def test_a_refusal_where_a_plan_is_expected_says_what_helps() -> None:
    found = result('host = "1x8gb"\nmodel = "llama-3.1-8b"\nexpect = { lm_head = "disk" }')
    (finding,) = found.findings
    assert "it is refused with DP301" in finding.message
    assert any("would do" in note for note in finding.notes)


def test_another_refusal_than_the_one_expected_fails() -> None:
    found = result('host = "1x8gb"\nmodel = "llama-3.1-8b"\nexpect_error = "DP401"')
    assert "it is refused with DP301, and DP401 was expected" in found.findings[0].message
    assert result('host = "1x8gb"\nmodel = "llama-3.1-8b"\nexpect_error = "DP301"').passed


def test_without_a_model_the_device_is_what_is_expected() -> None:
    assert result('hosts = ["2x24gb", "8x80gb"]\nexpect = "cuda:0"').passed
    assert result('host = "tiny"\nexpect_error = "DP301"').passed
    (finding,) = result('hosts = ["2x24gb", "macbook-m3-36gb"]\nexpect = "cuda:0"').findings
    assert "fails on macbook-m3-36gb: the device is `mps`, and `cuda:0` was expected" in finding.message
    assert "`cuda`: the host has no `cuda` device" in finding.notes


def test_what_fails_on_many_hosts_is_told_once_with_all_of_them() -> None:
    found = result(
        'hosts = ["1x24gb", "2x24gb"]\nmodel = "llama-3.1-8b"\nvary = { "cuda.free" = ["18 GiB", "22 GiB"] }\n'
        'expect = { lm_head = "cuda:0" }'
    )
    (finding,) = found.findings
    assert len(found.cases) == 4
    assert finding.message.startswith("`t` fails on 1x24gb, cuda.free = 18 GiB:")
    assert finding.notes[-1].startswith("fails too on 1x24gb, cuda.free = 22 GiB; 2x24gb, cuda.free = 18 GiB;")


NAMES = [
    ('host = "2x24g"\nexpect = "cuda:0"', "DP202", "no host is named `2x24g`", "did you mean `2x24gb`?"),
    ('host = "tinny"\nexpect = "cuda:0"', "DP202", "no host is named `tinny`", "did you mean `tiny`?"),
    ('hosts = ["no/such.toml"]\nexpect = "cuda:0"', "DP109", "cannot read", ""),
    ('host = "2x24gb"\nmodel = "gtp2"\nexpect = "cuda:0"', "DP202", "`gtp2`", "did you mean `gpt2`?"),
    (ON_LLAMA + 'expect = { lm_heed = "disk" }', "DP202", "has no module `lm_heed`", "did you mean `lm_head`?"),
    (ON_LLAMA + 'expect = { "model.layers.{40..}" = "disk" }', "DP202", "has no module `model.layers.{40..}`", ""),
    (ON_LLAMA + 'expect = { lm_head.weight = "disk" }', "DP202", "`lm_head.weight` is a tensor", "write `lm_head`"),
    (ON_LLAMA + 'by = { lm_head = "offload.lm_hed" }', "DP202", "no rule `offload.lm_hed`", "`offload.lm_head`?"),
    ('host = "2x24gb"\nexpect = { lm_head = "disk" }', "DP105", "names no model", "add `model`"),
    ('host = "cpu-only"\nvary = { "cuda.count" = 2 }\nalways = "one_type"', "DP106", "none of these hosts", ""),
]


@pytest.mark.parametrize(("test", "code", "said", "help_"), NAMES)
def test_a_name_that_nothing_has_is_told_with_its_place(test: str, code: str, said: str, help_: str) -> None:
    with pytest.raises(PolicyError) as refused:
        suite(test)
    (finding,) = refused.value.diagnostics
    assert (finding.code, said in finding.message, help_ in finding.help) == (code, True, True)
    assert finding.place is not None or code == "DP109"


def test_all_that_is_wrong_in_all_files_is_told_at_once(tmp_path: Path) -> None:
    for name in "ab":
        text = f'{POLICY}\n[[test]]\nname = "{name}"\nhost = "2x24g"\nmodel = "gtp2"\nexpect = "cpu"\n'
        (tmp_path / f"{name}.toml").write_text(text)
    with pytest.raises(PolicyError) as refused:
        gather([tmp_path])
    places = [(Path(one.place.source).name, one.place.line) for one in refused.value.diagnostics if one.place]
    assert places == [("a.toml", 12), ("a.toml", 13), ("b.toml", 12), ("b.toml", 13)]


# Files.


def test_a_file_of_tests_names_its_policy_and_hosts(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(POLICY)
    (tmp_path / "p.test.toml").write_text(
        'policy = "p.toml"\n[host.mine]\nmemory = "64 GiB"\ndisk = "1 TiB"\n[[host.mine.accelerator]]\ntype = "cuda"\n'
        'memory = "48 GiB"\n[[test]]\nname = "t"\nhosts = ["mine", "tiny"]\nalways = "placed_or_refused"\n'
    )
    (found,) = [one for one in gather([tmp_path]) if one.tests]
    assert found.name == str(tmp_path / "p.test.toml")
    assert [one.name for one in found.tests[0].variants] == ["mine", "tiny"]
    assert gather([tmp_path / "p.toml"])[-1] == found
    assert [one.name for one in gather([str(tmp_path / "p.toml")], beside=False)] == [str(tmp_path / "p.toml")]


def test_a_file_of_tests_may_name_a_shipped_policy(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text('policy = "cpu-only"\n[[test]]\nname = "t"\nhost = "8x80gb"\nexpect = "cpu"\n')
    (found,) = run_all(gather([tmp_path]), jobs=1)
    assert found.passed


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ('policy = "p.toml"', "DP105", "`test` is missing"),
        ('policy = "nothing"\n[[test]]\nname = "t"\nhost = "8x80gb"\nexpect = "cpu"', "DP202", "no policy `nothing`"),
        ('policy = 3\n[[test]]\nname = "t"\nhost = "8x80gb"\nexpect = "cpu"', "DP102", "`policy` takes"),
        ('policy = "cpu-only"\nprefer = "cpu"\ntest = []', "DP103", "unknown key `prefer` in a file of tests"),
        ('policy = "cpu-only"\ntest = [{ name = "t" }]', "DP105", "names no host"),
    ],
)
def test_a_file_of_tests_that_is_wrong_is_refused(tmp_path: Path, text: str, code: str, said: str) -> None:
    (tmp_path / "p.test.toml").write_text(text)
    with pytest.raises(PolicyError) as refused:
        gather([str(tmp_path / "p.test.toml")])
    assert (refused.value.code, said in str(refused.value)) == (code, True)


def test_a_folder_gives_files_with_tests_only(tmp_path: Path) -> None:
    others = {
        "Cargo.toml": '[package]\nname = "x"\n[[test]]\nname = "integration"\n',
        "pyproject.toml": '[project]\nname = "x"\n[tool.pytest]\n',
        "policy.toml": 'prefer = "cuda"\n',
        "broken.toml": '[[test]]\n= "what"\n',
    }
    for name, text in others.items():
        (tmp_path / name).write_text(text)
    (tmp_path / ".venv" / "lib").mkdir(parents=True)
    (tmp_path / "deep").mkdir()
    text = 'prefer = "cpu"\n[[test]]\nname = "t"\nhost = "8x80gb"\nexpect = "cpu"\n'
    for folder in (".venv/lib", "deep"):
        (tmp_path / folder / "mine.toml").write_text(text)
    assert [Path(one.name).relative_to(tmp_path) for one in gather([tmp_path])] == [Path("deep/mine.toml")]


def test_a_misspelt_key_does_not_hide_the_tests_below_it(tmp_path: Path) -> None:
    """Else a typing mistake would make a test run pass."""
    text = 'prefre = "cpu"\n[[test]]\nname = "t"\nhost = "8x80gb"\nexpect = "cpu"\n'
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(PolicyError, match="did you mean `prefer`"):
        gather([tmp_path])


@pytest.mark.parametrize("head", ['prefer = "cpu"', 'prefre = "cpu"', 'policy = "cpu-only"', '"prefer" = "cpu"'])
def test_tests_that_are_written_inline_are_found_in_a_folder_too(tmp_path: Path, head: str) -> None:
    test = 'test = [{ name = "t", host = "8x80gb", expect = "cpu" }]'
    (tmp_path / "p.toml").write_text(
        f"{head}\n{test}\n[workload]\nbatch = 1\n" if "cpu-" not in head else f"{head}\n{test}"
    )
    (tmp_path / "pyproject.toml").write_text('[dependency-groups]\ntest = ["pytest"]\n')
    if "prefre" in head:
        with pytest.raises(PolicyError, match="did you mean `prefer`"):
            gather([tmp_path])
    else:
        assert [[one.test.name for one in found.tests] for found in gather([tmp_path])] == [["t"]]


CLASSES = """
prefer = ["big", "cuda"]
[devices.big]
type   = "cuda"
memory = ">=40 GiB"
"""
NAMES_A_CLASS = 'policy = "p.toml"\n[[test]]\nname = "t"\nhost = "80-24"\nmodel = "llama-3.2-1b"\n'


def test_a_file_of_tests_speaks_of_the_classes_of_its_policy(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(CLASSES)
    expected = 'expect = "big"\nalways = "never_on:cpu"\n'
    (tmp_path / "p.test.toml").write_text(NAMES_A_CLASS + expected)
    (found,) = run_all([one for one in gather([tmp_path / "p.toml"]) if one.tests], jobs=1)
    assert found.passed
    (tmp_path / "p.test.toml").write_text(NAMES_A_CLASS.replace("80-24", "2x24gb") + expected)
    (found,) = run_all([one for one in gather([tmp_path / "p.toml"]) if one.tests], jobs=1)
    assert [failure.expected for case in found.cases for failure in case.failures] == ["big"]


def test_a_misspelt_class_is_told_with_the_likely_one(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(CLASSES)
    (tmp_path / "p.test.toml").write_text(NAMES_A_CLASS + 'expect = "bigg"\n')
    with pytest.raises(PolicyError, match="did you mean `big`"):
        gather([tmp_path / "p.test.toml"])


def test_what_is_wrong_in_policy_and_tests_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(CLASSES.replace("prefer", "prefre"))
    (tmp_path / "p.test.toml").write_text(NAMES_A_CLASS + 'expect = "big"\nalways = "nothing"\n')
    with pytest.raises(PolicyError) as refused:
        gather([tmp_path / "p.test.toml"])
    places = [(Path(one.place.source).name, one.place.line) for one in refused.value.diagnostics if one.place]
    assert places == [("p.toml", 2), ("p.test.toml", 7)]


def test_a_broken_policy_with_tests_is_no_other_toml(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('prefer = [\n[[test]]\nname = "t"\n')
    with pytest.raises(PolicyError) as refused:
        gather([tmp_path])
    assert refused.value.code == "DP101"


@pytest.mark.parametrize(("wanted", "names"), [("HEAD", ["the head"]), ("*h?ad", ["the head"]), ("no", []), (None, 2)])
def test_tests_are_chosen_by_what_their_names_hold(wanted: str | None, names: list[str] | int) -> None:
    one = suite('host = "8x80gb"\nexpect = "cuda:0"')
    tests = tuple(replace(one.tests[0], test=replace(one.tests[0].test, name=name)) for name in ("the head", "tied"))
    found = [entry.test.name for entry in selected([replace(one, tests=tests)], wanted)[0].tests]
    assert found == (["the head", "tied"] if names == 2 else names)


# Many at once, and what they cover.

WIDE = 'hosts = "*"\nmodel = "llama-3.1-8b"\nvary = { "cuda.free" = ["1 GiB", "4 GiB", "8 GiB"] }\nalways = "resident"'


def test_results_do_not_depend_on_the_number_of_processes() -> None:
    suites = [suite(WIDE), suite('host = "2x24gb"\nexpect = "cuda:1"')]
    told: list[tuple[int, int]] = []
    alone = run_all(suites, jobs=1, progress=lambda done, of: told.append((done, of)))
    assert told[-1][0] == told[-1][1] == len(told)
    assert run_all(suites, jobs=2) == alone
    assert [one.passed for one in alone] == [False, False]


def test_coverage_says_what_decided_nothing_and_where() -> None:
    suites = [suite('hosts = ["2x24gb", "cpu-only"]\nmodel = "llama-3.1-8b"\nalways = "placed_or_refused"')]
    (found,) = coverage(suites, run_all(suites, jobs=1))
    assert found.hosts == ("2x24gb", "cpu-only")
    assert found.fired == {"prefer cuda": ("2x24gb",), "prefer mps": (), "offload.lm_head": ("2x24gb",)}
    assert found.never == ["prefer mps"]


def test_a_rule_that_holds_together_decides_something() -> None:
    policy = (
        'prefer = "cuda"\noverflow = "cpu"\n[[rule]]\nname = "one"\nmatch = "model.layers.{0..3}"\ntogether = true\n'
        '[[rule]]\nname = "none"\nmatch = "model.norm"\nprefer = "cuda:1"\n'
    )
    one = suite('hosts = ["2x24gb", "1x24gb"]\nmodel = "llama-3.1-8b"\nalways = "placed_or_refused"', policy)
    (found,) = coverage([one], run_all([one], jobs=1))
    assert found.fired["one"] == ("2x24gb",)
    assert found.fired["none"] == ("2x24gb", "1x24gb")
    assert deciders(one.tests[0].policy) == ["prefer cuda", "one", "none", "overflow"]
