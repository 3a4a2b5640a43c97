"""What is planned for a quantised checkpoint is what is loaded: on hosts of each capability, and after a forward.

The table says what each checkpoint is held as on each host, and the bytes of the whole model as they were measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.quantized.rules import need_these_rules

need_these_rules()
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from devpolicy import Accelerator, Host, Plan, Policy, Unsatisfiable, plan  # noqa: E402
from devpolicy._core.model import config, structure  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402
from tests.quantized.checkpoints import LIBRARIES, MAKERS, make  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # each library warns of its own ways
    pytest.mark.usefixtures("quiet"),
]

HOSTS = {
    capability: Host([Accelerator("cuda", memory="4 GiB", capability=pair)] * 2, memory="16 GiB", disk="100 GiB")
    for capability, pair in {"8.0": (8, 0), "8.9": (8, 9), "9.0": (9, 0)}.items()
} | {"cpu": Host(memory="16 GiB", disk="100 GiB")}
LAYOUTS = {
    "one": 'split = "never"',
    "two": 'split = "balanced"',
    "part on the cpu": 'split = "never"\noffload = { "model.layers.2" = "cpu" }',
    "part on the disk": 'split = "never"\noffload = { "model.layers.2" = "disk" }\nmemory.disk.path = "offload"',
}
FULL = 5_181_184  # the Llama in bfloat16, its rotary buffers included


class Row(NamedTuple):
    """What a checkpoint is held as on a host, its bytes on one device, and the layouts that it can have there."""

    checkpoint: str
    host: str
    scheme: str
    size: int | None
    layouts: tuple[str, ...] = ("one",)


ONE, TWO, CPU, DISK = LAYOUTS
_ACCELERATORS = (ONE, TWO)
_TABLE = (
    ("int8", "8.0", "int8", 3_144_448, _ACCELERATORS),
    ("int8", "8.9", "int8", 3_144_448, _ACCELERATORS),
    ("int8", "9.0", "int8", 3_144_448, _ACCELERATORS),
    ("int8", "cpu", "int8", 3_144_448),
    ("nf4", "8.0", "nf4", 2_214_976, _ACCELERATORS),
    ("nf4", "8.9", "nf4", 2_214_976, _ACCELERATORS),
    ("nf4", "9.0", "nf4", 2_214_976, _ACCELERATORS),
    ("nf4", "cpu", "nf4", 2_214_976),
    ("fp4", "8.0", "fp4", 2_214_976, _ACCELERATORS),
    ("fp4", "cpu", "fp4", 2_214_976),
    ("nf4-double", "8.0", "nf4-double", 2_140_300, _ACCELERATORS),
    ("nf4-double", "9.0", "nf4-double", 2_140_300, _ACCELERATORS),
    ("nf4-double", "cpu", "nf4-double", 2_153_728),
    ("fp8", "8.0", "none", FULL, (ONE, TWO, CPU, DISK)),
    ("fp8", "8.9", "fp8", 3_117_304, (ONE, TWO, CPU, DISK)),
    ("fp8", "9.0", "fp8", 3_117_304, (ONE, TWO)),
    ("fp8", "cpu", "none", FULL),
    ("fp8-whole", "8.0", "none", FULL, _ACCELERATORS),
    ("fp8-whole", "8.9", "fp8", 3_116_884, (ONE, TWO, CPU)),
    ("fp8-whole", "cpu", "none", FULL),
    ("mxfp4", "8.0", "none", None, (ONE, TWO)),
    ("mxfp4", "9.0", "none", None, (ONE, TWO)),
    ("mxfp4", "cpu", "none", None),
    ("compressed-int4", "8.0", "none", FULL, (ONE, TWO, CPU, DISK)),
    ("compressed-int4", "8.9", "none", FULL, (ONE, TWO)),
    ("compressed-int4", "cpu", "none", FULL),
    ("compressed-nvfp4", "8.9", "none", FULL, (ONE, TWO, CPU)),
    ("compressed-nvfp4", "cpu", "none", FULL),
    ("compressed-fp8", "8.0", "none", FULL, (ONE, TWO)),
    ("compressed-fp8", "8.9", "compressed-fp8", 3_144_448),
    ("compressed-fp8", "9.0", "compressed-fp8", 3_144_448),
    ("compressed-fp8", "8.9", "none", None, (TWO, CPU, DISK)),
    ("compressed-fp8", "cpu", "none", FULL),
    ("torchao-int8", "8.0", "torchao-int8", 3_151_360, (ONE, TWO, CPU)),
    ("torchao-int8", "9.0", "torchao-int8", 3_151_360, _ACCELERATORS),
    ("torchao-int8", "cpu", "torchao-int8", 3_151_360),
    ("torchao-float8", "8.0", "torchao-float8", 3_144_448, (ONE, TWO, CPU)),
    ("torchao-float8", "9.0", "torchao-float8", 3_144_448, _ACCELERATORS),
    ("torchao-float8", "cpu", "torchao-float8", 3_144_448),
    ("gptq", "8.0", "gptq", 2_152_384, _ACCELERATORS),
    ("gptq", "9.0", "gptq", 2_152_384, _ACCELERATORS),
    ("gptq", "cpu", "gptq", 2_152_384),
    ("awq", "8.0", "awq", 2_124_928, _ACCELERATORS),
    ("awq", "9.0", "awq", 2_124_928, _ACCELERATORS),
    ("awq", "cpu", "awq", 2_124_928),
)
CASES = [(Row(*row), layout) for row in _TABLE for layout in Row(*row).layouts]
REFUSED = [
    (checkpoint, layout)
    for checkpoint, layouts in {
        "int8": (CPU, DISK),
        "nf4": (CPU, DISK),
        "nf4-double": (CPU, DISK),
        "torchao-int8": (DISK,),
        "gptq": (CPU, DISK),
        "awq": (CPU, DISK),
    }.items()
    for layout in layouts
]
IN_TORCH = {"gptq": "gptq_torch", "awq": "torch_awq"}
"""The kernels of gptqmodel that need no GPU: by itself it takes others, some of which it compiles first."""
SHARED = {"gptq": 21 * 32}
"""Bytes that modules count twice: of the two tables of shifts in each, one is a view of the other."""


@pytest.fixture
def quiet() -> Iterator[None]:
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    yield


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantized")


def checkpoint(name: str, folder: Path) -> Path:
    for library, names in LIBRARIES.items():
        if name in names and find_spec(library) is None:
            pytest.skip(f"{library} makes and loads it: `tox run -e quantized`")
    return make(name, folder)


def with_kernels_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fp8 weights run without kernels of the hub, by what they compute: all scales of these checkpoints are 1."""
    from transformers.integrations import finegrained_fp8

    def linear(given: Any, weight: Any, scales: Any, block: Any = None, bias: Any = None, *_: Any) -> Any:
        return torch.nn.functional.linear(given, weight.to(given.dtype), bias)

    monkeypatch.setattr(finegrained_fp8, "fp8_linear", linear)


def policy(host: str, layout: str) -> Policy:
    kind = "cpu" if host == "cpu" else "cuda"
    return Policy.parse(f'prefer = "{kind}"\n{LAYOUTS[layout]}\n[workload]\ncontext = 8\n')


def bytes_of(tensor: Any) -> int:
    """Count a tensor as it is kept: the parts that it is made of, and what bitsandbytes keeps beside it."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(bytes_of(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    size = tensor.numel() * tensor.element_size()
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        size += bytes_of(state.absmax) + bytes_of(state.code)
        if state.nested:
            size += bytes_of(state.state2.absmax) + bytes_of(state.state2.code) + bytes_of(state.offset)
    scales = getattr(tensor, "SCB", None)
    return int(size + (0 if scales is None else bytes_of(scales)))


def held(model: Any, devices: list[str]) -> dict[tuple[str, str], int]:
    """Return the bytes of each tensor by its device and its name; what is offloaded is where the plan keeps it."""
    elsewhere = next((device for device in devices if device in ("cpu", "disk")), "meta")
    found: dict[tuple[str, str], int] = {}
    for path, module in model.named_modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                device = elsewhere if tensor.is_meta else str(tensor.device)
                found[device, f"{path}.{name}"] = bytes_of(tensor)
                state = getattr(module, "state", None)
                if (
                    name == "weight" and state is not None and getattr(tensor, "SCB", state) is None
                ):  # after a forward, they are the module's
                    found[device, f"{path}.{name}"] += bytes_of(state.SCB)
    return found


def summed(found: dict[tuple[str, str], int]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for (device, _), size in found.items():
        sizes[device] = sizes.get(device, 0) + size
    return sizes


@pytest.mark.parametrize(("row", "layout"), CASES, ids=[f"{row.checkpoint}-{row.host}-{at}" for row, at in CASES])
def test_planned_is_loaded(
    row: Row, layout: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if row.checkpoint in IN_TORCH:
        pytest.importorskip("gptqmodel", reason="gptqmodel loads it: `tox run -e quantized`", exc_type=ImportError)
    with_kernels_in_torch(monkeypatch)
    folder = checkpoint(row.checkpoint, checkpoints)
    host = HOSTS[row.host]
    made = plan(policy(row.host, layout), folder, host)
    planned = {device: budget.weights for device, budget in made.ledger.items()}
    assert made.loading.scheme == row.scheme
    assert row.size in (None, sum(planned.values()))
    with simulate_host(host, depth="tensors"), torch.no_grad():
        given = arguments(made, tmp_path) | in_torch(row.checkpoint)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, **given)
        loaded = held(model, list(planned))
        assert made.verify(model) == []
        for device in planned:
            if device.startswith("cuda"):
                # A scalar of the library's.
                assert abs(simulated_device(device).allocated - planned[device]) <= 8 + SHARED.get(row.checkpoint, 0)
        model(torch.ones(1, 8, dtype=torch.long, device="cpu" if row.host == "cpu" else "cuda:0"))
        after = held(model, list(planned))
        loaded = {key: max(loaded[key], after.get(key, 0)) for key in loaded}
        # GPTQ's kernel in torch moves what it needs no longer to the CPU.
        assert [line for line in made.verify(model) if ".g_idx: " not in line] == []
    assert summed(loaded) == planned


def in_torch(name: str) -> dict[str, Any]:
    """Return what is given beside a plan's arguments, for a kernel that runs here: no figure depends on it."""
    if name not in IN_TORCH:
        return {}
    cls = {"gptq": transformers.GPTQConfig, "awq": transformers.AwqConfig}[name]
    return {"quantization_config": cls(bits=4, backend=IN_TORCH[name])}


def arguments(made: Plan, folder: Path) -> dict[str, Any]:
    """Return a plan's own keyword arguments, with its offload folder in `folder`."""
    given = made.to_hf_kwargs()
    return given | ({"offload_folder": str(folder)} if "offload_folder" in given else {})


@pytest.mark.parametrize(("name", "layout"), REFUSED)
def test_what_the_library_forbids_is_refused_with_the_reason(name: str, layout: str, checkpoints: Path) -> None:
    folder = checkpoint(name, checkpoints)
    with pytest.raises(Unsatisfiable) as refused:
        plan(policy("8.9", layout), folder, HOSTS["8.9"])
    assert refused.value.code == "DP417"
    assert refused.value.diagnostics[0].help


def test_one_policy_and_checkpoint_become_what_the_host_can_run(checkpoints: Path) -> None:
    folder = checkpoint("fp8", checkpoints)
    small, large = (plan(policy(host, ONE), folder, HOSTS[host]) for host in ("8.9", "8.0"))
    assert small.ledger["cuda:0"].weights == 3_117_304
    assert small.warnings == ()
    assert small.loading.assumed == ("kernels",)
    assert large.ledger["cuda:0"].weights == FULL
    assert [warning.code for warning in large.warnings] == ["DP418"]
    assert "8.9" in large.warnings[0].message


def test_mxfp4_is_kept_only_where_the_host_records_its_packages(checkpoints: Path) -> None:
    folder = checkpoint("mxfp4", checkpoints)
    packages = {"triton": "3.5.0", "kernels": "0.18.2"}
    host = Host([Accelerator("cuda", memory="4 GiB", capability=(8, 0))], memory="16 GiB", versions=packages)
    kept = plan(policy("8.0", ONE), folder, host)
    assert kept.loading.scheme == "mxfp4"
    experts = sum(unit.bytes for path, unit in kept.placements.items() if "layers" in path)
    assert experts < sum(unit.bytes for unit in plan(policy("8.0", ONE), folder, HOSTS["8.0"]).placements.values()) / 2
    old = Host(host.accelerators, memory="16 GiB", versions=packages | {"triton": "3.3.0"})
    assert plan(policy("8.0", ONE), folder, old).loading.scheme == "none"


@pytest.mark.parametrize("layout", [ONE, TWO])
def test_mxfp4_that_is_kept_takes_what_is_planned(
    layout: str, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the library's own code, but for the kernel that puts packed weights in another order."""
    from transformers.integrations import hub_kernels, mxfp4
    from transformers.quantizers import quantizer_mxfp4

    class Ordered:
        def __init__(self, data: Any) -> None:
            self.data, self.shape = data, data.shape

    class Kernels:
        class matmul_ogs:  # noqa: N801 - the name of the library's module
            PrecisionConfig = FlexCtx = InFlexData = staticmethod(lambda **given: given)

    for module, name, value in (
        (hub_kernels, "get_kernel", lambda *_, **__: Kernels),
        (mxfp4, "swizzle_mxfp4", lambda weight, scale, _: (Ordered(weight), scale)),
        (quantizer_mxfp4, "is_triton_available", lambda *_: True),
        (quantizer_mxfp4, "is_kernels_available", lambda: True),
    ):
        monkeypatch.setattr(module, name, value)
    folder = checkpoint("mxfp4", checkpoints)
    packages = {"triton": "3.5.0", "kernels": "0.18.2"}
    host = Host(HOSTS["9.0"].accelerators, memory="16 GiB", disk="100 GiB", versions=packages)
    made = plan(policy("9.0", layout), folder, host)
    assert made.loading.scheme == "mxfp4"
    with simulate_host(host, depth="tensors"):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, **made.to_hf_kwargs())
        assert type(model.model.layers[0].mlp.experts).__name__ == "Mxfp4GptOssExperts"
        sizes = {device: simulated_device(device).allocated for device in made.ledger if device.startswith("cuda")}
    assert sizes == {device: made.ledger[device].weights for device in sizes}


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_our_map_computes_what_the_library_s_own_does(name: str, checkpoints: Path) -> None:
    folder = checkpoint(name, checkpoints)
    host = Host.load("2x24gb")
    made = plan(policy("8.9", TWO), folder, host)
    tokens = torch.arange(8)[None]
    answers = []
    for device_map in (made.to_hf_kwargs(), {"device_map": "auto"}):
        with simulate_host(host, depth="tensors"), torch.no_grad():
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, **device_map)
            answers.append(model(tokens.to("cuda:0")).logits.float().cpu())
    assert torch.equal(*answers)


def test_a_dry_run_of_quantised_weights_is_refused(checkpoints: Path) -> None:
    from devpolicy._core.errors import DevPolicyError

    folder = checkpoint("fp8", checkpoints)
    made = plan(policy("8.9", ONE), folder, HOSTS["8.9"])
    with pytest.raises(DevPolicyError, match="without its quantiser"):
        made.dry_run(folder, HOSTS["8.9"])


@pytest.mark.parametrize("libraries", [True, False])
@pytest.mark.parametrize("name", MAKERS)
def test_a_bare_configuration_plans_what_the_checkpoint_plans(
    name: str, libraries: bool, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint(name, checkpoints)
    if not libraries:
        monkeypatch.setattr(config, "has_transformers", lambda: False)
        monkeypatch.setattr(structure, "has_transformers", lambda: False)
    for host in ("8.0", "8.9", "cpu"):
        bare, whole = (plan(policy(host, ONE), model, HOSTS[host]) for model in (folder / "config.json", folder))
        assert bare.to_hf_kwargs().keys() == whole.to_hf_kwargs().keys()
        assert {device: one.weights for device, one in bare.ledger.items()} == {
            device: one.weights for device, one in whole.ledger.items()
        }
        assert bare.loading.scheme == whole.loading.scheme
