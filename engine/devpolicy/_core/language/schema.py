"""The JSON schema of a policy, for editors.

Owns what the tables of keys cannot express: tables with free keys, which keys of a rule go together, and which parts
are shared. It is draft 7, which Taplo, Tombi and VS Code's TOML extensions read, so shared parts are `definitions`,
which later drafts call `$defs`. `policy/policy.schema.json` is this schema, written out by `python -m tools.schema`.
"""

from __future__ import annotations

from typing import Any

from devpolicy._core.host.fields import HOST_FIELDS
from devpolicy._core.language.comparisons import LEAST_SIZE, VERSION_TEST
from devpolicy._core.language.components import OF_MODELS, ComponentTable
from devpolicy._core.language.condition_keys import DEVICES_SCHEMA, condition
from devpolicy._core.language.devices import NAME, RESERVED, DeviceClassTable
from devpolicy._core.language.expectations import BY_SCHEMA, EXPECT_SCHEMA, SIZES
from devpolicy._core.language.fields import ProfileTable, TopTable
from devpolicy._core.language.kinds import AMOUNT
from devpolicy._core.language.loading import LoadingTable
from devpolicy._core.language.memory import DiskTable, MemoryTable
from devpolicy._core.language.rules import APART, Rule
from devpolicy._core.language.terms import ACCELERATOR_SCHEMA, AVOID, DEVICE_PATTERN, KEEP, RUN, SPILL
from devpolicy._core.language.tests import ASSERTIONS, CaseTable
from devpolicy._core.language.workload import Workload
from devpolicy._core.toml.tables import JsonSchema, fields_of, table_schema


def policy_schema() -> JsonSchema:
    """Return the JSON schema (draft 7) of a policy. What needs two keys to decide is left to the reader."""
    schema = _completed(table_schema(fields_of(TopTable)))
    # Where components or profiles say where they run, or another policy does, the top need not.
    schema["anyOf"] = [{"required": [key]} for key in (*schema.pop("required"), "component", "extends", "profile")]
    properties = schema["properties"]
    properties["schema"]["enum"] = [1]
    properties["profile"] |= {"type": "object", "additionalProperties": _reference("profile")}
    properties["host"] |= {"type": "object", "additionalProperties": table_schema(HOST_FIELDS)}
    properties["test"] |= {"type": "array", "items": _test()}
    parts = {
        "profile": _completed(table_schema(fields_of(ProfileTable, partial=True))),
        "component": _component(),
        "rule": _rule(),
        "offload": {
            "type": "object",
            "additionalProperties": {"anyOf": [KEEP.schema, {**_NESTED, "minProperties": 1}]},
        },
        "memory": _memory(),
        "devices": _devices(),
        "workload": table_schema(fields_of(Workload)),
        "loading": table_schema(fields_of(LoadingTable)),
        "condition": condition("`when`").schema,
        "expect": EXPECT_SCHEMA,
        "by": BY_SCHEMA,
        "run": RUN.schema,
        "keep": KEEP.schema,
        "spill": SPILL.schema,
        "avoid": AVOID.schema,
        "device": ACCELERATOR_SCHEMA,
        "amount": AMOUNT.schema,
        "sizes": SIZES.schema,
        "size_test": LEAST_SIZE.schema,
        "version_test": VERSION_TEST.schema,
        "devices_test": DEVICES_SCHEMA,
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "devpolicy policy",
        "description": "Where a model runs, and where its weights are kept.",
        **_shared(schema, parts),
        "definitions": {name: _shared(part, parts, own=name) for name, part in parts.items()},
    }


def _shared(schema: Any, parts: dict[str, JsonSchema], *, own: str = "") -> Any:
    """Return a schema with references in place of `parts`, but for its `own` name's."""
    if isinstance(schema, list):
        return [_shared(entry, parts) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: value for key, value in schema.items() if key != "description"}
    name = next((name for name, part in parts.items() if name != own and part == plain), None)
    if name is not None:
        told = {key: value for key, value in schema.items() if key == "description"}
        return {**told, **_reference(name)}
    return {key: _shared(value, parts) for key, value in schema.items()}


def _reference(name: str) -> JsonSchema:
    # Draft 7 ignores what stands beside a `$ref`, so it stands in an `allOf`.
    return {"allOf": [{"$ref": f"#/definitions/{name}"}]}


_NESTED = _reference("offload")


def _completed(schema: JsonSchema) -> JsonSchema:
    """Return the schema of a policy, a profile or a component with its tables with free keys."""
    properties = schema["properties"]
    properties["offload"] |= _NESTED
    properties["rule"] |= {"type": "array", "items": _rule()}
    properties["memory"] |= _memory()
    if "component" in properties:
        properties["component"] |= {"type": "object", "additionalProperties": _component()}
        properties["devices"] |= _devices()
    return schema


def _devices() -> JsonSchema:
    return {
        "type": "object",
        "propertyNames": {"pattern": f"^{NAME}$", "not": {"enum": list(RESERVED)}},
        "additionalProperties": table_schema(fields_of(DeviceClassTable)),
    }


def _component() -> JsonSchema:
    of_models = ({"required": ["needs", key]} for key in ("model", *OF_MODELS))
    return {**_completed(table_schema(fields_of(ComponentTable))), "not": {"anyOf": list(of_models)}}


def _rule() -> JsonSchema:
    return {
        **table_schema(fields_of(Rule)),
        "allOf": [
            {"anyOf": [{"required": [key]} for key in ("match", "class", "size")]},
            {"anyOf": [{"required": [key]} for key in ("prefer", "offload", "overflow", "together")]},
            *({"not": {"required": [one, other]}} for one, other in APART if "together" not in (one, other)),
        ],
    }


def _test() -> JsonSchema:
    return {
        **table_schema(fields_of(CaseTable)),
        "allOf": [
            {"oneOf": [{"required": ["host"]}, {"required": ["hosts"]}]},
            {"anyOf": [{"required": [key]} for key in ASSERTIONS]},
        ],
    }


def _memory() -> JsonSchema:
    entry = {"anyOf": [AMOUNT.schema, table_schema(fields_of(MemoryTable))]}
    return {
        "type": "object",
        "properties": {"cpu": entry, "disk": {"anyOf": [AMOUNT.schema, table_schema(fields_of(DiskTable))]}},
        "patternProperties": {DEVICE_PATTERN: entry},
        "additionalProperties": False,
    }
