"""The JSON schema of a policy, for editors.

Owns what the field tables cannot say: tables with free keys, and which keys of a rule go together. It is draft 7,
which Taplo, Tombi and VS Code's TOML extensions read. `policy/policy.schema.json` is this schema, written out:

    python -m devpolicy._core.language.schema > policy/policy.schema.json
"""

from __future__ import annotations

import json

from devpolicy._core.host.fields import HOST_FIELDS
from devpolicy._core.language.components import OF_MODELS
from devpolicy._core.language.devices import DEVICE_CLASS, NAME, RESERVED
from devpolicy._core.language.expectations import BY_SCHEMA, EXPECT_SCHEMA
from devpolicy._core.language.fields import COMPONENT, DISK, KEEP, MEMORY, PROFILE, RULE, TOP
from devpolicy._core.language.kinds import AMOUNT
from devpolicy._core.language.terms import DEVICE_PATTERN
from devpolicy._core.language.tests import ASSERTIONS, TEST
from devpolicy._core.toml.tables import JsonSchema, table_schema


def policy_schema() -> JsonSchema:
    """Return the JSON schema (draft 7) of a policy. What needs two keys to decide is left to the reader."""
    schema = _completed(table_schema(TOP))
    # Where components or profiles say where they run, or another policy does, the top need not.
    schema["anyOf"] = [{"required": [key]} for key in (*schema.pop("required"), "component", "extends", "profile")]
    properties = schema["properties"]
    properties["schema"]["enum"] = [1]
    properties["profile"] |= {"type": "object", "additionalProperties": {"$ref": "#/definitions/profile"}}
    properties["host"] |= {"type": "object", "additionalProperties": table_schema(HOST_FIELDS)}
    properties["test"] |= {"type": "array", "items": _test()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "devpolicy policy",
        "description": "Where a model runs, and where its weights are kept.",
        **schema,
        "definitions": {
            "offload": {
                "type": "object",
                "additionalProperties": {"anyOf": [KEEP.schema, {**_NESTED, "minProperties": 1}]},
            },
            "profile": _completed(table_schema(PROFILE)),
            "expect": EXPECT_SCHEMA,
            "by": BY_SCHEMA,
        },
    }


# Draft 7 ignores what stands beside a `$ref`, so it stands in an `allOf`.
_NESTED: JsonSchema = {"allOf": [{"$ref": "#/definitions/offload"}]}


def _completed(schema: JsonSchema) -> JsonSchema:
    """Return the schema of a policy or a profile with its tables with free keys."""
    properties = schema["properties"]
    component = _component()
    for place in (properties, component["properties"]):
        place["offload"] |= _NESTED
        place["rule"] |= {"type": "array", "items": _rule()}
        place["memory"] |= _memory()
    properties["component"] |= {"type": "object", "additionalProperties": component}
    properties["devices"] |= {
        "type": "object",
        "propertyNames": {"pattern": f"^{NAME}$", "not": {"enum": list(RESERVED)}},
        "additionalProperties": table_schema(DEVICE_CLASS),
    }
    return schema


def _component() -> JsonSchema:
    of_models = ({"required": ["needs", key]} for key in ("model", *OF_MODELS))
    return {**table_schema(COMPONENT), "not": {"anyOf": list(of_models)}}


def _rule() -> JsonSchema:
    return {
        **table_schema(RULE),
        "allOf": [
            {"anyOf": [{"required": [key]} for key in ("match", "class", "size")]},
            {"anyOf": [{"required": [key]} for key in ("prefer", "offload", "together")]},
            {"not": {"required": ["prefer", "offload"]}},
        ],
    }


def _test() -> JsonSchema:
    return {
        **table_schema(TEST),
        "allOf": [
            {"oneOf": [{"required": ["host"]}, {"required": ["hosts"]}]},
            {"anyOf": [{"required": [key]} for key in ASSERTIONS]},
        ],
    }


def _memory() -> JsonSchema:
    entry = {"anyOf": [AMOUNT.schema, table_schema(MEMORY)]}
    return {
        "type": "object",
        "properties": {"cpu": entry, "disk": {"anyOf": [AMOUNT.schema, table_schema(DISK)]}},
        "patternProperties": {DEVICE_PATTERN: entry},
        "additionalProperties": False,
    }


def main() -> None:
    """Print the schema as it ships."""
    print(json.dumps(policy_schema(), indent=2))


if __name__ == "__main__":
    main()
