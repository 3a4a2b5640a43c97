"""The numbers of SECURITY.md are those of the code.

`python -m tests.test_security` writes its table anew.
"""

import re
from importlib import import_module
from pathlib import Path

PAGE = Path(__file__).parents[1] / "SECURITY.md"
_TABLE = re.compile(r"(<!-- limits -->\n).*?(<!-- end -->)", re.DOTALL)

LIMITS = [
    ("a TOML file: policy, host, tests, model", "files", "LARGEST_FILE"),
    ("values in a TOML file", "toml.document", "MOST_VALUES"),
    ("levels of tables and arrays in a TOML file", "toml.document", "DEEPEST"),
    ("policies that build on each other in a chain", "language.extending", "DEEPEST"),
    ("policies that one builds on, in all", "language.extending", "MOST_TEXTS"),
    ("findings that one error carries", "errors", "MOST_KEPT"),
    ("a lock file", "cli.lock", "LARGEST_LOCK"),
    ("a `config.json`", "model.limits", "LARGEST_CONFIG"),
    ("layers, blocks or heads that a configuration may ask for", "model.limits", "MOST_LAYERS"),
    ("experts that it may ask for", "model.limits", "MOST_EXPERTS"),
    ("modules of a model", "model.limits", "LARGEST_TREE"),
    ("seconds of computing to build and read a model", "model.limits", "LONGEST_BUILD"),
    ("memory that this may take", "model.limits", "MOST_BUILD_MEMORY"),
    ("an index of shards", "model.limits", "LARGEST_INDEX"),
    ("files of one checkpoint", "model.limits", "MOST_SHARDS"),
    ("tensors that a checkpoint names", "model.limits", "MOST_TENSORS"),
    ("a safetensors header", "model.limits", "LARGEST_HEADER"),
    ("keys in the header of a GGUF file", "model.limits", "MOST_METADATA"),
    ("texts in the lists of a GGUF file", "model.limits", "MOST_STRINGS"),
    ("what is asked of the hub for one model", "model.limits", "LARGEST_TRAFFIC"),
    ("seconds that one answer of the hub may take", "model.hub_files", "PATIENCE"),
    ("levels in a JSON file", "model.limits", "DEEPEST_JSON"),
    ("devices of one type of a host", "host.facts", "MOST_DEVICES"),
    ("hosts of a family that `verify` plans one by one; of more, some are drawn", "review.verify", "MOST_HOSTS"),
    ("hosts that `vary` makes", "language.expectations", "MOST_CASES"),
    ("what a process that asks a library may print", "host.probe.child_process", "MOST_PRINTED"),
    ("seconds that a library is waited for by a plan", "host.probe", "TIMEOUT"),
    ("seconds that a library is waited for by `doctor`", "doctor", "TIMEOUT"),
]
"""What is limited, and the constant that limits it."""
_BYTES = {
    "LARGEST_FILE",
    "LARGEST_LOCK",
    "LARGEST_CONFIG",
    "LARGEST_INDEX",
    "LARGEST_HEADER",
    "LARGEST_TRAFFIC",
    "MOST_BUILD_MEMORY",
    "MOST_PRINTED",
}


def table() -> str:
    rows = ["| what | at most |\n|---|---|\n"]
    for what, module, name in LIMITS:
        limit = getattr(import_module(f"devpolicy._core.{module}"), name)
        rows.append(f"| {what} | {_size(limit) if name in _BYTES else f'{limit:,.0f}'} |\n")
    return "".join(rows)


def _size(size: int) -> str:
    if size % (1 << 30) == 0:
        return f"{size >> 30} GiB"
    return f"{size >> 20} MiB" if size % (1 << 20) == 0 else f"{size // 10**6} MB"


def written(text: str) -> str:
    """Return the page with the table of today."""
    return _TABLE.sub(lambda found: found[1] + table() + found[2], text)


def test_the_limits_of_the_page_are_those_of_the_code():
    text = PAGE.read_text(encoding="utf-8")
    assert written(text) == text


def test_no_line_of_the_page_is_too_wide():
    assert all(len(line) <= 125 or line.startswith("|") for line in PAGE.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
