"""`--format json`: every command's shape, field by field."""

import json
import re

import click
import jsonschema
import pytest
from tests.cli.harness import ROOT, commands, invoke

import devpolicy
from devpolicy._core.codes import CODES
from devpolicy._core.dry_run.result import DryRun
from devpolicy._core.language.schema import policy_schema

PAGE = ROOT / "docs" / "json-output.md"
PLAN = ("plan", "offload-lm-head", "--model", "llama-3.1-8b", "--host", "2x24gb")


def told(*arguments: str, status: int = 0):
    result = invoke(*arguments, "--format", "json")
    assert result.status == status, result.stderr
    assert result.stdout.isascii()
    return json.loads(result.stdout)


def test_plan_is_the_plan_of_the_library():
    plan = devpolicy.plan("offload-lm-head", "llama-3.1-8b", "2x24gb")
    assert told(*PLAN) == plan.to_dict()
    assert devpolicy.Plan.from_dict(told(*PLAN)) == plan


def test_plan_has_the_shape_of_the_language():
    plan = told(*PLAN)
    assert {"schema", "component", "target", "device", "placements", "ledger", "warnings", "digest"} <= plan.keys()
    assert plan["schema"] == 1
    assert plan["target"] == "hf"
    assert plan["placements"]["lm_head"] == {
        "device": "disk",
        "runs_on": "cuda:0",
        "rule": "offload.lm_head",
        "reason": "rule `offload.lm_head` stores it on `disk`",
        "bytes": 128256 * 4096 * 2,
    }
    budget = plan["ledger"]["cuda:0"]
    assert list(budget) == ["weights", "kv_cache", "activations", "streaming", "load", "others", "headroom", "cap"]
    running = sum(budget[key] for key in ("weights", "kv_cache", "activations", "streaming"))
    assert max(running, budget["load"]) + budget["others"] + budget["headroom"] <= budget["cap"]


def test_plans_of_components_are_by_name_in_order():
    models = ("--model", "generator=llama-3.1-8b", "--model", "embedder=bert-base")
    both = told("plan", "prefer-accelerator", *models, "--host", "1x24gb")
    made = devpolicy.plan_all(
        "prefer-accelerator", {"generator": "llama-3.1-8b", "embedder": "bert-base"}, devpolicy.Host.load("1x24gb")
    )
    assert both == {"schema": 1, "components": {name: plan.to_dict() for name, plan in made.items()}}
    assert list(both["components"]) == ["generator", "embedder"]
    only = told("plan", "prefer-accelerator", *models, "--host", "1x24gb", "--component", "embedder")
    assert only == made["embedder"].to_dict()
    assert only["ledger"]["cuda:0"]["others"] > 0


SHAPES = {
    "plan": [
        PLAN,
        (*PLAN, "--what-if", "cuda.count=3"),
        ("plan", "rag-pipeline", "--host", "1x24gb"),
        (*PLAN[:4], "--fleet", "mixed-50"),
    ],
    "resolve": [
        ("resolve", "cpu-only", "--host", "1x24gb"),
        ("resolve", "cpu-only", "--host", "1x24gb", "--pipeline", str(ROOT / "examples" / "haystack-rag" / "rag.yaml")),
    ],
    "why": [
        ("why", *PLAN[1:2], "lm_head", *PLAN[2:]),
        ("why", *PLAN[1:2], "lm_head", *PLAN[2:4], "--fleet", "mixed-50"),
    ],
    "show": [("show", "cpu-only", "--host", "1x24gb"), ("show",)],
    "check": [("check", "cpu-only")],
    "fit": [
        ("fit", "prefer-accelerator", "--model", "gpt2", "--host", "t4"),
        ("fit", "prefer-accelerator", "--model", "gpt2", "--fleet", "4-workstations"),
    ],
    "run --print": [("run", "--format", "json", *PLAN[1:], "--print", "--", "python")],
    "test": [("test", "cpu-only"), ("test", "cpu-only", "--coverage")],
    "diff": [
        ("diff", "cpu-only", "cpu-only", "--hosts", "1x24gb"),
        ("diff", "rag-pipeline", "rag-pipeline", "--fleet", "4-workstations"),
    ],
    "verify": [
        ("verify", "cpu-only", "--accelerators", "1"),
        ("verify", "rag-pipeline", "--fleet", "mixed-50", "-p", "one_type"),
    ],
    "host list": [("host", "list")],
    "host show": [("host", "show", "1x24gb")],
    "fleet list": [("fleet", "list")],
    "fleet show": [("fleet", "show", "laptop-and-server")],
    "model list": [("model", "list")],
    "model show": [("model", "show", "gpt2")],
    "doctor": [("doctor", "psutil")],
    "targets": [("targets",), ("targets", "hf")],
    "simulator info": [("simulator", "info")],
    "explain": [("explain", "DP301"), ("explain",)],
}


@pytest.mark.parametrize("command", SHAPES)
def test_the_page_of_commands_has_the_keys_of_every_command(command):
    row = re.search(rf"^\| `{command}` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert row is not None
    # One shape with, one without what the command may be given; `[key]` is not always there.
    shapes = [re.findall(r"\[?`(\w+)`\]?", shape) for shape in row[1].split("; ")]
    optional = set(re.findall(r"\[`(\w+)`\]", row[1]))
    for arguments in SHAPES[command]:
        keys = [key for key in told(*arguments) if key != "schema"]
        assert any(
            set(shape) - optional <= set(keys) and [key for key in shape if key in keys] == keys for shape in shapes
        ), keys


def test_the_page_has_every_command_that_writes_json():
    rows = set(re.findall(r"^\| `([a-z-]+(?: [a-z]+)?)(?: --\w+)?` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows == {" ".join(path) for path, command in commands() if "json" in formats(command)}


def formats(command: click.Command) -> list[str]:
    found = [option.type for option in command.params if "--format" in option.opts]
    return [str(word) for type_ in found if isinstance(type_, click.Choice) for word in type_.choices]


def test_a_dry_run_has_the_keys_of_the_page():
    row = re.search(r"^\| `dry-run` \| (.*?);", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert row is not None
    run = DryRun(model="gpt2", host="1x24gb", call="", devices={}, errors=(), notes=(), seconds=0.0, memory=0)
    assert re.findall(r"`(\w+)`", row[1]) == [key for key in run.to_dict() if key != "schema"]


HANDED_OVER = {"device_map": {"model": 0, "lm_head": "disk"}, "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("hf", {**HANDED_OVER, "attn_implementation": "sdpa"}),
        ("pipeline", {**HANDED_OVER, "model_kwargs": {"attn_implementation": "sdpa"}}),
        ("haystack", {"type": "multiple", "device_map": {"model": "cuda:0", "lm_head": "disk"}}),
    ],
)
def test_forms_are_bare_values(form, expected):
    assert told(*PLAN, "--to", form) == expected


@pytest.mark.parametrize(("form", "expected"), [("torch", "cuda:0"), ("spacy", 0)])
def test_a_consumer_of_one_device_is_planned_for(form, expected):
    assert told("plan", "prefer-accelerator", "--model", "gpt2", "--host", "2x24gb", "--to", form) == expected


def test_forms_of_components_are_by_name():
    models = ("--model", "a=gpt2", "--model", "b=bert-base")
    value = told("plan", "prefer-accelerator", *models, "--host", "2x24gb", "--to", "torch")
    assert value == {"a": "cuda:0", "b": "cuda:0"}


def test_resolve_tells_the_device_and_what_became_of_each_term():
    assert told("resolve", "prefer-accelerator", "--host", "macbook-m3-36gb", "--component", "x") == {
        "schema": 1,
        "component": "x",
        "device": {"type": "single", "device": "mps"},
        "prefer": [
            {"term": "cuda", "outcome": "the host has no `cuda` device"},
            {"term": "xpu", "outcome": "the host has no `xpu` device"},
            {"term": "mps", "outcome": "fits"},
        ],
    }


def test_resolve_with_a_model_is_the_plans_device():
    arguments = ("resolve", "offload-lm-head", "--host", "2x24gb", "--model", "llama-3.1-8b")
    assert told(*arguments)["device"] == told(*PLAN)["device"]
    assert told(*arguments, "--to", "haystack") == told(*PLAN)["device"]


def test_why_tells_the_placements_inside_a_module():
    why = told("why", "offload-lm-head", "lm_head", "--model", "llama-3.1-8b", "--host", "2x24gb")
    assert list(why) == ["schema", "component", "module", "placements", "notes", "prefer"]
    assert why["placements"] == {"lm_head": told(*PLAN)["placements"]["lm_head"]}
    assert why["prefer"] == [{"term": "cuda", "outcome": "fits"}]


def test_why_tells_the_unit_of_a_part():
    why = told("why", "offload-lm-head", "model.layers.3.mlp", "--model", "llama-3.1-8b", "--host", "2x24gb")
    assert list(why["placements"]) == ["model.layers.3"]


def test_check_tells_every_policy_with_its_findings(tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text('prefer = "gpu"\n')
    value = told("check", "cpu-only", str(bad), status=2)
    assert value["summary"] == {"policies": 2, "errors": 1, "warnings": 0}
    good, wrong = value["policies"]
    assert good == {"policy": "cpu-only", "findings": []}
    (finding,) = wrong["findings"]
    assert finding == {
        "code": "DP201",
        "severity": "error",
        "message": "`gpu` is no device",
        "place": {"source": str(bad), "line": 1, "column": 10, "length": 5},
        "label": "not a type of device",
        "notes": [],
        "help": "did you mean `cuda`?",
    }


def test_hosts_have_their_sizes_in_bytes():
    hosts = {host["name"]: host for host in told("host", "list")["hosts"]}
    shown = told("host", "show", "2x24gb")
    assert shown["host"] == hosts["2x24gb"]
    host = devpolicy.Host.load("2x24gb")
    assert shown["host"]["memory"] == host.memory
    assert [one["free"] for one in shown["host"]["accelerators"]] == [one.free for one in host.accelerators]
    assert list(shown["budgets"]) == ["cuda:0", "cuda:1", "cpu", "disk"]
    for budget in shown["budgets"].values():
        assert budget["budget"] == budget["cap"] - budget["headroom"]


def test_a_faulty_device_has_no_budget():
    assert told("host", "show", "faulty/ecc-on-query")["budgets"]["cuda:2"] is None


def test_this_machine_can_be_shown():
    assert told("host", "show")["host"]["memory"] == devpolicy.Host.probe().memory


def test_models_have_parameters_bytes_and_modules():
    listed = {model["name"]: model for model in told("model", "list")["models"]}
    tree = devpolicy.ModelTree.load("gpt2")
    shown = told("model", "show", "gpt2")["model"]
    assert listed["gpt2"].items() <= shown.items()
    assert (shown["parameters"], shown["bytes"], shown["blocks"]) == (tree.parameters, tree.bytes_as(), 12)
    assert shown["ties"] == [["transformer.wte.weight", "lm_head.weight"]]
    # 12 layers of keys and values, 768 wide, in float32.
    assert shown["kv_cache_per_1000_tokens"] == 12 * 2 * 768 * 4 * 1000
    assert [module["path"] for module in shown["modules"]] == [module.path for module in tree.modules]
    assert shown["modules"][0] == {"path": "", "class": "GPT2LMHeadModel", "bytes": tree.bytes_as()}


def test_the_schema_is_one_and_always_json():
    schema = json.loads(invoke("schema").stdout)
    assert schema == policy_schema()
    jsonschema.Draft7Validator.check_schema(schema)


@pytest.mark.parametrize("code", CODES)
def test_every_code_has_its_title_and_explanation(code):
    value = told("explain", code.lower())
    assert value == {
        "schema": 1,
        "code": code,
        "title": CODES[code].title,
        "explanation": CODES[code].explanation,
    }


def test_all_codes_are_listed():
    assert told("explain") == {"schema": 1, "codes": {code: told_.title for code, told_ in CODES.items()}}
