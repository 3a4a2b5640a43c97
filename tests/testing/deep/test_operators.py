"""Operators of torch's database on a simulated GPU: bit for bit those of the CPU, and their gradients too."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="torch's database of operators needs expecttest")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the operators, about themselves


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "gradients"])
@pytest.mark.parametrize("part", range(4))
def test_every_operator_gives_the_cpus_bits_or_is_listed(part, grad):
    from tests.testing.deep import operators

    # One sample of each here; `python -m tests.testing.deep.operators` takes all of them.
    listed = operators.EXCEPTIONS | (operators.GRADIENT_EXCEPTIONS if grad else {})
    differing, equal = {}, 0
    for op in operators.operators()[part::4]:
        name = operators.name_of(op)
        if name in operators.NOT_COMPARABLE or (grad and not op.supports_autograd):
            continue
        told = operators.compare(op, 1, grad=grad)
        equal += told is None
        if told and told != "no samples":
            differing[name] = told
    assert set(differing) <= set(listed), differing
    assert equal > (120 if grad else 160)


def test_few_operators_are_listed_and_all_of_them_differ():
    from tests.testing.deep import operators

    assert len(operators.EXCEPTIONS) <= 6
    by_name = {operators.name_of(op): op for op in operators.operators()}
    for name in operators.EXCEPTIONS:
        assert operators.compare(by_name[name], 20) is not None


@pytest.mark.parametrize("type_", ["cuda", "xpu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_softmax_of_half_precision_is_taken_in_float32(type_, dtype):
    from devpolicy.testing import simulate_host

    values = torch.randn(4, 9).to(dtype)
    expected = [values.softmax(-1, dtype=torch.float32), values.log_softmax(-1, dtype=torch.float32)]
    with simulate_host({"cuda": "1x24gb", "xpu": "arc-a770"}[type_], depth="tensors"):
        there = values.to(type_).requires_grad_()
        found = [there.softmax(-1, dtype=torch.float32), there.log_softmax(-1, dtype=torch.float32)]
        assert [torch.equal(one.cpu(), other) for one, other in zip(found, expected, strict=True)] == [True, True]
        (found[0].square().sum() + found[1].sum()).backward()
        assert there.grad.dtype == dtype
