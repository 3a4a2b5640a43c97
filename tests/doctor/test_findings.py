"""What doctor makes of what libraries told. Each file of `tests/cases/doctor` is a machine, and the findings on it.

`python -m tests.doctor.test_findings` writes the findings of every file anew: read the difference.
"""

from pathlib import Path

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from devpolicy import Host
from devpolicy._core.codes import CODES
from devpolicy._core.doctor.findings import diagnose
from devpolicy._core.doctor.library_report import LIBRARIES, LibraryReport, read
from devpolicy._core.doctor.suggestions import suggestion
from devpolicy._core.host import ACCELERATOR_TYPES
from devpolicy.testing.strategies import faulty_hosts, hosts

CASES = sorted((Path(__file__).parents[1] / "cases" / "doctor").glob("*.toml"))
EXPECTED = "\n[expected]\n"


def case_of(file):
    text = file.read_text(encoding="utf-8")
    case = tomli.loads(text)
    told = {name: read(name, "1.0", answer) for name, answer in case.get("told", {}).items()}
    told |= {name: LibraryReport(name) for name in case.get("missing", ())}
    host = Host.load(case["host"]) if "host" in case else Host.parse(case["host_toml"])
    return host, told, case.get("variables", {})


def findings_of(file):
    return "\n\n".join(finding.render() for finding in diagnose(*case_of(file)))


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_a_machine_has_the_findings_that_it_should(file):
    assert findings_of(file) == tomli.loads(file.read_text(encoding="utf-8"))["expected"]["findings"].rstrip("\n")


def test_every_kind_of_finding_has_a_case():
    told = "".join(map(findings_of, CASES))
    assert [code for code in CODES if code.startswith("DP6") and code not in told] == []


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_every_finding_has_a_remedy_and_the_grammar_of_a_message(file):
    for finding in diagnose(*case_of(file)):
        assert finding.code in CODES
        assert finding.help
        assert finding.message[0].islower() or finding.message[0] == "`"


def agreeing(host):
    """Return what libraries tell that see a host just as it is."""
    devices = {kind: [{"memory": one.memory, "id": one.id} for one in host.devices(kind)] for kind in ACCELERATOR_TYPES}
    first = next((f"{one.type}:{one.id}" for one in host.accelerators), "cpu")
    answers = {
        "psutil": {"ram": host.memory},
        "torch": {"devices": devices, "built_for": ["cuda", "xpu"], "choice": first},
        "accelerate": {"devices": devices, "choice": first, "amounts": "free"},
        "haystack": {"choice": first},
    }
    return {name: read(name, "1.0", answer) for name, answer in answers.items()}


@given(host=hosts())
def test_libraries_that_see_a_host_as_it_is_give_no_finding(host):
    assert diagnose(host, agreeing(host), {}) == []


@given(host=faulty_hosts())
def test_what_is_broken_is_never_silent(host):
    assert diagnose(host, {}, {}) != []


LIKELY = st.sampled_from(["cpu", "cuda", "cuda:1", "mps", "xpu:x", "NVIDIA driver too old", "crashed with SIGSEGV"])
ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "fault": LIKELY,
        "choice": LIKELY,
        "why": LIKELY,
        "ram": st.integers(0, 2**45),
        "built_for": st.lists(st.sampled_from(["cuda", "hip", "xpu"])),
        "devices": st.dictionaries(
            st.sampled_from(ACCELERATOR_TYPES),
            st.lists(
                st.fixed_dictionaries({}, optional={"memory": st.integers(0, 2**40), "fault": LIKELY}), max_size=1
            ),
        ),
        "faults": st.dictionaries(st.sampled_from(ACCELERATOR_TYPES), LIKELY),
        "remarks": st.lists(LIKELY, max_size=2),
    },
)


@given(
    host=hosts() | faulty_hosts(),
    answers=st.dictionaries(st.sampled_from(list(LIBRARIES)), ANSWERS),
    variables=st.dictionaries(st.sampled_from(["CUDA_VISIBLE_DEVICES", "ACCELERATE_USE_CPU"]), st.text(max_size=5)),
)
def test_whatever_is_told_can_be_judged_and_is_said_once(host, answers, variables):
    told = {name: read(name, "1.0", answer) for name, answer in answers.items()}
    findings = diagnose(host, told, variables)
    assert len({finding.message for finding in findings}) == len(findings)
    assert all(finding.help for finding in findings)
    assert findings == diagnose(host, told, variables)


@pytest.mark.parametrize("answer", [[], {"devices": {"cuda": [{"id": "x"}]}}, {"ram": "much"}, {"built_for": 3}])
def test_an_answer_that_is_none_is_refused_by_its_reader(answer):
    with pytest.raises((TypeError, ValueError, KeyError, AttributeError)):
        read("torch", "1.0", answer)


def test_a_text_that_nobody_knows_has_no_remedy():
    assert suggestion("the weather is bad") is None


def main() -> None:
    """Write what is found today into every case."""
    for file in CASES:
        text = file.read_text(encoding="utf-8").partition(EXPECTED)[0].rstrip("\n")
        found = findings_of(file)
        assert "'''" not in found
        file.write_text(f"{text}\n{EXPECTED}findings = '''\n{found}'''\n", encoding="utf-8")


if __name__ == "__main__":
    main()
