"""A GGUF file through Transformers: planned as it is unpacked, or refused with the size that it would have."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.quantized.rules import need_these_rules

need_these_rules()
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("gguf")

from devpolicy import Host, ModelTree, Plan, Policy, Unsatisfiable, plan  # noqa: E402
from devpolicy._core.loading.recognition import quantization_of  # noqa: E402
from devpolicy._core.model import gguf_dense  # noqa: E402
from devpolicy.errors import DevPolicyError  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402
from tests.quantized.gguf_files import write  # noqa: E402
from tests.quantized.test_loaded import CPU, DISK, HOSTS, LAYOUTS, ONE, TWO, held, quiet, summed  # noqa: E402, F401

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("quiet")]
SHORT = "\n[workload]\ncontext = 8\n"


def policy(layout: str, kind: str = "cuda", dtype: str = "bfloat16") -> Policy:
    return Policy.parse(f'prefer = "{kind}"\n{LAYOUTS[layout]}{SHORT}dtype = "{dtype}"\n')


def planned_for(policy: Policy, file: Path, host: Host = HOSTS["8.0"]) -> Plan:
    return plan(policy, file, host, target="hf")


@pytest.mark.parametrize("layout", [ONE, TWO, CPU])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "lfm2"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_gguf_file_takes_what_is_planned(architecture: str, dtype: str, layout: str, tmp_path: Path) -> None:
    file = write(tmp_path / f"{architecture}.gguf", architecture, tied=architecture in ("qwen2", "lfm2"))
    made = planned_for(policy(layout, dtype=dtype), file)
    assert [warning.code for warning in made.warnings] == ["DP418"]
    assert Plan.from_dict(made.to_dict()) == made
    planned = {device: budget.weights for device, budget in made.ledger.items()}
    given = made.to_hf_kwargs()
    assert given["gguf_file"] == file.name
    with simulate_host(HOSTS["8.0"], depth="tensors"), torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, **given)
        assert made.verify(model) == []
        tensors = held(model, list(planned))
        for tied in getattr(model, "all_tied_weights_keys", {}):  # they are one tensor
            tensors = {(device, name): size for (device, name), size in tensors.items() if name != tied}
        assert summed(tensors) == planned
        for device in [device for device in planned if device.startswith("cuda")]:
            assert simulated_device(device).allocated == planned[device]
            assert simulated_device(device).peak <= made.ledger[device].load
        model(torch.ones(1, 8, dtype=torch.long, device="cuda:0"))


@pytest.mark.parametrize("kept", ["Q4_0", "F16", "F32"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_unpacking_on_a_device_is_in_its_load(kept: str, dtype: str, tmp_path: Path) -> None:
    file = write(tmp_path / "x.gguf", "lfm2", dtype=kept)
    made = planned_for(policy(ONE, dtype=dtype), file)
    with simulate_host(HOSTS["8.0"], depth="tensors"):
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, **made.to_hf_kwargs())
        device = simulated_device("cuda:0")
        assert device.allocated == made.ledger["cuda:0"].weights
        assert device.peak <= made.ledger["cuda:0"].load
        del model


def test_a_gguf_file_is_unpacked_to_float32_where_nobody_asks(tmp_path: Path) -> None:
    file = write(tmp_path / "x.gguf", "llama")
    tree = ModelTree.load(file)
    made = planned_for(Policy.parse(f'prefer = "cpu"{SHORT}'), file, HOSTS["cpu"])
    assert made.loading.model_dtype == "float32"
    assert "gguf>=0.10.0" in made.loading.assumed
    assert made.ledger["cpu"].weights > 4 * tree.parameters
    assert plan(Policy.parse(f'prefer = "cuda"{SHORT}'), file, HOSTS["8.0"]).target == "llama.cpp"


def test_no_part_of_a_gguf_file_stays_on_the_disk(tmp_path: Path) -> None:
    with pytest.raises(Unsatisfiable, match="no part of a GGUF file on the disk") as refused:
        planned_for(policy(DISK), write(tmp_path / "x.gguf", "llama"))
    assert refused.value.code == "DP417"


@pytest.mark.parametrize(
    ("name", "architecture", "reason"),
    [
        ("x.gguf", "plamo", "is not supported"),
        ("x.gguf", "qwen3", "as many"),  # Transformers takes heads of 128, whatever the file says
    ],
)
def test_a_gguf_file_that_transformers_does_not_load_is_refused(
    name: str, architecture: str, reason: str, tmp_path: Path
) -> None:
    file = write(tmp_path / name, architecture)
    with pytest.raises(Unsatisfiable, match="dequantises GGUF files") as refused:
        planned_for(policy(ONE), file)
    assert refused.value.code == "DP412"
    (note,) = refused.value.diagnostics[0].notes
    assert reason in note


def test_a_type_that_nothing_unpacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsatisfiable, match="does not unpack `q5_1`"):
        planned_for(policy(ONE), write(tmp_path / "x.gguf", "lfm2", dtype="Q5_1"))
    assert planned_for(policy(ONE), write(tmp_path / "y.gguf", "llama", dtype="Q5_1")).loading.gguf_file == "y.gguf"


def test_a_split_gguf_file_is_refused(tmp_path: Path) -> None:
    from tests.test_models_gguf import LLAMA, dense, gguf

    tensors = list(dense().items())
    for part in (0, 1):
        metadata = (LLAMA if part == 0 else {}) | {"split.no": part, "split.count": 2}
        file = gguf(tmp_path / f"x-{part + 1:05}-of-00002.gguf", dict(tensors[part::2]), metadata)
    with pytest.raises(Unsatisfiable, match="reads no GGUF file that is split"):
        planned_for(policy(ONE), file)


def test_the_class_is_the_one_whose_parameters_the_file_holds(tmp_path: Path) -> None:
    file = write(tmp_path / "x.gguf", "llama")
    text = 'prefer = "cuda"\nloading.architecture = "{}"' + SHORT
    named = planned_for(Policy.parse(text.format("AutoModelForCausalLM")), file)
    assert named.loading.architecture == "LlamaForCausalLM"
    with pytest.raises(Unsatisfiable, match="as many") as refused:
        planned_for(Policy.parse(text.format("LlamaModel")), file)
    assert refused.value.code == "DP412"


def test_without_its_libraries_a_gguf_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "x.gguf", "llama")
    monkeypatch.setattr(gguf_dense, "has_transformers", lambda: False)
    with pytest.raises(Unsatisfiable, match="not both here"):
        planned_for(policy(ONE), file)


def test_a_pipeline_is_not_told_of_a_gguf_file(tmp_path: Path) -> None:
    made = planned_for(policy(ONE), write(tmp_path / "x.gguf", "llama"))
    with pytest.raises(DevPolicyError, match="GGUF"):
        made.to_pipeline_kwargs()


def test_no_configuration_says_that_a_checkpoint_is_a_gguf_file() -> None:
    found = quantization_of({"quantization_config": {"quant_method": "gguf"}})
    assert found is not None
    assert found.problem
