"""What torch tells of a device, and of the libraries that it was built with."""

from __future__ import annotations

import warnings

import torch
from tests.testing.silicon.checks import raises, two_gpus


def test_props():
    p = torch.cuda.get_device_properties(0)
    for a in (
        "name",
        "major",
        "minor",
        "total_memory",
        "multi_processor_count",
        "max_threads_per_multi_processor",
        "max_threads_per_block",
        "warp_size",
        "is_integrated",
        "is_multi_gpu_board",
        "regs_per_multiprocessor",
        "shared_memory_per_block",
        "shared_memory_per_block_optin",
        "shared_memory_per_multiprocessor",
        "L2_cache_size",
        "clock_rate",
        "memory_clock_rate",
        "memory_bus_width",
        "uuid",
        "pci_bus_id",
        "pci_device_id",
        "pci_domain_id",
        "gcnArchName",
    ):
        getattr(p, a)
    assert p.multi_processor_count > 0 and p.warp_size == 32
    assert "_CudaDeviceProperties" in repr(p), repr(p)


def test_capability():
    assert torch.cuda.get_device_capability(0) >= (5, 0)


def test_arch_list():
    a = torch.cuda.get_arch_list()
    assert a and all(x.startswith(("sm_", "compute_")) for x in a), a


def test_gencode_flags():
    torch.cuda.get_gencode_flags()


def test_bf16_supported():
    assert isinstance(torch.cuda.is_bf16_supported(), bool)


def test_tf32_supported():
    assert isinstance(torch.cuda.is_tf32_supported(), bool)


def test_version_cuda():
    assert torch.version.cuda, torch.version.cuda


def test_cudnn():
    assert torch.backends.cudnn.is_available(), "cudnn not available"
    assert isinstance(torch.backends.cudnn.version(), int)


def test_backends_cuda():
    assert torch.backends.cuda.is_built(), "torch.backends.cuda.is_built() False"
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = not before
    torch.backends.cuda.matmul.allow_tf32 = before
    torch.backends.cuda.flash_sdp_enabled()
    torch.backends.cuda.preferred_linalg_library()
    assert torch.backends.cuda.cufft_plan_cache.max_size >= 0


def test_cufft_cache_device():
    assert torch.backends.cuda.cufft_plan_cache[0].max_size >= 0


def test_sdp_can_use():
    from torch.backends.cuda import SDPAParams, can_use_efficient_attention, can_use_flash_attention

    q = torch.randn(1, 2, 8, 64, device="cuda", dtype=torch.float16)
    p = SDPAParams(q, q, q, None, 0.0, False, False)
    assert can_use_flash_attention(p), "flash on fp16"
    assert can_use_efficient_attention(p), "efficient"


def test_sdpa_kernel_ctx():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q = torch.randn(1, 2, 8, 64, device="cuda", dtype=torch.float16)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        torch.nn.functional.scaled_dot_product_attention(q, q, q)


def test_sdpa_flash_refuses_float32():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q = torch.randn(1, 2, 8, 64, device="cuda")
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raises(RuntimeError, lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q), "No available kernel")


def test_nccl():
    import torch.cuda.nccl as n

    assert torch.distributed.is_nccl_available(), "is_nccl_available False"
    n.version()


def test_nccl_is_available():
    torch.cuda.nccl.is_available([torch.ones(1, device="cuda")])


@two_gpus
def test_peer():
    assert isinstance(torch.cuda.can_device_access_peer(0, 1), bool)


def test_uuid_visible():
    torch.cuda._parse_visible_devices()


def test_device_name_bad():
    raises((AssertionError, RuntimeError), lambda: torch.cuda.get_device_name(99))


def test_is_initialized():
    torch.zeros(1, device="cuda")
    assert torch.cuda.is_initialized()


def test_ipc_collect():
    torch.cuda.ipc_collect()


def test_cudart():
    assert callable(torch.cuda.cudart().cudaGetErrorString)


def test_cuda_check_error():
    torch.cuda.check_error(0)
