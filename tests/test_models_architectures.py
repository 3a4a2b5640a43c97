"""The table of what each class of Transformers does when it is divided."""

from __future__ import annotations

import pytest

from devpolicy._core.model.architectures import FAILED, Measured, architectures, measured, read
from devpolicy._core.model.tree import ModelTree
from devpolicy.errors import ModelError


def test_the_shipped_table_names_its_versions_and_what_failed() -> None:
    table = architectures()
    assert {"transformers", "accelerate", "torch"} <= table.versions.keys()
    assert table.classes
    assert [name for name, one in table.classes.items() if one.verdict != "runs" and not one.reason] == []


def test_what_was_seen_of_a_class_is_found_by_its_name() -> None:
    assert measured("LlamaForCausalLM") == Measured("runs", "", "equal", True, "llama")
    assert measured("NoSuchModel") is None
    assert measured(None) is None


def test_a_model_of_a_class_that_failed_says_so() -> None:
    pytest.importorskip("transformers")
    failed = [(name, one) for name, one in architectures().classes.items() if one.verdict in FAILED]
    assert failed
    for name, one in failed[:3]:
        told = "wrong" if one.stale else one.verdict  # what an earlier planner divided is told, and decides nothing
        config = {"model_type": one.model_type, "architectures": [name], "prediction_length": 8}  # of time series
        assert dict(ModelTree.from_config(config).metadata)["divided"] == f"{told}: {one.reason}"


ROW = '{ name = "A", verdict = "runs" }'


@pytest.mark.parametrize(
    "rows",
    ['[{ name = "A" }]', '[{ name = "A", verdict = "perhaps" }]', '["A"]', "1", f"[{ROW}, {ROW}]"],
)
def test_a_malformed_table_is_an_error(rows: str) -> None:
    with pytest.raises(ModelError):
        read(f"class = {rows}")
