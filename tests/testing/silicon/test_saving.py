"""Tensors of a device are saved, loaded, copied and pickled."""

from __future__ import annotations

import copy
import io
import pickle
import tempfile

import torch
from tests.testing.silicon.checks import last, raises


def test_save_load():
    b = io.BytesIO()
    torch.save({"a": torch.ones(2, device=last())}, b)
    b.seek(0)
    assert torch.load(b)["a"].device == last()
    b.seek(0)
    assert torch.load(b, map_location="cpu")["a"].device.type == "cpu"
    b.seek(0)
    assert torch.load(b, map_location={str(last()): "cuda:0"})["a"].device.index == 0
    b.seek(0)
    assert torch.load(b, map_location=lambda storage, location: storage.cuda(0))["a"].device.index == 0
    b.seek(0)
    assert torch.load(b, map_location=torch.device("cuda"))["a"].device.index == 0


def test_load_missing_device():
    b = io.BytesIO()
    t = torch.ones(2)
    torch.save(t, b)
    b.seek(0)
    raises(
        RuntimeError,
        lambda: torch.load(b, map_location="cuda:99"),
        "Attempting to deserialize object on CUDA device 99 but torch.cuda.device_count() is",
    )


def test_pickle():
    t = pickle.loads(pickle.dumps(torch.ones(2, device=last())))
    assert t.device == last()


def test_deepcopy():
    m = copy.deepcopy(torch.nn.Linear(2, 2).to(last()))
    assert m.weight.device == last()


def test_load_mmap():
    with tempfile.NamedTemporaryFile(suffix=".pt") as f:
        torch.save({"a": torch.ones(4)}, f.name)
        assert torch.load(f.name, mmap=True, map_location=last())["a"].device == last()


def test_safetensors_dev():
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory() as d:
        save_file({"a": torch.ones(3, device="cuda")}, d + "/x.safetensors")
        assert load_file(d + "/x.safetensors", device=str(last()))["a"].device == last()
        assert load_file(d + "/x.safetensors", device=last().index)["a"].device == last()


def test_safe_open_dev():
    from safetensors import safe_open
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as d:
        save_file({"a": torch.ones(3)}, d + "/x.safetensors")
        with safe_open(d + "/x.safetensors", "pt", device=str(last())) as f:
            assert f.get_tensor("a").device == last()
            assert f.get_slice("a")[1:].device == last()


def test_optimizer_state_dict():
    m = torch.nn.Linear(2, 2).to(last())
    o = torch.optim.AdamW(m.parameters())
    m(torch.ones(1, 2, device=last())).sum().backward()
    o.step()
    s = o.state_dict()
    assert next(iter(s["state"].values()))["exp_avg"].device == last()
    o.load_state_dict({**s})
    assert next(iter(s["state"].values()))["step"].device.type == "cpu"
