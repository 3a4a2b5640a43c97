"""A fleet's plan in Ray's forms, which need no Ray: bundles, options of actors, options of Serve."""

import json
import subprocess
import sys

import pytest
from tests.cli.harness import invoke

from devpolicy import Host, Policy, Unsatisfiable
from devpolicy.errors import FleetError
from devpolicy.fleet import Fleet, FleetPlan, plan_fleet
from devpolicy.targets.ray import bundles, start, to_ray, to_serve, vllm_over_nodes


def planned(text: str, fleet: Fleet | str) -> FleetPlan:
    return plan_fleet(Policy.parse(text), None, fleet)


WRITER = '[component.writer]\nmodel = "qwen2.5-32b"\nprefer = "cuda"\n'
SMALL = '[component.small]\nmodel = "bge-m3"\nprefer = "cuda"\n'
CPU = '[component.clerk]\nmodel = "bge-m3"\nprefer = "cpu"\n'


def test_a_component_alone_has_a_bundle_of_whole_gpus():
    told = to_ray(planned(WRITER + CPU, Fleet({"a": Host.load("4x80gb")})))
    assert told == {
        "placement_group": {
            "bundles": [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}],
            "strategy": "PACK",
            "bundle_label_selector": [{"devpolicy/node": "a"}, {"devpolicy/node": "a"}],
        },
        "actors": {
            "writer": {"placement_group_bundle_index": 0, "num_cpus": 1, "num_gpus": 1},
            "clerk": {
                "placement_group_bundle_index": 1,
                "num_cpus": 1,
                "num_gpus": 0,
                "runtime_env": {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}},
            },
        },
    }


def test_components_on_one_gpu_share_it():
    (one,) = bundles(planned(SMALL + SMALL.replace("small", "other"), Fleet({"a": Host.load("1x24gb")})))
    assert (one.components, dict(one.resources), one.by_id) == (("small", "other"), {"CPU": 2.0, "GPU": 1.0}, False)
    told = to_ray(planned(SMALL + SMALL.replace("small", "other"), Fleet({"a": Host.load("1x24gb")})))
    assert [one["num_gpus"] for one in told["actors"].values()] == [0.5, 0.5]


def test_components_that_share_a_gpu_are_shown_theirs():
    big = WRITER.replace("qwen2.5-32b", "llama-3.1-70b")
    told = to_ray(planned(big + SMALL, Fleet({"a": Host.load("4x80gb")})))
    assert told["placement_group"]["bundles"] == [{"CPU": 2.0, "GPU": 2.0}]
    shown = {name: one["runtime_env"]["env_vars"]["CUDA_VISIBLE_DEVICES"] for name, one in told["actors"].items()}
    assert shown == {"writer": "0,1", "small": "0"}


def test_unlike_gpus_are_asked_for_by_card():
    text = (
        SMALL.replace('prefer = "cuda"', 'prefer = "little"') + '[devices.little]\ntype = "cuda"\nmemory = "<10 GiB"\n'
    )
    told = to_ray(planned(text, Fleet({"a": Host.load("24-24-12-8")})))
    assert told["placement_group"]["bundles"] == [{"CPU": 1.0, "GPU": 1.0, "devpolicy_cuda_3": 1.0}]
    assert told["actors"]["small"]["runtime_env"] == {"env_vars": {"CUDA_VISIBLE_DEVICES": "3"}}


def test_nodes_are_found_by_the_name_that_ray_has_for_them():
    host = Host.load("1x24gb")
    fleet = Fleet({"a": host}, labels={"a": {"ray.io/node-id": "0123"}})
    assert [dict(one.label_selector) for one in bundles(planned(SMALL, fleet))] == [{"ray.io/node-id": "0123"}]
    fleet = Fleet({"a": host}, labels={"a": {"ray.io/node-id": "0123", "devpolicy/node": "b"}})
    assert [dict(one.label_selector) for one in bundles(planned(SMALL, fleet))] == [{"devpolicy/node": "b"}]


def test_a_mac_is_no_node_for_ray():
    text = SMALL.replace('"cuda"', '"mps"')
    with pytest.raises(Unsatisfiable, match="Ray has no resource for `mps` devices"):
        to_ray(planned(text, "laptop-and-server"))


def test_replicas_are_one_deployment():
    text = SMALL + 'replicas = 3\nnodes = "spread"\n'
    (told,) = to_serve(planned(text, Fleet({f"n{at}": Host.load("1x24gb") for at in range(3)})))
    assert told == {
        "name": "small",
        "num_replicas": 3,
        "ray_actor_options": {"num_cpus": 1, "num_gpus": 1},
        "placement_group_bundles": [{"CPU": 1.0, "GPU": 1.0}],
        "placement_group_strategy": "PACK",
        "placement_group_bundle_label_selector": [{"devpolicy/node": "in(n0,n1,n2)"}],
    }


def test_serve_takes_the_options():
    schema = pytest.importorskip("ray.serve.schema", reason="needs `ray[serve]`")
    text = WRITER + SMALL + 'replicas = 3\nnodes = "spread"\n' + CPU
    for one in to_serve(planned(text, "mixed-50")):
        assert schema.DeploymentSchema.model_validate(one).name == one["name"]


def test_a_plan_of_a_file_needs_its_fleet():
    plan = planned(SMALL, "mixed-50")
    read = FleetPlan.from_dict(plan.to_dict())
    with pytest.raises(FleetError, match="does not hold its fleet"):
        to_ray(read)
    assert to_ray(read, Fleet.load("mixed-50")) == to_ray(plan)
    with pytest.raises(FleetError, match="has no node `t4-0`"):
        to_ray(read, Fleet.load("4-workstations"))


@pytest.mark.parametrize("form", ["ray", "serve"])
def test_the_command_prints_the_forms(form, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(SMALL)
    made = invoke("plan", str(path), "--fleet", "mixed-50", "--to", form, "--format", "json")
    plan = planned(SMALL, "mixed-50")
    assert json.loads(made.stdout) == (to_ray(plan) if form == "ray" else to_serve(plan))
    assert "needs `--fleet`" in invoke("plan", str(path), "--host", "t4", "--to", form).stderr


def test_the_command_says_how_nodes_are_started():
    lines = invoke("fleet", "show", "4-workstations", "--ray").stdout.splitlines()
    assert lines[1] == "ray start --address=$HEAD --labels=room=a,devpolicy/node=ada"
    assert '"devpolicy_cuda_3": 1' in lines[5]


_ABSENT = """
import sys
sys.modules["ray"] = None
from devpolicy import Policy
from devpolicy.fleet import Fleet, plan_fleet
from devpolicy.targets.ray import start, to_ray
from devpolicy.testing import simulate_fleet
plan = plan_fleet(Policy.parse(sys.argv[1]), None, "mixed-50")
assert to_ray(plan)
for ask in (Fleet.probe, lambda: start(plan, {"small": print}), simulate_fleet("mixed-50").__enter__):
    try:
        ask()
    except ImportError as missing:
        print(missing)
"""


def test_without_ray_all_but_starting_works():
    run = subprocess.run([sys.executable, "-c", _ABSENT, SMALL], capture_output=True, text=True, check=True)
    assert run.stdout.count("starting on a cluster and asking one needs Ray, which is not installed") == 3
    assert run.stdout.count("= help: pip install 'devpolicy[ray]'") == 3


def test_forms_load_no_ray():
    code = "import devpolicy.targets.ray, devpolicy.fleet, sys; print('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_every_component_needs_something_that_loads_it():
    plan = planned(SMALL + "replicas = 2\n" + CPU, "mixed-50")
    with pytest.raises(FleetError, match="nothing loads `clerk`"):
        start(plan, {"small": print})
    with pytest.raises(FleetError, match="read from a file cannot be started"):
        start(FleetPlan.from_dict(plan.to_dict()), {"small": print, "clerk": print})


class TestVllmOverNodes:
    """A model that no node holds is served by pipeline stages, one bundle for each rank."""

    FLEET = Fleet({f"n{at}": Host.load("2x24gb") for at in range(5)})

    def test_each_rank_has_a_bundle_on_its_node(self):
        told = vllm_over_nodes("prefer-accelerator", "qwen2.5-32b", self.FLEET)
        group = told["placement_group"]
        ranks = [one["devpolicy/node"] for one in group["bundle_label_selector"]]
        assert ranks == ["n0", "n0", "n1"]
        assert group["bundles"] == [{"CPU": 1.0, "GPU": 1.0}] * 3
        assert told["arguments"][:2] == ["--distributed-executor-backend", "ray"]
        assert "--device-ids" not in told["arguments"]
        layers = [int(one) for one in told["env"]["VLLM_PP_LAYER_PARTITION"].split(",")]
        assert (len(layers), sum(layers)) == (3, 64)

    def test_a_model_that_one_node_holds_stays_on_it(self):
        told = vllm_over_nodes("prefer-accelerator", "llama-3.1-8b", self.FLEET)
        assert told["placement_group"]["bundle_label_selector"] == [{"devpolicy/node": "n0"}]

    def test_the_smallest_kind_that_does_is_taken(self):
        fleet = self.FLEET.with_node("big", Host.load("4x80gb"))
        told = vllm_over_nodes("prefer-accelerator", "qwen2.5-32b", fleet)
        assert {one["devpolicy/node"] for one in told["placement_group"]["bundle_label_selector"]} == {"big"}

    def test_what_no_nodes_hold_is_refused(self):
        with pytest.raises(Unsatisfiable, match="no set of alike nodes"):
            vllm_over_nodes("prefer-accelerator", "llama-3.1-405b", self.FLEET)

    def test_the_command_prints_it_where_a_node_does_not_do(self, tmp_path):
        path = tmp_path / "fleet.toml"
        path.write_text(self.FLEET.to_toml())
        asked = ("plan", "prefer-accelerator", "--fleet", str(path), "--to", "vllm", "--format", "json", "--model")
        assert json.loads(invoke(*asked, "qwen2.5-32b").stdout)["placement_group"]["strategy"] == "PACK"
        alone = json.loads(invoke(*asked, "llama-3.1-8b").stdout)
        assert alone["arguments"][:2] == ["--device-ids", "0"]
