"""Terms of `prefer` and `split`: what fits first, with how many devices, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.worlds import budgets, device_map, machine, make_plan, planned, refused, small_llama, where

from devpolicy import Accelerator, Host, ModelTree, Policy, PolicyError, Unsatisfiable
from devpolicy._core.language.policy import DeviceSelector, ResolvedPolicy
from devpolicy._core.model.tree import Module, Tensor

ROOT = Path(__file__).parents[2]
ONE, TWO, FOUR = machine("cuda"), machine("cuda", "cuda"), machine(*["cuda"] * 4)
LLAMA = small_llama()
ALL = LLAMA.bytes_as()


# prefer


def test_the_first_term_that_holds_everything_serves() -> None:
    text = budgets('prefer = ["cuda", "cpu"]', cuda=ALL)
    assert device_map(planned(text, LLAMA, ONE)) == {"": "cuda:0"}
    text = budgets('prefer = ["cuda", "cpu"]', cuda=ALL - 1)
    plan = planned(text, LLAMA, ONE)
    assert device_map(plan) == {"": "cpu"}
    assert "cuda: needs 173 B" in plan.explain()


def test_terms_are_never_mixed() -> None:
    text = budgets('prefer = ["cuda", "xpu"]', cuda=100, xpu=100)
    assert refused(text, LLAMA, machine("cuda", "xpu")).code == "DP301"


def test_what_prefer_does_not_list_is_not_run_on() -> None:
    refusal = refused('prefer = "cuda"', LLAMA, machine())
    assert refusal.code == "DP301"
    assert "the host has no `cuda` device" in str(refusal)


def test_the_first_term_spills_before_the_next_is_tried() -> None:
    text = budgets('prefer = ["xpu", "cuda", "cpu"]\noverflow = "cpu"', cuda=ALL - 20)
    assert where(planned(text, LLAMA, ONE))["model.layers.2"] == "cpu"


@pytest.mark.parametrize("split", ["when-needed", "never", "balanced"])
def test_a_named_device_is_the_only_one_that_is_used(split: str) -> None:
    assert device_map(planned(f'prefer = "cuda:2"\nsplit = "{split}"', LLAMA, FOUR)) == {"": "cuda:2"}


def test_a_module_without_bytes_runs_where_prefer_says_too() -> None:
    tree = ModelTree("nothing", (Module("", "Model"), Module("a", "Linear", (Tensor("weight", (0, 8)),))))
    assert device_map(planned('prefer = "cuda:1"', tree, TWO)) == {"": "cuda:1"}


@pytest.mark.parametrize("split", ["when-needed", "never", "balanced"])
@pytest.mark.parametrize("target", ["hf", "torch"])
def test_a_model_without_tensors_is_where_prefer_says(split: str, target: str) -> None:
    tree = ModelTree("empty", (Module("", "Model"), Module("a", "ReLU")))
    plan = planned(f'prefer = "cuda:1"\nsplit = "{split}"', tree, TWO, target=target)
    assert device_map(plan) == {"": "cuda:1"}
    assert (dict(plan.placements), dict(plan.ledger)) == ({}, {})


def test_a_model_of_one_module_is_on_one_device() -> None:
    tree = ModelTree("one", (Module("", "Linear", (Tensor("weight", (4,)),)),))
    assert device_map(planned('prefer = "cuda"\nsplit = "balanced"', tree, FOUR)) == {"": "cuda:0"}


def test_a_policy_that_prefers_nothing_is_refused() -> None:
    with pytest.raises(Unsatisfiable, match="lists no device"):
        make_plan(ResolvedPolicy(), LLAMA, TWO)


def test_the_devices_of_a_counted_term_are_all_that_is_used() -> None:
    four = 'prefer = { device = "cuda", count = 4 }\nsplit = "balanced"'
    assert refused(four, LLAMA, TWO).code == "DP301"
    two = 'prefer = { device = "cuda", count = 2 }\nsplit = "balanced"'
    assert set(planned(two, LLAMA, FOUR).ledger) == {"cuda:0", "cuda:1"}


def test_devices_that_must_be_alike_are_the_first_large_group() -> None:
    cards = [("A", "1 GiB"), ("B", "2 GiB"), ("A", "1 GiB"), ("B", "2 GiB")]
    host = Host([Accelerator("cuda", memory=memory, name=name) for name, memory in cards], memory="8 GiB")
    term = DeviceSelector("cuda", count=2, same=("name", "memory"))
    policy = Policy.parse('prefer = "cuda"\nsplit = "balanced"\n[memory.cuda]\nheadroom = "0 B"\n')
    plan = make_plan(ResolvedPolicy(prefer=(term,), split="balanced", memory=policy.memory), LLAMA, host)
    assert set(plan.ledger) == {"cuda:0", "cuda:2"}


def test_a_faulty_and_an_avoided_device_are_not_used() -> None:
    cards = [
        Accelerator("cuda", memory="64 GiB", fault="ECC error"),
        *(Accelerator("cuda", memory="64 GiB") for _ in range(2)),
    ]
    host = Host(cards, memory="64 GiB")
    text = 'prefer = "cuda"\navoid = "cuda:1"'
    assert device_map(planned(text, LLAMA, host)) == {"": "cuda:2"}
    rule = '[[rule]]\nmatch = "lm_head"\nprefer = "cuda:1"\n'
    assert refused(f"{text}\n{rule}", LLAMA, host).code == "DP302"


# split


def test_when_needed_takes_the_lowest_device_that_holds_all() -> None:
    assert device_map(planned(budgets('prefer = "cuda"', cuda=ALL, cuda_0=ALL - 1), LLAMA, TWO)) == {"": "cuda:1"}


def test_when_needed_takes_the_fewest_devices() -> None:
    text = budgets('prefer = "cuda"', cuda_0=45, cuda_1=50, cuda_2=100, cuda_3=100)
    assert set(planned(text, LLAMA, FOUR).ledger) == {"cuda:2", "cuda:3"}


def test_never_takes_one_device_or_the_next_term() -> None:
    never = 'prefer = ["cuda", "cpu"]\nsplit = "never"'
    assert device_map(planned(budgets(never, cuda=100), LLAMA, TWO)) == {"": "cpu"}
    refusal = refused(budgets('prefer = "cuda"\nsplit = "never"', cuda=100, cuda_1=120), LLAMA, TWO)
    assert "on one `cuda` device, and the largest, `cuda:1`, has 120 B" in str(refusal)


def test_a_device_below_its_headroom_has_nothing_and_no_less() -> None:
    text = 'prefer = "cuda"\nsplit = "never"\n[memory.cuda]\ncap = "0 B"\n'
    assert "`cuda:0`, has 0 B" in str(refused(text, LLAMA, TWO))


def test_balanced_uses_every_device_by_its_share() -> None:
    text = budgets('prefer = "cuda"\nsplit = "balanced"', cuda=100, cuda_1=300)
    ledger = planned(text, small_llama(8), TWO).ledger
    assert [budget.weights for budget in ledger.values()] == [70, 253]


@pytest.mark.parametrize("split", ["when-needed", "never", "balanced"])
def test_rules_are_exempt_from_split(split: str) -> None:
    text = f'prefer = "cuda:0"\nsplit = "{split}"\n[[rule]]\nmatch = "lm_head"\nprefer = "cuda:1"\n'
    at = where(planned(text, LLAMA, TWO))
    assert (at["lm_head"], at["model.embed_tokens"]) == ("cuda:1", "cuda:0")


def test_a_device_that_only_a_rule_names_runs_nothing_else() -> None:
    tree = ModelTree(
        "tail",
        (
            Module("", "Model"),
            Module("a", "Linear", (Tensor("weight", (4,)),)),
            Module("b", "Linear", (Tensor("weight", (4,)),)),
            Module("empty", "Linear", (Tensor("weight", (0,)),)),
        ),
    )
    at = where(planned('prefer = "cuda:0"\n[[rule]]\nmatch = "b"\nprefer = "cuda:1"\n', tree, TWO))
    assert at == {"a": "cuda:0", "b": "cuda:1", "empty": "cuda:0"}


# The main device.


def test_what_is_kept_elsewhere_runs_on_the_lowest_device() -> None:
    text = budgets('prefer = "cuda"\nsplit = "balanced"\n[offload]\nlm_head = "cpu"\n', cuda=200)
    plan = planned(text, LLAMA, TWO)
    assert str(plan.placements["lm_head"].runs_on) == "cuda:0"
    assert (plan.ledger["cuda:0"].streaming, plan.ledger["cuda:1"].streaming) == (40, 0)


def test_a_device_without_room_to_stream_is_not_the_main_one() -> None:
    text = budgets('prefer = "cuda"\nsplit = "balanced"\n[offload]\nlm_head = "cpu"\n', cuda=200, cuda_0=60)
    assert set(planned(text, LLAMA, TWO).ledger) == {"cuda:1", "cpu"}


def test_streaming_counts_a_module_with_those_that_it_stands_in() -> None:
    # accelerate brings in what a module holds itself for as long as its forward runs, its children's meanwhile.
    def holds(path: str, size: int) -> Module:
        return Module(path, "Gate", (Tensor("scale", (size,), "int8"),))

    modules = (Module("", "M"), holds("a", 4), holds("b", 5), holds("b.c", 10), holds("b.c.d", 20), holds("b.e", 28))
    tree = ModelTree("nested", modules, no_split=frozenset({"Block"}))
    plan = planned('prefer = "cuda"\n[offload]\nb = "cpu"\n', tree, ONE)
    assert plan.ledger["cuda:0"].streaming == 5 + 10 + 20


@pytest.mark.parametrize(("ids", "refused_"), [((0, 7), False), ((0, 8), True), ((9, 15), False)])
def test_the_main_device_is_sure_only_within_a_group_of_eight(ids: tuple[int, int], refused_: bool) -> None:
    host = Host([Accelerator("cuda", id=number, memory="64 GiB") for number in ids], memory="64 GiB")
    pins = "".join(
        f'[[rule]]\nmatch = "{module}"\nprefer = "cuda:{number}"\n'
        for module, number in zip(("model.embed_tokens", "model.norm"), ids, strict=True)
    )
    text = f'prefer = "cuda"\n[offload]\nlm_head = "cpu"\n{pins}'
    if refused_:
        assert refused(text, LLAMA, host).code == "DP410"
    else:
        assert str(planned(text, LLAMA, host).placements["lm_head"].runs_on) == f"cuda:{ids[0]}"


def test_everything_kept_elsewhere_is_refused() -> None:
    assert refused('prefer = "cuda"\n[offload]\n"**" = "cpu"\n', LLAMA, ONE).code == "DP411"


# Consumers.


def test_a_consumer_of_one_device_gets_one() -> None:
    assert device_map(planned('prefer = "cuda"\nsplit = "balanced"', LLAMA, TWO, target="torch")) == {"": "cuda:0"}
    assert refused('prefer = "cuda"\n[offload]\nlm_head = "cpu"\n', LLAMA, TWO, target="torch").code == "DP409"


def test_kept_on_the_cpu_is_usual_where_the_model_runs_there() -> None:
    text = 'prefer = "cpu"\n[offload]\nlm_head = "cpu"\n'
    plan = planned(text, LLAMA, TWO, target="torch")
    assert device_map(plan) == {"": "cpu"}
    assert plan.placements["lm_head"].rule == "offload.lm_head"


def test_a_structure_that_is_not_known_in_full_gets_no_map() -> None:
    tree = ModelTree("headers", LLAMA.modules, incomplete_reason="read `config.json` too")
    told = refused('prefer = "cuda"', tree, ONE).diagnostics[0]
    assert (told.code, told.notes) == ("DP407", ("read `config.json` too",))
    assert "`--to torch`" in told.help, "the way out is what the next line does"
    assert device_map(planned('prefer = "cuda"', tree, ONE, target="torch")) == {"": "cuda:0"}


def test_a_rule_that_names_a_tensor_is_told_its_module() -> None:
    with pytest.raises(PolicyError, match="write `lm_head`"):
        planned('prefer = "cuda"\n[offload]\n"lm_head.weight" = "cpu"\n', LLAMA, ONE)


# Plans are the same everywhere, and quickly made.


def test_a_plan_does_not_depend_on_the_hash_seed() -> None:
    code = (
        "from tests.worlds import *\n"
        'text = budgets(\'prefer = "cuda"\\nsplit = "balanced"\\noverflow = ["cpu", "disk"]\\nties = "follow"\\n\''
        '\'[offload]\\n"model.layers.1.mlp" = "disk"\\n\', cuda=90, cpu=40)\n'
        "print(planned(text, small_llama(6, tied=True), machine('cuda', 'cuda', 'cuda')).digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(digests) == 1
    assert digests.pop().startswith("sha256:")


def test_sixty_four_devices_are_balanced() -> None:
    ledger = planned('prefer = "cuda"\nsplit = "balanced"', small_llama(640), machine(*["cuda"] * 64)).ledger
    assert len(ledger) == 64
    # 62 devices between the embedding's and the head's cannot hold 622 blocks with ten each.
    assert max(budget.weights for budget in ledger.values()) == 330
