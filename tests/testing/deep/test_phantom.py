"""Models in their true size, on hosts that nobody here has: what each device holds, and what does not fit."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")
psutil = pytest.importorskip("psutil")

from devpolicy import Accelerator, Host  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402

SIZES = {
    "70b": {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
    "405b": {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128},
}
TOKENS = 2048


def on_meta(name: str) -> Any:
    config = transformers.LlamaConfig(
        **SIZES[name], num_key_value_heads=8, vocab_size=128256, attn_implementation="eager", dtype=torch.bfloat16,
        max_position_embeddings=131072,
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            return transformers.LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def spread(model: Any, gpus: int) -> dict[str, int]:
    layers = model.config.num_hidden_layers
    blocks = {f"model.layers.{block}": block * gpus // layers for block in range(layers)}
    last = gpus - 1
    return {"model.embed_tokens": 0, "model.rotary_emb": 0, **blocks, "model.norm": last, "lm_head": last}


def place(model: Any, device_map: dict[str, int]) -> Any:
    """Give every tensor its memory, and let accelerate dispatch the model."""
    for name, module in model.named_modules():
        for tensors in (module._parameters, module._buffers):
            for own, tensor in [(own, tensor) for own, tensor in tensors.items() if tensor is not None]:
                path = f"{name}.{own}"
                gpu = next(gpu for key, gpu in device_map.items() if path.startswith(f"{key}."))
                empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=f"cuda:{gpu}")
                tensors[own] = torch.nn.Parameter(empty, False) if tensors is module._parameters else empty
    return accelerate.dispatch_model(model, device_map=device_map, force_hooks=True)


def weights(model: Any, device_map: dict[str, int]) -> list[int]:
    """Count bytes by shapes."""
    total = [0] * (max(device_map.values()) + 1)
    for path, tensor in [*model.named_parameters(), *model.named_buffers()]:
        gpu = next(gpu for key, gpu in device_map.items() if path.startswith(f"{key}."))
        total[gpu] += tensor.numel() * tensor.element_size()
    return total


@pytest.mark.parametrize(("name", "host"), [("70b", "8x80gb"), ("405b", "8x141gb")])
def test_a_large_model_is_placed_and_run_in_its_true_size(name, host):
    model = on_meta(name)
    device_map = spread(model, 8)
    expected = weights(model, device_map)
    with simulate_host(host, depth="phantom"):
        torch.ones(1, device="cuda:0")
    before = psutil.Process().memory_info().rss
    with simulate_host(host, depth="phantom"):
        model = place(model, device_map)
        assert [torch.cuda.memory_allocated(gpu) for gpu in range(8)] == expected
        with torch.no_grad():
            result = model(torch.empty(1, TOKENS, dtype=torch.long, device="cuda:0"))
        assert result.logits.shape == (1, TOKENS, 128256)
        assert result.logits.device == torch.device("cuda:0")  # accelerate brings the answer to the question's device
        assert all(simulated_device(f"cuda:{gpu}").peak > expected[gpu] for gpu in range(8))
        assert psutil.Process().memory_info().rss - before < 100 << 20
        del result, model
        gc.collect()
        assert [torch.cuda.memory_allocated(gpu) for gpu in range(8)] == [0] * 8


def test_what_does_not_fit_is_out_of_memory():
    two = Host([Accelerator("cuda", memory="60 GiB") for _ in range(2)], memory="64 GiB")
    model = on_meta("70b")
    with simulate_host(two, depth="phantom"):
        with pytest.raises(torch.OutOfMemoryError, match=r"GPU 0 has a total capacity of 60.00 GiB .*device cuda:0"):
            place(model, spread(model, 2))
        held = torch.cuda.memory_allocated(0)
    assert 58 << 30 < held <= 60 << 30


class Recount(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc]
    """Counts what is made on one device, in Python and apart from the simulator: each new storage while it lives."""

    def __init__(self, before: list[Any]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in before}
        self.alive: dict[int, int] = {}
        self.peak = 0

    def hold(self, tensor: Any) -> None:
        storage = tensor.untyped_storage()
        if tensor.device.type != "cuda" or storage._cdata in self.known | self.alive.keys():
            return
        self.alive[storage._cdata] = storage.nbytes()
        weakref.finalize(storage, self.alive.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self.alive.values()))

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for each in torch.utils._pytree.tree_leaves(result):
            if isinstance(each, torch.Tensor):
                self.hold(each)
        return result


def test_the_peak_is_that_of_a_recount_in_eager_attention():
    model = on_meta("70b")
    del model.model.layers[2:]
    model.config.num_hidden_layers = 2
    device_map = spread(model, 1)
    with simulate_host("8x80gb", depth="phantom"):
        model = place(model, device_map)
        ids = torch.empty(1, TOKENS, dtype=torch.long, device="cuda:0")
        held = torch.cuda.memory_allocated(0)
        assert held == weights(model, device_map)[0] + ids.nbytes
        torch.cuda.reset_peak_memory_stats(0)
        with torch.no_grad():
            model(ids)
        found = torch.cuda.max_memory_allocated(0) - held
        with torch.no_grad(), Recount([ids, *model.parameters(), *model.buffers()]) as recount:
            model(ids)
    scores = model.config.num_attention_heads * TOKENS * TOKENS
    assert found > scores * (2 + 4 + 4)  # the scores, and the softmax in float32 with what it is taken of
    assert found == recount.peak
