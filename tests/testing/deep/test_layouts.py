"""Sparse and nested tensors on a simulated device: stored, moved, and computed with the CPU's kernels."""

from __future__ import annotations

import copy
import io

import pytest

torch = pytest.importorskip("torch")

from devpolicy.testing import simulate_host, simulated_device  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, that these layouts are in beta

DEVICES = ("cuda:0", "cuda:1")


@pytest.fixture(autouse=True)
def rig():
    with simulate_host("2x24gb", depth="tensors") as host:
        yield host


def coo() -> torch.Tensor:
    return torch.tensor([[0.0, 2, 0], [3, 0, 4], [0, 0, 5]]).to_sparse()


def csr() -> torch.Tensor:
    return torch.tensor([[0.0, 2, 0], [3, 0, 4], [0, 0, 5]]).to_sparse_csr()


LAYOUTS = {
    "coo": coo,
    "csr": csr,
    "csc": lambda: coo().to_sparse_csc(),
    "bsr": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_sparse_tensor_is_moved_there_and_back(layout, device):
    given = LAYOUTS[layout]()
    there = given.to(device)
    assert (there.device, there.layout) == (torch.device(device), given.layout)
    assert there.values().device == torch.device(device)
    held = simulated_device(device).allocated
    assert held >= given.values().nbytes
    back = there.cpu()
    assert back.layout == given.layout
    assert torch.equal(back.to_dense(), given.to_dense())
    assert torch.equal(there.to_dense().cpu(), given.to_dense())
    other = there.to("cuda:1" if device == "cuda:0" else "cuda:0")
    assert torch.equal(other.to_dense().cpu(), given.to_dense())
    assert "device='" + device + "'" in repr(there)
    del there, back, other
    assert simulated_device(device).allocated == 0


OPERATORS = {
    "mm": lambda given: given @ torch.ones(3, 2, device=given.device),
    "mv": lambda given: given @ torch.ones(3, device=given.device),
    "sparse.mm": lambda given: torch.sparse.mm(given, torch.ones(3, 2, device=given.device)),
    "times": lambda given: given * 2,
    "plus": lambda given: given + given,
    "dense plus sparse": lambda given: torch.ones(3, 3, device=given.device) + given,
    "times dense": lambda given: given * torch.ones(3, 3, device=given.device),
    "abs": lambda given: given.neg().abs(),
    "sum": lambda given: given.sum(),
    "sum of a dimension": lambda given: torch.sparse.sum(given, 1),
    "transposed": lambda given: given.t(),
    "softmax": lambda given: torch.sparse.softmax(given, 1),
    "to float64": lambda given: given.to(torch.float64),
    "cloned": lambda given: given.clone(),
    "stacked": lambda given: torch.stack([given, given]),
    "concatenated": lambda given: torch.cat([given, given]),
    "selected": lambda given: given[1],
    "index_select": lambda given: given.index_select(0, torch.tensor([1], device=given.device)),
    "coalesced": lambda given: (given + given).coalesce(),
    "added in place": lambda given: given.clone().add_(given),
    "emptied": lambda given: given.clone().zero_(),
    "product of two": lambda given: torch.sparse.mm(given, given),
    "deep copy": copy.deepcopy,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_coo_operators_give_the_cpus_numbers(name):
    expected = OPERATORS[name](coo())
    found = OPERATORS[name](coo().cuda(1))
    assert (found.device, found.layout, found.dtype) == (torch.device("cuda:1"), expected.layout, expected.dtype)
    assert torch.equal(found.cpu().to_dense(), expected.to_dense())


@pytest.mark.parametrize("name", ["mm", "mv", "times", "transposed", "abs", "to float64", "cloned", "plus"])
def test_csr_operators_give_the_cpus_numbers(name):
    expected = OPERATORS[name](csr())
    found = OPERATORS[name](csr().cuda(1))
    assert (found.device, found.layout) == (torch.device("cuda:1"), expected.layout)
    assert torch.equal(found.cpu().to_dense(), expected.to_dense())


def test_sparse_tensors_are_made_on_a_device():
    indices, values = torch.tensor([[0, 1], [1, 0]], device="cuda:1"), torch.ones(2, device="cuda:1")
    made = torch.sparse_coo_tensor(indices, values, (2, 2))
    assert (made.device.index, made._nnz(), made.sparse_dim(), made.dense_dim()) == (1, 2, 2, 0)
    assert torch.sparse_coo_tensor(
        torch.zeros(1, 2).long(), torch.ones(2), device="cuda"
    ).coalesce().values().tolist() == [2]
    assert torch.eye(3, device="cuda").to_sparse().indices().device.type == "cuda"
    assert torch.eye(3, device="cuda").to_sparse_csr().crow_indices().tolist() == [0, 1, 2, 3]
    assert torch.sparse_coo_tensor(size=(2, 3), device="cuda").to_dense().shape == (2, 3)


def test_sparse_tensors_of_two_devices_do_not_meet():
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        torch.sparse.mm(coo().cuda(0), torch.ones(3, 2, device="cuda:1"))
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        coo().cuda(0) @ torch.ones(3, 2)


def test_sparse_gradients_are_taken_and_used():
    def learn(device):
        torch.manual_seed(0)
        layer = torch.nn.Embedding(6, 3, sparse=True).to(device)
        optimizer = torch.optim.SparseAdam(layer.parameters())
        for _ in range(3):
            layer(torch.tensor([1, 4, 1], device=device)).square().sum().backward()
            assert layer.weight.grad.is_sparse
            optimizer.step()
            optimizer.zero_grad()
        return layer.weight.detach().cpu()

    assert torch.equal(learn("cuda:1"), learn("cpu"))


def test_the_gradient_of_a_product_with_a_sparse_matrix():
    def grads(device):
        torch.manual_seed(0)
        dense = torch.randn(3, 2).to(device).requires_grad_()
        sparse = coo().to(device).requires_grad_()
        torch.sparse.mm(sparse, dense).square().sum().backward()
        return dense.grad.cpu(), sparse.grad.cpu().to_dense()

    assert all(map(torch.equal, grads("cuda:0"), grads("cpu")))


def test_sparse_tensors_are_saved_and_buffers_moved():
    """Whisper keeps which heads align as a sparse buffer."""
    module = torch.nn.Module()
    module.register_buffer("heads", torch.eye(3, dtype=torch.bool).to_sparse(), persistent=False)
    assert module.cuda(1).heads.device.index == 1
    assert module.heads.indices().T.tolist() == [[0, 0], [1, 1], [2, 2]]
    file = io.BytesIO()
    torch.save(coo().cuda(1), file)
    file.seek(0)
    assert torch.load(file).device.index == 1
    file.seek(0)
    assert torch.equal(torch.load(file, map_location="cpu").to_dense(), coo().to_dense())


@pytest.mark.parametrize("reduce", ["sum", "mean", "amax"])
def test_a_reduced_product_has_no_kernel_for_a_gpu(reduce):
    """The CPU's kernel asks whether gradients are wanted, and its backward read what was not there."""
    dense = torch.ones(3, 2, device="cuda", requires_grad=True)
    with pytest.raises(NotImplementedError, match="no kernel of it for a GPU"):
        torch.sparse.mm(csr().cuda(), dense, reduce)


def test_layouts_of_the_cpu_alone_are_refused_by_name():
    with pytest.raises(NotImplementedError, match="the layout Mkldnn are the CPU's, and not on cuda:0"):
        torch.ones(4, 4, device="cuda").to_mkldnn()


# -- nested


def test_an_encoder_with_a_padding_mask_takes_its_fast_path():
    def encode(device):
        torch.manual_seed(0)
        layer = torch.nn.TransformerEncoderLayer(8, 2, batch_first=True)
        encoder = torch.nn.TransformerEncoder(layer, 2).to(device).eval()
        mask = torch.tensor([[False, False, True], [False, False, False]], device=device)
        with torch.no_grad():
            return encoder(torch.randn(2, 3, 8).to(device), src_key_padding_mask=mask).cpu()

    assert torch.equal(encode("cuda:1"), encode("cpu"))


def test_nested_tensors_are_made_moved_and_taken_apart():
    parts = [torch.arange(6.0).view(2, 3), torch.arange(9.0).view(3, 3)]
    here = torch.nested.nested_tensor(parts)
    for there in (here.cuda(1), torch.nested.nested_tensor(parts, device="cuda:1")):
        assert there.device == torch.device("cuda:1")
        assert [torch.equal(one.cpu(), part) for one, part in zip(there.unbind(), parts, strict=True)] == [True, True]
        padded = torch.nested.to_padded_tensor(there * 2, 0.0)
        assert torch.equal(padded.cpu(), torch.nested.to_padded_tensor(here * 2, 0.0))
        assert torch.equal(there.cpu().unbind()[1], parts[1])
        assert torch.equal(there.to("cuda:0").unbind()[1].cpu(), parts[1])
    linear = torch.nn.Linear(3, 2)
    expected = [linear(part) for part in parts]
    found = linear.cuda(1)(here.cuda(1))
    assert all(torch.allclose(one.cpu(), other) for one, other in zip(found.unbind(), expected, strict=True))
