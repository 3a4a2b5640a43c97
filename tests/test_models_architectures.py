"""The table of what each class of Transformers does when it is divided."""

from __future__ import annotations

import pytest

from devpolicy._core.model.architectures import architectures, measured, read
from devpolicy.errors import ModelError


def test_the_shipped_table_names_its_versions_and_what_failed() -> None:
    table = architectures()
    assert {"transformers", "accelerate", "torch"} <= table.versions.keys()
    assert table.classes
    assert [name for name, one in table.classes.items() if one.verdict != "runs" and not one.reason] == []


def test_a_class_that_fails_when_divided_is_known_and_another_is_not() -> None:
    found = measured("LEDForConditionalGeneration")
    assert found is not None
    assert found.verdict != "wrong"
    assert measured("NoSuchModel") is None
    assert measured(None) is None


ROW = '{ name = "A", verdict = "runs" }'


@pytest.mark.parametrize(
    "rows",
    ['[{ name = "A" }]', '[{ name = "A", verdict = "perhaps" }]', '["A"]', "1", f"[{ROW}, {ROW}]"],
)
def test_a_malformed_table_is_an_error(rows: str) -> None:
    with pytest.raises(ModelError):
        read(f"class = {rows}")
