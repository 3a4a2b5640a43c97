"""`python -m tests.dry_run [MODEL...]`: every model of the catalogue, loaded and run by a plan, at true size.

Each is divided over the fewest equal GPUs of the catalogue's hosts that hold it, and planned on fewer with the rest in
RAM, with as many tokens as it takes, and no more than 1,024. Fails where one does not run. Devices that hold more than
their ledger are listed with what is missing: activations are estimates. One that is published quantised is listed as
not tried: a dry run has no code of quantisers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence

from devpolicy import Host, ModelTree, Plan, Policy, Unsatisfiable, plan
from devpolicy._core.model.catalogue import model_catalogue

DIVIDED = 'prefer = "cuda"\nsplit = "balanced"\nworkload.context = {}\n'
OVERFLOWING = 'prefer = "cuda"\noverflow = ["cpu", "disk"]\nmemory.disk.path = "offload"\nworkload.context = {}\n'
TOKENS = 1024
HOSTS = ("2x24gb", "4x80gb", "8x80gb", "8x141gb")


def plans(tree: ModelTree) -> Iterator[tuple[str, str, Plan]]:
    """Yield how and on which host a model is planned, and the plan."""
    divided, overflowing = (
        Policy.parse(text.format(min(TOKENS, tree.context or TOKENS))) for text in (DIVIDED, OVERFLOWING)
    )
    for host in HOSTS:
        try:
            yield "divided", host, plan(divided, tree, host)
        except Unsatisfiable:
            continue
        break
    small = Host.load("2x24gb")
    try:
        made = plan(overflowing, tree, small)
    except Unsatisfiable:
        return
    if set(made.ledger) & {"cpu", "disk"}:
        yield "overflow", "2x24gb", made


def main(names: Sequence[str]) -> int:
    """Try every model, print a line for each plan, and return 1 where one does not run."""
    failed = 0
    for name in names or list(model_catalogue()):
        tree = ModelTree.load(name)
        if tree.quantization is not None:
            print(f"{name:24} not tried: it is published in `{tree.quantization.method}`", flush=True)
            continue
        for how, host, made in plans(tree):
            start = time.monotonic()
            found = made.dry_run(name, host)
            failed += not found.runs
            verdict = "runs" if found.runs else "FAILS"
            print(f"{name:24} {how:9} {host:8} {verdict:6} {time.monotonic() - start:5.1f} s  {found.call}", flush=True)
            for complaint in found.complaints():
                print(f"    {complaint}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
