"""The target gets what it claims, and its form says what was planned."""

from stages import STAGES

from devpolicy import Host, plan
from devpolicy.testing.conformance import check_target


def test_it_conforms():
    check_target(STAGES)


def test_layers_are_counted():
    made = plan("policy.toml", "llama-3.1-8b", "2x24gb", target="stages")
    told = STAGES.forms["stages"](made, Host.load("2x24gb"))
    assert told["devices"] == ["cuda:0", "cuda:1"]
    assert sum(told["layers"]) == 32
