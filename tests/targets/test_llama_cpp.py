"""llama.cpp: what its flags make it hold is what the plan says, on each device and to the byte."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import oracle
from tests.review.test_check import compare
from tests.targets import llama_cpp_reader
from tests.test_models_gguf import LLAMA, dense, gguf, size_of

from devpolicy import Accelerator, Host, ModelTree, Plan, Policy, plan
from devpolicy._core.memory.llama_cpp import rows_of
from devpolicy._core.placement import ledger, quantized
from devpolicy._core.placement.planner import make_plan
from devpolicy._core.targets.environment import environment
from devpolicy._core.targets.llama_cpp import to_llama_cpp, to_llama_cpp_python
from devpolicy.errors import DevPolicyError, PolicyError, Unsatisfiable

KIB = 1 << 10
LAYERS = 6
GROUPS = ("", ".attn", ".ffn", ".ffn.ffn_up", ".ffn.exps", ".ffn.exps.ffn_up_exps", ".attn.attn_q", ".ffn_norm")


def write(path, *, experts=0, head=True, layers=LAYERS):
    metadata = {**LLAMA, "llama.block_count": layers}
    if experts:
        metadata |= {"llama.expert_count": experts, "llama.expert_used_count": 1}
    return gguf(path, dense(layers, head=head, experts=experts), metadata)


@cache
def tree_of(experts, head):
    with TemporaryDirectory() as folder:
        return ModelTree.load(write(Path(folder) / f"m{experts}{head}.gguf", experts=experts, head=head))


def tensors_of(experts, head):
    return {name: size_of(*what) for name, what in dense(LAYERS, head=head, experts=experts).items()}


def caches(context):
    # keys and values of two heads of 64, in half precision, in steps of 256 tokens
    return dict.fromkeys(range(LAYERS), 2 * 128 * 2 * (-(-context // 256) * 256))


def ours(made: Plan):
    number = {f"cuda:{at}": f"CUDA{at}" for at in range(4)} | {"cpu": "CPU"}
    weights = {number[one]: budget.weights for one, budget in made.ledger.items() if budget.weights}
    return weights, {number[one]: budget.kv_cache for one, budget in made.ledger.items() if budget.kv_cache}


DERIVED = 'memory.cuda = { headroom = 0, basis = "total" }\n'
BASIS = DERIVED.replace(" }", ", reserve = { activations = 0 } }")


def budgets(sizes):
    return Host([Accelerator("cuda", memory=f"{size} KiB") for size in sizes], memory="64 GiB")


CARDS = (64, 700, 1500, 2500, 4000, 9000, 12_000)
"""In KiB: of some not even a layer fits."""


def written(choose):
    """Return the text of a policy, every part of which is chosen."""
    lines = ['prefer = "cuda"', f"split = {choose(('when-needed', 'balanced', 'fastest'))!r}"]
    lines += [f"workload.context = {choose((1, 256, 300, 512))}", choose((BASIS, DERIVED))]
    if choose((False, True)):
        lines.insert(0, 'overflow = "cpu"')
    if choose((False, True)):
        lines.insert(0, 'workload.kv_offload = "cpu"')
    for number in range(choose((0, 1, 2, 3))):
        first = choose(range(LAYERS))
        layers = choose(("*", f"{{{first}..}}", f"{{0..{first}}}", str(first)))
        match = choose([f"blk.{layers}{group}" for group in GROUPS] + ["output", "token_embd"])
        does = choose(('offload = "cpu"', 'prefer = "cpu"', 'prefer = "cuda:1"', 'overflow = "cpu"'))
        lines.append(f"[[rule]]\nname = 'r{number}'\nmatch = {match!r}\n{does}")
    return "\n".join(lines)


@st.composite
def policies(draw):
    return written(lambda options: draw(st.sampled_from(options)))


def check_flags(made, text, experts, head):
    """What a plan's flags make llama.cpp hold is what the plan says, to a reader that knows no plans."""
    told = to_llama_cpp(made)
    context = int(re.search(r"context = (\d+)", text)[1])
    found = llama_cpp_reader.held(told.to_flags(), tensors_of(experts, head), caches(context), LAYERS)
    assert (found.weights, found.kv_cache) == ours(made), text


def test_a_thousand_policies_hold_what_is_planned():
    chosen, made = random.Random(20), 0
    hosts = [budgets(chosen.choices(CARDS, k=chosen.randint(2, 4))) for _ in range(50)]
    while made < 1000:
        text, experts, head = written(chosen.choice), chosen.choice((0, 4)), chosen.choice((True, False))
        try:
            policy = Policy.parse(text).top
            # Without what would help: each refusal would be planned again and again.
            one = make_plan(policy, tree_of(experts, head), chosen.choice(hosts), target="llama.cpp", advise=False)
        except (PolicyError, Unsatisfiable):
            continue
        made += 1
        check_flags(one, text, experts, head)


@settings(deadline=None)
@given(
    text=policies(),
    sizes=st.lists(st.sampled_from(CARDS), min_size=2, max_size=4),
    experts=st.sampled_from((0, 4)),
    head=st.booleans(),
)
def test_flags_hold_what_is_planned(text, sizes, experts, head):
    tree, host = tree_of(experts, head), budgets(sizes)
    try:
        made = plan(Policy.parse(text), tree, host, target="llama.cpp")
    except (PolicyError, Unsatisfiable):
        return
    again = quantized.tree_of(made, Policy.parse(text).top, tree, host)
    compare(made, again, Policy.parse(text).top, host)
    if DERIVED in text:
        held = {device: budget.activations for device, budget in made.ledger.items() if budget.activations}
        assert held == oracle.compute_buffers(made, tree)
    check_flags(made, text, experts, head)
    assert Plan.from_dict(made.to_dict()) == made
    assert to_llama_cpp(Plan.from_dict(made.to_dict())) == to_llama_cpp(made)


def made_for(text, sizes=(9000, 9000), *, experts=0, head=True, target="llama.cpp"):
    return plan(Policy.parse(f'prefer = "cuda"\n{BASIS}{text}'), tree_of(experts, head), budgets(sizes), target=target)


EXPERTS = 'overflow = "cpu"\nworkload.context = 512\n'


WIDE = 512 * 4 * 256
"""A micro-batch of what is between two layers."""
MASK = 512 * 512 * 2


def activations(text, sizes=(30_000, 30_000)):
    policy = Policy.parse(f'prefer = "cuda"\nsplit = "balanced"\nworkload.context = 512\n{DERIVED}{text}')
    made = plan(policy, tree_of(0, True), budgets(sizes))
    return {device: budget.activations for device, budget in made.ledger.items()}


def with_logits(elements):
    return replace(tree_of(0, True), logits_elements=elements)


def test_logits_are_on_the_device_of_the_head():
    def held(text, elements=20_000):
        policy = Policy.parse(f'prefer = "cuda"\nsplit = "balanced"\nworkload.context = 512\n{DERIVED}{text}')
        made = plan(policy, with_logits(elements), budgets((80_000, 80_000)))
        return [made.ledger[f"cuda:{number}"].activations for number in (0, 1)]

    without, last, first = held("", 0), held(""), held("[[rule]]\nmatch = 'output'\nprefer = 'cuda:0'")
    assert last[0] == without[0] < last[1]
    assert first[1] < first[0]
    # They are there when the rest of a layer is not.
    assert last[1] - without[1] < 512 * 4 * 20_000


def test_logits_leave_room_on_other_devices():
    # Six layers of a model whose logits are most of what a device computes: the first devices have none.
    tree, room = with_logits(20_000), 512 * 4 * 20_000 // KIB
    policy = Policy.parse(f'prefer = "cuda"\nworkload.context = 512\n{DERIVED}')
    made = plan(policy, tree, budgets((12_000, 12_000, room + 13_000)))
    assert made.placements["output"].runs_on.id == 2
    assert set(made.ledger) == {"cpu", "cuda:2"}
    assert plan(policy, tree, budgets((12_000, 12_000, room + 3_500))).placements["blk.0"].runs_on.id != 2


def test_a_stated_reserve_replaces_the_logits_too():
    assert set(activations("").values()) != {0}
    policy = Policy.parse(f'prefer = "cuda"\nsplit = "balanced"\n{BASIS}')
    made = plan(policy, tree_of(0, True), budgets((20_000, 20_000)))
    assert [made.ledger[f"cuda:{at}"].activations for at in (0, 1)] == [0, 0]


def test_one_mask_where_the_cpu_computes_a_part():
    copies = 3 * MASK + 9 * WIDE + 65536
    alone, beside = activations(""), activations("offload.'blk.0' = 'cpu'")
    # Behind the CPU several layers take no more than one, and the first layer takes what it needs along.
    assert alone["cuda:1"] - beside["cuda:1"] == copies + WIDE
    assert alone["cuda:0"] - beside["cuda:0"] == copies + WIDE


def test_copies_are_given_up_for_room():
    # On one device there are none; on two there are, where they have room; and else an override turns them off.
    def made(*sizes, more=""):
        policy = Policy.parse(f'prefer = "cuda"\nworkload.context = 512\n{DERIVED}{more}')
        return plan(policy, tree_of(0, True), budgets(sizes))

    one, two = made(20_000, 20_000), made(20_000, 20_000, more='split = "balanced"\n')
    tight = made(8_500, 8_500)
    assert set(one.ledger) == {"cuda:0", "cpu"}
    assert [plan.workload.pipelined for plan in (one, two, tight)] == [True, True, False]
    assert two.ledger["cuda:1"].activations - tight.ledger["cuda:1"].activations == 3 * MASK + 9 * WIDE + 65536
    assert to_llama_cpp(two).overrides == ()
    assert to_llama_cpp(tight).overrides == ((r"^output_norm\.", "CUDA1"),)
    assert Plan.from_dict(tight.to_dict()) == tight != two
    # Better without copies than with a part on the CPU.
    assert made(8_500, 8_500, more='overflow = "cpu"\n').placements == tight.placements
    with pytest.raises(DevPolicyError, match="pipelined"):
        Plan.from_dict({**tight.to_dict(), "workload": {**tight.to_dict()["workload"], "pipelined": 1}})


def test_a_second_layer_takes_a_row_more():
    def held(text):
        rules = {"blk.{0..2}": 0, "blk.{3..4}": 1, "blk.5": 2, "output*": 2}
        text += "".join(f"[[rule]]\nmatch = {match!r}\nprefer = 'cuda:{device}'\n" for match, device in rules.items())
        made = plan(
            Policy.parse(f"prefer = 'cuda'\nworkload.context = 512\n{DERIVED}{text}"), tree_of(4, True), HOST_OF_THREE
        )
        return [made.ledger[f"cuda:{at}"].activations for at in range(3)]

    first, second, alone = held("")
    assert first == second == alone + WIDE  # what the first layer takes in is as wide
    # What is behind a part of a layer comes from several places.
    first, second, alone = held("offload.'blk.4.ffn.exps' = 'cpu'\n")
    assert first == second == alone


HOST_OF_THREE = budgets((40_000,) * 3)


@pytest.mark.parametrize("part", ["up", "gate", "down"])
def test_one_matrix_of_the_experts_has_an_override(part):
    made = made_for(f"workload.context = 512\noffload.'blk.*.ffn.exps.ffn_{part}_exps' = 'cpu'\n", experts=4)
    told = to_llama_cpp(made)
    assert told.overrides == ((rf"^blk\.(0|1|2|3|4|5)\.ffn_{part}_exps\.", "CPU"),)
    found = llama_cpp_reader.held(told.to_flags(), tensors_of(4, True), caches(512), LAYERS)
    assert (found.weights, found.kv_cache) == ours(made)
    assert found.weights["CPU"] > LAYERS * tensors_of(4, True)[f"blk.0.ffn_{part}_exps.weight"]


def test_a_shared_head_stays_without_copies():
    # The head's copy of the embedding has the embedding's name: an override of that would take it along.
    policy = Policy.parse(f'prefer = "cuda"\nworkload.context = 512\n{DERIVED}')
    made = plan(policy, tree_of(0, False), budgets((8_500, 8_500)))
    assert not made.workload.pipelined
    found = llama_cpp_reader.held(to_llama_cpp(made).to_flags(), tensors_of(0, False), caches(512), LAYERS)
    assert (found.weights, found.kv_cache) == ours(made)


def test_experts_leave_first_and_use_every_gpu():
    made = plan(Policy.parse(f'prefer = "cuda"\n{EXPERTS}{BASIS}'), tree_of(4, True), budgets((2600, 1500)))
    away = [path for path, unit in made.placements.items() if str(unit.runs_on) == "cpu" and path != "token_embd"]
    assert away
    assert all(path.endswith("exps") for path in away)
    assert {"cuda:0", "cuda:1"} <= set(made.ledger)
    assert any(path.endswith(".exps") for path, unit in made.placements.items() if str(unit.runs_on) != "cpu")


def test_experts_stay_on_every_gpu():
    # Each card has room for one layer's experts beside a third of the rest: the first layers' would all be on one.
    tree = tree_of(4, True)
    sizes = {
        name: sum(tensor.bytes_as(None) for tensor in of.tensors) for name, of in ((m.path, m) for m in tree.modules)
    }
    experts = sum(size for path, size in sizes.items() if path.startswith("blk.0.ffn.exps"))
    rest = sum(size for path, size in sizes.items() if path.startswith("blk.0.")) - experts + caches(512)[0]
    card = (experts + 2 * rest + rest) // KIB + 1
    made = plan(Policy.parse(f'prefer = "cuda"\n{EXPERTS}{BASIS}'), tree, budgets((card, card, card)))
    stay = [str(unit.runs_on) for path, unit in made.placements.items() if path.endswith(".exps")]
    assert {device: stay.count(device) for device in stay if device != "cpu"} == {"cuda:0": 1, "cuda:1": 1, "cuda:2": 1}


def where(made, path):
    """The device of a module of a layer, which may be part of a larger unit."""
    parents = [path.rsplit(".", cut)[0] if cut else path for cut in range(path.count(".") - 1)]
    return str(next(made.placements[one] for one in [*parents, path[:5]] if one in made.placements).runs_on)


def test_no_gpu_has_room_for_a_matrix_that_left():
    # Of whole layers a card of this size could lack almost the experts of one.
    chosen, divided, apart = random.Random(8), 0, 0
    matrices = [(module.path, module) for module in tree_of(4, True).modules if module.path.endswith("_exps")]
    for _ in range(40):
        sizes = [chosen.choice((1500, 2200, 2600, 3100, 3900)) for _ in range(chosen.randint(1, 3))]
        text = f'prefer = "cuda"\n{EXPERTS}{BASIS}'
        made = plan(Policy.parse(text), tree_of(4, True), budgets(sizes))
        for path, module in matrices:
            device, layer = where(made, path), where(made, f"{path[:5]}.attn")
            divided += path in made.placements
            apart += "cpu" not in (device, layer) and device != layer
            if device == "cpu" != layer:
                assert made.ledger[layer].free < sum(tensor.bytes_as(None) for tensor in module.tensors), sizes
        check_flags(made, text, 4, True)
    assert divided > 60
    assert apart > 0


def test_rules_may_decide_all_experts_beside_overflow():
    # The planner's own rule for experts was said to be shadowed, with exit status 2.
    made = made_for("overflow = 'cpu'\nworkload.context = 512\noffload.'blk.*.ffn' = 'cpu'\n", experts=4)
    assert {str(unit.runs_on) for path, unit in made.placements.items() if path.endswith(".ffn")} == {"cpu"}


@pytest.mark.parametrize("target", ["llama.cpp", "torch"])
def test_a_gguf_file_is_quantised_no_further(target):
    # For `torch` this was a KeyError of the file's own type.
    with pytest.raises(Unsatisfiable, match="loaded as they are stored, and not quantised to `nf4`") as refused:
        plan(Policy.parse('prefer = "cuda"\nloading.quantization = "nf4"'), tree_of(0, True), "1x24gb", target=target)
    assert len(refused.value.diagnostics) == 1


def test_a_tied_head_runs_on_the_cpu_alone():
    # Both are one tensor there, and it was refused as if they were two.
    made = plan(Policy.parse('prefer = ["cuda", "cpu"]\nworkload.context = 512'), tree_of(0, False), "cpu-only")
    tensors = tensors_of(0, False)
    assert made.ledger["cpu"].weights == sum(tensors.values())
    found = llama_cpp_reader.held(to_llama_cpp(made).to_flags(), tensors, caches(512), LAYERS)
    assert found.weights == {"CPU": made.ledger["cpu"].weights}


def test_a_matrix_apart_from_its_layer_takes_one_more():
    tree = tree_of(4, True)
    tree = replace(tree, reads=tuple(replace(one, experts_per_token=3) for one in tree.reads))

    def held(matrix):
        rules = {f"blk.1.ffn.exps.{matrix}": 1, "blk.{0..1}": 0, "blk.{2..3}": 1, "blk.{4..5}": 2}
        text = "".join(f"[[rule]]\nmatch = {match!r}\nprefer = 'cuda:{device}'\n" for match, device in rules.items())
        policy = Policy.parse(f"prefer = 'cuda'\nworkload.context = 512\n{DERIVED}{text}")
        made = plan(policy, tree, HOST_OF_THREE)
        assert {device: one.activations for device, one in made.ledger.items()} == oracle.compute_buffers(made, tree)
        compare(made, quantized.tree_of(made, policy.top, tree, HOST_OF_THREE), policy.top, HOST_OF_THREE)
        return made.ledger["cuda:1"].activations

    assert held("ffn_down_exps") > held("ffn_up_exps")


@cache
def tree_of_two_experts():
    """Two experts for each token, with what a graph of them holds at once."""
    tree = tree_of(4, True)
    reads = tuple(replace(one, experts_per_token=2) for one in tree.reads)
    return replace(tree, reads=reads, activation_elements_per_token=3 * 2 * 512 + 2 * 256 + 16)


@pytest.mark.parametrize(
    ("away", "less"),
    [
        ("{ffn_up_exps,ffn_down_exps}", True),
        ("ffn_*_exps", True),
        ("{ffn_gate_exps,ffn_down_exps}", False),
        ("{ffn_gate_exps,ffn_up_exps}", False),
    ],
)
@pytest.mark.parametrize("at", [0, 1, 2])
def test_gates_alone_take_less(away, less, at):
    # Twice what llama.cpp reserves was planned on a card that computes attention and gates alone.
    tree, layers = tree_of_two_experts(), f"{2 * at}..{2 * at + 1}"
    names = away.strip("{}").split(",")
    matches = ", ".join(f"'blk.{{{layers}}}.ffn.exps.{name}'" for name in names)
    rule = f"[[rule]]\nmatch = [{matches}]\noffload = 'cpu'\n"
    homes = {"blk.{0..1}": 0, "blk.{2..3}": 1, "blk.{4..5}": 2}
    rule += "".join(f"[[rule]]\nmatch = {match!r}\nprefer = 'cuda:{device}'\n" for match, device in homes.items())
    policy = Policy.parse(f"prefer = 'cuda'\nworkload.context = 512\n{DERIVED}{rule}")
    made = plan(policy, tree, HOST_OF_THREE)
    assert {device: one.activations for device, one in made.ledger.items()} == oracle.compute_buffers(made, tree)
    compare(made, quantized.tree_of(made, policy.top, tree, HOST_OF_THREE), policy.top, HOST_OF_THREE)
    others = [made.ledger[f"cuda:{other}"].activations for other in range(3) if other != at]
    assert (made.ledger[f"cuda:{at}"].activations < min(others)) == less


def test_several_layers_behind_a_parted_one_take_one_more():
    # With the first layer on the CPU, a buffer was up to one row above the plan's.
    rows = [{"cpu"}, {"cuda:0"}, {"cuda:0", "cuda:1"}, {"cuda:1"}, {"cuda:2"}]
    assert rows_of(rows, "cpu", mixture=True) == ({"cuda:1"}, {"cuda:0", "cuda:1"})
    assert rows_of([*rows[:2], *rows[3:]], "cpu", mixture=True) == (set(), {"cuda:0"})


def test_a_device_has_gates_alone_where_that_keeps_more():
    # Without it, 4 of 18 matrices left here: no card was planned with less than what all of a layer takes.
    sizes, policy = (7500, 7000, 15_000), Policy.parse(f"prefer = 'cuda'\n{EXPERTS}{DERIVED}")
    made = plan(policy, tree_of_two_experts(), budgets(sizes))
    away = [path for path, one in made.placements.items() if path.endswith("_exps") and str(one.runs_on) == "cpu"]
    assert len(away) == 2
    assert {device: one.activations for device, one in made.ledger.items()} == oracle.compute_buffers(
        made, tree_of_two_experts()
    )
    assert all(one.free >= 0 for one in made.ledger.values())


@pytest.mark.parametrize(("behind", "less"), [("blk.2", True), ("blk.{2..3}", False)])
def test_parts_of_two_layers_take_no_row_more(behind, less):
    # Two rows more were planned than llama.cpp reserves, on a card between two that take what has no room there.
    tree = tree_of_two_experts()
    rules = {f"blk.{at}.ffn.exps.ffn_{part}_exps": at for at in (1, 2) for part in ("up", "down")}
    rules |= {behind: 1, "blk.{0..1}": 0, "blk.*": 2}
    text = "".join(f"[[rule]]\nmatch = {match!r}\nprefer = 'cuda:{device}'\n" for match, device in rules.items())
    policy = Policy.parse(f"prefer = 'cuda'\nworkload.context = 512\n{DERIVED}{text}")
    made = plan(policy, tree, HOST_OF_THREE)
    assert {device: one.activations for device, one in made.ledger.items()} == oracle.compute_buffers(made, tree)
    compare(made, quantized.tree_of(made, policy.top, tree, HOST_OF_THREE), policy.top, HOST_OF_THREE)
    assert (made.ledger["cuda:1"].activations < min(made.ledger[f"cuda:{at}"].activations for at in (0, 2))) == less


# What a rule takes from one, the device of the head, and the rows more on which device.
SCATTERED = (
    ({"blk.5": ("gate", "down")}, 1, 1, 1),  # what goes with gates, without them
    ({"blk.5": ("up", "down")}, 1, 0, 1),  # gates alone
    ({"blk.3": ("gate",)}, 1, 1, 1),
    ({}, 0, 2, 0),  # a head behind layers that are elsewhere
    ({}, 2, 0, 2),  # a head alone
)


@pytest.mark.parametrize(("taken", "head", "rows", "device"), SCATTERED)
def test_scattered_parts_take_rows(taken, head, rows, device):
    # Up to a sixth more was reserved than was planned, in one of a thousand buffers of layouts by chance.
    host = Host([Accelerator("cuda", memory="1 GiB")] * 3, memory="4 GiB")
    tree = replace(tree_of_two_experts(), logits_elements=16_384)
    rules = {f"{layer}.ffn.exps.ffn_{part}_exps": 2 for layer, parts in taken.items() for part in parts}
    rules |= {f"blk.{at}": on for at, on in enumerate((0, 0, 0, 1, 1, 1))} | {"output_norm": head, "output": head}
    text = "".join(f"[[rule]]\nmatch = {match!r}\nprefer = 'cuda:{on}'\n" for match, on in rules.items())
    policy = Policy.parse(f"prefer = 'cuda'\nworkload.context = 512\n{DERIVED}{text}")
    made = plan(policy, tree, host)
    held = {at: one.activations for at, one in made.ledger.items()}
    assert held == oracle.compute_buffers(made, tree)
    compare(made, quantized.tree_of(made, policy.top, tree, host), policy.top, host)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ledger, "scattered_on", lambda *_: {})
        patched.setattr(ledger, "apart_on", lambda *_: set())
        before = plan(policy, replace(tree), host).ledger[f"cuda:{device}"].activations
    assert (
        held[f"cuda:{device}"] - before == rows * 4 * 512 * tree.modules[tree.index["token_embd"]].tensors[0].shape[1]
    )


@pytest.mark.parametrize("part", ["attn_k", "attn_v", "attn_output"])
def test_attention_in_parts_has_scores(part):
    # llama.cpp takes no flash attention then, and reserved four times what was planned.
    tree, base = tree_of(0, True), f"prefer = 'cuda'\nworkload.context = 2048\n{DERIVED}"
    whole = plan(Policy.parse(base), tree, HOST_OF_THREE)
    text = f"{base}[[rule]]\nmatch = 'blk.2.attn.{part}'\noffload = 'cpu'\n"
    policy = Policy.parse(text)
    made = plan(policy, tree, HOST_OF_THREE)
    assert (
        made.ledger["cuda:0"].activations - whole.ledger["cuda:0"].activations >= 4 * 512 * 2048 * tree.attention_heads
    )
    assert {device: one.activations for device, one in made.ledger.items()} == oracle.compute_buffers(made, tree)
    compare(made, quantized.tree_of(made, policy.top, tree, HOST_OF_THREE), policy.top, HOST_OF_THREE)
    small = Host([Accelerator("cuda", memory="27 MiB")], memory="1 GiB")
    assert plan(Policy.parse(base), tree, small)
    with pytest.raises(Unsatisfiable, match="DP30"):
        plan(policy, tree, small)


def test_cards_of_intel_are_named_in_their_own_order():
    # They were named as the selector lists them, which not every version takes for their order.
    text = "prefer = 'xpu'\n" + "".join(
        f"[[rule]]\nmatch = '{match}'\nprefer = 'xpu:{on}'\n" for match, on in (("blk.{0..1}", 1), ("blk.*", 0))
    )
    host = Host([Accelerator("xpu", memory="16 GiB")] * 2, memory="64 GiB")
    told = environment(plan(Policy.parse(text), tree_of(0, True), host), host)
    assert told["ONEAPI_DEVICE_SELECTOR"] == "level_zero:0,1"
    assert (told["LLAMA_ARG_DEVICE"], told["LLAMA_ARG_TENSOR_SPLIT"]) == ("SYCL1,SYCL0", "2,5")


def test_parts_of_two_layers_stay_where_they_fit():
    # A matrix more was left: what a small card between two others takes of both was counted as of whole layers.
    tree, policy = tree_of_two_experts(), Policy.parse(f"prefer = 'cuda'\n{EXPERTS}{DERIVED}")
    made = plan(policy, tree, budgets((10_500, 8750, 12_250)))
    away = [path for path, one in made.placements.items() if path.endswith("_exps") and str(one.runs_on) == "cpu"]
    assert len(away) == 2
    assert {device: one.activations for device, one in made.ledger.items()} == oracle.compute_buffers(made, tree)
    assert all(one.free >= 0 for one in made.ledger.values())


def test_first_layers_leave_where_there_are_no_experts():
    made = plan(Policy.parse(f'prefer = "cuda"\n{EXPERTS}{BASIS}'), tree_of(0, True), budgets((900, 900)))
    where = [str(made.placements[f"blk.{layer}"].runs_on) for layer in range(LAYERS)]
    assert where == sorted(where, key=lambda one: one != "cpu")
    assert where[0] == "cpu" != where[-1]
    # The cache of a layer is where the layer is.
    assert made.ledger["cpu"].kv_cache == where.count("cpu") * caches(512)[0]


def test_devices_come_in_the_order_that_fits():
    made = made_for("workload.context = 512\n", (700, 4000))
    told = to_llama_cpp(made)
    assert set(told.order) <= {"cuda:0", "cuda:1"}


def test_the_cache_is_in_ram_as_a_whole_or_not_at_all():
    made = made_for('workload.context = 512\nworkload.kv_offload = "cpu"\n')
    assert made.ledger["cpu"].kv_cache == sum(caches(512).values())
    assert not made.ledger["cuda:0"].kv_cache
    told = to_llama_cpp(made)
    assert "--no-kv-offload" in told.to_flags()
    assert told.to_env()["LLAMA_ARG_KV_OFFLOAD"] == "0"
    assert to_llama_cpp_python(made)["offload_kqv"] is False
    # Beside the cache the CPU has room for what is kept there, or the plan is refused.
    small = Host([Accelerator("cuda", memory="9000 KiB")], memory="1 MiB")
    with pytest.raises(Unsatisfiable):
        text = f'prefer = "cuda"\n{BASIS}workload = {{ context = 2048, kv_offload = "cpu" }}'
        plan(Policy.parse(text), tree_of(0, True), small, target="llama.cpp")
    with pytest.raises(Unsatisfiable, match="keeps the KV cache on the devices of its layers"):
        plan(Policy.parse('prefer = "cuda"\nworkload.kv_offload = "cpu"'), "gpt2", "2x24gb")


def test_late_layers_are_refused_with_the_cache_in_ram():
    # Without a cache of its own a layer was where its norm is, and the flags held another plan.
    with pytest.raises(Unsatisfiable) as refused:
        made_for("workload.kv_offload = 'cpu'\noffload.'blk.{1..}.attn' = 'cpu'\n")
    assert refused.value.code == "DP404"


def test_a_late_layer_is_not_left_on_the_cpu():
    with pytest.raises(Unsatisfiable, match="computes the first layers on the CPU") as refused:
        made_for('workload.context = 512\n[offload]\n"blk.3" = "cpu"\n')
    assert refused.value.code == "DP404"


def test_a_gguf_file_is_planned_for_llama_cpp():
    assert plan(Policy.parse(f'prefer = "cuda"\n{BASIS}'), tree_of(0, True), budgets((9000,))).target == "llama.cpp"
    with pytest.raises(Unsatisfiable) as refused:
        made_for("", target="hf")
    assert refused.value.code == "DP412"
    assert "llama.cpp" in str(refused.value)


def test_llama_cpp_python_refuses_what_it_has_no_argument_for():
    whole = to_llama_cpp_python(made_for("workload.context = 512\n"))
    assert whole["n_gpu_layers"] == LAYERS + 1
    assert whole["n_ctx"] == 512
    parted = made_for('workload.context = 512\n[offload]\n"blk.*.ffn" = "cpu"\n')
    with pytest.raises(Unsatisfiable, match="override-tensor"):
        to_llama_cpp_python(parted)


def test_a_plan_of_another_target_has_no_flags():
    with pytest.raises(Unsatisfiable, match=r"--target llama\.cpp"):
        to_llama_cpp(made_for("", target="torch"))
