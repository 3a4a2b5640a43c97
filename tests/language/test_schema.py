import json

import jsonschema
import pytest
import tomli

from devpolicy._core.language.components import ComponentTable
from devpolicy._core.language.condition_keys import CONDITION
from devpolicy._core.language.devices import DeviceClassTable
from devpolicy._core.language.fields import TopTable
from devpolicy._core.language.loading import LoadingTable
from devpolicy._core.language.memory import DiskTable, MemoryTable, Reserve
from devpolicy._core.language.rules import Rule
from devpolicy._core.language.schema import policy_schema
from devpolicy._core.language.suite import SuiteTable
from devpolicy._core.language.tests import CaseTable
from devpolicy._core.language.workload import Workload
from devpolicy._core.shipped import shipped, shipped_files
from devpolicy._core.toml.tables import fields_of

VALIDATOR = jsonschema.Draft7Validator(policy_schema())
TABLES = (
    *(TopTable, ComponentTable, Rule, MemoryTable, DiskTable, Reserve, Workload, LoadingTable, DeviceClassTable),
    *(CaseTable, SuiteTable),
)
FIELDS = [*CONDITION, *(field for table in TABLES for field in fields_of(table))]
SHIPPED = shipped_files("policy")


def test_the_schema_that_ships_is_the_one_that_is_generated():
    written = shipped("policy").joinpath("policy.schema.json").read_text(encoding="utf-8")
    assert json.loads(written) == policy_schema(), "python -m tools.schema > policy/policy.schema.json"


def test_the_schema_is_itself_of_draft_7():
    jsonschema.Draft7Validator.check_schema(policy_schema())


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_policies_are_valid(name):
    VALIDATOR.validate(tomli.loads(SHIPPED[name].read_text(encoding="utf-8")))


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_key_says_what_it_means(field):
    assert field.doc.endswith(".")
    assert field.kind.name


@pytest.mark.parametrize(
    "text",
    [
        'offload = { lm_head = "cuda" }',
        "offload = { model = {} }",
        'offload = { model = { layers = ["cpu", "gpu"] } }',
        'rule = [{ match = "a" }]',
        'rule = [{ offload = "cpu" }]',
        'rule = [{ match = "a", prefer = "cuda", offload = "cpu" }]',
        'rule = [{ match = "a..b", offload = "cpu" }]',
        'rule = [{ match = "a**", offload = "cpu" }]',
        'devices = { cuda = { type = "cuda" } }',
        'devices = { big = { memory = "24 GiB" } }',
        'devices = { big = { type = "gpu" } }',
        'devices = { big = { type = "cuda", memory = "24" } }',
        "require = {}",
        "require = { cude = 1 }",
        'require = { os = "ubuntu" }',
        "require = { torch = 2.6 }",
        'rule = [{ match = "a", offload = "cpu", when = { cuda = 0 } }]',
        'memory = { "cuda:128" = "1 GiB" }',
        'memory = { cuda = "1" }',
        'memory = { cuda = { path = "x" } }',
        "memory = { disk = { reserve = {} } }",
        'workload = { dtype = "bf16" }',
        'split = "quickest"',
        "schema = 2",
    ],
)
def test_editors_show_what_is_wrong(text):
    assert not VALIDATOR.is_valid(tomli.loads(f'prefer = "cuda"\n{text}'))
    VALIDATOR.validate({"prefer": "cuda"})
