"""Bugs planted in policies, and the smallest host that shows each; proofs over what is finite."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.harness import invoke

from devpolicy import Host, ModelTree, Policy
from devpolicy._core.language.properties import OF_A_FAMILY, OF_A_PLAN, Property, parse_property
from devpolicy._core.review.check import _CHECKS
from devpolicy._core.review.evaluate import evaluate, regression
from devpolicy._core.review.fuzz import search
from devpolicy._core.review.host_space import HostSpace, HostSpec
from devpolicy._core.review.shrink import Counterexample, smallest
from devpolicy._core.review.verify import DEFAULTS, Verdict, _judged, _Question, verify
from devpolicy._core.sizes import GIB
from devpolicy.errors import DevPolicyError, MissingLibraryError

LLAMA = ModelTree.load("llama-3.2-1b")
FAMILY = HostSpace(("cuda",), 2, (2 * GIB, 8 * GIB), (25, 100), (64 * GIB,))
RANGE = replace(FAMILY, memory=(2 * GIB, 12 * GIB), ranged=True)

PLANTED = {
    "no fallback": ("always_resolves", 'prefer = "cuda"', 0),
    "a rule that asks for a second card": (
        "always_resolves",
        'prefer = ["cuda", "cpu"]\n[[rule]]\nmatch = "model.norm"\nprefer = "cuda:1"\nwhen = { cuda = 1 }\n',
        1,
    ),
    "a rule about a tensor": ("placed_or_refused", 'prefer = "cpu"\n[offload]\n"model.norm.weight" = "disk"\n', 0),
    "a cap above what the card has": (
        "within_budget",
        'prefer = ["cuda", "cpu"]\n[memory.cuda]\nbasis = "total"\ncap = "24 GiB"\nheadroom = "0 B"\n',
        1,
    ),
    "the CPU as a fallback": ("never_on:cpu", 'prefer = ["cuda", "cpu"]', 0),
    "the CPU to overflow to": ("never_on:cpu", 'prefer = "cuda"\noverflow = "cpu"', 1),
    "what is streamed": ("resident", 'prefer = ["cuda", "cpu"]\n[offload]\nmodel.norm = "disk"\n', 0),
    "two cards at once": ("never_on:cuda:1", 'prefer = ["cuda", "cpu"]\nsplit = "balanced"\n', 2),
    "only small cards": (
        "monotone",
        'prefer = ["small", "cpu"]\n[devices.small]\ntype = "cuda"\nmemory = "<6 GiB"\n'
        "[memory.cuda]\nheadroom = '0 B'\nreserve = { kv_cache = '0 B', activations = '0 B' }\n"
        '[workload]\ndtype = "float16"\n[[rule]]\nmatch = "model.layers.{4..}"\noffload = ["cpu", "disk"]\n',
        1,
    ),
}
CASES = [pytest.param(*case, id=name) for name, case in PLANTED.items()]


def verdict(text: str, wanted: str, *, drawn: bool = False, space: HostSpace | None = None) -> Verdict:
    policy, asked = Policy.parse(text, "p.toml"), parse_property(wanted, family=True)
    if drawn:
        (found,) = search(policy, [LLAMA], space or RANGE, [asked], examples=40)
    else:
        (found,) = verify(policy, [LLAMA], space or FAMILY, [asked], jobs=1)
    return found


@pytest.mark.parametrize(("wanted", "text", "necessary"), CASES)
def test_a_planted_bug_is_shown_on_a_small_host(wanted: str, text: str, necessary: int) -> None:
    found = verdict(text, wanted)
    assert (found.status, bool(found.why)) == ("broken", True)
    assert found.host is not None
    assert len(found.host.accelerators) == necessary


DRAWN = ("no fallback", "a cap above what the card has", "two cards at once", "only small cards")


@pytest.mark.parametrize("name", DRAWN)
def test_drawn_hosts_show_it_too_and_shrink_as_far(name: str) -> None:
    wanted, text, necessary = PLANTED[name]
    found = verdict(text, wanted, drawn=True)
    assert (found.status, bool(found.why)) == ("broken", True)
    assert found.host is not None
    assert len(found.host.accelerators) == necessary


@pytest.mark.parametrize("drawn", [False, True], ids=["every host", "drawn hosts"])
@pytest.mark.parametrize(
    ("text", "never"),
    [
        (
            'prefer = ["cuda", "cpu"]\n[[rule]]\nname = "far"\nmatch = "model.norm"\n'
            'when = { xpu = 9 }\noffload = "disk"\n',
            "far",
        ),
        ('prefer = ["cpu", "cuda"]\n', "prefer cuda"),
        ('prefer = "cpu"\n[[rule]]\nname = "big"\nmatch = "lm_hed"\noffload = "disk"\n', "big"),
        ('prefer = "cpu"\noverflow = "disk"\n', "overflow"),
    ],
)
def test_what_can_never_decide_anything_is_named(text: str, never: str, drawn: bool) -> None:
    found = verdict(text, "every_rule_reachable", drawn=drawn)
    assert found.status == "broken"
    assert found.why.startswith(f"`{never}`:")


@pytest.mark.parametrize("space", [FAMILY, RANGE], ids=["every host", "drawn hosts"])
def test_overflow_is_not_unreachable_without_a_model(space: HostSpace) -> None:
    policy, wanted = Policy.parse('prefer = "cpu"\noverflow = "disk"\n'), [Property("every_rule_reachable")]
    found = verify(policy, [None], FAMILY, wanted, jobs=1) if space is FAMILY else search(policy, [None], RANGE, wanted)
    assert [one.status for one in found] == ["proved"]


def test_what_decides_something_somewhere_is_reachable() -> None:
    text = 'prefer = ["cuda", "cpu"]\n[offload]\n"model.norm" = "disk"\n'
    assert verdict(text, "every_rule_reachable").status == "proved"
    assert verdict(text, "every_rule_reachable", drawn=True).status == "proved"


def test_a_finite_family_is_proved_over_every_host() -> None:
    text = 'prefer = ["cuda", "cpu"]'
    proved = verdict(text, "always_resolves")
    assert (proved.status, proved.hosts) == ("proved", FAMILY.size)
    assert verdict(text, "always_resolves", drawn=True).status == "not refuted"


MANY_RAMS = HostSpace(("cuda", "mps"), 1, (2 * GIB, 8 * GIB), (25, 100), (3 * GIB, 8 * GIB, 64 * GIB))
RAM_COUNTS = {
    "nowhere": ('prefer = "cuda"', False),
    "as a fallback": ('prefer = ["cuda", "mps", "cpu"]', True),
    "to overflow to": ('prefer = "cuda"\noverflow = "cpu"', True),
    "by a rule": ('prefer = ["cuda", "cpu"]\n[offload]\n"model.layers.3" = "cpu"', True),
    "in a condition": ('prefer = "cuda"\n[[rule]]\nmatch = "lm_head"\noffload = "disk"\nwhen.memory = "32 GiB"', True),
    "as what is required": ('prefer = "cuda"\n[require]\nmemory = "8 GiB"', True),
}


@pytest.mark.parametrize(("text", "differs"), RAM_COUNTS.values(), ids=RAM_COUNTS)
def test_hosts_that_differ_in_ram_are_judged_as_one_by_one(text: str, differs: bool) -> None:
    policy, wanted = Policy.parse(text, "p.toml"), parse_property("always_resolves", family=True)
    question = _Question(policy, (LLAMA,), MANY_RAMS, (wanted, *DEFAULTS))
    racks: dict[object, list[HostSpec]] = {}
    for one in MANY_RAMS.specs():
        racks.setdefault(one.devices, []).append(one)
    planned = 0
    for rack in racks.values():
        found = _judged(question, (0, rack))
        planned += len(set(map(id, found)))
        assert found == [evaluate(policy, LLAMA, MANY_RAMS.host(one), question.wanted) for one in rack]
    assert (planned == len(racks) + 2 * 4) is not differs  # a Mac's RAM is its accelerator's too: four racks of them


def test_the_larger_host_is_worse_off_by_one_step() -> None:
    found = verdict(PLANTED["only small cards"][1], "monotone")
    assert found.host is not None
    assert found.larger is not None
    assert found.why == "with more memory a later term of `prefer` fits: the second instead of the first"
    assert found.larger.accelerators[0].memory > found.host.accelerators[0].memory


def test_a_refusal_with_more_memory_is_worse_than_a_plan() -> None:
    found = verdict('prefer = "cpu"\n[require]\ncuda = { count = "==0", memory = ">=6 GiB" }\n', "monotone")
    assert found.why.startswith("with more memory it is refused: DP304")


def test_beside_an_overflow_the_number_of_devices_does_not_count() -> None:
    """With 6 GiB in place of 2 on the first card, a third one is used; the same 10.8 GiB stay on the CPU."""
    policy = Policy.parse('prefer = "cuda"\noverflow = ["cpu", "disk"]\n')
    hosts = [
        Host.parse(
            f'memory = "16 GiB"\ndisk = "4 TiB"\n[[accelerator]]\ntype = "cuda"\nmemory = "{memory}"\nfree = "{free}"\n'
            '[[accelerator]]\ntype = "cuda"\nmemory = "8 GiB"\n[[accelerator]]\ntype = "cuda"\nmemory = "80 GiB"\n'
        )
        for memory, free in (("8 GiB", "2 GiB"), ("24 GiB", "6 GiB"))
    ]
    before, after = (evaluate(policy, ModelTree.load("mixtral-8x7b"), host, []) for host in hosts)
    assert before.quality
    assert sum(before.quality[0].away) > 10 * GIB
    assert regression(before, after) == ""


def test_drawn_hosts_are_the_same_with_the_same_seed() -> None:
    policy, wanted = Policy.parse(PLANTED["the CPU to overflow to"][1]), [Property("resident")]
    one, again = (search(policy, [LLAMA], RANGE, wanted, examples=60, seed=7) for _ in range(2))
    assert one == again


def test_models_are_drawn_too() -> None:
    policy = Policy.parse('prefer = ["cuda", "cpu"]\n[[rule]]\nsize = ">=64 MiB"\nprefer = "cuda"\n')
    (found,) = search(policy, [], FAMILY, [Property("always_resolves")], trees=True, examples=60)
    assert (found.status, found.model) == ("broken", "drawn")
    assert found.tree is not None
    assert ModelTree.parse(found.tree.to_toml()) == found.tree


def test_shrinking_takes_away_what_is_not_needed() -> None:
    policy = Policy.parse('prefer = "cuda"\noverflow = "cpu"')
    broken = Counterexample(policy, LLAMA, Property("resident"), Host.load("24-24-12-8"))
    assert not broken.why()
    full = [replace(one, free=0) for one in broken.host.accelerators[:3]]
    tight = replace(
        broken.host, accelerators=(*full, replace(broken.host.accelerators[3], memory=2 * GIB, free=2 * GIB))
    )
    assert [one.memory for one in smallest(replace(broken, host=tight)).host.accelerators] == [2 * GIB]


# Families.


@given(
    st.lists(st.sampled_from(["cuda", "mps", "xpu"]), min_size=1, unique=True),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([(100,), (0, 100)]),
)
def test_a_family_has_as_many_hosts_as_it_says(types: list[str], most: int, mixed: bool, free: tuple[int, ...]) -> None:
    space = HostSpace(tuple(types), most, (8 * GIB, 24 * GIB), free, (64 * GIB, 128 * GIB), mixed=mixed)
    shapes = space.specs()
    assert len(shapes) == len(set(shapes)) == space.size
    assert len({space.host(shape) for shape in shapes}) == space.size
    counts = [len(shape.devices) for shape in shapes]
    assert counts == sorted(counts)


def test_a_step_of_memory_leads_to_a_larger_host() -> None:
    shapes = set(FAMILY.specs())
    steps = [(shape, larger) for shape in shapes for larger in FAMILY.successors(shape)]
    assert steps
    for shape, larger in steps:
        assert larger in shapes
        before, after = FAMILY.host(shape), FAMILY.host(larger)
        pairs = zip(before.accelerators, after.accelerators, strict=True)
        assert all(one.memory <= other.memory and one.free <= other.free for one, other in pairs)
        assert before != after


def test_every_property_that_can_be_named_can_be_asked() -> None:
    assert {*_CHECKS, "never_on", "context"} == set(OF_A_PLAN)
    run = {"runs"} if find_spec("transformers") is None else set()
    for name in {*OF_A_PLAN, *OF_A_FAMILY} - {"never_on", "context"} - run:
        assert verdict('prefer = ["cuda", "cpu"]', name, space=replace(FAMILY, most=1)).status == "proved"


# The command.

SMALL = (
    "--types",
    "cuda",
    "--accelerators",
    "1",
    "--memory",
    "2 GiB, 8 GiB",
    "--ram",
    "64 GiB",
    "--model",
    "llama-3.2-1b",
)


@pytest.mark.parametrize("name", [name for name, (wanted, *_) in PLANTED.items() if wanted not in OF_A_FAMILY])
def test_what_is_printed_can_be_pasted_and_fails_there(name: str, tmp_path: Path) -> None:
    wanted, text, _ = PLANTED[name]
    policy = tmp_path / "p.toml"
    policy.write_text(text)
    shown = invoke("verify", str(policy), "-p", wanted, *SMALL, "--accelerators", "2")
    assert shown.status == 1
    told = shown.stdout.partition("\n\n")[2].splitlines()
    pasted = "".join(f"{line[2:]}\n" for line in told if line.startswith("  ") or not line)
    policy.write_text(f"{text}\n{pasted}")
    tested = invoke("test", str(policy))
    assert tested.status == 1, tested
    assert f"`{wanted}` does not hold" in tested.stdout


def test_json_and_github_tell_the_same(tmp_path: Path) -> None:
    policy = tmp_path / "p.toml"
    policy.write_text('prefer = "cuda"\n')
    value = json.loads(invoke("verify", str(policy), "-p", "always_resolves", *SMALL, "--format", "json").stdout)
    assert value["family"]["hosts"] == 5
    (told,) = value["verdicts"]
    assert (told["status"], told["hosts"], told["larger"]) == ("broken", 5, None)
    assert Host.parse(told["host"]).accelerators == ()
    github = invoke("verify", str(policy), "-p", "always_resolves", *SMALL, "--format", "github")
    assert github.stdout.startswith("::error file=")
    assert "title=DP512::`always_resolves` does not hold for llama-3.2-1b" in github.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-p", "always_resolve"), "did you mean `always_resolves`?"),
        (("-p", "never_on:gpu"), "did you mean `cuda`?"),
        (("--types", "cuda, gpu"), "known are `cuda`"),
        (("--memory", "8"), "`8` has no unit"),
        (("--memory", "8 GiB..much"), "--memory:"),
        (("--free", "half"), "`half` is no percentage"),
        (("--model", "x*"), "no model of the catalogue is like `x*`"),
    ],
)
def test_what_cannot_be_read_is_told(arguments: tuple[str, ...], said: str) -> None:
    result = invoke("verify", "cpu-only", *arguments)
    assert (result.status, said in result.stderr) == (2, True), result


def test_a_policy_with_rules_needs_a_model(tmp_path: Path) -> None:
    policy = tmp_path / "p.toml"
    policy.write_text('prefer = "cuda"\n[offload]\nlm_head = "disk"\n')
    assert "give `--model`" in invoke("verify", str(policy)).stderr


def test_without_hypothesis_a_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(MissingLibraryError, match=r"devpolicy\[testing\]"):
        search(Policy.parse('prefer = "cpu"'), [None], RANGE, [Property("resident")])
    assert verdict('prefer = ["cuda", "cpu"]', "always_resolves").status == "proved"


def test_what_is_finite_is_proved_without_loading_hypothesis() -> None:
    code = (
        "import sys\nfrom devpolicy._core.cli.app import app\ntry:\n"
        "    app.main(['verify', 'cpu-only', '--model', 'gpt2', '--accelerators', '1'])\n"
        "except SystemExit: print('LOADED', 'hypothesis' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "LOADED False" in run.stdout


def test_a_property_outside_of_a_file_is_refused_without_a_place() -> None:
    with pytest.raises(DevPolicyError) as refused:
        parse_property("monoton", family=True)
    assert [finding.place for finding in refused.value.diagnostics] == [None]


def test_what_a_policy_asks_of_versions_is_not_the_familys(tmp_path: Path) -> None:
    """Hosts without versions were all refused, and so everything was proved of them."""
    policy = tmp_path / "p.toml"
    policy.write_text('prefer = ["cuda", "cpu"]\n[require]\ntorch = ">=2.6"\npython = "3.10"\n')
    shown = invoke("verify", str(policy), "-p", "always_resolves", "-p", "every_rule_reachable", *SMALL)
    assert shown.status == 0
    assert shown.stdout.count("holds") == 2


def test_a_family_of_which_every_host_is_refused_says_why(tmp_path: Path) -> None:
    policy = tmp_path / "p.toml"
    policy.write_text('prefer = ["cuda"]\n[require]\nspacy = "3"\n')
    shown = invoke("verify", str(policy), "-p", "within_budget", "-p", "every_rule_reachable", *SMALL)
    refused = "refused: DP304: this host does not meet `spacy` in [require]\n"
    assert f"hosts, and each is {refused}" in shown.stdout
    assert f"hosts, which are all {refused}" in shown.stdout
    told = json.loads(invoke("verify", str(policy), *SMALL, "--format", "json").stdout)
    assert {one["refused"] for one in told["verdicts"]} == {"DP304: this host does not meet `spacy` in [require]"}


def test_a_property_may_be_about_a_class_of_the_policy(tmp_path: Path) -> None:
    policy = tmp_path / "p.toml"
    policy.write_text('prefer = "cuda"\n[devices.small]\ntype = "cuda"\nmemory = "<20 GiB"\n')
    shown = invoke("verify", str(policy), "-p", "never_on:small", *SMALL)
    assert 'always = "never_on:small"' in shown.stdout
    assert "did you mean `small`?" in invoke("verify", str(policy), "-p", "never_on:smal", *SMALL).stderr


def test_two_terms_of_one_type_are_reached_one_by_one(tmp_path: Path) -> None:
    """A device table that no host has was proved to be reachable, because its type fits behind it."""
    policy = tmp_path / "p.toml"
    policy.write_text('prefer = [{ device = "cuda", count = 3 }, "cuda"]\n')
    few = invoke("verify", str(policy), "-p", "every_rule_reachable", *SMALL, "--accelerators", "2")
    assert "`prefer cuda`: decides nothing" in few.stdout
    assert invoke("verify", str(policy), "-p", "every_rule_reachable", *SMALL, "--accelerators", "3").status == 0
