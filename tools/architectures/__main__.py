"""Sweep the classes of Transformers, and write the table of them.

python -m tools.architectures [--rows FILE] [--jobs N] [--only TYPE...] [--build]   # tries them; goes on where it ended
python -m tools.architectures --rows FILE... --write                                # writes the table and its page
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from devpolicy._core.disk_cache import VARIABLE

for _name, _value in {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}.items():
    os.environ.setdefault(_name, _value)


def main() -> None:
    """Run the sweep, or write what it found."""
    parser = argparse.ArgumentParser(prog="python -m tools.architectures", description=__doc__)
    parser.add_argument(
        "--rows", type=Path, nargs="+", default=[Path("architectures.jsonl")], help="what was seen, a line for a type"
    )
    parser.add_argument("--only", nargs="*", default=[], help="types to try again")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--build", action="store_true", help="build them and run them on the CPU alone")
    parser.add_argument("--write", action="store_true", help="write the table instead")
    asked = parser.parse_args()
    if asked.write:
        from tools.architectures.table import write

        write(asked.rows)
        return
    with tempfile.TemporaryDirectory() as kept:
        # What is read while code is edited must not be what later processes find: this sweep keeps its own.
        os.environ[VARIABLE] = kept
        sweep(asked.rows[0], asked.only, place=not asked.build, jobs=asked.jobs)


def sweep(rows: Path, only: list[str], *, place: bool, jobs: int) -> None:
    """Try every type that has no row yet, or the named ones, each in a process of its own."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    from tools.architectures.child import in_child
    from tools.architectures.measure import class_of, measure, model_types
    from tools.architectures.rows import read

    measure("llama")  # what every child needs is imported before they are forked
    gc.collect()
    gc.freeze()
    known = {row["type"] for row in read(rows)}
    waiting = only or [name for name in model_types() if name not in known]
    with ThreadPoolExecutor(jobs) as pool, rows.open("a", encoding="utf-8") as file:

        def one(name: str) -> dict[str, Any]:
            begun = time.monotonic()
            row = {"type": name, "class": class_of(name), **in_child(lambda: measure(name, place=place))}
            return row | {"seconds": round(time.monotonic() - begun, 1)}

        for done in as_completed([pool.submit(one, name) for name in waiting]):
            file.write(json.dumps(done.result()) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
