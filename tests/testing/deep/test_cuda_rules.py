"""Where CUDA says no, or fails, and a CPU does not: generators, attention, indices, limits, what waits for a device."""

from __future__ import annotations

import warnings

import pytest

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from devpolicy.testing import simulate_host, simulated_device  # noqa: E402

attend = torch.nn.functional.scaled_dot_product_attention


@pytest.fixture(autouse=True)
def rig():
    with simulate_host("2x24gb", depth="tensors") as host:
        yield host


# -- generators

OF_CPU = {
    "rand": lambda generator: torch.rand(2, generator=generator),
    "randn": lambda generator: torch.randn(2, generator=generator),
    "randint": lambda generator: torch.randint(4, (2,), generator=generator),
    "randperm": lambda generator: torch.randperm(4, generator=generator),
    "normal_": lambda generator: torch.empty(2).normal_(generator=generator),
    "normal": lambda generator: torch.normal(torch.zeros(2), 1.0, generator=generator),
    "bernoulli": lambda generator: torch.bernoulli(torch.tensor(0.5), generator=generator),
    "multinomial": lambda generator: torch.multinomial(torch.ones(4), 2, generator=generator),
    "exponential_": lambda generator: torch.empty(()).exponential_(generator=generator),
    "random_split": lambda generator: torch.utils.data.random_split(range(4), [2, 2], generator=generator),
    "device named": lambda generator: torch.rand(2, device="cpu", generator=generator),
}


@pytest.mark.parametrize("name", OF_CPU)
def test_a_generator_of_a_gpu_draws_nothing_for_a_cpu(name):
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator but found 'cuda'"):
        OF_CPU[name](torch.Generator("cuda"))


@pytest.mark.parametrize("name", ["rand", "randperm", "multinomial"])
def test_a_generator_of_a_cpu_draws_nothing_for_a_gpu(name):
    make = {
        "rand": lambda: torch.rand(2, device="cuda", generator=torch.Generator()),
        "randperm": lambda: torch.randperm(4, device="cuda", generator=torch.Generator()),
        "multinomial": lambda: torch.multinomial(torch.ones(4, device="cuda"), 2, generator=torch.Generator()),
    }[name]
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator but found 'cpu'"):
        make()


DRAWS = {
    "nothing": lambda generator: None,
    "one": lambda generator: torch.rand(1, device="cuda", generator=generator),
    "many": lambda generator: torch.rand(5000, device="cuda", generator=generator),
    "a whole block": lambda generator: torch.randint(2**32, (624,), device="cuda", generator=generator),
    "an odd number of normal ones": lambda generator: torch.randn(3, device="cuda", generator=generator),
    "a permutation": lambda generator: torch.randperm(100, device="cuda", generator=generator),
}


@pytest.mark.parametrize("before", DRAWS)
@pytest.mark.parametrize("between", ["one", "many", "an odd number of normal ones"])
def test_a_state_is_of_16_bytes_and_brings_the_numbers_back(before, between):
    generator = torch.Generator("cuda").manual_seed(11)
    DRAWS[before](generator)
    state = generator.get_state()
    assert (state.numel(), state.dtype, state.device.type) == (16, torch.uint8, "cpu")
    first = torch.randn(7, device="cuda", generator=generator)
    DRAWS[between](generator)
    generator.set_state(state)
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(torch.randn(7, device="cuda", generator=generator), first)
    another = torch.Generator("cuda")
    another.set_state(state)
    assert torch.equal(torch.randn(7, device="cuda", generator=another), first)
    assert another.initial_seed() == 11


def test_states_of_other_devices_are_refused():
    with pytest.raises(RuntimeError, match="RNG state is wrong size"):
        torch.Generator("cuda").set_state(torch.Generator().get_state())
    torch.cuda.set_rng_state(torch.zeros(16, dtype=torch.uint8))  # one of a real GPU
    with pytest.raises(TypeError, match=r"RNG state must be a torch.ByteTensor"):
        torch.Generator("cuda").set_state(torch.zeros(16))


def test_offsets_are_told_and_set():
    generator = torch.Generator("cuda").manual_seed(1)
    assert generator.get_offset() == 0
    generator.set_offset(8)
    rest = torch.rand(3, device="cuda", generator=generator)
    assert torch.equal(rest, torch.rand(5, device="cuda", generator=torch.Generator("cuda").manual_seed(1))[2:])
    with pytest.raises(RuntimeError, match="offset must be a multiple of 4"):
        generator.set_offset(3)


def test_a_state_for_graphs_is_shared_and_a_clone_is_not():
    one = torch.Generator("cuda").manual_seed(2)
    shared, cloned = torch.Generator("cuda"), one.clone_state()
    shared.graphsafe_set_state(one.graphsafe_get_state())
    first = torch.rand(2, device="cuda", generator=one)
    assert torch.equal(torch.rand(2, device="cuda", generator=cloned), first)
    assert not torch.equal(torch.rand(2, device="cuda", generator=shared), first)


# -- attention


@pytest.mark.parametrize("backend", ["MATH", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION"])
def test_every_backend_of_attention_takes_half_precision(backend):
    query = torch.randn(1, 2, 8, 64, device="cuda", dtype=torch.float16)
    with sdpa_kernel(getattr(SDPBackend, backend)):
        assert attend(query, query, query).shape == query.shape


def test_a_backend_gives_the_numbers_of_the_cpus_choice():
    query = torch.randn(1, 2, 9, 64)
    expected = attend(query, query, query)
    there = query.cuda()
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
        assert torch.equal(attend(there, there, there).cpu(), expected)


REFUSED = {
    "flash of float32": ("FLASH_ATTENTION", torch.float32, 64, False),
    "flash with a mask": ("FLASH_ATTENTION", torch.float16, 64, True),
    "flash of wide heads": ("FLASH_ATTENTION", torch.float16, 512, False),
    "cudnn of float32": ("CUDNN_ATTENTION", torch.float32, 64, False),
    "efficient of float64": ("EFFICIENT_ATTENTION", torch.float64, 64, False),
    "efficient of unaligned heads": ("EFFICIENT_ATTENTION", torch.float16, 36, False),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_backend_takes_is_refused_in_torchs_words(name):
    backend, dtype, width, masked = REFUSED[name]
    query = torch.randn(1, 2, 8, width, device="cuda", dtype=dtype)
    mask = torch.ones(8, 8, device="cuda", dtype=torch.bool) if masked else None
    with (
        sdpa_kernel(getattr(SDPBackend, backend)),
        pytest.warns(UserWarning, match="kernel not used because"),
        pytest.raises(RuntimeError, match=r"No available kernel. Aborting execution."),
    ):
        attend(query, query, query, mask)


def test_whether_a_backend_can_be_used_is_by_cudas_rules():
    from torch.backends import cuda

    def params(dtype):
        query = torch.randn(1, 2, 8, 64, device="cuda", dtype=dtype)
        return cuda.SDPAParams(query, query, query, None, 0.0, False, False)

    half, single = params(torch.float16), params(torch.float32)
    assert cuda.is_flash_attention_available()
    assert cuda.can_use_flash_attention(half)
    assert not cuda.can_use_flash_attention(single)
    assert cuda.can_use_efficient_attention(single)
    assert cuda.can_use_cudnn_attention(half)


# -- values that a kernel refuses

OUT_OF_RANGE = {
    "embedding": lambda: torch.nn.Embedding(4, 4).cuda()(torch.tensor([9], device="cuda")),
    "index": lambda: torch.arange(3, device="cuda")[torch.tensor([7], device="cuda")],
    "index_put": lambda: torch.arange(3, device="cuda").index_put_(
        (torch.tensor([7], device="cuda"),), torch.tensor(1)
    ),
    "gather": lambda: torch.arange(3, device="cuda").gather(0, torch.tensor([7], device="cuda")),
    "scatter": lambda: torch.zeros(2, device="cuda").scatter_(0, torch.tensor([5], device="cuda"), 1.0),
    "index_select": lambda: torch.zeros(2, device="cuda").index_select(0, torch.tensor([5], device="cuda")),
    "index_add": lambda: torch.zeros(2, device="cuda").index_add(
        0, torch.tensor([5], device="cuda"), torch.ones(1, device="cuda")
    ),
    "take": lambda: torch.zeros(2, device="cuda").take(torch.tensor([5], device="cuda")),
    "target": lambda: torch.nn.functional.cross_entropy(
        torch.randn(2, 3, device="cuda"), torch.tensor([0, 7], device="cuda")
    ),
    "binary target": lambda: torch.nn.functional.binary_cross_entropy(
        torch.tensor([2.0], device="cuda"), torch.ones(1, device="cuda")
    ),
    "probability": lambda: torch.multinomial(torch.tensor([-1.0, 1.0], device="cuda"), 1),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_a_value_out_of_range_is_an_assertion_on_the_device(name):
    with pytest.raises(torch.AcceleratorError, match="CUDA error: device-side assert triggered") as raised:
        OUT_OF_RANGE[name]()
    assert not isinstance(raised.value, IndexError)
    assert torch.ones(2, device="cuda").sum().item() == 2  # one test does not take the others with it


def test_a_wrong_dimension_is_still_an_error_of_the_call():
    values, index = torch.zeros(2, device="cuda"), torch.tensor([0], device="cuda")
    for wrong in (lambda: values.gather(3, index), lambda: values.index_select(3, index), lambda: values[5]):
        with pytest.raises(IndexError):
            wrong()


def test_a_value_out_of_range_is_an_index_error():
    with pytest.raises(IndexError):
        torch.arange(3)[torch.tensor([7])]


# -- kernels that CUDA lacks


def test_integers_have_no_product_in_cublas():
    whole = torch.ones(2, 2, dtype=torch.int64, device="cuda")
    for name, product in (
        ("addmm_cuda", lambda: whole @ whole),
        ("baddbmm_cuda", lambda: whole[None] @ whole[None]),
        ("addmv_impl_cuda", lambda: whole @ whole[0]),
        ("dot", lambda: whole[0].dot(whole[0])),
    ):
        with pytest.raises(NotImplementedError, match=f"\"{name}\" not implemented for 'Long'"):
            product()
    assert torch._int_mm(*2 * [torch.ones(32, 32, dtype=torch.int8, device="cuda")]).dtype == torch.int32


def test_float8_needs_its_capability():
    def product():
        one = torch.ones((), device="cuda")
        given = torch.ones(16, 16, device="cuda").to(torch.float8_e4m3fn)
        return torch._scaled_mm(given, given.t(), scale_a=one, scale_b=one)

    product()  # of an RTX 4090, which has 8.9


def test_what_is_not_deterministic_says_so():
    counted, weights = torch.tensor([1, 1], device="cuda"), torch.ones(2, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        torch.bincount(counted)
        with pytest.raises(RuntimeError, match="_bincount_cuda does not have a deterministic implementation"):
            torch.bincount(counted, weights=weights)
        with pytest.raises(RuntimeError, match="deterministic"):
            torch.zeros(3, device="cuda").put_(counted, weights, accumulate=False)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.bincount(counted, weights=weights)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
def test_half_precision_transforms_take_powers_of_two():
    values = torch.randn(8).half()
    expected = torch.fft.fft(values.float()).to(torch.complex32)
    assert torch.equal(torch.view_as_real(torch.fft.fft(values.cuda())).cpu(), torch.view_as_real(expected))
    assert torch.fft.irfft(torch.fft.rfft(values.cuda())).dtype == torch.float16
    with pytest.raises(RuntimeError, match="powers of two"):
        torch.fft.fft(values.cuda()[:7])


# -- limits, and waiting


def test_a_process_may_be_allowed_a_fraction_of_a_device():
    total = torch.cuda.get_device_properties(0).total_memory
    assert torch.cuda.get_per_process_memory_fraction(0) == 1.0
    torch.cuda.set_per_process_memory_fraction(0.01, 0)
    assert torch.cuda.get_per_process_memory_fraction(0) == 0.01
    held = torch.empty(int(total * 0.009), dtype=torch.uint8, device="cuda:0")
    with pytest.raises(torch.OutOfMemoryError, match=r"memory in use. 245.64 MiB allowed; Of the allocated"):
        torch.empty(int(total * 0.002), dtype=torch.uint8, device="cuda:0")
    torch.empty(int(total * 0.002), dtype=torch.uint8, device="cuda:1")
    torch.cuda.set_per_process_memory_fraction(1.0, 0)
    torch.empty(int(total * 0.002), dtype=torch.uint8, device="cuda:0")
    del held


def test_a_full_device_tells_what_torch_tells():
    with pytest.raises(torch.OutOfMemoryError) as raised:
        torch.empty(1 << 40, dtype=torch.uint8, device="cuda:1")
    for words in (
        "CUDA out of memory. Tried to allocate 1024.00 GiB. GPU 1 has a total capacity of 23.99 GiB of which",
        "Including non-PyTorch memory, this process has 0 bytes memory in use.",
        "Of the allocated memory 0 bytes is allocated by PyTorch, and 0 bytes is reserved by PyTorch but unallocated.",
        "try setting PYTORCH_ALLOC_CONF=expandable_segments:True to avoid fragmentation",
    ):
        assert words in str(raised.value)


WAITING = {
    "item": lambda there: there.item(),
    "cpu": lambda there: there.cpu(),
    "tolist": lambda there: there.tolist(),
    "cuda": lambda there: torch.ones(1).cuda(),
    "nonzero": lambda there: there.nonzero(),
    "mask": lambda there: there[there > 0],
    "unique": lambda there: there.unique(),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_for_a_device_is_found(name):
    there = torch.ones(1, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        WAITING[name](there)
    there + there
    torch.cuda.set_sync_debug_mode("warn")
    assert torch.cuda.get_sync_debug_mode() == 1
    with pytest.warns(UserWarning, match="called a synchronizing CUDA operation"):
        WAITING[name](there)
    torch.cuda.set_sync_debug_mode("default")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WAITING[name](there)


def test_a_lost_device_is_heard_of_by_who_waits_for_it():
    simulated_device("cuda:0").fail_after(operations=0)
    torch.cuda.synchronize(0)
    with pytest.raises(torch.AcceleratorError):
        torch.ones(1, device="cuda:0")
    for wait in (lambda: torch.cuda.synchronize(0), lambda: torch.cuda.current_stream(0).synchronize()):
        with pytest.raises(torch.AcceleratorError, match="unspecified launch failure"):
            wait()
    torch.cuda.synchronize(1)


# -- products whose results are of a wider dtype, which only CUDA has

PRODUCTS = {
    "mm": ((2, 3), (3, 4)),
    "bmm": ((2, 2, 3), (2, 3, 4)),
    "addmm": ((2, 4), (2, 3), (3, 4)),
    "baddbmm": ((2, 2, 4), (2, 2, 3), (2, 3, 4)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_of_halves_may_be_float32(name):
    given = [torch.randn(shape, dtype=torch.bfloat16) for shape in PRODUCTS[name]]
    product = getattr(torch, name)
    found = product(*(one.cuda() for one in given), out_dtype=torch.float32)
    assert (found.dtype, found.device.type) == (torch.float32, "cuda")
    assert torch.equal(found.cpu(), product(*(one.float() for one in given)))
    with pytest.raises(RuntimeError, match="out_dtype must be the same as input dtype or fp32"):
        product(*(one.cuda() for one in given), out_dtype=torch.float64)
