"""What a consumer takes, written out.

Owns `--to`: for each consumer the expression that gives its form, and how that is printed to be copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from devpolicy._core.device import ComponentDevice
    from devpolicy._core.placement.plan import Plan


class OutputFormat(NamedTuple):
    """One form: the consumer it is planned for, and what a plan and a device are in it."""

    target: str
    of_plan: Callable[[Plan], Any]
    of_device: Callable[[ComponentDevice], Any]


OUTPUT_FORMATS = {
    "hf": OutputFormat("hf", lambda plan: plan.to_hf_kwargs(), lambda device: device.to_hf()),
    "pipeline": OutputFormat(
        "hf", lambda plan: plan.to_pipeline_kwargs(), lambda device: device.update_hf_kwargs({}, overwrite=True)
    ),
    "haystack": OutputFormat("haystack", lambda plan: plan.device.to_dict(), lambda device: device.to_dict()),
    "torch": OutputFormat("torch", lambda plan: plan.device.to_torch_str(), lambda device: device.to_torch_str()),
    "spacy": OutputFormat("spacy", lambda plan: plan.device.to_spacy(), lambda device: device.to_spacy()),
}


def literal(value: object) -> str:
    """Return a value as Python source, each entry of a dictionary on a line of its own; text alone without quotes."""
    return value if isinstance(value, str) else _source(value, "")


def _source(value: object, indent: str) -> str:
    if not isinstance(value, dict) or not value:
        return repr(value)
    inside = indent + "    "
    entries = "".join(f"{inside}{key!r}: {_source(entry, inside)},\n" for key, entry in value.items())
    return f"{{\n{entries}{indent}}}"
