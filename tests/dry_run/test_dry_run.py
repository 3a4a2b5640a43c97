"""A dry run says what the real code does with a plan: what it held, and which module fails.

One child process serves all tests of a worker.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from devpolicy import Accelerator, DevPolicyError, Host, ModelTree, Policy, plan
from devpolicy._core.dry_run import child
from devpolicy._core.dry_run.result import DryRun
from devpolicy._core.language.properties import Property
from devpolicy._core.review.check import violations
from devpolicy._core.review.outcome import plan_outcome
from tests.cli.harness import invoke
from tests.dry_run.plans import BALANCED, balanced, cut

SMALL = "llama-3.2-1b"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("models") / "tiny"
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, vocab_size=256
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_plan_that_runs_is_within_its_ledger() -> None:
    found = balanced(SMALL).dry_run(SMALL, "2x24gb")
    assert (list(found.complaints()), found.call) == ([], "generate(input_ids 1x252)")
    for use in found.devices.values():
        assert use.loaded == use.ledger.weights < use.run_peak <= use.planned
    assert DryRun.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_a_map_that_cuts_a_block_names_the_block() -> None:
    tree = ModelTree.load(SMALL)
    wrong = cut(balanced(tree), tree, "model.layers.3", "model.layers.3.mlp", "cuda:1")
    found = wrong.dry_run(tree, "2x24gb")
    first = found.errors[0]
    assert (first.kind, first.module, first.module_class) == ("device", "model.layers.3", "LlamaDecoderLayer")
    assert "hidden_states = residual + hidden_states" in str(first.line)
    assert ("model.layers.3.mlp", "cuda:1") in first.children


def test_every_place_where_devices_meet_is_found_in_one_run() -> None:
    tree = ModelTree.load(SMALL)
    wrong = balanced(tree)
    for layer in ("model.layers.2", "model.layers.5"):
        wrong = cut(wrong, tree, layer, f"{layer}.mlp", "cuda:1")
    found = wrong.dry_run(tree, "2x24gb", prompt=16)
    assert {error.module for error in found.errors} == {"model.layers.2", "model.layers.5"}


def test_a_device_that_is_full_says_while_what() -> None:
    made = balanced(SMALL)
    small = Host([Accelerator("cuda", memory="24 GiB", free=free) for free in ("24 GiB", "1 GiB")], memory="64 GiB")
    loading = made.dry_run(SMALL, small)
    assert [(error.kind, error.phase) for error in loading.errors] == [("memory", "load")]
    rest = made.ledger["cuda:1"].weights + 4096
    full = Host([Accelerator("cuda", memory="24 GiB", free=one) for one in ("24 GiB", rest)], memory="64 GiB")
    running = made.dry_run(SMALL, full)
    assert [(error.kind, error.phase) for error in running.errors] == [("memory", "prefill")]
    assert str(running.errors[0].module).startswith("model.")


def test_a_checkpoint_on_disk_and_in_ram_holds_what_is_planned(tiny: Path) -> None:
    text = 'prefer = "cuda"\n[offload]\n"model.layers.1" = "disk"\n"model.layers.2" = "cpu"\n[workload]\ncontext = 32\n'
    found = balanced(str(tiny), text=text).dry_run(str(tiny), "2x24gb")
    assert found.runs
    assert {device: use.loaded for device, use in found.devices.items()} == {
        device: use.ledger.weights for device, use in found.devices.items()
    }
    assert list(found.devices) == ["cuda:0", "cpu", "disk"]


def test_a_model_without_a_configuration_is_told() -> None:
    tree = ModelTree.parse('name = "x"\nmodule = [{ path = "", class = "X", tensors = { w = [4] } }]\n')
    with pytest.raises(DevPolicyError, match="nothing says what code `x` is"):
        plan(Policy.parse('prefer = "cuda"\n'), tree, "2x24gb").dry_run(tree, "2x24gb")


@pytest.mark.parametrize(
    ("model", "text", "way_out"),
    [
        ("gpt-oss-20b", "", "try the checkpoint that it was made from"),
        ("gpt2", '[loading]\nquantization = "int8"\n', "leave `loading.quantization` out"),
    ],
)
def test_a_quantised_model_is_refused_with_a_way_out(model: str, text: str, way_out: str) -> None:
    made = plan(Policy.parse(f'prefer = "cuda"\n{text}'), model, "1x24gb" if text else "8x80gb")
    with pytest.raises(DevPolicyError, match="without its quantiser") as refused:
        made.dry_run(model, "8x80gb")
    assert refused.value.diagnostics[0].help == way_out


def test_a_module_of_the_caller_is_tried_and_stays_as_it_is() -> None:
    torch = pytest.importorskip("torch")

    class Meeting(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)

        def forward(self, x: Any) -> Any:
            return self.one(x) + self.two(x)

    module = Meeting()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    rule = '[[rule]]\nname = "{0}"\nmatch = "{0}"\nprefer = "cuda:{1}"\n'
    text = 'prefer = "cuda"\n' + rule.format("one", 0) + rule.format("two", 1)
    given = {"x": torch.ones(2, 64)}
    found = plan(Policy.parse(text), module, "2x24gb").dry_run(module, "2x24gb", inputs=given)
    assert [(error.kind, error.module, error.line and error.line.split(": ")[1]) for error in found.errors] == [
        ("device", "", "return self.one(x) + self.two(x)")
    ]
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in before.items())
    together = plan(Policy.parse('prefer = "cuda"\n'), module, "2x24gb").dry_run(module, "2x24gb", inputs=given)
    assert together.runs
    assert together.devices["cuda:0"].loaded == together.devices["cuda:0"].ledger.weights


@pytest.mark.parametrize("wrong", [{"prompt": 0}, {"new_tokens": -1}, {"batch": True}, {"prompt": "many"}])
def test_sizes_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DevPolicyError, match="is a whole number from"):
        balanced(SMALL).dry_run(SMALL, "2x24gb", **wrong)


def test_the_property_runs_is_broken_by_a_small_reserve() -> None:
    text = BALANCED + '[memory.cuda.reserve]\nactivations = "1 MiB"\n'
    for written, holds in ((BALANCED, True), (text, False)):
        outcome = plan_outcome(Policy.parse(written), ModelTree.load(SMALL), Host.load("2x24gb"))
        told = list(violations(Property("runs"), outcome))
        assert bool(told) is not holds
        assert holds or "at its peak, and the ledger has" in told[0]


def test_one_run_answers_for_hosts_that_differ_in_memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from devpolicy._core.dry_run import remembered

    asked = []
    monkeypatch.setattr(remembered, "ask", lambda request, progress: asked.append(1) or child.ask(request, progress))
    monkeypatch.setattr(remembered, "_known", {})
    policy, tree = Policy.parse('prefer = "cuda"\n[workload]\ncontext = 64\n'), ModelTree.load(SMALL)
    for memory in ("24 GiB", "12 GiB", "6 GiB"):
        outcome = plan_outcome(policy, tree, Host([Accelerator("cuda", memory=memory)], memory="64 GiB"))
        assert list(violations(Property("runs"), outcome)) == []
    assert len(asked) == 1


def test_the_command_ends_with_the_status_of_what_it_found(tmp_path: Path) -> None:
    sound = tmp_path / "sound.toml"
    sound.write_text(BALANCED)
    told = invoke("dry-run", str(sound), "--model", SMALL, "--host", "2x24gb", "--format", "json")
    assert (told.status, json.loads(told.stdout)["runs"], told.stderr) == (0, True, "")
    over = invoke("dry-run", str(sound), "--model", SMALL, "--host", "2x24gb", "--prompt", "2000")
    assert over.status == 1
    assert "error[DP521]: `cuda:0` held" in over.stdout
    refused = invoke("dry-run", str(sound), "--model", SMALL, "--host", "cpu-only")
    assert (refused.status, refused.stdout) == (3, "")


def test_a_child_that_dies_is_told_and_another_answers() -> None:
    made = balanced(SMALL)
    assert made.dry_run(SMALL, "2x24gb", prompt=8).runs
    child._child().process.kill()
    with pytest.raises(DevPolicyError, match="ended with status -9"):
        made.dry_run(SMALL, "2x24gb", prompt=8)
    assert made.dry_run(SMALL, "2x24gb", prompt=8).runs
