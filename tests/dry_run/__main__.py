"""Every model of the catalogue, loaded and run by a plan, at true size.

Each is divided over the fewest equal GPUs of the catalogue's hosts that hold it, and planned on fewer with the rest in
RAM, with as many tokens as it takes, and no more than 1,024. Where one does not run, WRONG stands there and the exit
status is 1. Devices that hold more than their ledger are listed with what is missing: activations are estimates. One
that is published quantised is listed as not tried: a dry run has no code of quantisers. One that Transformers cannot
run on any device is expected to fail so.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence

from devpolicy import Host, ModelTree, Plan, Policy, Unsatisfiable, plan
from devpolicy._core.model.catalogue import model_catalogue

DIVIDED = 'prefer = "cuda"\nsplit = "balanced"\nworkload.context = {}\n'
OVERFLOWING = 'prefer = "cuda"\noverflow = ["cpu", "disk"]\nmemory.disk.path = "offload"\nworkload.context = {}\n'
TOKENS = 1024
ANYWHERE = {"llama-4-scout": "no attribute 'image_outputs'"}
"""What Transformers 5.24 itself says of models that it runs on no device, the CPU neither."""
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


def main(arguments: Sequence[str]) -> int:
    """Try every model, print a line for each plan, and return 1 where one does not run."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.dry_run",
        description=__doc__,
        epilog="`python -m tests.dry_run gpt2 llama-3.1-8b` tries two, in seconds; all take ten minutes of one core.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="of `devpolicy model list`; all where none is named")
    names, known = parser.parse_args(arguments).models, model_catalogue()
    for name in names:
        if name not in known:
            parser.error(f"`{name}` is no model of the catalogue: `devpolicy model list` has them")
    failed = 0
    for name in names or list(known):
        tree = ModelTree.load(name)
        if tree.quantization is not None:
            print(f"{name:24} not tried: it is published in `{tree.quantization.method}`", flush=True)
            continue
        for how, host, made in plans(tree):
            start = time.monotonic()
            found = made.dry_run(name, host)
            own = ANYWHERE.get(name)
            right = found.runs if own is None else any(own in complaint for complaint in found.complaints())
            failed += not right
            verdict = ("runs" if found.runs else "fails") if right else "WRONG"
            print(f"{name:24} {how:9} {host:8} {verdict:6} {time.monotonic() - start:5.1f} s  {found.call}", flush=True)
            for complaint in found.complaints():
                print(f"    {complaint}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
