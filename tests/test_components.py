"""Components of one policy on one host: their order, what each leaves to the next, and what is told where one fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from devpolicy import (
    DevPolicyWarning,
    Host,
    ModelTree,
    Plan,
    Policy,
    PolicyError,
    Unsatisfiable,
    plan,
    plan_all,
    resolve,
    use_policy,
)
from devpolicy._core.abilities import NAMED
from devpolicy._core.language import fields
from devpolicy._core.model.tree import Module, Tensor
from devpolicy._core.sizes import GIB
from devpolicy.errors import ModelError
from tests.worlds import machine

ROOMY = 'prefer = ["cuda", "cpu"]\nmemory.cuda = { basis = "total", headroom = "0 B" }\n'
TWO = machine("cuda", "cuda", size="10 GiB")
RULE = "\n[[component.a.rule]]\n"
APART = f"{RULE}match = 'part0'\nprefer = 'cuda:1'{RULE}match = '*'\nprefer = 'cuda:0'"


def needing(**sizes: str) -> str:
    """Entries of components that need so many bytes, with whatever is written behind."""
    return "".join(f"[component.{name}]\nneeds = '{size}'\n" for name, size in sizes.items())


def weights(size: int, *, name: str = "m", parts: int = 1) -> ModelTree:
    """A model of so many GiB, in equal parts."""
    each = Tensor("weight", (size * GIB // parts,), "int8")
    return ModelTree(name, (Module("", "Model"), *(Module(f"part{at}", "Linear", (each,)) for at in range(parts))))


def devices(plans: dict[str, Plan]) -> dict[str, list[str]]:
    return {name: [device for device in made.ledger if device != "disk"] for name, made in plans.items()}


# Order.


def test_components_are_planned_in_written_order() -> None:
    policy = Policy.parse(f"{ROOMY}[component.b]\nneeds = '6 GiB'\n[component.a]\nneeds = '6 GiB'\n")
    assert devices(plan_all(policy, host=TWO)) == {"b": ["cuda:0"], "a": ["cuda:1"]}


def test_the_order_of_the_models_that_are_given_does_not_count() -> None:
    policy = Policy.parse(f"{ROOMY}[component.b]\n[component.a]\n")
    models = {"a": weights(6), "b": weights(6)}
    assert list(plan_all(policy, models, TWO)) == ["b", "a"]
    assert devices(plan_all(policy, models, TWO)) == {"b": ["cuda:0"], "a": ["cuda:1"]}


def test_a_component_of_a_glob_stands_where_the_glob_is() -> None:
    policy = Policy.parse(
        f"{ROOMY}[component.first]\nneeds = '1 B'\n[component.'x*']\n[component.last]\nneeds = '1 B'\n"
    )
    models = {"unknown": weights(1), "x2": weights(1), "x1": weights(1)}
    assert list(plan_all(policy, models, TWO)) == ["first", "x2", "x1", "last", "unknown"]


def test_a_model_that_is_given_counts_more_than_the_policy_s() -> None:
    policy = Policy.parse(f"{ROOMY}[component.a]\nmodel = 'gpt2'\n[component.b]\nneeds = '1 GiB'\n")
    plans = plan_all(policy, {"a": "bert-base", "b": weights(2)}, TWO)
    assert "encoder.layer.0" in plans["a"].placements
    assert plans["b"].ledger["cuda:0"].weights == 2 * GIB


# What each takes.


def test_each_sees_what_those_before_it_took() -> None:
    policy = Policy.parse(
        f"{ROOMY}[component.a]\nneeds = '3 GiB'\n[component.b]\nneeds = '4 GiB'\n[component.c]\nneeds = '3 GiB'\n"
    )
    ledgers = [made.ledger["cuda:0"] for made in plan_all(policy, host=TWO).values()]
    assert [ledger.used_by_others for ledger in ledgers] == [0, 3 * GIB, 7 * GIB]
    assert [ledger.weights for ledger in ledgers] == [3 * GIB, 4 * GIB, 3 * GIB]


def test_one_alone_is_planned_beside_those_before_it() -> None:
    policy = Policy.parse(f"{ROOMY}[component.a]\nneeds = '6 GiB'\n[component.b]\nneeds = '6 GiB'\n")
    plans = plan_all(policy, host=TWO)
    assert plan(policy, None, TWO, component="b") == plans["b"]
    assert plan(policy, None, TWO, component="a") == plans["a"]
    assert plan(policy, weights(7), TWO, component="b").ledger["cuda:1"].weights == 7 * GIB


def test_one_of_unknown_size_takes_nothing_from_those_behind_it() -> None:
    policy = Policy.parse(f"{ROOMY}[component.a]\n[component.b]\nneeds = '6 GiB'\n")
    assert plan(policy, None, TWO, component="b").ledger["cuda:0"].used_by_others == 0


def test_what_needs_bytes_is_one_piece_on_one_device() -> None:
    policy = Policy.parse(f"{ROOMY}overflow = 'cpu'\nsplit = 'balanced'\n[component.a]\nneeds = '12 GiB'\n")
    assert devices(plan_all(policy, host=TWO)) == {"a": ["cpu"]}
    split = plan_all(policy, {"a": weights(12, parts=4)}, TWO)
    assert devices(split) == {"a": ["cuda:0", "cuda:1"]}


def test_no_rule_and_no_reserve_speaks_of_what_needs_bytes() -> None:
    text = f"{ROOMY}offload.'**' = 'disk'\nmemory.cpu.reserve = {{ kv_cache = '1 GiB' }}\n{needing(a='1 GiB')}"
    made = plan_all(Policy.parse(text), host=machine(memory="8 GiB"))["a"]
    assert (made.ledger["cpu"].used, made.warnings) == (GIB, ())


# Shares.


@pytest.mark.parametrize(("share", "device"), [("40%", "cpu"), ("0.5", "cuda:0"), ("1", "cuda:0"), ("49.9%", "cpu")])
def test_a_share_is_the_most_that_a_component_takes_of_a_device(share: str, device: str) -> None:
    written = f"'{share}'" if "%" in share else share
    policy = Policy.parse(f"{ROOMY}[component.a]\nneeds = '5 GiB'\nshare = {written}\n")
    expected = [device]
    assert devices(plan_all(policy, host=TWO)) == {"a": expected}


def test_a_share_splits_a_model_that_one_device_would_hold() -> None:
    policy = Policy.parse(f"{ROOMY}[component.a]\nshare = 0.5\n")
    made = plan_all(policy, {"a": weights(8, parts=8)}, TWO)["a"]
    assert {device: budget.weights for device, budget in made.ledger.items()} == {"cuda:0": 4 * GIB, "cuda:1": 4 * GIB}


def test_a_share_is_of_the_budget_and_not_of_what_others_leave() -> None:
    policy = Policy.parse(f"{ROOMY}[component.a]\nneeds = '5 GiB'\n[component.b]\nneeds = '5 GiB'\nshare = 0.5\n")
    assert devices(plan_all(policy, host=TWO)) == {"a": ["cuda:0"], "b": ["cuda:0"]}


def test_a_refusal_for_a_share_says_so() -> None:
    policy = Policy.parse("prefer = 'cuda'\n[component.a]\nneeds = '5 GiB'\nshare = 0.3\n")
    with pytest.raises(Unsatisfiable) as refused:
        plan_all(policy, host=TWO)
    assert "within its share" in str(refused.value)
    assert '`share = "57%"`' in str(refused.value)
    larger = Policy.parse("prefer = 'cuda'\n[component.a]\nneeds = '5 GiB'\nshare = '57%'\n")
    smaller = Policy.parse("prefer = 'cuda'\n[component.a]\nneeds = '5 GiB'\nshare = '56%'\n")
    assert devices(plan_all(larger, host=TWO)) == {"a": ["cuda:0"]}
    with pytest.raises(Unsatisfiable):
        plan_all(smaller, host=TWO)


def test_both_sides_of_one_pool_are_within_a_share() -> None:
    mac = Host.load("macbook-m3-36gb")
    policy = Policy.parse(
        "prefer = ['mps', 'cpu']\n[component.a]\nneeds = '6 GiB'\n[component.b]\nneeds = '6 GiB'\nshare = 0.3\n"
    )
    plans = plan_all(policy, host=mac)
    assert devices(plans)["a"] == ["mps"]
    assert plans["b"].ledger[devices(plans)["b"][0]].used_by_others == 6 * GIB


# Targets.


def test_a_component_is_planned_for_its_target() -> None:
    entries = "[component.a]\ntarget = 'torch'\n[component.b]\ntarget = 'haystack'\n[component.c]\n"
    policy, models = Policy.parse(ROOMY + entries), {name: weights(1) for name in "abc"}
    targets = {name: made.target for name, made in plan_all(policy, models, TWO).items()}
    assert targets == {"a": "torch", "b": "haystack", "c": "hf"}
    assert {made.target for made in plan_all(policy, models, TWO, target="hf").values()} == {"hf"}


@pytest.mark.parametrize(
    ("entry", "kinds", "code"),
    [
        ("target = 'torch'\noffload.part0 = 'cpu'", ("cuda",), "DP409"),
        (f"target = 'torch'{APART}", ("cuda", "cuda"), "DP409"),
        ("target = 'spacy'", ("xpu",), "DP409"),
        ("target = 'spacy'\n[[component.a.rule]]\nmatch = 'part0'\noffload = 'disk'", ("cuda",), "DP409"),
        ("target = 'haystack'", ("npu",), "DP409"),
        ("[[component.a.rule]]\nmatch = 'part0'\nprefer = 'cpu'", ("cuda",), "DP405"),
        ("offload.part0 = 'cpu'", ("mps",), "DP406"),
    ],
)  # fmt: skip
def test_what_a_target_cannot_express_is_refused(entry: str, kinds: tuple[str, ...], code: str) -> None:
    policy = Policy.parse(f"[component.a]\nprefer = '{kinds[0]}'\n{entry}\n")
    with pytest.raises(Unsatisfiable) as refused:
        plan_all(policy, {"a": weights(2, parts=2)}, machine(*kinds))
    assert refused.value.code == code
    assert "component `a`: " in str(refused.value)


def test_the_device_choice_is_for_the_target_too() -> None:
    policy = Policy.parse("prefer = ['xpu', 'cpu']\n[component.a]\ntarget = 'spacy'\n")
    assert resolve(policy, host=machine("xpu"), component="a").to_spacy() == -1
    assert resolve(policy, host=machine("xpu"), component="b").to_torch_str() == "xpu:0"


@pytest.mark.parametrize(("host", "gpu"), [("1x24gb", 0), ("macbook-m3-36gb", 0), ("cpu-only", -1), ("arc-a770", -1)])
def test_spacy_runs_on_what_its_form_can_name(host: str, gpu: int) -> None:
    policy = Policy.parse("prefer = ['cuda', 'xpu', 'mps', 'cpu']\n[component.a]\ntarget = 'spacy'\nneeds = '1 GiB'\n")
    assert plan_all(policy, host=host)["a"].device.to_spacy() == gpu
    assert resolve(policy, host=host, component="a").to_spacy() == gpu


# What does not fit.


def test_a_refusal_says_which_component_and_what_the_others_take() -> None:
    policy = Policy.parse(
        "prefer = 'cuda'\nmemory.cuda = { headroom = '0 B' }\n"
        "[component.a]\nneeds = '4 GiB'\n[component.b]\nneeds = '4 GiB'\n[component.c]\nneeds = '4 GiB'\n"
    )
    one = machine("cuda", size="10 GiB")
    with pytest.raises(Unsatisfiable) as refused:
        plan_all(policy, host=one)
    (finding,) = refused.value.diagnostics
    assert finding.message == "component `c`: nothing in `prefer` can hold `c`: `cuda`"
    assert finding.notes[1:] == tuple(f"`{name}`, which is there before, takes 4.0 GiB of `cuda:0`" for name in "ab")
    assert finding.help.splitlines() == [
        "2 GiB more on `cuda:0` would do",
        "or 1 more device like `cuda:0`",
        'or `"cpu"` at the end of `prefer`',
        'or `prefer = "cpu"` in `[component.a]`',
        'or `prefer = "cpu"` in `[component.b]`',
    ]


def test_another_order_is_suggested_where_it_would_do() -> None:
    text = "memory.cuda = {{ headroom = '0 B' }}\n{}"
    small = "[component.small]\nneeds = '4 GiB'\nprefer = 'cuda'\n"
    large = "[component.large]\nneeds = '8 GiB'\nprefer = 'cuda:0'\n"
    with pytest.raises(Unsatisfiable) as refused:
        plan_all(Policy.parse(text.format(small + large)), host=TWO)
    assert "or `[component.large]` written before `[component.small]`" in str(refused.value)
    plans = plan_all(Policy.parse(text.format(large + small)), host=TWO)
    assert devices(plans) == {"large": ["cuda:0"], "small": ["cuda:1"]}


def test_a_term_gives_way_for_what_comes_later() -> None:
    small = "[component.small]\nneeds = '4 GiB'\nprefer = ['cuda:1', 'cuda:0', 'cpu']\n"
    large = "[component.large]\nneeds = '8 GiB'\nprefer = 'cuda:1'\n"
    policy = Policy.parse(f"memory.cuda = {{ headroom = '0 B' }}\n{small}{large}")
    plans = plan_all(policy, host=TWO)
    assert devices(plans) == {"small": ["cuda:0"], "large": ["cuda:1"]}
    assert plan(policy, None, TWO, component="small") == plans["small"]


def test_a_component_without_a_model_is_told_how_to_have_one() -> None:
    policy = Policy.parse("prefer = 'cpu'\n[component.a]\nneeds = '1 GiB'\n[component.b]\n")
    with pytest.raises(PolicyError, match=r"error\[DP105\]: no model is given for component `b`"):
        plan_all(policy, host=TWO)
    with pytest.raises(PolicyError, match="`--model b=MODEL`"):
        plan(policy, None, TWO, component="b")
    with pytest.raises(ModelError, match="not `None`"):
        plan(policy, None, TWO)


# Names.


def test_a_name_that_is_nearly_one_of_the_policy_is_a_warning() -> None:
    policy = Policy.parse("prefer = 'cpu'\n[component.embedder]\nneeds = '1 GiB'\n")
    with pytest.warns(DevPolicyWarning, match=r"(?s)DP508.*did you mean `embedder`"):
        assert resolve(policy, host=TWO, component="embeder").to_torch_str() == "cpu"
    assert [one.code for one in plan(policy, weights(1), TWO, component="embeder").warnings] == ["DP508"]
    assert plan(policy, weights(1), TWO, component="generator").warnings == ()


def test_a_component_of_which_nothing_is_said_is_refused_by_name() -> None:
    policy = Policy.parse("[component.embedder]\nprefer = 'cpu'\n")
    for name, help_ in (("embeder", "did you mean `embedder`?"), (None, "known are `embedder`")):
        with pytest.raises(PolicyError) as refused:
            plan(policy, weights(1), TWO, component=name)
        assert refused.value.code == "DP202"
        assert refused.value.diagnostics[0].help == help_


# Rules.


def test_a_rule_of_a_component_that_matches_nothing_is_an_error() -> None:
    policy = Policy.parse("prefer = 'cpu'\n[component.a]\noffload = { lm_haed = 'disk' }\n")
    with pytest.raises(
        PolicyError, match=r"error\[DP501\]: rule `component.a.offload.lm_haed` matches nothing"
    ) as told:
        plan_all(policy, {"a": weights(1)}, TWO)
    place = told.value.diagnostics[0].place
    assert place is not None
    assert place.line == 3


@pytest.mark.parametrize("table", ["[offload]\nlm_haed = 'disk'\n", "[component.'*'.offload]\nlm_haed = 'disk'\n"])
def test_a_rule_for_components_that_matches_nothing_warns(table: str) -> None:
    policy = Policy.parse(f"prefer = 'cpu'\n{table}[component.a]\n")
    assert [one.code for one in plan_all(policy, {"a": weights(1)}, TWO)["a"].warnings] == ["DP501"]


def test_its_own_rules_come_before_the_policy_s() -> None:
    policy = Policy.parse(
        "prefer = 'cuda'\n[offload]\npart0 = 'cpu'\npart1 = 'cpu'\n[component.a.offload]\npart0 = 'disk'\n"
    )
    made = plan_all(policy, {"a": weights(3, parts=3), "b": weights(3, parts=3)}, TWO)
    assert {name: unit.rule for name, unit in made["a"].placements.items()} == {
        "part0": "component.a.offload.part0", "part1": "offload.part1", "part2": "prefer",
    }  # fmt: skip
    assert [unit.rule for unit in made["b"].placements.values()] == ["offload.part0", "offload.part1", "prefer"]


# Models of the policy.


def test_a_model_is_found_beside_the_policy_s_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "own.toml").write_text(weights(1, name="own").to_toml(), encoding="utf-8")
    file = tmp_path / "policy.toml"
    file.write_text("prefer = 'cpu'\n[component.a]\nmodel = 'models/own.toml'\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "models")
    assert plan_all(file, host=TWO)["a"].ledger["cpu"].weights == GIB


def test_a_name_of_the_catalogue_is_the_same_in_every_folder(tmp_path: Path) -> None:
    (tmp_path / "gpt2").mkdir()
    file = tmp_path / "policy.toml"
    file.write_text("prefer = 'cpu'\n[component.a]\nmodel = 'gpt2'\n", encoding="utf-8")
    assert plan_all(file, host=TWO)["a"] == plan("cpu-only", "gpt2", TWO, component="a")


@pytest.mark.parametrize("model", ["bert-bas", "no/such/folder", "no.toml", "org/name", "x" * 500, "a\\u0000b"])
def test_a_model_that_is_not_there_is_told_with_its_place(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    file = tmp_path / "policy.toml"
    file.write_text(f'prefer = "cpu"\n[component.a]\nmodel = "{model}"\n', encoding="utf-8")
    with pytest.raises(ModelError) as refused:
        plan_all(file, host=TWO)
    (finding,) = refused.value.diagnostics
    assert finding.place is not None
    assert (finding.place.line, finding.place.column) == (3, 9)
    assert "`model` of component `a` names it" in finding.notes


# Folders.


def test_a_component_folder_is_beside_its_policy(tmp_path: Path) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        "prefer = 'cpu'\nmemory.disk.path = 'all'\n[component.a.memory.disk]\npath = 'mine'\n", encoding="utf-8"
    )
    policy = Policy.load(file)
    assert policy.for_component("a").disk_path == str(tmp_path / "mine")
    assert policy.for_component("b").disk_path == str(tmp_path / "all")


def test_the_targets_of_the_language_can_be_planned_for() -> None:
    assert [{"enum": list(NAMED)}, {"type": "string"}] == fields.TARGETS.schema["anyOf"]


# At component init.


def test_a_component_resolved_again_keeps_its_device() -> None:
    policy = Policy.parse(ROOMY)
    with use_policy(policy, TWO):
        first = resolve(policy, component="first", model=weights(4))
        resolve(policy, component="second", model=weights(5))
        assert resolve(policy, component="first", model=weights(4)) == first
        # Nine of ten GiB are taken: one that was counted twice would leave less.
        assert resolve(policy, component="third", model=weights(1)).to_torch_str() == "cuda:0"


def test_a_component_with_another_model_is_counted_once() -> None:
    policy = Policy.parse(ROOMY)
    with use_policy(policy, TWO):
        resolve(policy, component="first", model=weights(4))
        resolve(policy, component="second", model=weights(5))
        assert resolve(policy, component="first", model=weights(8)).to_torch_str() == "cuda:1"
        assert resolve(policy, component="third", model=weights(5)).to_torch_str() == "cuda:0"


def test_what_the_policy_writes_first_has_its_place_first() -> None:
    policy = Policy.parse(ROOMY + needing(first="6 GiB", second="6 GiB"))
    with use_policy(policy, TWO):
        assert resolve(policy, component="second").to_torch_str() == "cuda:1"
        assert resolve(policy, component="first").to_torch_str() == "cuda:0"
    assert resolve(policy, host=TWO, component="second").to_torch_str() == "cuda:1"


def test_a_model_that_is_given_replaces_what_was_kept() -> None:
    policy = Policy.parse(ROOMY + needing(first="6 GiB", second="6 GiB"))
    with use_policy(policy, TWO):
        assert resolve(policy, component="second").to_torch_str() == "cuda:1"
        assert resolve(policy, component="first", model=weights(1)).to_torch_str() == "cuda:0"
        assert plan(policy, weights(9), component="third").ledger["cuda:0"].used_by_others == GIB


def test_a_component_before_it_that_has_no_place_is_told_by_name() -> None:
    policy = Policy.parse("prefer = 'cuda'\n" + needing(first="60 GiB", second="1 GiB"))
    with use_policy(policy, TWO), pytest.raises(Unsatisfiable, match="component `first`: nothing in `prefer` can hold"):
        resolve(policy, component="second")


def test_the_exact_name_is_nearest_and_then_the_globs() -> None:
    before, behind = "[component.'*a']\nprefer = 'cuda:1'\n", "[component.'*']\nprefer = 'cpu'\n"
    policy = Policy.parse(f"{ROOMY}{before}[component.a]\nprefer = 'cuda:0'\n{behind}")
    chosen = {name: resolve(policy, host=TWO, component=name).to_torch_str() for name in ("a", "ba", "b")}
    assert chosen == {"a": "cuda:0", "ba": "cuda:1", "b": "cpu"}


def test_of_a_table_each_key_is_that_of_the_nearest_entry() -> None:
    text = f"{ROOMY}[component.'*'.workload]\ncontext = 512\nbatch = 2\n[component.a.workload]\ncontext = 64\n"
    workload = Policy.parse(text).for_component("a").workload
    assert (workload.context, workload.batch) == (64, 2)


def test_a_class_decides_which_entries_speak() -> None:
    policy = Policy.parse("prefer = 'cuda'\n[component.'*']\ntype = '*.models.*'\nprefer = 'cpu'\n[component.one]\n")
    for component_class in ("own.models.Encoder", type("Encoder", (), {"__module__": "own.models"})):
        device = resolve(policy, host=TWO, component="one", component_class=component_class)
        assert device.to_torch_str() == "cpu"
    assert resolve(policy, host=TWO, component="one", component_class="own.Encoder").to_torch_str() == "cuda:0"
    assert resolve(policy, host=TWO, component="one").to_torch_str() == "cuda:0"


def test_another_policy_s_component_of_the_same_name_is_another() -> None:
    small, large = (Policy.parse(ROOMY + needing(a=size)) for size in ("2 GiB", "9 GiB"))
    with use_policy(small, TWO):
        resolve(small, component="a")
        resolve(large, component="a")
        assert plan(small, weights(1), component="b").ledger["cuda:0"].used_by_others == 9 * GIB


def test_what_a_host_lacks_is_told_together() -> None:
    wanted = "".join(
        needing(**{name: "1 GiB"}) + f"require = {{ cuda = {count} }}\n" for name, count in (("a", 3), ("b", 4))
    )
    with pytest.raises(Unsatisfiable) as refused:
        plan_all(Policy.parse("prefer = 'cuda'\n" + wanted), host=TWO)
    assert [(one.code, one.place.line) for one in refused.value.diagnostics] == [("DP304", 4), ("DP304", 7)]
