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
    ("keys, parts of keys and entries of arrays in a TOML file", "toml.document", "MOST_VALUES"),
    ("the same in a model file", "model.limits", "MOST_FILE_VALUES"),
    ("levels of tables and arrays in a TOML file", "toml.document", "DEEPEST"),
    ("policies that build on each other in a chain", "language.extending", "DEEPEST"),
    ("policies that one builds on, in all", "language.extending", "MOST_TEXTS"),
    ("characters of a text in a policy, a host or a test file", "toml.document", "LONGEST_TEXT"),
    ("characters of a pattern of modules", "language.patterns", "LONGEST"),
    ("components of a policy", "language.components", "MOST_COMPONENTS"),
    ("models or schemes among which a component chooses", "language.wishes", "MOST_ALTERNATIVES"),
    ("adapters of a model", "language.loading", "MOST_ADAPTERS"),
    ("findings that one error carries", "errors", "MOST_KEPT"),
    ("findings of a model file", "model.limits", "MOST_FINDINGS"),
    ("a lock file", "cli.lock", "LARGEST_LOCK"),
    ("a plan that is read from a file", "placement.saved", "LARGEST_PLAN"),
    ("a saved pipeline", "targets.haystack_components.yaml_file", "LARGEST_PIPELINE"),
    ("values in it, shared ones where they are used", "targets.haystack_components.yaml_file", "MOST_VALUES"),
    ("levels of tables and lists in it", "targets.haystack_components.yaml_file", "DEEPEST"),
    ("a `config.json`", "model.limits", "LARGEST_CONFIG"),
    ("layers, blocks or heads that a configuration may ask for", "model.limits", "MOST_LAYERS"),
    (
        "experts, labels or classes in it, and what a list of layers adds up to",
        "model.limits",
        "MOST_ENTRIES",
    ),
    ("an element count of one dimension in it", "model.limits", "LARGEST_DIMENSION"),
    ("positions in it", "model.limits", "LARGEST_CONTEXT"),
    ("elements of a table of positions that is computed one by one", "model.limits", "MOST_COMPUTED"),
    ("pixels of a side of an image in it", "model.limits", "LARGEST_IMAGE"),
    ("modules of a model", "model.limits", "LARGEST_TREE"),
    ("seconds of computing to build and read a model", "model.limits", "LONGEST_BUILD"),
    ("memory that this may take", "model.limits", "MOST_BUILD_MEMORY"),
    ("an index of shards", "model.limits", "LARGEST_INDEX"),
    ("files of one checkpoint", "model.limits", "MOST_SHARDS"),
    ("tensors that a checkpoint names", "model.limits", "MOST_TENSORS"),
    ("characters of the name of a tensor, or of a model in its file", "model.limits", "LONGEST_NAME"),
    ("parts of the name of a tensor", "model.limits", "DEEPEST_PATH"),
    ("elements of a tensor", "model.limits", "MOST_ELEMENTS"),
    ("a safetensors header", "model.limits", "LARGEST_HEADER"),
    ("keys in the header of a GGUF file", "model.limits", "MOST_METADATA"),
    ("texts in the lists of a GGUF file", "model.limits", "MOST_STRINGS"),
    ("fields of an ONNX file that are looked at", "model.limits", "MOST_FIELDS"),
    ("the bytes read from the hub for one model", "model.limits", "LARGEST_TRAFFIC"),
    ("seconds that one answer of the hub may take", "model.hub_files", "PATIENCE"),
    ("levels in a JSON file", "model.limits", "DEEPEST_JSON"),
    ("modules that a quantisation leaves, by name", "loading.skips", "MOST_NAMES"),
    ("models that the model cache keeps", "disk_cache", "MOST_FILES"),
    ("all of its files together", "disk_cache", "LARGEST_KEPT"),
    ("one of its files", "disk_cache", "LARGEST_ENTRY"),
    ("devices of one type of a host", "host.facts", "MOST_DEVICES"),
    ("nodes of a fleet", "fleet.values", "MOST_NODES"),
    ("sets of nodes that `survives` lets fail", "fleet.survival", "MOST_FAILURES"),
    ("nodes that may fail at once by `survives`", "language.properties", "MOST_FAILING"),
    ("characters of the name of a node or a label", "fleet.values", "LONGEST_NAME"),
    ("hosts of a family that `verify` plans one by one; of more, some are drawn", "review.verify", "MOST_HOSTS"),
    ("hosts that `vary` makes", "language.expectations", "MOST_CASES"),
    ("what a process that asks a library may print", "child_process", "MOST_PRINTED"),
    ("seconds that a library is waited for by a plan", "host.probe", "TIMEOUT"),
    ("seconds of a `dry-run` for each model; `--timeout` gives it more", "dry_run.result", "TIMEOUT"),
    ("memory of the process of a `dry-run`", "dry_run.result", "MOST_MEMORY"),
    ("seconds that a library is waited for by `doctor`", "doctor", "TIMEOUT"),
]
"""What is limited, and the constant that limits it."""
_BYTES = {
    "LARGEST_FILE",
    "LARGEST_KEPT",
    "LARGEST_ENTRY",
    "LARGEST_LOCK",
    "LARGEST_PLAN",
    "LARGEST_PIPELINE",
    "LARGEST_CONFIG",
    "LARGEST_INDEX",
    "LARGEST_HEADER",
    "LARGEST_TRAFFIC",
    "MOST_BUILD_MEMORY",
    "MOST_MEMORY",
    "MOST_PRINTED",
}


_OF_NO_INPUT = {
    ("errors", "MOST_SHOWN"),  # findings that are written in full
    ("text", "LONGEST_LINE"),
    ("cli.context", "PATIENCE"),  # until a terminal is told that it takes long
    ("placement.device_runs", "MOST_STEPS"),  # of a search, which then answers with the best so far
    ("placement.exact", "MOST_CLUSTERS"),
    ("simulation.patched_libraries.torch_distributed", "TIMEOUT"),  # what torch itself waits
    ("device.single", "LARGEST_ID"),  # as many devices as a host may have
    ("ranges", "LARGEST_NUMBER"),
    ("model.limits", "LARGEST_TEXT"),  # of all names of a tree: follows from the number of its modules
    ("model.limits", "LARGEST_REFERENCE"),  # of the local cache
    ("model.limits", "LONGEST_TEXT"),  # longer ones are skipped
    ("model.limits", "MOST_KEPT"),
    ("model.generation", "MOST_BEAMS"),  # more is taken for a mistake, and counted as one
    ("dry_run.result", "LONGEST"),  # what `--timeout` takes
    ("dry_run.watch", "MOST_ERRORS"),  # device errors of one run that are listed
    ("fleet.assignment", "MOST_STEPS"),  # behind them a plan says what was shown of it
    ("fleet.assignment", "MOST_IN_ALL"),
    ("fleet.shapes", "MOST_SHAPES"),  # likewise
    ("fleet.starting", "TIMEOUT"),  # a caller's to change
    ("targets.llama_cpp", "MOST_DEVICES"),  # of that library
    ("sizes", "LARGEST"),
}
"""Limits that no input is refused for by themselves."""
_NAME = re.compile(r"^((?:MOST|LARGEST|LONGEST|DEEPEST|TIMEOUT|PATIENCE)[A-Z_]*)(?:: \w+)? = ", re.MULTILINE)


def table() -> str:
    rows = ["| what | at most |\n|---|---|\n"]
    for what, module, name in LIMITS:
        limit = getattr(import_module(f"devpolicy._core.{module}"), name)
        rows.append(f"| {what} | {_size(limit) if name in _BYTES else f'{int(limit):,}'} |\n")
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


def test_every_limit_of_the_code_is_on_the_page():
    core = Path(import_module("devpolicy._core").__file__ or "").parent
    found = {
        (".".join(path.relative_to(core).with_suffix("").parts).removesuffix(".__init__"), name)
        for path in core.rglob("*.py")
        for name in _NAME.findall(path.read_text(encoding="utf-8"))
    }
    assert found == {(module, name) for _, module, name in LIMITS} | _OF_NO_INPUT


def test_no_line_of_the_page_is_too_wide():
    assert all(len(line) <= 125 or line.startswith("|") for line in PAGE.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
