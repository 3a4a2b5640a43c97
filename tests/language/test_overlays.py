"""`extends`, profiles and `--set`: what lies over what, where it comes from, and what is refused."""

from __future__ import annotations

import dataclasses
import os
import pickle
from pathlib import Path

import pytest
from tests.worlds import planned, small_llama

from devpolicy import Accelerator, Host, Policy, PolicyError, Unsatisfiable, plan, plan_all, resolve, use_policy
from devpolicy._core.language.effective import effective
from devpolicy._core.language.policy import DeviceSelector, apply_overlays
from devpolicy.errors import DevPolicyWarning

TWO = Host([Accelerator("cuda", memory="24 GiB") for _ in range(2)], memory="64 GiB", disk="1 TiB")
NONE = Host(memory="64 GiB", disk="1 TiB")

FLEET = """
prefer = ["cuda", "cpu"]
[workload]
context = 100
batch = 2
[profile.pair]
when = { cuda = 2 }
split = "balanced"
workload.context = 200
[[profile.pair.rule]]
match = "lm_head"
prefer = "cuda:1"
[profile.quiet]
avoid = "cuda"
[profile.ci]
when = { env.CI = true }
workload.batch = 1
"""


@pytest.fixture
def files(tmp_path: Path):
    def write(**texts: str) -> Path:
        for name, text in texts.items():
            (tmp_path / f"{name}.toml").write_text(text, encoding="utf-8")
        return tmp_path

    return write


def refusal(path: Path) -> PolicyError:
    with pytest.raises(PolicyError) as raised:
        Policy.load(path)
    return raised.value


# extends


def test_the_nearest_text_wins_and_avoid_adds_up(files):
    folder = files(
        base='prefer = ["cuda", "cpu"]\navoid = "cuda:0"\noverflow = "cpu"\n[workload]\ncontext = 1\nbatch = 2\n',
        middle='extends = "base.toml"\nprefer = ["mps"]\navoid = ["cuda:1"]\n[workload]\ncontext = 3\n',
        top='extends = ["middle.toml"]\n[workload]\ndtype = "float16"\n',
    )
    policy = Policy.load(folder / "top.toml")
    assert policy.prefer == (DeviceSelector("mps"),)
    assert policy.overflow == (DeviceSelector("cpu"),)
    assert policy.avoid == (DeviceSelector("cuda", 0), DeviceSelector("cuda", 1))
    assert (policy.workload.context, policy.workload.batch, policy.workload.dtype) == (3, 2, "float16")


def test_of_several_texts_the_later_is_nearer(files):
    folder = files(
        base='prefer = "cuda"\nsplit = "never"\n[[rule]]\nmatch = "a"\noffload = "cpu"\n',
        left='extends = "base.toml"\nsplit = "balanced"\n',
        right='extends = "base.toml"\noverflow = "disk"\n',
        top='extends = ["left.toml", "right.toml"]\n',
    )
    policy = Policy.load(folder / "top.toml")
    assert (policy.split, policy.overflow) == ("balanced", (DeviceSelector("disk"),))
    assert [rule.name for rule in policy.rules] == ["rule 1 of base.toml"]


def test_rules_of_the_nearer_text_come_first(files):
    folder = files(
        base='prefer = "cuda"\n[offload]\nlm_head = "disk"\nnorm = "cpu"\n[[rule]]\nmatch = "a"\noffload = "cpu"\n',
        top='extends = "base.toml"\n[[rule]]\nmatch = "b"\noffload = "cpu"\n[offload]\nlm_head = "cpu"\n',
    )
    rules = Policy.load(folder / "top.toml").rules
    names = ["rule 1", "offload.lm_head", "offload.norm", "rule 1 of base.toml"]
    assert [rule.name for rule in rules] == names
    assert rules[1].offload == (DeviceSelector("cpu"),)
    assert [Path(rule.place.source).name for rule in rules] == ["top.toml", "top.toml", "base.toml", "base.toml"]


def test_a_shipped_policy_is_extended_by_its_name():
    policy = Policy.parse('extends = "offload-lm-head"\noverflow = "cpu"\n')
    assert [rule.name for rule in policy.rules] == ["offload.lm_head"]
    assert policy.overflow == (DeviceSelector("cpu"),)


def test_paths_are_relative_to_the_file_that_they_stand_in(tmp_path):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "base.toml").write_text('extends = "more.toml"\n[memory.disk]\npath = "off"\n')
    (tmp_path / "shared" / "more.toml").write_text('prefer = "cuda"\n')
    (tmp_path / "top.toml").write_text('extends = "shared/base.toml"\n')
    policy = Policy.load(tmp_path / "top.toml")
    assert policy.disk_path == str(tmp_path / "shared" / "off")


def test_a_class_of_a_base_is_used_and_changed_key_by_key(files):
    folder = files(
        base='prefer = "big"\n[devices.big]\ntype = "cuda"\nmemory = "40 GiB"\n',
        top='extends = "base.toml"\n[devices.big]\nmemory = "80 GiB"\n[memory.big]\ncap = "1 GiB"\n',
    )
    (term,) = Policy.load(folder / "top.toml").prefer
    assert term.device_class is not None
    assert str(term.device_class.memory) == ">=80 GiB"


def test_a_bare_cap_and_a_table_of_the_same_device_merge(files):
    folder = files(
        base='prefer = "cuda"\n[memory]\ncuda = "20 GiB"\ncpu = { headroom = "1 GiB" }\n',
        top='extends = "base.toml"\n[memory.cuda]\nheadroom = "2 GiB"\n[memory]\ncpu = "3 GiB"\n',
    )
    cuda, cpu = Policy.load(folder / "top.toml").memory
    assert cuda.cap
    assert cuda.headroom
    assert cpu.cap
    assert cpu.headroom


def test_findings_of_all_texts_are_told_at_once(files):
    folder = files(
        base='prefer = "cuda"\nsplit = "nevr"\n[[rule]]\nmatch = "a..b"\noffload = "cpu"\n',
        top='extends = "base.toml"\nsplit = "never"\noverflow = "dsk"\n',
    )
    found = [(one.code, str(one.place)) for one in refusal(folder / "top.toml").diagnostics]
    base, top = folder / "base.toml", folder / "top.toml"
    assert found == [("DP104", f"{base}:2:9"), ("DP104", f"{base}:4:11"), ("DP201", f"{top}:3:12")]


def test_tests_are_not_inherited_from_a_base(files):
    folder = files(base='overflow = "cpu"\n', top='extends = "base.toml"\nprefer = "cuda"\n')
    assert Policy.load(folder / "top.toml").overflow == (DeviceSelector("cpu"),)
    assert refusal(folder / "base.toml").code == "DP105"


def test_a_circle_is_shown(files):
    folder = files(a='prefer = "cpu"\nextends = "b.toml"\n', b='extends = "c.toml"\n', c='extends = ["./b.toml"]\n')
    (finding,) = refusal(folder / "a.toml").diagnostics
    assert (finding.code, str(finding.place)) == ("DP112", f"{folder / 'c.toml'}:1:12")
    assert finding.notes == ("`b.toml` -> `c.toml` -> `b.toml`",)


def test_a_chain_that_nobody_follows_is_refused(files):
    folder = files(**{f"p{at}": f'extends = "p{at + 1}.toml"\n' for at in range(60)}, p60='prefer = "cpu"\n')
    assert "more than 32 policies" in str(refusal(folder / "p0.toml"))


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ('extends = "bse.toml"', "DP202", "did you mean"),
        ('extends = "offload-lmhead"', "DP202", "did you mean `offload-lm-head`?"),
        ('extends = "."', "DP109", "is a directory"),
        ('extends = "broken.toml"', "DP101", "names it"),
        ('extends = ["base.toml", 5]', "DP102", "takes a string"),
        ("extends = []", "DP104", "this list is empty"),
    ],
)
def test_what_cannot_be_extended_is_told_where_it_is_named(files, text, code, told):
    folder = files(base='prefer = "cpu"\n', broken="prefer = cuda\n", top=f'prefer = "cuda"\n{text}\n')
    error = refusal(folder / "top.toml")
    assert error.code == code
    assert told in str(error)


def test_two_texts_that_use_one_name_are_refused(files):
    rule = '[[rule]]\nname = "head"\nmatch = "lm_head"\noffload = "cpu"\n'
    folder = files(base=f'prefer = "cuda"\n{rule}', top=f'extends = "base.toml"\n{rule}')
    (finding,) = refusal(folder / "top.toml").diagnostics
    assert finding.code == "DP111"
    assert str(folder / "base.toml") in str(finding.place)
    assert str(folder / "top.toml") in finding.notes[0]


# Profiles.


def test_a_profile_applies_by_itself_where_its_condition_holds():
    policy = Policy.parse(FLEET)
    pair = policy.for_host(TWO, environment={})
    assert pair.applied == ("pair",)
    assert (pair.split, pair.workload.context, pair.workload.batch) == ("balanced", 200, 2)
    assert [rule.name for rule in pair.rules] == ["rule 1 of profile.pair"]
    assert policy.for_host(NONE, environment={}).applied == ()
    with pytest.warns(DevPolicyWarning):
        assert resolve(policy, host=TWO).to_torch_str() == "cuda:0"
    assert set(planned(FLEET, small_llama(), TWO).ledger) == {"cuda:0", "cuda:1"}


def test_a_profile_by_name_lies_over_those_that_apply():
    policy = Policy.parse(FLEET)
    asked = policy.for_host(TWO, profile="quiet", overrides=["split=never"], environment={})
    assert asked.applied == ("pair", "quiet")
    assert asked.avoid == (DeviceSelector("cuda"),)
    assert asked.split == "never"
    assert policy.for_host(NONE, profile="pair", environment={}).split == "balanced"
    with pytest.raises(PolicyError, match="has no profile `quit`") as refused:
        policy.for_host(TWO, profile="quit")
    assert "did you mean `quiet`?" in str(refused.value)


def test_a_profile_asks_only_the_environment_it_is_given():
    policy = Policy.parse(FLEET)
    assert policy.for_host(NONE, environment={"CI": "1"}).applied == ("ci",)
    assert policy.for_host(NONE, environment={"CI": ""}).applied == ()
    (notice,) = policy.for_host(NONE).notices
    assert (notice.code, notice.severity) == ("DP506", "warning")
    made = plan(policy, small_llama(), NONE)
    assert [warning.code for warning in made.warnings] == ["DP506"]


@pytest.mark.parametrize(
    ("wanted", "value", "applies"),
    [
        ('"a"', "a", True),
        ('"a"', "b", False),
        ('["a", "b"]', "b", True),
        ("true", "x", True),
        ("true", None, False),
        ("false", None, True),
        ("false", "x", False),
    ],
)
def test_a_variable_is_a_text_one_of_several_set_or_not_set(wanted, value, applies):
    policy = Policy.parse(f'prefer = "cpu"\n[profile.p]\nwhen = {{ env.STAGE = {wanted} }}\nsplit = "never"\n')
    environment = {} if value is None else {"STAGE": value}
    assert bool(policy.for_host(NONE, environment=environment).applied) == applies


def test_two_profiles_that_set_one_key_are_refused():
    text = (
        'prefer = "cpu"\n[profile.a]\nwhen = { os = "linux" }\nsplit = "never"\navoid = "cuda"\nmemory.cpu = "1 GiB"\n'
        '[profile.b]\nwhen = { cuda = "<2" }\nsplit = "never"\navoid = "mps"\nmemory.cpu.cap = "1 GiB"\n'
    )
    policy = Policy.parse(text)
    with pytest.raises(Unsatisfiable) as refused:
        policy.for_host(NONE)
    found = [(one.code, one.place.line, one.message.rpartition("both set ")[2]) for one in refused.value.diagnostics]
    assert found == [("DP305", 9, "`split`"), ("DP305", 11, "`memory.cpu.cap`")]
    assert policy.for_host(TWO).applied == ("a",)
    assert policy.for_host(NONE, profile="b").applied == ("a", "b"), "what is asked for is nearer"


def test_what_is_wrong_in_a_profile_is_told_on_every_host():
    with pytest.raises(PolicyError) as refused:
        Policy.parse(
            'prefer = "cpu"\n[profile.far]\nwhen = { xpu = 8 }\nsplit = "nevr"\n[[profile.far.rule]]\nmatch = 1\n'
        )
    assert [one.place.line for one in refused.value.diagnostics if one.place] == [4, 5, 6]


def test_profiles_of_a_base_are_merged_with_those_of_the_policy(files):
    folder = files(
        base='prefer = "cpu"\n[profile.p]\nsplit = "never"\noverflow = "disk"\n',
        top='extends = "base.toml"\nsplit = "balanced"\n[profile.p]\noverflow = "cpu"\n',
    )
    policy = Policy.load(folder / "top.toml").for_host(NONE, profile="p")
    assert (policy.split, policy.overflow) == ("never", (DeviceSelector("cpu"),))


def test_policies_that_differ_in_a_profile_alone_differ():
    text = 'prefer = "cpu"\n[profile.p]\nsplit = "never"\n'
    assert Policy.parse(text) == Policy.parse(text)
    assert hash(Policy.parse(text)) == hash(Policy.parse(text))
    assert Policy.parse(text) != Policy.parse(text.replace("never", "balanced"))


def test_a_policy_is_changed_by_its_text_alone():
    with pytest.raises(TypeError):
        dataclasses.replace(Policy.parse(FLEET), split="never")


def test_a_policy_travels_between_processes_with_its_profiles(files):
    folder = files(base=FLEET, top='extends = "base.toml"\n')
    policy = pickle.loads(pickle.dumps(Policy.load(folder / "top.toml")))
    assert policy.for_host(TWO, environment={}).applied == ("pair",)


def test_the_policy_in_use_reads_the_environment(monkeypatch):
    monkeypatch.setenv("CI", "1")
    monkeypatch.setenv("DEVPOLICY_PROFILE", "quiet")
    from devpolicy import ComponentDevice

    with use_policy(
        Policy.parse(
            FLEET.replace("[[profile.pair.rule]]\nmatch", "[profile.no]\nrequire.os").replace(
                '"lm_head"\nprefer = "cuda:1"', '"linux"'
            )
        ),
        TWO,
    ):
        assert ComponentDevice.resolve_device(None).to_torch_str() == "cpu"
    monkeypatch.setenv("DEVPOLICY_PROFILE", "quit")
    with use_policy(Policy.parse(FLEET), TWO), pytest.raises(PolicyError, match="`DEVPOLICY_PROFILE` names it"):
        ComponentDevice.resolve_device(None)


# --set


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("split=never", "split", "never"),
        ('split = "never"', "split", "never"),
        ("prefer=cpu", "prefer", (DeviceSelector("cpu"),)),
        ('prefer=["mps", "cpu"]', "prefer", (DeviceSelector("mps"), DeviceSelector("cpu"))),
        ("prefer=cuda:1", "prefer", (DeviceSelector("cuda", 1),)),
        ("avoid=cuda:1", "avoid", (DeviceSelector("cuda", 1),)),
    ],
)
def test_a_value_is_toml_or_text_without_its_quotes(override, key, value):
    assert getattr(Policy.parse(FLEET).for_host(NONE, overrides=[override]), key) == value


def test_a_value_of_a_table_leaves_the_others():
    policy = Policy.parse(FLEET).for_host(NONE, overrides=["workload.context=7", "memory.cuda.cap=1 GiB"])
    assert (policy.workload.context, policy.workload.batch) == (7, 2)
    assert policy.memory[0].cap is not None


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("split", "DP101"),
        ("=never", "DP101"),
        ("a b=1", "DP101"),
        ("splitt=never", "DP103"),
        ("split=nevr", "DP104"),
        ("extends=x", "DP103"),
        ("workload=1", "DP102"),
        ("prefer=gpu", "DP201"),
    ],
)
def test_what_is_wrong_with_a_value_is_told_at_its_place(override, code):
    with pytest.raises(PolicyError) as refused:
        Policy.parse(FLEET).for_host(NONE, overrides=[override])
    assert [finding.code for finding in refused.value.diagnostics] == [code]  # once, though it is read twice
    assert all(finding.place is None or finding.place.source == "--set" for finding in refused.value.diagnostics)


# Origins.


def test_every_value_has_the_place_that_it_comes_from(files):
    folder = files(base=FLEET, top='extends = "base.toml"\noverflow = "cpu"\navoid = "cuda:1"\n')
    policy = Policy.load(folder / "top.toml")
    asked = policy.with_overrides(profile="quiet", values=["ties=skip"], environment=os.environ)
    shown = apply_overlays(asked, TWO)
    base, top = folder / "base.toml", folder / "top.toml"
    found = [(one.key, one.value, one.place and str(one.place)) for one in effective(shown)]
    assert found[:8] == [
        ("prefer", ["cuda", "cpu"], f"{base}:2:1"),
        ("overflow", "cpu", f"{top}:2:1"),
        ("avoid", "cuda:1", f"{top}:3:9"),
        ("avoid", "cuda", f"{base}:14:9"),
        ("split", "balanced", f"{base}:8:1"),
        ("ties", "skip", "--set:1:1"),
        ("workload.batch", 2, f"{base}:5:1"),
        ("workload.context", 200, f"{base}:9:1"),
    ]
    assert ("workload.dtype", "the model's own", None) in found


def test_a_profile_changes_a_component_before_it_is_planned():
    text = (
        'prefer = "cuda"\n[component.reader]\nprefer = "cuda:1"\nneeds = "1 GiB"\n'
        '[profile.none]\nwhen = { cuda = "==0" }\ncomponent.reader.prefer = "cpu"\n'
    )
    policy = Policy.parse(text)
    assert resolve(policy, host=NONE, component="reader").to_torch_str() == "cpu"
    assert resolve(policy, host=TWO, component="reader").to_torch_str() == "cuda:1"
    assert [str(one) for one in plan_all(policy, host=NONE)["reader"].ledger] == ["cpu"]


@pytest.mark.parametrize(
    ("override", "code", "said"),
    [
        ("workload.context=99999999999999999999", "DP101", "this number is too large"),
        ("workload.context=08", "DP101", "not TOML"),
        ("prefer=[cuda,cpu]", "DP101", 'text is written in quotes, such as "cuda"'),
        ("split='never", "DP101", "a quote, a bracket or a brace is missing"),
        ("prefer=cuda, cpu", "DP201", 'write a list: `["cuda", "cpu"]`'),
        ("when.cuda=1", "DP103", "unknown key `when` in --set"),
    ],
)
def test_a_value_that_is_nearly_toml_is_told_as_such(override: str, code: str, said: str) -> None:
    with pytest.raises(PolicyError) as refused:
        Policy.parse(FLEET).for_host(NONE, overrides=[override])
    assert refused.value.code == code
    assert said in str(refused.value)
    assert "`when`" not in refused.value.diagnostics[0].help
