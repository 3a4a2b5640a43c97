"""Streams and events order work, and tell when it is done."""

from __future__ import annotations

import torch
from tests.testing.silicon.checks import raises, two_gpus


def test_stream_context():
    s = torch.cuda.Stream()
    cur = torch.cuda.current_stream()
    with torch.cuda.stream(s):
        assert torch.cuda.current_stream() == s, "current_stream in context"
    assert torch.cuda.current_stream() == cur, "restored"


def test_stream_distinct():
    a, b = (torch.cuda.Stream(), torch.cuda.Stream())
    assert a != b, "two new streams compare equal"
    assert a != torch.cuda.default_stream(), "new == default"
    assert a.cuda_stream != 0, "cuda_stream handle 0 for a side stream"


def test_default_stream_handle():
    assert torch.cuda.default_stream().cuda_stream == 0


@two_gpus
def test_stream_device():
    s = torch.cuda.Stream(device=1)
    assert s.device == torch.device("cuda:1")
    with torch.cuda.stream(s):
        assert torch.cuda.current_device() == 1, "stream ctx switches device"
    assert torch.cuda.current_device() == 0


def test_stream_priority():
    s = torch.cuda.Stream(priority=-1)
    assert s.priority == -1
    assert isinstance(torch.cuda.Stream.priority_range(), tuple)


def test_stream_query_sync():
    s = torch.cuda.Stream()
    s.synchronize()
    assert s.query()


def test_event_timing():
    a, b = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
    a.record()
    x = torch.randn(300, 300, device="cuda")
    x @ x
    b.record()
    torch.cuda.synchronize()
    t = a.elapsed_time(b)
    assert isinstance(t, float) and t > 0, t


def test_event_without_timing_raises():
    a, b = (torch.cuda.Event(), torch.cuda.Event())
    a.record()
    b.record()
    torch.cuda.synchronize()
    raises((RuntimeError, ValueError), lambda: a.elapsed_time(b))


def test_event_unrecorded_elapsed_raises():
    a, b = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
    raises((RuntimeError, ValueError), lambda: a.elapsed_time(b), "recorded")


def test_event_query_wait():
    e = torch.cuda.Event()
    assert e.query(), "unrecorded query"
    e.record()
    e.wait()
    e.synchronize()
    s = torch.cuda.Stream()
    s.wait_event(e)
    s.wait_stream(torch.cuda.current_stream())
    s.record_event()


def test_record_stream():
    x = torch.ones(3, device="cuda")
    x.record_stream(torch.cuda.Stream())


def test_generic_stream_event():
    s = torch.Stream(device="cuda")
    e = torch.Event(device="cuda")
    s.record_event(e)
    e.synchronize()
    with s:
        pass


def test_external_stream():
    torch.cuda.ExternalStream(torch.cuda.Stream().cuda_stream)
