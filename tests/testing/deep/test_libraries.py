"""Unmodified libraries on simulated GPUs: transformers, accelerate, Trainer, sentence-transformers, Haystack. Where a
model is placed changes nothing in what it answers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")

from devpolicy import Accelerator, Host, ModelTree, Policy, plan  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402

TINY = Host([Accelerator("cuda", memory="2 MiB") for _ in range(4)], memory="8 GiB")
IDS = torch.tensor([list(range(3, 19))])

SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 256}
LLAMA = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 128, "num_hidden_layers": 8}

# Of libraries, about themselves; they come on a CPU as well.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*pin_memory.*:UserWarning", "ignore:.*offload.*:UserWarning", "ignore::DeprecationWarning"
)


def llama(**more: Any) -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, **more)).eval()


def tokens(model: Any, ids: Any = IDS) -> Any:
    with torch.no_grad():
        return model.generate(ids, max_new_tokens=6, do_sample=False).cpu()


def logits(model: Any, ids: Any = IDS) -> Any:
    with torch.no_grad():
        return model(ids).logits.cpu()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    transformers.logging.set_verbosity_error()
    yield
    transformers.logging.set_verbosity_warning()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    llama().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def answers(saved: Path) -> tuple[Any, Any]:
    torch.set_num_threads(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(saved).eval()
    return tokens(model), logits(model)


POLICY = """
prefer = ["cuda"]

[offload]
"model.layers.2" = "cpu"
"model.layers.5" = "disk"
lm_head = "cpu"

[memory.cuda]
headroom = "0 B"
cap = "700 KiB"

[workload]
context = 64
"""


def test_a_plan_with_cpu_and_disk_generates_the_same_tokens(saved, answers, tmp_path):
    host = Host.load("4x80gb")
    made = plan(Policy.parse(POLICY), ModelTree.from_checkpoint(saved), host)
    kwargs = made.to_hf_kwargs()
    used = set(map(str, kwargs["device_map"].values()))
    assert {"cpu", "disk"} < used
    assert len(used) > 3, kwargs["device_map"]
    with simulate_host(host, depth="tensors"):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            saved, **{"offload_folder": str(tmp_path), **kwargs}
        ).eval()
        assert made.verify(model) == []
        expected = IDS.to("cuda:0")
        assert torch.equal(tokens(model, expected), answers[0])
        assert torch.equal(logits(model, expected), answers[1])
        assert all(simulated_device(f"cuda:{gpu}").operations for gpu in used - {"cpu", "disk"})


def test_a_static_cache_is_compiled_without_a_compiler_for_gpus():
    """Transformers compiles decoding with it on a GPU: that asked for Triton, and for the memory of traced tensors."""
    options = {"max_new_tokens": 4, "do_sample": False, "cache_implementation": "static"}
    model = llama()
    expected = model.generate(IDS, **options, disable_compile=True)
    gpu = Host([Accelerator("cuda", memory="24 GiB", capability=(9, 0))], memory="8 GiB")
    with simulate_host(gpu, depth="tensors"):
        assert torch.equal(model.cuda().generate(IDS.cuda(), **options).cpu(), expected)
        model.cpu()
    torch.compiler.reset()


def test_device_map_auto_places_by_the_simulated_memories(saved, answers):
    with simulate_host("24-24-12-8", depth="tensors"):
        model = transformers.AutoModelForCausalLM.from_pretrained(saved, device_map="auto").eval()
        devices = {parameter.device.index for parameter in model.parameters()}
        assert devices == set(model.hf_device_map.values())
        assert len(devices) > 2
        assert torch.equal(tokens(model, IDS.to("cuda:0")), answers[0])


def test_accelerate_dispatches_offloads_and_loads(saved, answers, tmp_path):
    blocks = {f"model.layers.{block}": block % 3 for block in range(8)}
    device_map = {"model.embed_tokens": 0, **blocks, "model.norm": 2, "model.rotary_emb": 0, "lm_head": "cpu"}
    with simulate_host("4x80gb", depth="tensors"):
        dispatched = accelerate.dispatch_model(llama(), device_map=device_map, main_device=0)
        assert torch.equal(logits(dispatched, IDS.to("cuda:0")), answers[1])
        with_disk = {**device_map, "model.layers.4": "disk"}
        dispatched = accelerate.dispatch_model(llama(), device_map=with_disk, main_device=0, offload_dir=str(tmp_path))
        assert torch.equal(logits(dispatched, IDS.to("cuda:0")), answers[1])
        on_cpu = accelerate.cpu_offload(llama(), execution_device="cuda:1")
        assert torch.equal(logits(on_cpu, IDS.to("cuda:1")), answers[1])
        on_disk = accelerate.disk_offload(llama(), str(tmp_path / "disk"), execution_device="cuda:1")
        assert torch.equal(logits(on_disk, IDS.to("cuda:1")), answers[1])
        with accelerate.init_empty_weights():
            empty = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
        loaded = accelerate.load_checkpoint_and_dispatch(empty, str(saved), device_map=device_map).eval()
        assert torch.equal(logits(loaded, IDS.to("cuda:0")), answers[1])


def test_a_layer_that_was_left_behind_is_found_by_a_forward():
    with simulate_host("4x80gb", depth="tensors"):
        model = llama().to("cuda:0")
        model.model.layers[3].to("cuda:1")
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            model(IDS.to("cuda:0"))


def test_a_model_that_does_not_fit_is_out_of_memory():
    words = "GPU 2 has a total capacity of 2.00 MiB"
    with simulate_host(TINY, depth="tensors"), pytest.raises(torch.OutOfMemoryError, match=words):
        big = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(9)))
        big.to("cuda:2")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_experts_are_counted_and_run(attention):
    config = transformers.MixtralConfig(
        **{**LLAMA, "num_hidden_layers": 2}, num_local_experts=4, attn_implementation=attention
    )
    torch.manual_seed(0)
    model = transformers.MixtralForCausalLM(config).eval()
    expected = logits(model)
    with simulate_host("2x24gb", depth="tensors"):
        assert torch.equal(logits(copy.deepcopy(model).to("cuda:1"), IDS.to("cuda:1")), expected)


def test_trainer_learns_the_same_in_three_steps(tmp_path):
    def losses(folder: Path) -> list[float]:
        model = llama().train()
        rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 256, (12, 16))]
        arguments = transformers.TrainingArguments(
            output_dir=str(folder), max_steps=3, per_device_train_batch_size=2, logging_steps=1, report_to=[],
            save_strategy="no", disable_tqdm=True, seed=1, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = transformers.Trainer(model, arguments, train_dataset=rows)
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        assert next(model.parameters()).device.type == arguments.device.type
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    torch.manual_seed(0)
    expected = losses(tmp_path / "cpu")
    with simulate_host("1x24gb", depth="tensors"):
        torch.manual_seed(0)
        found = losses(tmp_path / "gpu")
        assert simulated_device("cuda:0").operations > 1000
    assert len(found) == 3
    assert found == expected


def _sentences(tmp_path: Path) -> Any:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from sentence_transformers.models import Pooling, Transformer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "simulated", "device", "is", "here"]
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = transformers.BertConfig(**{**SMALL, "vocab_size": len(words)}, num_hidden_layers=2)
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    part = Transformer(str(folder))
    pooling = Pooling(SMALL["hidden_size"])
    return lambda device=None: sentence_transformers.SentenceTransformer(modules=[part, pooling], device=device)


def test_sentence_transformers_encodes_on_the_gpu_that_it_finds(tmp_path):
    make = _sentences(tmp_path)
    expected = make("cpu").encode(["a simulated device"])
    with simulate_host("2x24gb", depth="tensors"):
        model = make()
        assert model.device.type == "cuda"
        assert (model.encode(["a simulated device"]) == expected).all()
        assert simulated_device("cuda:0").operations > 0
        model.to("cpu")


def test_a_haystack_component_runs_on_the_device_of_a_policy():
    pytest.importorskip("haystack")
    from haystack import Pipeline, component
    from haystack.utils import ComponentDevice

    from devpolicy import resolve

    @component
    class Scorer:
        def __init__(self, device: ComponentDevice) -> None:
            torch.manual_seed(0)
            self.device = device.to_torch()
            self.layer = torch.nn.Linear(4, 1).to(self.device)

        @component.output_types(score=float)
        def run(self, values: list[float]) -> dict[str, float]:
            return {"score": self.layer(torch.tensor(values, device=self.device)).item()}

    def score(device: ComponentDevice) -> float:
        pipeline = Pipeline()
        pipeline.add_component("scorer", Scorer(device))
        return pipeline.run({"scorer": {"values": [1.0, 2.0, 3.0, 4.0]}})["scorer"]["score"]

    expected = score(ComponentDevice.from_str("cpu"))
    with simulate_host("2x24gb", depth="tensors") as host:
        device = resolve(Policy.parse('prefer = ["cuda:1", "cpu"]'), host=host).to_haystack()
        assert score(device) == expected
        assert simulated_device("cuda:1").operations > 0
