"""What a device that holds tensors does as a real one does: memory, errors, faults, streams, numbers."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import re
import threading
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from devpolicy import Accelerator, Host  # noqa: E402
from devpolicy.errors import HostError, SimulationDepthError  # noqa: E402
from devpolicy.testing import simulate_host, simulated_device  # noqa: E402

GIB = 1 << 30
RIG = Host([Accelerator("cuda", memory="1 GiB"), Accelerator("cuda", memory="1 GiB", free="1000 B")], memory="8 GiB")


@pytest.fixture
def rig():
    with simulate_host(RIG, depth="tensors") as host:
        yield host


@pytest.mark.parametrize(
    ("name", "device"), [("2x24gb", "cuda:1"), ("macbook-m3-36gb", "mps:0"), ("arc-a770", "xpu:0")]
)
def test_tensors_are_on_the_device_and_have_the_cpus_numbers(name, device):
    matrix = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    with simulate_host(name, depth="tensors"):
        there = matrix.to(device)
        assert there.device == torch.device(device)
        assert type(there) is torch.Tensor
        assert torch.equal((there @ there).softmax(-1).cpu(), (matrix @ matrix).softmax(-1))


def test_a_model_learns_the_same_on_two_devices_as_on_the_cpu():
    def learn(first, second):
        torch.manual_seed(0)
        one, other = torch.nn.Linear(8, 8), torch.nn.Linear(8, 1)
        data = torch.randn(16, 8)
        one.to(first), other.to(second)
        optimizer = torch.optim.AdamW([*one.parameters(), *other.parameters()], foreach=False)
        losses = []
        for _ in range(3):
            loss = other(one(data.to(first)).relu().to(second)).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    expected = learn("cpu", "cpu")
    with simulate_host("2x24gb", depth="tensors"):
        assert learn("cuda:0", "cuda:1") == expected


def test_probes_answer_as_at_the_depth_of_probes():
    with simulate_host("24-24-12-8", depth="tensors") as host:
        assert torch.cuda.device_count() == 4
        assert torch.cuda.get_device_name(2) == host.devices("cuda")[2].name
        assert Host.probe() == host


# -- memory


def test_torchs_own_functions_tell_what_is_allocated(rig):
    held = torch.empty(1000, device="cuda:0")
    assert torch.cuda.memory_allocated(0) == torch.accelerator.memory_allocated(0) == 4000
    temporary = torch.empty(500, device="cuda:0")
    del temporary
    assert (torch.cuda.memory_allocated(0), torch.cuda.max_memory_allocated(0)) == (4000, 6000)
    assert torch.cuda.mem_get_info(0) == (GIB - 4000, GIB)
    torch.cuda.reset_peak_memory_stats(0)
    assert torch.cuda.max_memory_allocated(0) == 4000
    assert "Allocated memory" in torch.cuda.memory_summary(0)
    del held
    assert torch.cuda.memory_allocated(0) == 0


def test_a_view_costs_nothing_and_keeps_the_whole(rig):
    whole = torch.zeros(100, device="cuda:0")
    part = whole[:10].view(2, 5).t()
    assert torch.cuda.memory_allocated(0) == 400
    del whole
    assert torch.cuda.memory_allocated(0) == 400
    del part
    assert torch.cuda.memory_allocated(0) == 0


def test_a_result_that_grows_is_charged_what_it_grew_to(rig):
    out = torch.empty(0, device="cuda:0")
    torch.add(torch.ones(100, device="cuda:0"), 1, out=out)
    assert out.shape == (100,)
    assert torch.cuda.memory_allocated(0) == 400


def test_a_full_device_raises_torchs_error(rig):
    torch.empty(1000, dtype=torch.uint8, device="cuda:1")
    held = torch.empty(600, dtype=torch.uint8, device="cuda:1")
    words = (
        r"CUDA out of memory. Tried to allocate 401 bytes. GPU 1 has a total capacity of 1024.00 MiB of which 400 bytes"
    )
    with pytest.raises(torch.OutOfMemoryError, match=words):
        torch.empty(401, dtype=torch.uint8, device="cuda:1")
    assert torch.cuda.memory_allocated(1) == held.nbytes
    with pytest.raises(torch.OutOfMemoryError):
        torch.cat([held, held])
    assert torch.cuda.memory_allocated(1) == held.nbytes
    assert simulated_device("cuda:1").allocated == 600


def test_transfers_are_counted_on_both_sides(rig):
    tensor = torch.ones(50, device="cuda:0").to("cuda:1")
    tensor.cpu()
    one, other = simulated_device("cuda:0"), simulated_device("cuda:1")
    assert (one.received, one.sent, other.received, other.sent) == (0, 200, 200, 200)


def test_mps_says_out_of_memory_in_its_own_words():
    with (
        simulate_host("macbook-m3-36gb", depth="tensors"),
        pytest.raises(RuntimeError, match="MPS backend out of memory"),
    ):
        torch.empty(1 << 40, dtype=torch.uint8, device="mps")


# -- wrong code


def test_tensors_of_two_devices_do_not_meet(rig):
    here, there, cpu = torch.ones(2, 2, device="cuda:0"), torch.ones(2, 2, device="cuda:1"), torch.ones(2, 2)
    with pytest.raises(RuntimeError, match="found at least two devices, cuda:0 and cuda:1!"):
        here + there
    with pytest.raises(RuntimeError, match="found at least two devices, cuda:0 and cpu!"):
        here * cpu
    with pytest.raises(RuntimeError, match="but got mat2 is on cpu, different from other tensors on cuda:0"):
        here @ cpu
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        torch.cat([here, there])
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        torch.nn.functional.embedding(torch.tensor([0]), here)


def test_numbers_and_indices_of_the_cpu_go_along(rig):
    here = torch.arange(4.0, device="cuda:0")
    assert (here + torch.tensor(1.0)).device == here.device
    assert here[torch.tensor([1, 2])].tolist() == [1.0, 2.0]


def test_a_device_that_is_not_there(rig):
    for make in (
        lambda: torch.ones(1, device="cuda:2"),
        lambda: torch.ones(1).to("cuda:7"),
        lambda: torch.cuda.set_device(2),
    ):
        with pytest.raises(RuntimeError, match="CUDA error: invalid device ordinal"):
            make()
    with pytest.raises(AssertionError, match="Torch not compiled with XPU enabled"):
        torch.ones(1, device="xpu")


def test_mps_has_no_float64():
    with simulate_host("macbook-m3-36gb", depth="tensors"):
        for make in (lambda: torch.ones(1, device="mps").double(), lambda: torch.ones(1).double().to("mps")):
            with pytest.raises(TypeError, match="the MPS framework doesn't support float64"):
                make()


def test_nothing_is_taken_for_a_real_gpus_memory(rig):
    tensor = torch.ones(2, device="cuda:0")
    for use in (
        lambda: tensor.__dlpack__(),
        lambda: torch.from_dlpack(tensor),
        lambda: torch.utils.dlpack.to_dlpack(tensor),
        lambda: tensor.__cuda_array_interface__,
        lambda: torch.cuda.CUDAGraph(),
        lambda: torch._C._cuda_memorySnapshot(None),
    ):
        with pytest.raises(SimulationDepthError, match="cannot be answered on the simulated host"):
            use()
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        tensor.numpy()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_quantized_tensors_are_refused_by_name(rig):
    """Torch's own words are that there is no such backend."""
    for make in (
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8).to("cuda"),
        lambda: torch.quantize_per_tensor(torch.ones(2, device="cuda"), 0.1, 0, torch.qint8),
    ):
        with pytest.raises(NotImplementedError, match=r"quantized tensors on cuda.* are not simulated"):
            make()


def test_a_tensor_is_not_handed_to_another_process(rig):
    from multiprocessing.reduction import ForkingPickler

    import torch.multiprocessing  # which teaches the pickler tensors

    with pytest.raises(SimulationDepthError, match=r"`cuda:1` cannot be handed to another process.*`tensor.cpu\(\)`"):
        ForkingPickler.dumps(torch.ones(2, device="cuda:1"))
    assert ForkingPickler.dumps(torch.ones(2))


# -- faults


def test_an_allocation_of_a_size_fails(rig):
    device = simulated_device("cuda:0")
    device.fail_allocations(at_least="1 KiB")
    torch.empty(1023, dtype=torch.uint8, device="cuda:0")
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(1024, dtype=torch.uint8, device="cuda:0")
    device.fail_allocations(at_least=None)
    torch.empty(1024, dtype=torch.uint8, device="cuda:0")


def test_an_operation_fails_and_all_after_it(rig):
    tensor = torch.ones(2, device="cuda:0")
    device = simulated_device("cuda:0")
    device.fail_after(operations=2)
    tensor + tensor, tensor * 2
    for _ in range(2):
        with pytest.raises(torch.AcceleratorError, match="unspecified launch failure"):
            tensor + tensor
    torch.ones(1, device="cuda:1")
    device.fail_after(operations=None)
    assert device.operations == 5
    assert (tensor + tensor).tolist() == [2.0, 2.0]


def test_a_neighbour_takes_memory_in_the_middle_of_a_run(rig):
    held = torch.empty(100, dtype=torch.uint8, device="cuda:1")
    simulated_device("cuda:1").take("850 B")
    assert torch.cuda.mem_get_info(1)[0] == 50
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(51, dtype=torch.uint8, device="cuda:1")
    del held


@pytest.mark.parametrize(
    ("name", "device", "words"),
    [("faulty/ecc-on-query", "cuda:2", "uncorrectable ECC error"), ("faulty/visible-gap", "cuda:1", "GPU is lost")],
)
def test_a_broken_device_says_what_its_driver_says(name, device, words):
    with simulate_host(name, depth="tensors"):
        with pytest.raises(RuntimeError, match=words):
            torch.ones(1, device=device)
        assert torch.ones(1, device="cuda:0").item() == 1


def test_a_broken_driver_makes_no_tensor_at_all():
    host = Host.load("faulty/broken-driver")
    with simulate_host(host, depth="tensors"), pytest.raises(RuntimeError, match=re.escape(host.fault("cuda"))):
        torch.ones(1, device="cuda")


def test_a_handle_needs_its_host(rig):
    with pytest.raises(HostError, match="has no device `cuda:2`"):
        simulated_device("cuda:2")
    with simulate_host("cpu-only", depth="value"):
        device = simulated_device("cuda:0")
    assert device.allocated == 0


# -- what libraries do with tensors


def test_tensors_are_saved_loaded_copied_and_pickled(rig, tmp_path: Path):
    tensor = torch.arange(3.0, device="cuda:1")
    torch.save({"a": tensor, "part": tensor[1:]}, tmp_path / "saved.pt")
    loaded = torch.load(tmp_path / "saved.pt")
    assert (loaded["a"].device, loaded["a"].tolist()) == (tensor.device, [0.0, 1.0, 2.0])
    assert loaded["part"].untyped_storage().data_ptr() == loaded["a"].untyped_storage().data_ptr()
    assert torch.load(tmp_path / "saved.pt", map_location="cpu")["a"].device.type == "cpu"
    assert torch.load(tmp_path / "saved.pt", map_location={"cuda:1": "cuda:0"})["a"].device.index == 0
    copied, pickled = copy.deepcopy(torch.nn.Parameter(tensor)), pickle.loads(pickle.dumps(tensor))
    assert copied.device == pickled.device == tensor.device
    assert torch.equal(copied, tensor)
    with pytest.raises(torch.OutOfMemoryError):
        copy.deepcopy(torch.empty(600, dtype=torch.uint8, device="cuda:1"))


def test_what_was_saved_on_a_gpu_needs_one_to_load():
    saved = io.BytesIO()
    with simulate_host("2x24gb", depth="tensors"):
        torch.save(torch.ones(2, device="cuda:1"), saved)
    saved.seek(0)
    with pytest.raises(RuntimeError, match=r"torch.cuda.is_available\(\) is False"):
        torch.load(saved)


def test_indices_are_on_the_cpu_or_beside_what_they_index(rig):
    """torch's rule, which the elementwise one does not imply; assignments take indices and numbers from anywhere."""
    here, there = torch.arange(3.0), torch.arange(3.0, device="cuda:1")
    assert there[torch.tensor([2])].item() == 2
    for indexed, index in ((here, there > 0), (here, there.long()), (there, torch.tensor([0], device="cuda:0"))):
        with pytest.raises(RuntimeError, match=rf"indices should be either on cpu or .*\({indexed.device}\)"):
            indexed[index]
    here[torch.tensor([0])] = there.sum()
    assert here.tolist() == [3, 1, 2]
    for kept, given in ((here, there), (there, here)):
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            kept[torch.tensor([0, 1])] = given[:2]


def test_a_group_of_gloo_from_before_the_host_takes_its_tensors(tmp_path: Path):
    """Gloo's CUDA half is not there, and it does not ask: the process would end."""
    distributed = torch.distributed
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        with simulate_host(RIG, depth="tensors"):
            values = torch.ones(2, device="cuda:0")
            distributed.all_reduce(values)
            assert values.tolist() == [1, 1]
            torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2).cuda())(values).sum().backward()
        with (
            simulate_host(RIG, depth="phantom"),
            pytest.raises(NotImplementedError, match="all_reduce is not simulated"),
        ):
            distributed.all_reduce(torch.ones(2, device="cuda:0"))
        distributed.all_reduce(torch.ones(2))
    finally:
        distributed.destroy_process_group()


def test_streams_and_events(rig):
    stream = torch.cuda.Stream(device=1)
    assert isinstance(stream, torch.cuda.Stream)
    assert (stream.cuda_stream, torch.cuda.default_stream().cuda_stream) == (stream.stream_id, 0)
    with torch.cuda.stream(stream):
        assert torch.cuda.current_stream() == stream
        tensor = torch.ones(2, device="cuda")
    assert tensor.device.index == 1
    assert torch.cuda.current_stream(1) == torch.cuda.default_stream(1) != stream
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(True)
    assert isinstance(end, torch.cuda.Event)
    begin.record(), stream.record_event(end)
    tensor.record_stream(stream)
    stream.wait_stream(torch.cuda.current_stream())
    torch.cuda.synchronize()
    assert begin.query()
    assert begin.elapsed_time(end) >= 0


def test_each_device_draws_its_own_numbers(rig):
    def draw(device):
        return torch.randn(3, device=device)

    torch.manual_seed(3)
    expected = torch.randn(3)
    torch.manual_seed(3)
    assert torch.equal(draw("cuda:0").cpu(), expected)
    assert torch.equal(draw("cuda:1").cpu(), expected)
    state = torch.cuda.get_rng_state(1)
    first = draw("cuda:1")
    torch.cuda.set_rng_state(state, 1)
    assert torch.equal(draw("cuda:1"), first)
    assert torch.equal(
        torch.randn(3, device="cuda:0", generator=torch.Generator("cuda").manual_seed(3)).cpu(), expected
    )
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator but found 'cpu'"):
        torch.randn(3, device="cuda:0", generator=torch.Generator())


def test_dropout_gives_the_cpus_numbers(rig):
    values = torch.randn(100, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(7)
    expected = torch.nn.functional.dropout(values, 0.3)
    torch.manual_seed(7)
    assert torch.equal(torch.nn.functional.dropout(values.cuda(), 0.3).cpu(), expected)


@pytest.mark.parametrize("mask", [None, "causal", "given"])
def test_attention_takes_the_cpus_backend_and_gives_its_numbers(rig, mask):
    def attend(device):
        torch.manual_seed(0)
        query = torch.randn(1, 4, 9, 16).to(device).requires_grad_()
        given = torch.randn(9, 9).gt(-1).to(device) if mask == "given" else None
        result = torch.nn.functional.scaled_dot_product_attention(
            query, query, query, given, is_causal=mask == "causal"
        )
        result.sum().backward()
        return result.detach().cpu(), query.grad.cpu()

    assert all(map(torch.equal, attend("cuda:0"), attend("cpu")))


def test_pinned_memory_is_pinned(rig):
    pinned = torch.ones(4).pin_memory()
    assert pinned.is_pinned()
    assert pinned[2:].is_pinned()
    assert not torch.ones(4).is_pinned()
    assert pinned.to("cuda:0", non_blocking=True).device.index == 0


def test_a_device_below_zero_changes_nothing_at_either_end(rig):
    """As in CUDA: what is current is not noted, and so not put back."""
    with torch.cuda.device(-2):
        torch.cuda.set_device(1)
    assert torch.cuda.current_device() == 1


def test_a_profile_with_cuda_activities_is_quiet(rig, capfd):
    """It looked for CUDA's counters at each operator, and printed a stack of calls for each."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        torch.ones(4, 4, device="cuda:0").relu()
    assert "aten::relu" in {event.key for event in seen.key_averages()}
    assert "Failed to record CUDA event" not in capfd.readouterr().err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_dynamo_traced_runs_without_a_compiler_for_gpus(rig):
    layer = torch.nn.Linear(3, 3)
    values = torch.ones(2, 3)
    expected = layer(values).relu()
    layer.cuda()
    compiled = torch.compile(lambda values: layer(values).relu(), fullgraph=True, mode="reduce-overhead")
    assert torch.equal(compiled(values.cuda()).cpu(), expected)
    compiled(values.cuda()).sum().backward()
    assert layer.weight.grad.device.type == "cuda"
    torch.compiler.reset()


@pytest.mark.parametrize("gpus", [2, 4])
def test_data_parallel_is_shared_out_and_learns(gpus):
    """Twice with hosts of unlike sizes: torch keeps a stream for each device."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    values = torch.randn(8, 4)
    chunks = values.chunk(gpus)
    expected = torch.cat([model(chunk) for chunk in chunks])
    expected.square().sum().backward()
    grads = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    with simulate_host({2: "2x24gb", 4: "4x80gb"}[gpus], depth="tensors"):
        parallel = torch.nn.DataParallel(model.cuda())
        found = parallel(values)
        assert torch.equal(found.cpu(), expected)
        found.square().sum().backward()
        for parameter, grad in zip(model.parameters(), grads, strict=True):
            assert torch.allclose(parameter.grad.cpu(), grad)
        assert all(simulated_device(f"cuda:{gpu}").operations for gpu in range(gpus))
        model.cpu()


# -- recurrent layers

RECURRENT = {
    "lstm": lambda: torch.nn.LSTM(4, 6),
    "lstm of several layers": lambda: torch.nn.LSTM(4, 6, num_layers=2, bidirectional=True, dropout=0.3),
    "lstm with a projection": lambda: torch.nn.LSTM(4, 6, proj_size=3),
    "gru": lambda: torch.nn.GRU(4, 6, num_layers=2, dropout=0.3),
    "gru without biases": lambda: torch.nn.GRU(4, 6, bias=False),
    "rnn": lambda: torch.nn.RNN(4, 6, nonlinearity="relu"),
    "lstm cell": lambda: torch.nn.LSTMCell(4, 6),
    "gru cell": lambda: torch.nn.GRUCell(4, 6),
}


def first_tensor(value):
    return value if isinstance(value, torch.Tensor) else first_tensor(value[0])


def learnt(make, device, *, packed=False):
    """Return losses, and the gradients of the input, of three steps."""
    torch.manual_seed(0)
    layer, values = make().to(device), torch.randn(5, 3, 4).to(device).requires_grad_()
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        given = torch.nn.utils.rnn.pack_padded_sequence(values, torch.tensor([5, 3, 2])) if packed else values
        is_cell = isinstance(layer, torch.nn.RNNCellBase)
        loss = first_tensor(layer(values[0] if is_cell else given)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, values.grad.cpu()


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.filterwarnings("ignore:.*cuDNN:UserWarning", "ignore:.*oneDNN:UserWarning")
def test_recurrent_layers_learn_what_they_learn_on_the_cpu(rig, name):
    packings = [False] if "cell" in name else [False, True]
    for packed in packings:
        losses, grad = learnt(RECURRENT[name], "cpu", packed=packed)
        found, there = learnt(RECURRENT[name], "cuda", packed=packed)
        assert found == losses
        assert torch.equal(there, grad)
    gc.collect()
    assert torch.cuda.memory_allocated(0) == 0


@pytest.mark.filterwarnings("ignore:.*cuDNN:UserWarning")
def test_a_recurrent_layer_keeps_its_input_until_the_backward(rig):
    layer = torch.nn.LSTM(4, 6).cuda()
    values = torch.ones(3, 2, 4, device="cuda")
    total = layer(values)[0].sum()
    held = torch.cuda.memory_allocated(0)
    del values
    assert torch.cuda.memory_allocated(0) == held
    total.backward()
    again = layer(torch.ones(3, 2, 4, device="cuda"))[0].sum()
    with torch.no_grad():
        layer.weight_ih_l0.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        again.backward()


@pytest.mark.filterwarnings("ignore:.*cuDNN:UserWarning")
def test_a_recurrent_layer_and_its_input_are_on_one_device(rig):
    """Weights of the CPU went along with an input of a GPU."""
    values = torch.ones(3, 2, 4)
    for weights, given in (("cpu", "cuda:0"), ("cuda:0", "cpu"), ("cuda:0", "cuda:1")):
        layer = torch.nn.LSTM(4, 6).to(weights)
        with pytest.raises(RuntimeError, match=f"not at the same device, found input tensor at {given}"):
            layer(values.to(given))


@pytest.mark.filterwarnings("ignore:.*cuDNN:UserWarning")
def test_a_recurrent_layer_under_autocast_has_less_precision(rig):
    layer = torch.nn.GRU(4, 6).cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        result = layer(torch.ones(3, 2, 4, device="cuda"))[0]
    assert result.dtype == torch.bfloat16
    result.float().sum().backward()
    assert layer.weight_ih_l0.grad.dtype == torch.float32


def test_integers_are_counted_as_on_a_gpu(rig):
    counts = torch.histc(torch.tensor([0, 1, 1, 3], dtype=torch.int, device="cuda:0"), bins=4, min=0, max=3)
    assert (counts.tolist(), counts.dtype) == ([1, 2, 0, 1], torch.int)


# -- phantoms


def test_a_phantom_has_a_size_and_no_data():
    with simulate_host("8x80gb", depth="phantom"):
        weights = torch.empty(19 << 30, dtype=torch.bfloat16, device="cuda:3")
        other = torch.empty_like(weights)
        assert torch.cuda.memory_allocated(3) == 2 * weights.nbytes == 76 << 30
        del other
        result = weights.view(-1, 1024)[:8] @ weights.view(1024, -1)[:, :4]
        assert (result.shape, result.device.index, result.dtype) == ((8, 4), 3, torch.bfloat16)
        with pytest.raises(NotImplementedError, match="Cannot copy out of phantom tensor on cuda:3; no data!"):
            weights[: 1 << 20].cpu()
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            result + torch.ones(4, device="cuda:0")


def test_a_phantom_is_printed_with_its_size():
    with simulate_host("2x24gb", depth="phantom"):
        tensor = torch.ones(2, 3, device="cuda:1")
        assert repr(tensor) == "tensor(..., size=(2, 3), device='cuda:1')"
        assert "size=(2, 3)" in str(torch.nn.Parameter(tensor))
        assert repr(torch.ones(2)) == "tensor([1., 1.])"


def test_a_phantom_is_not_lost_in_a_tensor_of_the_cpu():
    with simulate_host("2x24gb", depth="phantom"):
        kept = torch.zeros(3)
        with pytest.raises(NotImplementedError, match="no data!"):
            kept[torch.tensor([0])] = torch.ones(1 << 20, device="cuda:0")[0]


def test_phantoms_are_told_apart_by_their_addresses():
    with simulate_host("2x24gb", depth="phantom"):
        one, other = torch.empty(4, device="cuda:0"), torch.empty(4, device="cuda:0")
        assert one.data_ptr() != other.data_ptr()


def test_a_storage_grows_and_shrinks_and_pays(rig):
    values = torch.arange(8, dtype=torch.float32, device="cuda:1")
    storage, held = values.untyped_storage(), torch.cuda.memory_allocated(1)
    storage.resize_(0)
    assert (storage.nbytes(), torch.cuda.memory_allocated(1)) == (0, held - 32)
    storage.resize_(64)
    values.copy_(torch.arange(8))
    storage.resize_(32)
    assert values.tolist() == list(range(8))
    assert torch.cuda.memory_allocated(1) == held
    assert storage.device == torch.device("cuda:1")


# -- begin and end


def test_a_host_inside_another_has_it_wait():
    with simulate_host("2x24gb", depth="tensors"):
        torch.cuda.set_device(1)
        torch.cuda.manual_seed_all(3)
        kept, state = torch.ones(3, device="cuda"), torch.cuda.get_rng_state(1)
        with simulate_host("macbook-m3-36gb"):
            assert not torch.cuda.is_available()
            with pytest.raises((AssertionError, RuntimeError)):
                torch.ones(3, device="cuda")
        with simulate_host("macbook-m3-36gb", depth="phantom"):
            assert torch.ones(3, device="mps").device.type == "mps"
        with simulate_host("4x80gb", depth="tensors"):
            weights = torch.ones(2, device="cuda:3", requires_grad=True)
            (weights * 2).sum().backward()
            assert torch.cuda.memory_allocated(3) > 0
        assert torch.cuda.current_device() == 1
        assert torch.cuda.memory_allocated(1) == kept.nbytes
        assert (kept + 1).tolist() == [2, 2, 2]
        assert torch.equal(torch.cuda.get_rng_state(1), state)
        assert torch.cuda.device_count() == 2
        with simulate_host("1x8gb", depth="value"):
            assert Host.probe().name == "1x8gb"


def test_a_host_left_before_its_inner_one_is_gone_after_both():
    outer, inner = simulate_host("2x24gb", depth="tensors"), simulate_host("1x24gb", depth="tensors")
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert torch.ones(1, device="cuda").item() == 1
    inner.__exit__(None, None, None)
    assert torch.cuda.device_count() == 0
    with simulate_host("1x24gb", depth="tensors"):
        assert torch.ones(1, device="cuda").item() == 1


def test_another_thread_has_no_host_beside_it(rig):
    refused = []

    def enter():
        try:
            simulate_host("2x24gb", depth="tensors").__enter__()
        except SimulationDepthError as error:
            refused.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert "was entered in another thread" in refused[0]
    assert torch.cuda.device_count() == 2


def test_its_scope_is_the_process(rig):
    with pytest.raises(SimulationDepthError, match="the scope is `process`"):
        simulate_host("2x24gb", depth="tensors", scope="context")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.ones(1, device="cuda:0").device))
    thread.start()
    thread.join()
    assert seen == [torch.device("cuda:0")]


def test_after_it_torch_is_what_it_was():
    before = {name for name in dir(torch._C) if name.startswith(("_cuda", "_xpu", "_broadcast"))}
    with simulate_host("2x24gb", depth="tensors"):
        kept = torch.ones(2, device="cuda:1")
    assert {name for name in dir(torch._C) if name.startswith(("_cuda", "_xpu", "_broadcast"))} == before
    assert not torch.cuda.is_available()
    assert not torch.backends.mps.is_available()
    with pytest.raises(AssertionError, match="Torch not compiled with CUDA enabled"):
        torch.ones(1, device="cuda")
    with pytest.raises(NotImplementedError, match="'MPS' backend"):
        torch.ones(1, device="mps")
    with pytest.raises(NotImplementedError, match="cannot be used after the simulation has ended"):
        kept + kept
    with simulate_host("2x24gb", depth="tensors"):
        with pytest.raises(RuntimeError, match="belongs to a simulated host that was left"):
            kept + kept
        del kept
        assert torch.cuda.memory_allocated(1) == 0


def test_at_probes_a_tensor_is_refused_after_it_as_before():
    with simulate_host("2x24gb", depth="tensors"):
        torch.ones(1, device="cuda")
    for name, device in (("2x24gb", "cuda"), ("macbook-m3-36gb", "mps"), ("arc-a770", "xpu")):
        with simulate_host(name), pytest.raises(SimulationDepthError):
            torch.ones(1, device=device)


def test_a_thousand_hosts_leave_nothing_behind():
    psutil = pytest.importorskip("psutil")
    simulation = simulate_host("2x24gb", depth="tensors")

    def enter(times):
        for _ in range(times):
            with simulation:
                torch.ones(64, 1024, device="cuda:1") * 2

    enter(50)
    gc.collect()
    before = psutil.Process().memory_info().rss
    names = dict(vars(torch._C)), dict(vars(torch.cuda))
    enter(1000)
    gc.collect()
    assert psutil.Process().memory_info().rss - before < 8 << 20
    assert (dict(vars(torch._C)), dict(vars(torch.cuda))) == names


def test_a_module_imported_inside_takes_nothing_of_the_host(tmp_path: Path):
    import subprocess
    import sys

    code = """
import torch
from devpolicy.testing import simulate_host
with simulate_host("2x24gb", depth="tensors"):
    import torch._dynamo, torch._inductor.utils, torch.nn.parallel, torch.cuda.graphs
    from importlib.util import find_spec
    if find_spec("transformers"):
        from transformers import LlamaConfig, LlamaForCausalLM, Trainer
    torch.ones(2, device="cuda:1").sum().item()
    torch.ones(2, requires_grad=True, device="cuda:1").sum().backward()
assert not torch.cuda.is_available()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "ask",
    [
        torch.mps.synchronize,
        torch.mps.empty_cache,
        torch.mps.current_allocated_memory,
        torch.mps.recommended_max_memory,
        torch.backends.mps.is_macos13_or_newer,
    ],
)
def test_without_metal_torch_says_what_a_build_without_it_says(ask):
    """The simulator answers in torch's place from its first simulation on, on hosts of other types too."""
    with simulate_host("macbook-m3-36gb", depth="tensors"):
        torch.ones(2, device="mps")
    for depth in ("probes", "tensors"):
        with simulate_host("2x24gb", depth=depth), pytest.raises(RuntimeError, match=r"Cannot execute .* without MPS"):
            ask()
    with pytest.raises(RuntimeError, match=r"Cannot execute .* without MPS"):
        ask()
