"""exllamav3: budgets for GPUs that it fills by itself, within what the policy gives and enough for what was planned."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devpolicy import Accelerator, Host, Plan, Policy, plan, plan_all
from devpolicy._core.abilities import registry, target_of
from devpolicy.errors import Unsatisfiable
from devpolicy.targets import Target, exllamav3, register

GIB = 1 << 30


REVERSED = """
[[rule]]
match  = ["model.embed_tokens", "model.layers.{0..9}"]
prefer = "cuda:1"
[[rule]]
match  = ["model.layers.{10..31}", "model.norm", "model.rotary_emb", "lm_head"]
prefer = "cuda:0"
"""


def cards(*sizes: int) -> Host:
    return Host([Accelerator("cuda", memory=f"{size} GiB") for size in sizes], memory="256 GiB")


def filled(made: Plan, budgets: list[float]) -> bool:
    """Whether filling the GPUs in order with the units of a plan, as the engine does, finds room for all of them."""
    at, left = 0, [size * GIB for size in budgets]
    fixed = {f"cuda:{at}": 0 for at in range(len(budgets))}
    for device, budget in made.ledger.items():
        if device in fixed:
            held = sum(unit.bytes for unit in made.placements.values() if str(unit.runs_on) == device)
            fixed[device] = budget.used - budget.used_by_others - held
    for unit in made.placements.values():
        while at < len(left) and left[at] - fixed[f"cuda:{at}"] < unit.bytes:
            at += 1
        if at == len(left):
            return False
        left[at] -= unit.bytes
    return True


@settings(deadline=None, max_examples=60)
@given(
    model=st.sampled_from(("llama-3.2-1b", "llama-3.1-8b", "gemma-2-9b", "mixtral-8x7b")),
    sizes=st.lists(st.sampled_from((8, 12, 24, 48, 80)), min_size=1, max_size=5),
    split=st.sampled_from(("when-needed", "balanced", "fastest", "never")),
    context=st.integers(1, 4000),
    batch=st.integers(1, 4),
)
def test_budgets_hold_what_is_planned(model, sizes, split, context, batch):
    host = cards(*sizes)
    text = f'prefer = "cuda"\nsplit = "{split}"\nworkload = {{ context = {context}, batch = {batch} }}'
    try:
        made = plan(Policy.parse(text), model, host, target="exllamav3")
    except Unsatisfiable:
        return
    form = exllamav3(made, host)  # what is planned for it can be told to it
    budgets = form["load"]["use_per_device"]
    assert {f"cuda:{at}" for at, size in enumerate(budgets) if size} == {*made.ledger} - {"cpu"}
    for at, size in enumerate(budgets):
        budget = made.ledger.get(f"cuda:{at}")
        if budget is not None:
            gives = budget.cap - budget.headroom - budget.used_by_others
            assert size * GIB <= gives
            assert size * GIB >= min(budget.used - budget.used_by_others, gives - GIB / 1000)
    assert filled(made, [size + 0.001 for size in budgets])
    tokens = form["cache"]["max_num_tokens"]
    assert tokens % 256 == 0
    assert 0 <= tokens - context * batch < 256 * batch
    assert form["load"]["max_batch_size"] == form["cache"]["max_batch_size"] == batch
    assert Plan.from_dict(made.to_dict()) == made


def test_the_last_card_gives_all_it_may():
    host = cards(80, 24)
    made = plan(Policy.parse('prefer = "cuda"'), "mixtral-8x7b", host, target="exllamav3")
    last = made.ledger["cuda:1"]
    first, second = exllamav3(made, host)["load"]["use_per_device"]
    assert second == (last.cap - last.headroom) * 1000 // GIB / 1000
    assert first == -(-made.ledger["cuda:0"].used * 1000 // GIB) / 1000


def test_a_card_that_is_left_out_gets_nothing():
    host = cards(24, 8, 24)
    made = plan(Policy.parse('prefer = ["cuda:2"]'), "llama-3.2-1b", host, target="exllamav3")
    assert exllamav3(made, host)["load"]["use_per_device"][:2] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[rule]]\nmatch = "lm_head"\nprefer = "cuda:0"', "lm_head"),
        ('[[rule]]\nmatch = "model.layers.3.mlp"\nprefer = "cuda:1"', "layers.3"),
        (REVERSED, "order of their ids"),
        ('offload.lm_head = "cpu"', "exllamav3"),
        ('split = "tensor"', "divides no unit"),
        ('workload.dtype = "bfloat16"', "computes in `float16`"),
        ('workload.kv_dtype = "float8_e4m3fn"', "cache is kept"),
    ],
)
def test_what_budgets_cannot_say_is_refused(text, words):
    split = "" if "split" in text else 'split = "balanced"\n'
    host = cards(24, 24)
    with pytest.raises(Unsatisfiable) as refused:
        exllamav3(plan(Policy.parse(f'prefer = "cuda"\n{split}{text}'), "llama-3.1-8b", host, target="exllamav3"), host)
    assert words in str(refused.value)


def test_gpus_keep_the_order_of_their_ids_however_fast_they_are():
    host = cards(24, 80)  # all of it on the second is refused by its size; `fastest` would begin there
    text = 'prefer = "cuda"\nsplit = "fastest"'
    made = plan(Policy.parse(text), "mixtral-8x7b", host, target="exllamav3")
    assert [str(device) for device in dict.fromkeys(unit.runs_on for unit in made.placements.values())] == [
        "cuda:0",
        "cuda:1",
    ]
    assert all(exllamav3(made, host)["load"]["use_per_device"])


def test_the_order_of_devices_is_an_ability_of_any_target(monkeypatch):
    monkeypatch.setattr(registry, "_NAMED", dict(registry._NAMED))
    register(Target("ordered", replace(target_of("exllamav3").abilities, any_order=False), about="fills GPUs in order"))
    register(Target("free", replace(target_of("exllamav3").abilities, any_order=True), about="takes any order"))
    policy = Policy.parse(f'prefer = "cuda"\n{REVERSED}')
    assert plan(policy, "llama-3.1-8b", cards(24, 24), target="free").target == "free"
    with pytest.raises(Unsatisfiable, match="`ordered` fills devices in the order of their ids") as refused:
        plan(policy, "llama-3.1-8b", cards(24, 24), target="ordered")
    assert refused.value.code == "DP404"


def test_a_plan_of_another_target_has_no_budgets():
    made = plan(Policy.parse('prefer = "cuda"'), "gpt2", cards(24))
    with pytest.raises(Unsatisfiable, match="--target exllamav3"):
        exllamav3(made, cards(24))


def test_a_model_of_which_only_the_bytes_are_known_gets_one_card():
    text = 'prefer = "cuda:1"\n[component.chat]\nneeds = "20 GiB"\ntarget = "exllamav3"\n'
    made = plan_all(Policy.parse(text), host=cards(24, 24))["chat"]
    first, second = exllamav3(made, cards(24, 24))["load"]["use_per_device"]
    assert (first, second >= 20) == (0.0, True)
