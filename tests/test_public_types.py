"""The public modules as a type checker sees them: few names, and every type that they lead to is known."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

MOST_SYMBOLS = 150


def test_public_types_are_known() -> None:
    if find_spec("basedpyright") is None:
        pytest.skip("the type checkers are in `type`")
    command = [sys.executable, "-m", "basedpyright", "--verifytypes", "devpolicy", "--ignoreexternal", "--outputjson"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(made.stdout)["typeCompleteness"]
    vague = [symbol for symbol in found["symbols"] if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]]
    assert not vague, "\n".join(f"{one['name']}: {one['diagnostics']}" for one in vague)
    assert found["completenessScore"] == 1
    assert found["exportedSymbolCounts"]["withKnownType"] <= MOST_SYMBOLS
