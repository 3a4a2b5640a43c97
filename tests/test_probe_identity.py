"""What identifies a machine is left out of a captured host, and nothing else is."""

import string
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devpolicy import Accelerator, Host, plan
from devpolicy._core.host.probe.identity import KINDS, Identity, without_identifiers
from devpolicy.errors import Unsatisfiable
from devpolicy.testing.strategies import faulty_hosts, hosts

UUID = "GPU-8f3c2a11-90bd-4f7e-9a55-0c2d7e6b1f42"
ANN = Identity("build-7.example.org", "ann", "/home/ann")


def with_fault(text):
    return Host([Accelerator("cuda", memory="24 GiB", fault=text)], memory="64 GiB", faults={"nvml": text})


def shown(text, keep=()):
    host, gone = without_identifiers(with_fault(text), ANN, keep)
    assert host.fault("nvml") == host.accelerators[0].fault
    return host.fault("nvml"), {kind: count // 2 for kind, count in gone.items()}


@pytest.mark.parametrize(
    ("text", "left", "kind"),
    [
        (f"{UUID} has fallen off the bus", "(left out) has fallen off the bus", "uuid"),
        ("MIG-8F3C2A11-90bd-4f7e-9a55-0c2d7e6b1f42 is busy", "(left out) is busy", "uuid"),
        ("no device 8f3c2a11-90bd-4f7e-9a55-0c2d7e6b1f42", "no device (left out)", "uuid"),
        ("board with serial number: 0324718 is broken", "board with serial(left out) is broken", "serial"),
        ("no route to build-7.example.org", "no route to (left out)", "hostname"),
        ("BUILD-7: no route", "(left out): no route", "hostname"),
        ("user ann may not open it", "user (left out) may not open it", "user"),
        ("no folder /home/ann", "no folder (left out)", "user"),
        ("'/home/ann/venv/lib/libcudart.so.12' is missing", "'…/libcudart.so.12' is missing", "user"),
        ("cannot read /srv/secret-project/weights", "cannot read (left out)", "user"),
        (r"C:\Users\ann\torch\c10_cuda.dll is missing", "…/c10_cuda.dll is missing", "user"),
        (r"no access to \\server\share\torch", "no access to (left out)", "user"),
    ],
)
def test_an_identifier_inside_a_drivers_text_is_left_out(text, left, kind):
    assert shown(text) == (left, {kind: 1})
    assert shown(text, KINDS) == (text, {})
    assert shown(text, [kind]) == (text, {})


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: uncorrectable ECC error encountered",
        "unable to determine the device handle for GPU 0000:65:00.0: Unknown Error",
        "permission denied: /dev/nvidia0",
        "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1: cannot open shared object file",
        "driver 580.95.05 is older than 590/591, and and/or is no path",
        "build-77 annex",
        "serial link is down",
    ],
)
def test_what_says_only_what_is_broken_stays(text):
    assert shown(text) == (text, {})


def test_a_machine_called_localhost_is_no_identifier():
    everyone = Identity("localhost", "root", "/root")
    host = with_fault("root cannot reach localhost")
    assert without_identifiers(host, everyone) == (host, {})


def test_an_identity_that_is_not_known_leaves_texts_alone():
    host = with_fault("a b c")
    assert without_identifiers(host, Identity()) == (host, {})


def test_uuids_of_devices_are_left_out_unless_kept():
    host = Host([Accelerator("cuda", memory="24 GiB", uuid=UUID, physical=3, name="A100")], memory="64 GiB")
    bare, gone = without_identifiers(host, ANN)
    assert bare == replace(host, accelerators=(replace(host.accelerators[0], uuid=None),))
    assert gone == {"uuid": 1}
    assert without_identifiers(host, ANN, ["uuid"]) == (host, {})


NAMES = st.text(string.ascii_lowercase, min_size=8, max_size=12)


@given(host=faulty_hosts(), node=NAMES, user=NAMES, data=st.data())
def test_no_identifier_is_left_in_the_file_wherever_it_stood(host, node, user, data):
    identity = Identity(f"{node}.example.org", user, f"/home/{user}")
    secrets = [node, user, UUID[4:], f"/home/{user}/x"]
    mixed = st.lists(st.sampled_from([*secrets, "the driver of", "is", "broken:", UUID]), min_size=1).map(" ".join)
    devices = [
        replace(one, uuid=UUID, fault=data.draw(mixed)) if data.draw(st.booleans()) else one
        for one in host.accelerators
    ]
    known = replace(host, accelerators=tuple(devices), faults={"nvml": data.draw(mixed)})
    bare, gone = without_identifiers(known, identity)
    text = bare.to_toml()
    assert [secret for secret in secrets if secret in text] == []
    assert Host.parse(text) == bare
    assert without_identifiers(bare, identity) == (bare, {})
    assert sum(gone.values()) > 0 or known == bare


@given(host=hosts())
def test_a_plan_of_the_host_without_them_is_the_same(host):
    known = replace(host, accelerators=tuple(replace(one, uuid=UUID) for one in host.accelerators))
    bare, _ = without_identifiers(known, ANN)
    assert outcome(bare) == outcome(known)


def outcome(host):
    try:
        return plan("prefer-accelerator", "llama-3.2-1b", host).to_dict()
    except Unsatisfiable as refused:
        return str(refused)


def test_this_machine_has_an_identity():
    assert Identity.here().node
