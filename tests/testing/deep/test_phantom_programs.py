"""Programs that read numbers, at depth phantom and in their true size: `generate`, `Trainer`, scaled gradients.

A tensor of at most 64 KiB keeps its numbers; what is computed of a larger one is 0.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
accelerate = pytest.importorskip("accelerate")

from devpolicy.testing import simulate_host, simulated_device  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries

GIB = 1 << 30


@pytest.fixture
def rig():
    with simulate_host("2x24gb", depth="phantom") as host:
        yield host


# -- the convention


def test_small_tensors_keep_their_numbers(rig):
    lengths = torch.tensor([3, 5], device="cuda:1")
    assert (lengths.max().item(), (lengths * 2).tolist(), lengths.cpu().tolist()) == (5, [6, 10], [3, 5])
    assert torch.arange(4, device="cuda:0").nonzero().tolist() == [[1], [2], [3]]
    assert bool((lengths > 2).all())
    assert lengths.to("cuda:0").sum().item() == 8
    assert torch.full((2,), 0.5, device="cuda:0").sum().item() == 1.0


def test_what_is_computed_of_a_large_tensor_is_0(rig):
    large = torch.ones(1 << 20, device="cuda:0")
    assert large.sum().item() == 0
    assert large[7].item() == 0
    assert large[:4].tolist() == [0, 0, 0, 0]
    assert not bool(large.isnan().any())
    assert torch.argmax(large.view(4, -1), -1).tolist() == [0, 0, 0, 0]
    small = torch.full((2,), 3.0, device="cuda:0")
    small += large[:2]
    assert small.tolist() == [0, 0]


def test_large_results_of_small_tensors_take_no_memory(rig):
    held = torch.arange(1 << 13, device="cuda:0")  # 64 KiB
    assert held[-1].item() == (1 << 13) - 1
    table = held[:, None] * held[None, :]
    assert table.shape == (1 << 13, 1 << 13)
    assert simulated_device("cuda:0").allocated == held.nbytes + table.nbytes
    assert torch.arange(3 * GIB // 8, device="cuda:0").shape == (3 * GIB // 8,)


def test_random_numbers_are_those_of_the_cpu_where_they_are_kept(rig):
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(5, device="cuda:0").cpu(), expected)


def test_sparse_tensors_are_kept_while_they_are_small(rig):
    heads = torch.eye(3).to_sparse().cuda()
    assert heads.to_dense().tolist() == torch.eye(3).tolist()
    with pytest.raises(NotImplementedError, match="sparse or nested tensors is not simulated at depth `phantom`"):
        torch.sparse.mm(heads, torch.ones(3, 1 << 20, device="cuda"))


# -- programs


def llama(layers: int, **more):
    """Return Llama 3.1 8B in its true width, with so many of its blocks, on the meta device."""
    config = transformers.LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8, vocab_size=128256, eos_token_id=128001, pad_token_id=128001, bos_token_id=128000, **more,
    )  # fmt: skip
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config)


def put(model, gpu_of):
    """Give every tensor its memory, in bfloat16."""
    for name, module in model.named_modules():
        for tensors in (module._parameters, module._buffers):
            for own, tensor in [(own, tensor) for own, tensor in tensors.items() if tensor is not None]:
                empty = torch.empty(tensor.shape, dtype=torch.bfloat16, device=f"cuda:{gpu_of(f'{name}.{own}')}")
                tensors[own] = torch.nn.Parameter(empty) if tensors is module._parameters else empty
    return model


WAYS = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True, "top_k": 40, "top_p": 0.9, "temperature": 0.7},
    "beams": {"do_sample": False, "num_beams": 2},
    "static cache": {"do_sample": False, "cache_implementation": "static"},
    "penalties": {"do_sample": False, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_new_tokens": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_model_generates_in_its_true_size(rig, way):
    blocks = {"greedy": 32, "static cache": 1}.get(way, 4)  # of the same width: the time is that of Python
    devices = {"model.embed_tokens": 0, "model.norm": 0, "model.rotary_emb": 0, "lm_head": 0}
    devices |= {f"model.layers.{block}": int(block >= max(1, blocks // 2)) for block in range(blocks)}
    model = put(llama(blocks), lambda path: next(gpu for name, gpu in devices.items() if path.startswith(f"{name}.")))
    model = accelerate.dispatch_model(model.eval(), devices, force_hooks=True)
    held = [simulated_device(f"cuda:{gpu}").allocated for gpu in range(2)]
    assert sum(held) == sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    prompt = torch.randint(0, 128000, (1, 300), device="cuda:0")
    answer = model.generate(prompt, max_new_tokens=4, **WAYS[way])
    assert answer.shape == (1, 304)
    assert torch.equal(answer[:, :300].cpu(), prompt.cpu())
    assert simulated_device("cuda:0").peak > held[0]
    torch.compiler.reset()


def test_a_model_stops_where_it_is_told_to():
    """Of a large tensor the most likely token is 0."""
    with simulate_host("1x24gb", depth="phantom"):
        model = put(llama(2), lambda path: 0).eval()
        prompt = torch.ones(1, 8, dtype=torch.long, device="cuda:0")
        assert model.generate(prompt, max_new_tokens=9, eos_token_id=0).shape == (1, 9)


@pytest.mark.parametrize("more", [{}, {"bf16": True, "gradient_checkpointing": True}, {"fp16": True}], ids=str)
def test_a_trainer_takes_steps_in_the_true_size(tmp_path, more):
    with simulate_host("4x80gb", depth="phantom"):
        train(put(llama(2), lambda path: 0).train(), tmp_path, more)


def train(model, tmp_path, more):
    if more.get("fp16"):
        model.float()  # GradScaler takes no gradients in half precision
    weights = sum(tensor.nbytes for tensor in model.parameters())
    torch.cuda.reset_peak_memory_stats(0)
    ids = torch.randint(0, 128000, (256,))
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=1, gradient_accumulation_steps=2,
        save_strategy="no", report_to=[], logging_steps=1, disable_tqdm=True, **more,
    )  # fmt: skip
    arguments._n_gpu = 1  # and not `DataParallel` over both
    trainer = transformers.Trainer(model, arguments, train_dataset=[{"input_ids": ids, "labels": ids}] * 8)
    done = trainer.train()
    assert done.global_step == 2
    # Weights, gradients and two moments.
    assert simulated_device("cuda:0").peak >= 4 * weights
    assert len(
        trainer.optimizer.state if not hasattr(trainer.optimizer, "optimizer") else trainer.optimizer.optimizer.state
    )


@pytest.mark.parametrize("way", [{"foreach": True}, {"foreach": False}, {"fused": True}], ids=str)
def test_scaled_gradients_take_a_step_in_the_true_size(rig, way):
    with torch.device("cuda:0"):
        layers = torch.nn.Sequential(torch.nn.Linear(8192, 28672), torch.nn.ReLU(), torch.nn.Linear(28672, 8192))
    optimizer = torch.optim.AdamW(layers.parameters(), **way)
    scaler = torch.amp.GradScaler("cuda", growth_interval=1)
    for _ in range(2):
        with torch.autocast("cuda"):
            loss = layers(torch.randn(4, 8192, device="cuda:0")).float().square().mean()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(layers.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert len(optimizer.state) == 4  # so the step was taken
    assert scaler.get_scale() == 65536.0 * 4  # a small number, which is kept
    assert simulated_device("cuda:0").peak > 7 * GIB
