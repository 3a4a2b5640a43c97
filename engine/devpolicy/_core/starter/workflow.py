"""The workflow that checks and tests a policy on GitHub.

Owns its text.
"""

from __future__ import annotations

import re
import shlex

PATH = ".github/workflows/devpolicy.yml"

_PLAIN = re.compile(r"[\w ./=-]+", re.ASCII)
_TEXT = """\
name: devpolicy

on:
  push:
    branches: [main]
  pull_request:

permissions:
  contents: read

jobs:
  policy:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v5
      - uses: actions/setup-python@v6
        with:
          python-version: "3.13"
      - run: python -m pip install {packages}
      - run: {check}
      - run: {test}
"""


def workflow(policy: str, pipeline: str | None) -> str:
    """Return the workflow. Paths are those from the repository's root."""
    saved = [] if pipeline is None else ["--pipeline", pipeline]
    check = shlex.join(["devpolicy", "check", policy, *saved, "--format", "github"])
    test = shlex.join(["devpolicy", "test", policy, "--format", "github"])
    packages = "devpolicy" if pipeline is None else "devpolicy pyyaml"
    return _TEXT.format(packages=packages, check=_scalar(check), test=_scalar(test))


def _scalar(text: str) -> str:
    """Return a command as a scalar of YAML, quoted only where it must be."""
    return text if _PLAIN.fullmatch(text) else "'" + text.replace("'", "''") + "'"
