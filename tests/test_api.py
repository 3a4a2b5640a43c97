"""The verbs: how the three inputs are gathered, which policy is in use, and what is planned beside what."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tools.trace_plan import DEFAULT, entered

from devpolicy import (
    ComponentDevice,
    DevPolicyError,
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
from devpolicy._core import verbs
from devpolicy._core.language import layers, profiles
from devpolicy.errors import HostError, ModelError
from devpolicy.testing import host_catalogue

ANY = Policy.load("prefer-accelerator")
HEAD = Policy.load("offload-lm-head")
LLAMA = ModelTree.load("llama-3.1-8b")
BERT = ModelTree.load("bert-base")
MIXTRAL = ModelTree.load("mixtral-8x7b")


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[Host]:
    """Count how often this machine is asked, and answer at once."""
    asked: list[Host] = []

    def probe(disk_path: object = None) -> Host:
        asked.append(Host.load("cpu-only"))
        return asked[-1]

    monkeypatch.setattr(Host, "probe", staticmethod(probe))
    return asked


@pytest.fixture(autouse=True)
def _without_the_variable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(verbs.VARIABLE, raising=False)
    monkeypatch.setattr(verbs.context, "_of_process", {})
    yield


# What is given may be a value, a name or a file.


def test_names_and_values_give_the_same_plan(tmp_path: Path) -> None:
    expected = plan(HEAD, LLAMA, Host.load("2x24gb")).to_dict()
    policy, host, model = tmp_path / "policy.toml", tmp_path / "2x24gb.toml", tmp_path / "llama.toml"
    policy.write_text('prefer = ["cuda", "mps"]\n[offload]\nlm_head = "disk"\n', encoding="utf-8")
    host.write_text(Host.load("2x24gb").to_toml(), encoding="utf-8")
    model.write_text(LLAMA.to_toml(), encoding="utf-8")
    files: tuple[Any, Any, Any] = policy, model, host
    for inputs in (("offload-lm-head", "llama-3.1-8b", "2x24gb"), files, (str(policy), str(model), str(host))):
        made = plan(*inputs).to_dict()  # a warning names the place in its policy, and each is another file
        assert {key: made[key] for key in made if key != "warnings"} == {
            k: expected[k] for k in expected if k != "warnings"
        }


def test_a_host_that_is_not_given_is_this_machine(probes: list[Host]) -> None:
    assert plan(ANY, BERT).device == ComponentDevice.from_str("cpu")
    assert resolve(ANY) == ComponentDevice.from_str("cpu")
    assert plan_all(ANY, {"one": BERT})["one"].component == "one"
    assert len(probes) == 3


@pytest.mark.parametrize("wrong", [None, 7, b"cuda", ["cuda"], object()])
def test_a_policy_of_a_wrong_type_is_refused(wrong: Any) -> None:
    for verb in (
        lambda: plan(wrong, BERT, "1x24gb"),
        lambda: resolve(wrong, host="1x24gb"),
        lambda: plan_all(wrong, {}),
    ):
        with pytest.raises(PolicyError, match="a policy is named by text or a path, not `"):
            verb()


@pytest.mark.parametrize("wrong", [7, b"1x24gb", ["1x24gb"], object()])
def test_a_host_of_a_wrong_type_is_refused(wrong: Any) -> None:
    with pytest.raises(HostError, match="a host is loaded by name or path, not by a value of type"):
        plan(ANY, BERT, wrong)


@pytest.mark.parametrize("wrong", [None, 7, b"gpt2", ["gpt2"], object()])
def test_a_model_of_a_wrong_type_is_refused(wrong: Any) -> None:
    with pytest.raises(ModelError, match=r"a model is a name, a folder, a module, .* not "):
        plan(ANY, wrong, "1x24gb")


def test_models_that_are_no_mapping_are_refused() -> None:
    with pytest.raises(DevPolicyError, match="`models` maps names of components to models, not a value of type list"):
        plan_all(ANY, [BERT], "1x24gb")  # type: ignore[arg-type]


def test_names_that_nothing_has_come_with_the_likely_ones() -> None:
    with pytest.raises(PolicyError, match="did you mean `offload-lm-head`"):
        plan("offload-lm-haed", BERT, "1x24gb")
    with pytest.raises(HostError, match="did you mean `1x24gb`"):
        plan(ANY, BERT, "1x24g")
    with pytest.raises(ModelError, match="did you mean `bert-base`"):
        plan(ANY, "bert-bas", "1x24gb")


def test_a_target_decides_what_can_be_planned() -> None:
    assert plan(ANY, LLAMA, "1x24gb", target="torch").device == ComponentDevice.from_str("cuda:0")
    with pytest.raises(Unsatisfiable) as refused:
        plan(HEAD, LLAMA, "1x24gb", target="torch")
    assert refused.value.code == "DP409"
    with pytest.raises(DevPolicyError, match="did you mean `spacy`"):
        plan(ANY, LLAMA, "1x24gb", target="spcy")


# Several components.


@given(st.permutations([("one", "llama-3.1-8b"), ("two", "llama-3.2-1b"), ("three", "bert-base"), ("four", "gpt2")]))
def test_components_planned_together_share_the_devices(models: list[tuple[str, str]]) -> None:
    plans = plan_all(ANY, dict(models), "2x24gb")
    assert list(plans) == [name for name, _ in models]
    taken: dict[str, int] = {}
    for made in plans.values():
        for device, budget in made.ledger.items():
            assert budget.used_by_others == taken.get(device, 0)
            assert budget.used + budget.headroom <= budget.cap
            taken[device] = budget.used


def test_a_component_that_no_longer_fits_is_refused() -> None:
    assert plan(ANY, LLAMA, "1x24gb").device == ComponentDevice.from_str("cuda:0")
    cuda = Policy.parse('prefer = "cuda"')
    with pytest.raises(Unsatisfiable):
        plan_all(cuda, {"one": LLAMA, "two": LLAMA}, "1x24gb")
    plans = plan_all(ANY, {"one": LLAMA, "two": LLAMA}, "1x24gb")
    assert plans["two"].device == ComponentDevice.from_str("cpu")


# The device choice.


@given(st.sampled_from(sorted(host_catalogue())))
def test_without_rules_the_choice_is_the_device_of_a_small_model(name: str) -> None:
    host = Host.load(name)
    # The choice knows no size, and the first card there is nearly full, which it says.
    nearly_full = name == "faulty/nearly-full"
    with pytest.warns(DevPolicyWarning, match="DP507") if nearly_full else nullcontext():
        device = resolve(ANY, host=host)
    assert device.to_torch_str().partition(":")[0] in {"cuda", "xpu", "mps", "cpu"}
    assert host.fault(device.to_torch_str().partition(":")[0]) is None
    assert (resolve(ANY, host=host, model=BERT) == device) is not nearly_full


def test_a_choice_says_which_rules_it_leaves_out() -> None:
    with pytest.warns(
        DevPolicyWarning, match=r"(?s)warning\[DP504\].*without a model only the device is chosen"
    ) as told:
        assert resolve(HEAD, host="1x24gb") == ComponentDevice.from_str("cuda:0")
    assert [warning.filename for warning in told] == [__file__], "the warning is not told to the caller"


def test_a_strict_choice_refuses_to_leave_rules_out() -> None:
    with pytest.raises(Unsatisfiable, match=r"error\[DP504\]") as refused:
        resolve(HEAD, host="1x24gb", strict=True)
    assert refused.value.code == "DP504"
    assert resolve(ANY, host="1x24gb", strict=True) == ComponentDevice.from_str("cuda:0")


def test_with_a_model_it_is_the_device_of_the_whole_plan() -> None:
    device = resolve(HEAD, host="2x24gb", model=LLAMA, component="generator")
    assert device == plan(HEAD, LLAMA, "2x24gb", component="generator").device
    assert device.to_hf() == {"model": 0, "lm_head": "disk"}


def test_a_rule_that_matches_nothing_is_told_to_the_caller_too() -> None:
    with pytest.warns(DevPolicyWarning, match=r"warning\[DP501\]: rule `offload.lm_head` matches nothing") as told:
        resolve(HEAD, host="1x24gb", model=BERT)
    assert [warning.filename for warning in told] == [__file__]
    with pytest.raises(Unsatisfiable, match=r"error\[DP501\]"):
        resolve(HEAD, host="1x24gb", model=BERT, strict=True)


def test_a_choice_that_the_host_cannot_make_is_refused() -> None:
    with pytest.raises(Unsatisfiable) as refused:
        resolve("offload-lm-head", host="cpu-only")
    assert refused.value.code == "DP301"


# The policy in use.


def test_where_no_device_is_given_the_policy_in_use_decides(probes: list[Host]) -> None:
    with use_policy("prefer-accelerator", "macbook-m3-36gb") as policy:
        assert policy == ANY
        assert verbs.active_policy() is policy
        assert ComponentDevice.resolve_device(None) == ComponentDevice.from_str("mps")
        assert ComponentDevice.resolve_device() == ComponentDevice.from_str("mps")
    assert verbs.active_policy() is None
    assert not probes


def test_a_device_that_is_given_wins_over_the_policy_in_use() -> None:
    with use_policy(ANY, "2x24gb"):
        given_device = ComponentDevice.from_str("cuda:1")
        assert ComponentDevice.resolve_device(given_device) is given_device


def test_without_a_policy_in_use_the_choice_is_the_default(probes: list[Host]) -> None:
    assert verbs.active_device() is None
    assert ComponentDevice.resolve_device(None).to_torch_str().partition(":")[0] in {"cuda", "xpu", "mps", "cpu"}
    assert not probes, "the default is torch's answer in this process, not a plan"


def test_what_the_policy_cannot_satisfy_is_no_default() -> None:
    with use_policy(Policy.parse('prefer = "cuda"'), "cpu-only"), pytest.raises(Unsatisfiable):
        ComponentDevice.resolve_device(None)


def test_a_warning_through_resolve_device_reaches_its_caller() -> None:
    with use_policy(HEAD, "1x24gb"), pytest.warns(DevPolicyWarning, match="DP504") as told:
        ComponentDevice.resolve_device(None)
    assert [warning.filename for warning in told] == [__file__]


def test_the_machine_is_asked_once_when_it_is_first_needed(probes: list[Host]) -> None:
    with use_policy(ANY):
        assert not probes
        for _ in range(3):
            assert ComponentDevice.resolve_device(None) == ComponentDevice.from_str("cpu")
        ComponentDevice.from_policy(ANY, model=BERT)
        plan(ANY, BERT)
        assert len(probes) == 1
    with use_policy(ANY):
        ComponentDevice.resolve_device(None)
    assert len(probes) == 2, "a new block did not look again"


def test_a_host_is_read_before_the_block_begins() -> None:
    with pytest.raises(HostError), use_policy(ANY, "no-such-host"):
        pytest.fail("the block began")
    with pytest.raises(PolicyError), use_policy("no-such-policy"):
        pytest.fail("the block began")
    assert verbs.active_policy() is None


def test_blocks_nest_and_the_inner_one_counts() -> None:
    with use_policy(ANY, "1x24gb"):
        with use_policy("cpu-only", "1x24gb"):
            assert ComponentDevice.resolve_device(None) == ComponentDevice.from_str("cpu")
        assert ComponentDevice.resolve_device(None) == ComponentDevice.from_str("cuda:0")


def test_a_block_ends_with_an_exception_too() -> None:
    with pytest.raises(ZeroDivisionError), use_policy(ANY, "1x24gb"):
        1 / 0  # noqa: B018
    assert verbs.active_policy() is None


def test_every_verb_takes_the_host_of_the_block(probes: list[Host]) -> None:
    with use_policy(ANY, "2x24gb"):
        assert plan("offload-lm-head", LLAMA) == plan("offload-lm-head", LLAMA, "2x24gb")
        assert plan_all(ANY, {"one": LLAMA}) == plan_all(ANY, {"one": LLAMA}, "2x24gb")
        assert resolve(ANY) == ComponentDevice.from_policy(ANY) == ComponentDevice.from_str("cuda:0")
        assert resolve(ANY, host="macbook-m3-36gb") == ComponentDevice.from_str("mps"), "the host given did not win"
        assert ComponentDevice.from_policy(ANY, host="cpu-only") == ComponentDevice.from_str("cpu")
    assert not probes


def test_what_was_resolved_in_a_block_stays_in_it() -> None:
    cuda = Policy.parse('prefer = ["cuda:0", "cuda:1"]')
    with use_policy(cuda, "2x24gb"):
        first = ComponentDevice.from_policy(cuda, LLAMA, component="first")
        second = ComponentDevice.from_policy(cuda, LLAMA, component="second")
        assert (first.to_torch_str(), second.to_torch_str()) == ("cuda:0", "cuda:1")
        with pytest.raises(Unsatisfiable):
            ComponentDevice.from_policy(cuda, LLAMA, component="third")
        with use_policy(cuda, "2x24gb"):
            assert ComponentDevice.from_policy(cuda, LLAMA, component="third").to_torch_str() == "cuda:0"


def test_what_is_resolved_in_a_block_is_what_plan_all_plans() -> None:
    models = {"generator": LLAMA, "embedder": BERT, "other": ModelTree.load("llama-3.2-1b")}
    together = plan_all(ANY, models, "24-24-12-8")
    with use_policy(ANY, "24-24-12-8"):
        assert {name: resolve(ANY, component=name, model=model) for name, model in models.items()} == {
            name: made.device for name, made in together.items()
        }


def test_claims_are_the_host_s_whatever_policy_made_them() -> None:
    with use_policy(ANY, "1x24gb"):
        assert resolve(ANY, component="one", model=LLAMA).to_torch_str() == "cuda:0"
        with pytest.raises(Unsatisfiable):
            resolve(Policy.parse('prefer = "cuda"'), component="two", model=LLAMA)


def test_a_component_that_is_resolved_again_is_counted_once() -> None:
    cuda = Policy.parse('prefer = "cuda"')
    with use_policy(cuda, "1x24gb"):
        for _ in range(3):
            assert verbs.active_device(component="generator", model=LLAMA) == ComponentDevice.from_str("cuda:0")
        with pytest.raises(Unsatisfiable):
            verbs.active_device(model=LLAMA)


def test_components_without_a_name_are_counted_each() -> None:
    cuda = Policy.parse('prefer = "cuda"')
    with use_policy(cuda, "1x24gb"):
        resolve(cuda, model=LLAMA)
        with pytest.raises(Unsatisfiable):
            resolve(cuda, model=LLAMA)


def test_a_refusal_takes_nothing() -> None:
    cuda = Policy.parse('prefer = "cuda"')
    with use_policy(cuda, "1x24gb"):
        with pytest.raises(Unsatisfiable):
            resolve(cuda, component="too large", model="llama-3.1-70b")
        assert resolve(cuda, component="generator", model=LLAMA) == ComponentDevice.from_str("cuda:0")


def test_planning_in_a_block_keeps_nothing() -> None:
    with use_policy(ANY, "1x24gb"):
        assert [plan(ANY, LLAMA).device.to_torch_str() for _ in range(2)] == ["cuda:0", "cuda:0"]
        device = resolve(ANY, component="one", model=LLAMA)
        assert plan(ANY, LLAMA, component="one").device == device, "a component stood in its own way"
        assert plan(ANY, LLAMA, component="two").device == ComponentDevice.from_str("cpu")
        assert plan(ANY, LLAMA).device == ComponentDevice.from_str("cpu")
        assert plan(ANY, LLAMA, "1x24gb").device == device
        both = plan_all(ANY, {"one": LLAMA, "two": LLAMA})
        assert [made.device.to_torch_str() for made in both.values()] == ["cuda:0", "cpu"]
        assert plan_all(ANY, {"two": LLAMA})["two"].device == ComponentDevice.from_str("cpu")


# Threads and tasks.


def test_a_thread_has_blocks_of_its_own() -> None:
    # Free-threaded Python lets threads inherit their context, which then holds the block.
    inherits = bool(getattr(sys.flags, "thread_inherit_context", False))
    seen: dict[str, Any] = {}

    def work() -> None:
        seen["before"] = verbs.active_policy()
        with use_policy("cpu-only", "1x24gb"):
            entered.set()
            assert leave.wait(10)
            seen["inside"] = ComponentDevice.resolve_device(None)

    entered, leave = threading.Event(), threading.Event()
    with use_policy(ANY, "1x24gb"):
        thread = threading.Thread(target=work)
        thread.start()
        assert entered.wait(10)
        assert ComponentDevice.resolve_device(None) == ComponentDevice.from_str("cuda:0")
        leave.set()
        thread.join(10)
    assert seen == {"before": ANY if inherits else None, "inside": ComponentDevice.from_str("cpu")}


def test_tasks_share_the_block_that_they_begin_in() -> None:
    async def component(name: str) -> str:
        await asyncio.sleep(0)
        return resolve(ANY, component=name, model=LLAMA).to_torch_str()

    async def elsewhere() -> str:
        with use_policy("cpu-only", "2x24gb"):
            await asyncio.sleep(0)
            return ComponentDevice.resolve_device(None).to_torch_str()

    async def main() -> list[str]:
        with use_policy(ANY, "2x24gb"):
            return await asyncio.gather(component("one"), elsewhere(), component("two"), component("three"))

    assert asyncio.run(main()) == ["cuda:0", "cpu", "cuda:1", "cpu"]


def test_threads_of_a_process_share_its_probe_and_claims(probes: list[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(verbs.VARIABLE, "cpu-only")
    count, taken = 8, plan(ANY, BERT, "cpu-only").ledger["cpu"].used
    start = threading.Barrier(count)

    def work(number: int) -> None:
        start.wait(10)
        verbs.active_device(component=f"component {number}", model=BERT)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(probes) == 1
    (active,) = verbs.context._of_process.values()
    ledgers = [one.plan.ledger["cpu"] for one in active.joint.placed]
    assert sum(ledger.used - ledger.used_by_others for ledger in ledgers) == count * taken


# The variable.


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, timeout=120, check=False
    )


ASK = "from devpolicy import ComponentDevice; print(ComponentDevice.resolve_device(None).to_torch_str())"


def test_the_variable_names_the_policy_of_a_process(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('prefer = "cpu"\n', encoding="utf-8")
    for name in (str(policy), "cpu-only"):
        done = run(ASK, DEVPOLICY=name)
        assert (done.stdout, done.returncode) == ("cpu\n", 0), done.stderr


def test_a_variable_that_names_nothing_is_told_with_its_name(tmp_path: Path) -> None:
    done = run(ASK, DEVPOLICY=str(tmp_path / "no-such-policy.toml"))
    assert done.returncode == 1
    assert "error[DP202]: there is no policy `" in done.stderr
    assert "= note: the environment variable `DEVPOLICY` names it" in done.stderr


def test_a_broken_policy_of_the_process_names_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('prefer = "gpu"\nsplitt = 3\n', encoding="utf-8")
    monkeypatch.setenv(verbs.VARIABLE, str(policy))
    with pytest.raises(PolicyError) as broken:
        ComponentDevice.resolve_device(None)
    assert [finding.code for finding in broken.value.diagnostics] == ["DP201", "DP103"]
    assert "the environment variable `DEVPOLICY` names it" in str(broken.value)


def test_an_empty_variable_names_no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(verbs.VARIABLE, "")
    assert verbs.active_policy() is None


def test_a_block_counts_more_than_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(verbs.VARIABLE, "no-such-policy")
    with use_policy(ANY, "1x24gb"):
        assert ComponentDevice.resolve_device(None) == ComponentDevice.from_str("cuda:0")


def test_the_policy_of_a_process_is_read_once(
    tmp_path: Path, probes: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('prefer = "cpu"\n', encoding="utf-8")
    monkeypatch.setenv(verbs.VARIABLE, str(policy))
    assert ComponentDevice.resolve_device(None) == ComponentDevice.from_str("cpu")
    policy.write_text('prefer = "cuda"\n', encoding="utf-8")
    assert ComponentDevice.resolve_device(None) == ComponentDevice.from_str("cpu")
    assert len(probes) == 1


def test_the_verbs_read_no_variable(monkeypatch: pytest.MonkeyPatch, probes: list[Host]) -> None:
    monkeypatch.setenv(verbs.VARIABLE, "no-such-policy")
    assert plan(ANY, BERT, "1x24gb").device == resolve(ANY, host="1x24gb") == ComponentDevice.from_str("cuda:0")
    assert resolve(ANY) == ComponentDevice.from_str("cpu")


# From a policy to a component's device.


def test_a_device_for_a_component_from_a_name_or_a_tree() -> None:
    expected = {"model": 0, "lm_head": "disk"}
    for model in ("llama-3.1-8b", LLAMA):
        device = ComponentDevice.from_policy("offload-lm-head", model, Host.load("1x24gb"), component="generator")
        assert device.to_hf() == expected


def test_a_component_s_device_without_a_model_is_the_choice() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ComponentDevice.from_policy(ANY, host="2x24gb") == ComponentDevice.from_str("cuda:0")


@pytest.mark.parametrize("kind", ["module", "configuration", "its table", "configuration file", "checkpoint"])
def test_a_device_for_a_component_from_any_model(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_attention_heads=4, num_hidden_layers=2, vocab_size=256,
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    module = transformers.LlamaForCausalLM(config)
    if kind == "checkpoint":
        module.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    model = {
        "module": module,
        "configuration": config,
        "its table": config.to_dict(),
        "configuration file": tmp_path / "config.json",
        "checkpoint": tmp_path,
    }[kind]
    policy = Policy.parse('prefer = "cuda"\nmemory.disk.path = "offload"\n[offload]\nlm_head = "disk"\n')
    device = ComponentDevice.from_policy(policy, model=model, host="1x24gb")
    assert device.to_hf() == {"model": 0, "lm_head": "disk"}


def test_a_hub_id_that_is_not_in_the_cache_is_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="not in the local Hugging Face cache"):
        ComponentDevice.from_policy(ANY, model="some-org/some-model", host="1x24gb")


# Where rewritten weights go.

NAMES = ("", ".", "..", "a/b", "a", "\\", "\ud800", "%2E", "%")


EXPERTS = Policy.parse('prefer = "cuda"\nmemory.disk.path = "kept"\n[[rule]]\nclass = "*Experts"\noffload = "disk"\n')


@given(st.lists(st.text(max_size=6) | st.sampled_from(NAMES), min_size=2, max_size=4, unique=True))
def test_no_two_components_rewrite_weights_into_one_folder(names: list[str]) -> None:
    made = [plan(EXPERTS, MIXTRAL, "4x80gb", component=name).loading.offload_folder for name in names]
    assert len(set(made)) == len(names)
    for folder in made:
        assert folder is not None
        parent, name = folder.split("/")
        assert parent == "kept"
        assert name not in {"", ".", ".."}


def test_a_model_of_no_component_has_the_folder_itself() -> None:
    assert plan(EXPERTS, MIXTRAL, "4x80gb").loading.offload_folder == "kept"


# The order of arguments: policy, model, host.


@pytest.mark.parametrize(
    "call",
    [
        lambda: plan(ANY, "1x24gb", "gpt2"),
        lambda: plan(ANY, "1x24gb"),
        lambda: resolve(ANY, "1x24gb"),
        lambda: resolve(ANY, Host.load("1x24gb")),
        lambda: resolve(ANY, BERT, BERT),
        lambda: plan(ANY, BERT, "gpt2"),
        lambda: plan_all(ANY, {"a": "1x24gb"}, "1x24gb"),
        lambda: ComponentDevice.from_policy(ANY, "1x24gb"),
    ],
)
def test_a_host_for_a_model_and_the_reverse_say_the_order(call: Any) -> None:
    with pytest.raises((ModelError, HostError), match="the order is policy, model, host"):
        call()


def test_every_verb_takes_policy_model_host_in_this_order() -> None:
    wanted = plan(ANY, BERT, "macbook-m3-36gb").device
    assert resolve(ANY, BERT, "macbook-m3-36gb") == ComponentDevice.from_policy(ANY, BERT, "macbook-m3-36gb") == wanted
    for verb in (plan, plan_all, resolve, ComponentDevice.from_policy):
        kinds = [one.kind for one in inspect.signature(verb).parameters.values()]
        assert kinds[3:] == [inspect.Parameter.KEYWORD_ONLY] * len(kinds[3:])


def test_a_resolved_policy_is_no_policy_of_a_verb() -> None:
    with pytest.raises(PolicyError, match="resolved for one host already"):
        plan(Policy.load("offload-lm-head").for_host(Host.load("1x24gb")), LLAMA)  # type: ignore[arg-type]


def test_a_policy_is_asked_on_a_host_and_says_how_one_is_had() -> None:
    with pytest.raises(PolicyError, match=r"write `Host\.load\('1x24gb'\)`"):
        Policy.load("offload-lm-head").for_host("1x24gb")  # type: ignore[arg-type]


def test_a_policy_is_read_and_merged_once_for_all_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'prefer = ["cuda", "cpu"]\n[component.a]\nsplit = "never"\n[profile.p]\nwhen = { cuda = 1 }\nties = "skip"\n'
    policy = Policy.parse(text)
    merged: list[Any] = []
    for room in (layers, profiles):
        original = room.merge
        monkeypatch.setattr(room, "merge", lambda parts, merge=original: merged.append(parts) or merge(parts))
    for host in ("1x24gb", "2x24gb", "4x80gb"):
        plan(policy, BERT, host, component="a")
    assert len(merged) == 2, "the profile once, the component once"


# What a plan does not have, and files.


def test_a_module_that_a_plan_lacks_is_told_with_the_likely_one() -> None:
    made = plan(HEAD, LLAMA, "1x24gb")
    for call in (lambda: made.explain("lm_hed"), lambda: made.placements["lm_hed"]):
        with pytest.raises(DevPolicyError, match="did you mean `lm_head`") as caught:
            call()
        assert isinstance(caught.value, KeyError)
    assert "lm_hed" not in made.placements
    assert made.placements.get("lm_hed") is None


def test_a_plan_is_read_from_the_file_that_it_was_written_to(tmp_path: Path) -> None:
    made = plan(HEAD, LLAMA, "1x24gb")
    file = tmp_path / "plan.json"
    file.write_text(made.to_json(), encoding="utf-8")
    assert Plan.load(file) == made
    file.write_text("{", encoding="utf-8")
    with pytest.raises(DevPolicyError, match="is no plan"):
        Plan.load(file)
    with pytest.raises(DevPolicyError, match="cannot read"):
        Plan.load(tmp_path / "none.json")


def test_the_inputs_have_short_representations() -> None:
    assert len(repr(Policy.load("rag-pipeline"))) < 100
    assert len(repr(ModelTree.load("llama-3.1-405b"))) < 100


def test_a_plan_is_made_by_few_modules_and_functions() -> None:
    found = entered(*DEFAULT)
    # What a plan does not need, it does not enter: a new step belongs behind the question whether it is needed.
    assert len({module for module, _ in found}) <= 35
    assert len(found) <= 150
