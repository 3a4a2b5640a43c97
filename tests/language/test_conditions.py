"""`[require]` and `when`: what a host lacks, all at once, and what it has instead."""

from __future__ import annotations

import pytest
from tests.worlds import device_map, planned, small_llama

from devpolicy import Accelerator, Host, Policy, Unsatisfiable, resolve
from devpolicy._core.language.conditions import Condition

HOST = Host(
    [
        Accelerator("cuda", memory="24 GiB", free="20 GiB", name="RTX 4090", capability=(8, 9)),
        Accelerator("cuda", memory="80 GiB", name="A100", capability=(8, 0)),
        Accelerator("cuda", memory="80 GiB", fault="ECC error"),
    ],
    memory="64 GiB",
    free="48 GiB",
    disk="1 TiB",
    disk_free="200 GiB",
    versions={
        "torch": "2.7.0+cu126",
        "driver": "550.54.15",
        "python": "3.12.1",
        "haystack-ai": "3.3.0rc1",
        "spacy": "not a version",
    },
    faults={"xpu": "broken"},
)


def condition(text: str) -> Condition:
    found = Policy.parse(f'prefer = "cuda"\nrequire = {{ {text} }}').require
    assert found is not None
    return found


@pytest.mark.parametrize(
    "text",
    [
        "cuda = 1",
        "cuda = 2",
        'cuda = "==2"',
        'cuda = "<3"',
        "cuda = {}",
        'cuda = { memory = "80 GiB" }',
        'cuda = { free = ">20 GiB", name = "A*" }',
        'cuda = { count = 2, capability = "8.0" }',
        "cuda = { capability = 8.9 }",
        'cuda = { count = "==1", capability = ">8" }',
        "cuda = { id = [1, 2] }",
        'cuda = { count = 1, same = "name" }',
        'mps = "==0"',
        'xpu = "==0"',
        'os = ["windows", "linux"]',
        'arch = "amd64"',
        'memory = "64 GiB", free = "<64 GiB", disk = ">1 GiB", disk_free = "==200 GiB"',
        'torch = "2.6"',
        'torch = ">=2.6, <3"',
        'torch = "==2.7.*"',
        'driver = ">=550"',
        'haystack-ai = ">=3.2"',
        'python = "3.11"',
    ],
)
def test_a_condition_that_holds_lacks_nothing(text: str) -> None:
    assert condition(text).unmet(HOST) == []


@pytest.mark.parametrize(
    ("text", "needs", "has"),
    [
        ("cuda = 3", "at least 3 `cuda` devices", "2 (`cuda:2`: ECC error)"),
        ('cuda = "==0"', "no `cuda` devices", "2 (`cuda:2`: ECC error)"),
        ('cuda = "<2"', "< 2 `cuda` devices", "2 (`cuda:2`: ECC error)"),
        (
            'cuda = { count = 2, free = "24 GiB" }',
            "at least 2 `cuda` devices with free >=24 GiB",
            "1 (`cuda:0`: 20.0 GiB are free, `cuda:2`: ECC error)",
        ),
        (
            'cuda = { capability = 9, name = "H*" }',
            "at least 1 `cuda` device with name H* and capability >=9.0",
            "none (`cuda:0`: it is called `RTX 4090`, `cuda:1`: it is called `A100`, `cuda:2`: ECC error)",
        ),
        (
            'cuda = { count = 2, same = "name" }',
            "at least 2 `cuda` devices of the same name",
            "1 (`cuda:2`: ECC error)",
        ),
        ("mps = 1", "at least 1 `mps` device", "none"),
        ("xpu = 1", "at least 1 `xpu` device", "none, because the `xpu` driver failed: broken"),
        ('os = ["windows", "macos"]', "`os` windows or macos", "linux"),
        ('arch = "arm64"', "`arch` arm64", "x86_64"),
        ('memory = "128 GiB"', "`memory` >=128 GiB", "64.0 GiB"),
        ('free = "<1 GiB"', "`free` <1 GiB", "48.0 GiB"),
        ('torch = ">=2.8"', "`torch` >=2.8", "2.7.0+cu126"),
        ('transformers = "5"', "`transformers` >=5", "no `transformers`"),
        ('spacy = "3"', "`spacy` >=3", "not a version"),
    ],
)
def test_what_does_not_hold_is_told_with_what_the_host_has(text: str, needs: str, has: str) -> None:
    (unmet,) = condition(text).unmet(HOST)
    assert (unmet.needs, unmet.has) == (needs, has)
    assert unmet.place is not None


def test_everything_that_a_host_lacks_is_told_in_order() -> None:
    text = 'prefer = "cuda"\n[require]\ntorch = ">=3"\nos = "macos"\ncuda = 4\npython = ">=3.11"\n'
    policy = Policy.parse(text)
    with pytest.raises(Unsatisfiable) as refused:
        resolve(policy, host=HOST)
    lines = [finding.place.line for finding in refused.value.diagnostics if finding.place]
    assert lines == [3, 4, 5]
    assert {finding.code for finding in refused.value.diagnostics} == {"DP304"}
    with pytest.raises(Unsatisfiable, match="does not meet `torch`"):
        planned(text, small_llama(), HOST)


def test_a_rule_applies_where_its_condition_holds() -> None:
    text = 'prefer = "cuda"\n[[rule]]\nmatch = "model.layers.0"\nwhen = {{ cuda = {} }}\nprefer = "cuda:1"\n'
    assert device_map(planned(text.format(2), small_llama(), HOST)) == {"": "cuda:1"}
    plan = planned(text.format(3), small_llama(), HOST)
    assert device_map(plan) == {"": "cuda:0"}
    assert plan.warnings == ()
