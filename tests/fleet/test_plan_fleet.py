"""`plan_fleet`: the best plan there is on small fleets, the same one under any names and in any order."""

import json
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from tests.fleet.brute_force import compare, cost_of, world

from devpolicy import Accelerator, Host, Policy, Unsatisfiable, plan_all
from devpolicy.errors import DevPolicyError, FleetError
from devpolicy.fleet import Fleet, FleetPlan, plan_fleet
from devpolicy.targets import Plan

RAG = """
[component.writer]
model = "llama-3.1-8b"
prefer = "cuda"
[component.embedder]
model = "bge-m3"
prefer = ["cuda", "cpu"]
"""


def planned(policy: str, fleet: Fleet | str, models: object = None) -> FleetPlan:
    return plan_fleet(Policy.parse(policy), models, fleet)


def nodes(plan: FleetPlan) -> dict[str, str]:
    return {name: one.node for name, one in plan.components.items()}


def refusal(policy: str, fleet: Fleet | str) -> Unsatisfiable:
    with pytest.raises(Unsatisfiable) as refused:
        planned(policy, fleet)
    return refused.value


@pytest.mark.parametrize("seed", range(30))
def test_no_plan_of_a_small_fleet_is_better(seed):
    assert compare(world(seed)) == ""


@pytest.mark.parametrize("seed", range(25))
def test_names_and_order_of_nodes_change_no_cost(seed):
    one = world(seed)
    draw = random.Random(seed)
    names = draw.sample([f"m{at}" for at in range(9)], len(one.fleet))
    pairs = list(zip(names, one.fleet, strict=True))
    draw.shuffle(pairs)
    other = Fleet(
        {name: replace(one.fleet[node], name=name) for name, node in pairs},
        labels={name: one.fleet.labels(node) for name, node in pairs},
    )
    try:
        plan = plan_fleet(one.policy, one.models, one.fleet)
    except Unsatisfiable:
        with pytest.raises(Unsatisfiable):
            plan_fleet(one.policy, one.models, other)
        return
    renamed = dict(zip((node for _, node in pairs), (name for name, _ in pairs), strict=True))
    again = plan_fleet(one.policy, one.models, other)
    back = Fleet({renamed[node]: one.fleet[node] for node in one.fleet})
    assert cost_of(again, replace(one, fleet=back)) == cost_of(plan, one)


def test_servers_on_one_node_say_what_starts_before():
    servers = {
        "embed": 'target = "hf"',
        "chat": 'target = "sglang"\nreplicas = 2',
        "far": 'target = "sglang"\nnode = { labels = { gpu = "b" } }',
    }
    base = 'model = "llama-3.2-1b"\nprefer = "cuda"\n'
    policy = "".join(f"[component.{name}]\n{base}{more}\n" for name, more in servers.items())
    fleet = Fleet(
        {name: Host([Accelerator("cuda", memory="24 GiB")], memory="64 GiB") for name in ("a", "b")},
        labels={"b": {"gpu": "b"}},
    )
    plan = planned(policy, fleet)
    on = nodes(plan)
    for name, one in plan.components.items():
        before = [other for other in list(on)[: list(on).index(name)] if on[other] == on[name]]
        assert list(one.plan.starts_after) == before
        assert one.plan.starts_after == FleetPlan.from_dict(plan.to_dict()).components[name].plan.starts_after
    assert any(one.plan.starts_after for one in plan.components.values())


@pytest.mark.parametrize("seed", range(100, 125))
def test_a_node_more_takes_nothing_from_one_component(seed):
    one = world(seed, components=1, plain=True)
    new = next(iter(world(seed + 1000).fleet.values()))
    try:
        before = cost_of(plan_fleet(one.policy, one.models, one.fleet), one)
    except Unsatisfiable:
        return
    more = replace(one, fleet=one.fleet.with_node("new", new))
    after = cost_of(plan_fleet(more.policy, more.models, more.fleet), more)
    assert after[0] <= before[0]


@pytest.mark.parametrize("seed", range(200, 220))
def test_a_fleet_of_one_node_is_planned_as_its_host_is(seed):
    one = world(seed, plain=True)
    host = next(iter(one.fleet.values()))
    fleet = Fleet({"only": host})
    try:
        expected = plan_all(one.policy, one.models, host)
    except Unsatisfiable:
        with pytest.raises(Unsatisfiable):
            plan_fleet(one.policy, one.models, fleet)
        return
    made = plan_fleet(one.policy, one.models, fleet)
    assert {name: one.plan.digest for name, one in made.components.items()} == {
        name: plan.digest for name, plan in expected.items()
    }


def test_the_smallest_node_that_serves_is_taken():
    assert nodes(planned(RAG, "4-workstations")) == {"writer": "ada", "embedder": "ada"}
    assert nodes(planned(RAG, "mixed-50")) == {"writer": "l4-0", "embedder": "t4-0"}


def test_an_earlier_term_counts_more_than_a_smaller_node():
    text = '[component.e]\nmodel = "bge-m3"\nprefer = ["cuda", "cpu"]'
    fleet = Fleet({"big": Host.load("4x80gb"), "none": Host.load("cpu-only")})
    assert nodes(planned(text, fleet)) == {"e": "big"}
    assert nodes(planned(text.replace('["cuda", "cpu"]', '"cpu"'), fleet)) == {"e": "none"}


def test_a_later_component_is_left_a_place():
    # Alone, the first takes the smaller node; then the second would have none.
    text = '[component.a]\nneeds = "10 GiB"\nprefer = "cuda"\n[component.b]\nneeds = "20 GiB"\nprefer = "cuda"\n'
    text += 'node.cuda.memory = "<30 GiB"'
    fleet = Fleet({"large": Host.load("4x80gb"), "small": Host.load("1x24gb")})
    assert nodes(planned(text, fleet)) == {"a": "large", "b": "small"}


def test_labels_are_equal_or_one_of_a_list():
    text = (
        '[component.e]\nmodel = "bge-m3"\nprefer = "cuda"\nnode = { labels = { zone = "b", tier = ["medium", "big"] } }'
    )
    assert nodes(planned(text, "mixed-50")) == {"e": "l40s-0"}


def test_conditions_on_a_node_are_those_of_require():
    text = '[component.e]\nmodel = "bge-m3"\nprefer = "cuda"\nnode = { cuda = { count = 3 }, memory = "100 GiB" }'
    assert nodes(planned(text, "mixed-50")) == {"e": "w3090-0"}


@pytest.mark.parametrize(("how", "used"), [("pack", ["a-0"] * 4), ("spread", ["a-0", "a-1", "a-2", "a-3"])])
def test_replicas_fill_a_node_or_are_on_as_many_as_there_are(how, used):
    text = f'[component.e]\nmodel = "bge-m3"\nprefer = "cuda"\nreplicas = 4\nnodes = "{how}"'
    fleet = Fleet({f"a-{at}": Host.load("4x80gb") for at in range(4)})
    plan = planned(text, fleet)
    assert list(plan.components) == ["e/0", "e/1", "e/2", "e/3"]
    assert [one.node for one in plan.components.values()] == used
    devices = {(one.node, one.plan.device.to_torch_str()) for one in plan.components.values()}
    assert len(devices) == 4


def test_each_is_on_every_device_of_every_node():
    text = '[component.e]\nmodel = "bge-m3"\nprefer = ["cuda", "cpu"]\nreplicas = "each"'
    assert len(planned(text, "4-workstations").components) == 1 + 2 + 4 + 1
    text = text.replace("replicas", 'node = { labels = { room = "b" } }\nreplicas')
    assert set(nodes(planned(text, "4-workstations")).values()) == {"curie", "darwin"}


def test_replicas_over_several_nodes_are_granted_the_same():
    text = '[component.w]\nmodel = "llama-3.1-8b"\nprefer = "cuda"\nreplicas = 2\n'
    text += 'nodes = "spread"\nworkload.context = { min = 1024 }'
    fleet = Fleet({"small": Host.load("1x24gb"), "large": Host.load("h100")})
    plan = planned(text, fleet)
    granted = {one.plan.granted.context for one in plan.components.values()}
    alone = planned(text.replace("replicas = 2\n", ""), fleet.without("large"))
    assert granted == {alone.components["w"].plan.granted.context}


def test_profiles_belong_to_the_nodes_that_they_are_for():
    text = """
    prefer = "cuda"
    [component.e]
    model = "bge-m3"
    [profile.mac]
    when = { os = "macos" }
    prefer = "mps"
    """
    assert nodes(planned(text, Fleet({"mac": Host.load("mac-64gb")}))) == {"e": "mac"}
    assert planned(text, "laptop-and-server").components["e"].plan.device.to_torch_str() == "mps"


def test_nothing_is_planned_on_a_node_with_a_fault():
    text = '[component.e]\nmodel = "bge-m3"\nprefer = ["cuda", "cpu"]\nreplicas = "each"'
    assert set(nodes(planned(text, "broken-nodes")).values()) == {"good", "limping", "full"}


def test_a_policy_without_components_plans_one_model():
    plan = planned('prefer = "cuda"', "4-workstations", "llama-3.1-8b")
    assert nodes(plan) == {"model": "ada"}
    assert plan.components["model"].plan.component is None


def test_a_label_that_no_node_has_is_refused():
    text = (
        RAG
        + 'node = { labels = { rom = "a" } }\n'
        + '[component.x]\nneeds = "1 GiB"\nprefer = "cuda"\nnode = { labels = { room = "c" } }'
    )
    refused = refusal(text, "4-workstations")
    assert [one.code for one in refused.diagnostics] == ["DP309", "DP309"]
    assert refused.exit_status == 3
    assert refused.diagnostics[0].help == "did you mean `room`?"
    assert refused.diagnostics[1].help == 'there are `room = "a"`, `room = "b"`'


def test_no_node_fits_says_why_and_the_smallest_change():
    refused = refusal('[component.w]\nmodel = "llama-3.1-70b"\nprefer = "cuda"', "4-workstations")
    found = refused.diagnostics[0]
    assert found.code == "DP308"
    assert [note.partition("`:")[0] for note in found.notes] == ["`darwin", "`curie", "`babbage", "`ada"]
    assert found.help.splitlines()[0] == "on `darwin`: 42.75 GiB more on `cuda:0` would do"


def test_too_few_replicas_say_how_many_fit():
    refused = refusal('[component.w]\nmodel = "llama-3.1-8b"\nprefer = "cuda"\nreplicas = 9', "4-workstations")
    assert refused.diagnostics[0].message == "7 of 9 replicas of `w` have a place in the fleet"


def test_components_that_have_no_place_together_are_refused():
    text = "\n".join(f'[component.c{at}]\nmodel = "llama-3.1-8b"\nprefer = "cuda"' for at in range(3))
    refused = refusal(text, Fleet({"a": Host.load("1x24gb"), "b": Host.load("1x24gb")}))
    assert refused.diagnostics[0].message == "the fleet has no place for component `c2` beside the others"


def test_a_fleet_without_a_node_that_works_is_refused():
    assert refusal(RAG, Fleet(faults={"a": "gone"})).diagnostics[0].notes == ("`a`: gone",)


def test_a_requirement_that_no_node_meets_is_told_of_each():
    refused = refusal(RAG + "[require]\ncuda = { count = 5 }", "4-workstations")
    assert refused.code == "DP308"
    assert "does not meet `cuda`" in refused.diagnostics[0].notes[0]


def test_a_devices_number_in_a_fleet_is_a_warning():
    plan = planned('[component.e]\nmodel = "bge-m3"\nprefer = ["cuda:1", "cuda"]', "4-workstations")
    assert [(one.code, "cuda:1" in one.message) for one in plan.warnings] == [("DP514", True)]


@pytest.mark.parametrize(
    ("models", "fleet", "error"),
    [
        ({3: "gpt2"}, "4-workstations", DevPolicyError),
        ({"a": "no-such-model"}, "4-workstations", DevPolicyError),
        ({"a": "gpt2"}, "no-such-fleet", FleetError),
        ({"a": "gpt2"}, None, FleetError),
        ({"a": "gpt2"}, Host.load("t4"), FleetError),
        ({}, "4-workstations", DevPolicyError),
    ],
)
def test_what_cannot_be_planned_is_refused(models, fleet, error):
    with pytest.raises(error):
        plan_fleet('prefer = "cuda"' and Policy.parse('prefer = "cuda"'), models, fleet)


def test_a_plan_reads_back_from_its_json(tmp_path):
    plan = planned(RAG, "mixed-50")
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json(), encoding="utf-8")
    again = FleetPlan.load(path)
    assert again == plan
    assert again.digest == plan.digest
    assert again.to_json() == plan.to_json()


@pytest.mark.parametrize("key", ["schema", "components", "warnings", "digest"])
def test_a_changed_plan_is_no_plan(key):
    data = planned(RAG, "mixed-50").to_dict()
    for value in (None, 3, "x", {"writer": {}}):
        with pytest.raises(ValueError, match="plan"):
            FleetPlan.from_dict({**data, key: value})


def test_a_component_moved_by_hand_is_no_plan():
    data = planned(RAG, "mixed-50").to_dict()
    data["components"]["writer"]["node"] = "l4-1"
    with pytest.raises(ValueError, match="digest"):
        FleetPlan.from_dict(data)


def test_why_says_why_not_elsewhere():
    text = planned(RAG, "mixed-50").why("embedder")
    assert text.startswith("node: t4-0\n")
    assert "not t4-1 and 6 alike: it is alike, and its name comes later" in text
    assert "not l4-0 and 9 alike: it is larger, and a smaller node does" in text


def test_plans_are_the_same_in_every_process():
    code = "import sys; from devpolicy import Policy; from devpolicy.fleet import plan_fleet; "
    code += "print(plan_fleet(Policy.parse(sys.argv[1]), None, 'mixed-50').digest)"
    seen = set()
    for seed in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", code, RAG], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        seen.add(run.stdout)
    assert len(seen) == 1


def test_a_large_fleet_says_what_was_shown_of_its_plan():
    text = "\n".join(
        f'[component.c{at}]\nmodel = "{("llama-3.1-8b", "qwen2.5-32b", "bge-m3")[at % 3]}"\nprefer = ["cuda", "cpu"]'
        for at in range(20)
    )
    fleet = Fleet(
        {**{f"a{at}": Host.load("4x80gb") for at in range(1)}, **{f"b{at}": Host.load("1x24gb") for at in range(2)}}
    )
    plan = planned(text, fleet)
    found = plan.certificate
    assert found is None or set(found.settled) | set(found.open) == set(plan.components)
    assert FleetPlan.from_dict(plan.to_dict()).certificate == found


class TestWhatWasNotSearched:
    """More ways to divide replicas than are looked at: the plan says so."""

    FLEET = Fleet({f"n{at}": Host([Accelerator("cuda", memory=f"{20 + at} GiB")], memory="64 GiB") for at in range(20)})
    TEXT = '[component.a]\nneeds = "15 GiB"\nprefer = "cuda"\nreplicas = 12\n'

    def test_the_certificate_names_the_component(self):
        plan = planned(self.TEXT, self.FLEET)
        assert plan.certificate is not None
        assert (plan.certificate.divided, plan.certificate.smallest, plan.certificate.open) == (("a",), False, ())
        assert list(plan.certificate.sentences) == [
            "no plan grants any component more: the search shows it",
            "whether a component could be on a smaller node was not searched to the end",
            "of more than 512 ways to divide the replicas of a over nodes few were tried",
        ]

    def test_a_plan_with_moves_says_that_fewer_may_do(self):
        after = plan_fleet(
            Policy.parse(self.TEXT), None, self.FLEET.without("n3"), before=planned(self.TEXT, self.FLEET)
        )
        assert after.certificate is not None
        assert after.certificate.fewest_moves is False
        assert "whether fewer moves would do was not searched to the end" in after.certificate.sentences
        assert FleetPlan.from_dict(json.loads(after.to_json())) == after

    @pytest.mark.parametrize("nodes", ["pack", "spread"])
    def test_what_needs_one_certain_node_beside_them_has_it(self, nodes):
        """It was refused: the only way that was tried took that node."""
        text = f'{self.TEXT}nodes = "{nodes}"\n[component.b]\nneeds = "15 GiB"\nprefer = "cuda"\n'
        plan = planned(text + 'node.cuda.memory = "<20.5 GiB"', self.FLEET)
        assert plan.components["b"].node == "n0"

    def test_what_was_not_found_is_not_called_impossible(self):
        text = "".join(
            f'[component.b{at}]\nneeds = "15 GiB"\nprefer = "cuda"\nnode.cuda.memory = "<{20 + at}.5 GiB"\n'
            for at in (0, 1)
        )
        told = refusal(self.TEXT + text, self.FLEET).diagnostics[0].message
        assert told == "no place for component `b1` beside the others was found among those that were tried"


class TestOrdinalFreeDigest:
    """One digest for the same plan on other devices of a host."""

    def test_it_is_that_of_the_plan_on_the_restricted_host(self):
        host = Host.load("4x80gb")
        policy = Policy.parse('prefer = "cuda"\navoid = ["cuda:0", "cuda:2"]\noffload.lm_head = "cpu"')
        whole = self.plan(policy, host)
        seen = self.plan(Policy.parse('prefer = "cuda"\noffload.lm_head = "cpu"'), host.restrict([1, 3]))
        assert whole.digest != seen.digest
        assert whole.ordinal_free_digest == seen.ordinal_free_digest

    def test_it_is_another_where_another_part_is_elsewhere(self):
        host = Host.load("4x80gb")
        here = self.plan(Policy.parse('prefer = "cuda"'), host)
        assert (
            here.ordinal_free_digest
            != self.plan(
                Policy.parse('prefer = "cuda"\nsplit = "never"'),
                Host([Accelerator("cuda", memory="200 GiB")], memory="8 GiB"),
            ).ordinal_free_digest
        )

    @staticmethod
    def plan(policy: Policy, host: Host) -> Plan:
        from devpolicy import plan

        return plan(policy, "llama-3.1-70b", host)
