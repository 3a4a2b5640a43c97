"""Small benchmarks with torch on one device: how fast weights are read, matrices multiplied, modules called.

Owns how each is timed. A figure is the median of several runs, so that a busy moment does not count.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from typing import Any

from devpolicy._core.host import Accelerator

Clock = Callable[[], float]

_RUNS = 7
_READ = 384 << 20
"""Bytes that are read at once: more than the caches of a processor hold."""
_SIDE = 1024
"""Rows and columns of the matrices of a CPU, and below those of an accelerator, where a launch must not count."""
_ACCELERATOR_SIDE = 8192
_PROMPT = 512
"""Rows of a large product: the tokens of a prompt."""
_COPIED = 64 << 20


def missing(one: Accelerator) -> str:
    """Return why torch cannot use a device here, empty where it can."""
    import torch

    module = getattr(torch, one.type, None)
    if module is None or not module.is_available():
        return f"torch sees no `{one.type}` device"
    if one.type != "mps" and module.device_count() <= (one.id or 0):
        return f"torch sees {module.device_count()} `{one.type}` devices"
    return ""


class TorchRates:
    """Measurements on one device, by a clock in seconds."""

    def __init__(self, device: str, clock: Clock) -> None:
        import torch

        self.torch = torch
        self.device = torch.device(device)
        self.clock = clock
        self.side = _SIDE if device == "cpu" else _ACCELERATOR_SIDE

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type != "cpu":
            getattr(self.torch, self.device.type).synchronize()

    def read_rate(self, dtype: str) -> int:
        """Return the bytes of weights that products of one row read in a second, as for a token of an answer."""
        weights = self._matrices(dtype, _READ)
        row = self.torch.ones((1, 1, self.side), dtype=weights[0].dtype, device=self.device)
        return self._rate(sum(one.nbytes for one in weights), lambda: self._multiply(row, weights))

    def matmul_rate(self, dtype: str) -> int:
        """Return the operations of large products in a second; a multiplication and its addition are two."""
        weights = self._matrices(dtype, 0)
        rows = self.torch.ones((1, _PROMPT, self.side), dtype=weights[0].dtype, device=self.device)
        return self._rate(2 * _PROMPT * self.side**2 * len(weights), lambda: self._multiply(rows, weights))

    def _matrices(self, dtype: str, size: int) -> list[Any]:
        kind = getattr(self.torch, dtype)
        shape = self.side, self.side
        count = max(4, size // (self.side**2 * kind.itemsize))
        return [self.torch.full(shape, 0.01, dtype=kind, device=self.device) for _ in range(count)]

    def _multiply(self, rows: Any, weights: list[Any]) -> None:
        with self.torch.inference_mode():
            for one in weights:
                self.torch.nn.functional.linear(rows, one)
        self.wait()

    def call_ns(self) -> int:
        """Return the nanoseconds that calling one module takes beside its products.

        With Transformers it is a small Llama's, whose products take next to nothing; else three operations on a few
        numbers for each module, which is what such models have.
        """
        model = _small_llama() if find_spec("transformers") else None
        if model is None:
            linear = self.torch.nn.Linear(8, 8, bias=False).to(self.device)
            row = self.torch.ones((1, 1, 8), device=self.device)
            count = 100

            def run() -> None:
                for _ in range(count):
                    linear(row) * 0.5 + row

        else:
            model = model.to(self.device)
            count = sum(1 for _ in model.modules())
            token = self.torch.ones((1, 1), dtype=self.torch.long, device=self.device)

            def run() -> None:
                model(token, use_cache=True)

        return max(1, int(self._seconds(lambda: self._waited(run)) * 10**9 / count))

    def onload_ns(self) -> int:
        """Return the nanoseconds that bringing one tensor in takes beside its bytes, in accelerate's hooks.

        It is a small Llama's, whose layers are in a file. Needs Transformers and accelerate.
        """
        from accelerate import dispatch_model  # type: ignore[import-untyped]
        from safetensors.torch import save_file

        here: Any = str(self.device)
        model = _small_llama().to(self.device)
        token = self.torch.ones((1, 1), dtype=self.torch.long, device=self.device)
        count = sum(1 for _ in model.model.layers.parameters())

        def run() -> None:
            self._waited(lambda: model(token, use_cache=True))

        with tempfile.TemporaryDirectory(prefix="devpolicy-") as folder:
            file = f"{folder}/model.safetensors"
            save_file(model.state_dict(), file)
            index: Any = {name: {"safetensors_file": file, "weight_name": name} for name in model.state_dict()}
            without = self._seconds(run)
            parts: Any = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), here)
            told = logging.getLogger("accelerate.big_modeling")
            level = told.level
            told.setLevel(logging.ERROR)  # it warns that there are parameters on the disk
            try:
                dispatch_model(model, {**parts, "model.layers": "disk"}, main_device=here, offload_index=index)
            finally:
                told.setLevel(level)
            return max(1, int((self._seconds(run) - without) * 10**9 / count))

    def _waited(self, run: Callable[[], object]) -> None:
        with self.torch.inference_mode():
            run()
        self.wait()

    def link_rate(self, *, to_device: bool) -> int:
        """Return the bytes per second of a copy between the device and RAM that is not pinned."""
        here = self.torch.ones(_COPIED, dtype=self.torch.uint8)
        there = here.to(self.device)
        source, target = (here, there) if to_device else (there, here)

        def run() -> None:
            target.copy_(source)
            self.wait()

        return self._rate(_COPIED, run)

    def hand_over_ns(self, other: str) -> int:
        """Return the nanoseconds in which a few numbers go to another device and are used there."""
        row = self.torch.ones((1, 1, 4096), device=self.device)
        return max(1, int(self._seconds(lambda: row.to(other).sum().item()) * 10**9))

    def _rate(self, amount: int, run: Callable[[], object]) -> int:
        return max(1, int(amount / self._seconds(run)))

    def _seconds(self, run: Callable[[], object]) -> float:
        return seconds(run, self.clock)


def seconds(run: Callable[[], object], clock: Clock) -> float:
    """Return the median time of a run; the first one warms up and does not count."""
    run()
    samples = []
    for _ in range(_RUNS):
        begun = clock()
        run()
        samples.append(clock() - begun)
    return median(samples)


def _small_llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=8, num_attention_heads=4, vocab_size=128
    )
    model: Any = LlamaForCausalLM(config)
    return model.eval()
