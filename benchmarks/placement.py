"""How good plans are: devpolicy beside accelerate and transformers, every shipped model on every host.

python benchmarks/placement.py [--quick] [--only MODEL ...] [--context N] [--batch N] [--json FILE] [--plot FILE]

Every planner is given the same bytes for each device, headroom taken off, and every plan is scored by the same count.
The peers count weights alone, so a plan of theirs may be over its budget once KV cache, activations and streaming are
counted. It is then made again with lower budgets, down to half of them. Times are predictions.

Fails (exit status 1) where a feasible plan of a peer has a lower predicted time than `fastest`, or a plan of ours keeps
something elsewhere that would fit.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from catalogue_models import CATALOGUE, QUICK
from devpolicy import Accelerator, Host, ModelTree, Unsatisfiable
from devpolicy._core.certify import certify
from devpolicy._core.model.config import build
from devpolicy._core.placement.planner import make_plan
from devpolicy.testing import simulate_host
from evaluation import Case, Score, policy_of, score
from planning import PEERS
from report import environment, print_table, write_json

warnings.filterwarnings("ignore")
logging.disable()

SHRUNK = (0, 5, 10, 20, 30, 40, 50)
"""By so many percent a peer's budgets are lowered, until its plan keeps within the real ones."""

OURS = ("fastest", "balanced", "when-needed")
NAMES = {4: "GTX 1650", 8: "RTX 3070", 12: "RTX 3060", 24: "RTX 3090", 48: "L40S", 80: "A100", 141: "H200"}
SHIPPED = (
    *("1x8gb", "1x24gb", "2x24gb", "24-24-12-8", "80-24", "4x80gb", "8x80gb", "8x141gb"),
    *("cpu-only", "macbook-m3-36gb"),
)
MIXES = ((24, 12), (12, 24), (24, 80), (48, 24, 24), (24, 24, 48), (8, 12, 24, 24), (141, 80), (80, 141))


def mix(*sizes: int) -> Host:
    cards = [Accelerator("cuda", memory=f"{size} GiB", name=NAMES[size]) for size in sizes]
    return Host(cards, memory="256 GiB", disk="4 TiB", name="-".join(map(str, sizes)))


def hosts(*, quick: bool) -> list[Host]:
    made = [Host.load(name) for name in SHIPPED] + [mix(*sizes) for sizes in MIXES]
    return made[::3] if quick else made


def peer_scores(model: Any, case: Case) -> dict[str, Score]:
    """Score the plans of the peers. They see the simulated host, and are told the budgets of its devices.

    They count weights alone. Where a plan is over a budget, they are told less of each accelerator, in steps, until one
    is not: that is what a user does who lowers `max_memory` until it works.
    """
    found: dict[str, Score] = {}
    with simulate_host(case.host):
        for kind, planners in PEERS.items():
            label = "auto" if kind == "balanced" else "sequential"
            for peer, planner in planners.items():
                first: Score | None = None
                for percent in SHRUNK:
                    made = peer_score(planner, model, case, percent)
                    first = first or made
                    if made.feasible:
                        found[f"{peer} {label}"] = made if not percent else replace(made, over=f"-{percent}%")
                        break
                else:
                    found[f"{peer} {label}"] = first or Score.nothing("")
    return found


def peer_score(planner: Any, model: Any, case: Case, percent: int) -> Score:
    told: dict[Any, int] = {}
    for name, budget in case.budgets().items():
        kind, _, number = name.partition(":")
        if kind in ("cpu", "mps"):
            told[kind] = budget
        elif kind != "disk":  # they add the disk themselves
            told[int(number)] = budget * (100 - percent) // 100
    try:
        return score(case, planner(model, told))
    except Exception as failed:  # noqa: BLE001 - whatever a planner raises is a result
        return Score.nothing(type(failed).__name__)


def ours(case: Case, split: str, options: argparse.Namespace) -> Score:
    policy = policy_of(case.host, split, context=options.context, batch=options.batch)
    try:
        plan = make_plan(policy, case.tree, case.host, advise=False)
    except Unsatisfiable as refused:
        return Score.nothing(refused.code or "refused")
    form = plan.device.to_dict()
    return score(case, form["device_map"] if "device_map" in form else {"": form["device"]})


def gap(case: Case, options: argparse.Namespace) -> float | None:
    """Return the certified gap of our fastest plan, `None` where there is no plan."""
    policy = policy_of(case.host, "fastest", context=options.context, batch=options.batch)
    try:
        return certify(make_plan(policy, case.tree, case.host, advise=False), policy, case.tree, case.host).gap
    except Unsatisfiable:
        return None


def fits(case: Case, options: argparse.Namespace) -> float | None:
    """Return the least share of the fullest device with which everything stays, `None` where not everything can."""
    policy = policy_of(case.host, "balanced", context=options.context, batch=options.batch, overflow=False)
    try:
        plan = make_plan(policy, case.tree, case.host, advise=False)
    except Unsatisfiable:
        return None
    return max(budget.used / max(1, budget.cap - budget.headroom) for budget in plan.ledger.values())


def compare(name: str, tree: ModelTree, model: Any, host: Host, options: argparse.Namespace) -> dict[str, Any]:
    case = Case(tree, host, policy_of(host, "fastest", context=options.context, batch=options.batch))
    scores = {split: ours(case, split, options) for split in OURS}
    scores |= peer_scores(model, case)
    optimum = fits(case, options)
    best = min((one.ms for way, one in scores.items() if way not in OURS and one.feasible), default=None)
    mine = scores["fastest"]
    return {
        "model": name,
        "host": host.name,
        "fits": optimum is not None,
        "optimum": optimum,
        "scores": {way: asdict(one) for way, one in scores.items()},
        "needless": [way for way, one in scores.items() if optimum is not None and one.ms and one.offloaded],
        "best_peer_ms": best,
        "gap": gap(case, options) if options.certify else None,
        "slower_than_a_peer": best is not None and (not mine.feasible or mine.ms > best * (1 + 1e-9)),
    }


def cell(row: Mapping[str, Any], way: str) -> str:
    one = row["scores"][way]
    if not one["ms"]:
        return str(one["over"])
    less = f" ({one['over']})" if one["feasible"] and one["over"] else ""
    marks = ("!" if not one["feasible"] else "") + ("~" if way in row["needless"] else "")
    return f"{one['ms']:,.1f}{marks}{less}"


def summary(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    table = []
    for way in rows[0]["scores"]:
        made = [row for row in rows if row["scores"][way]["ms"]]
        feasible = [row for row in made if row["scores"][way]["feasible"]]
        fit = [row for row in made if row["fits"]]
        even = [row["scores"][way]["peak"] / row["optimum"] for row in fit if row["scores"][way]["feasible"]]
        table.append(
            (
                way,
                f"{len(rows) - len(made)}",
                f"{len(made) - len(feasible)}",
                f"{sum(way in row['needless'] for row in made)} of {len(fit)}",
                f"{max(even, default=0):.3f}",
                f"{sum(row['scores'][way]['crossings'] for row in feasible)}",
                f"{sum(row['scores'][way]['offloaded'] for row in feasible) / (1 << 30):,.0f}",
            )
        )
    return table


def plot(file: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw the predicted time of each feasible peer's plan over ours."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(figsize=(9, 5))
    for way in (way for way in rows[0]["scores"] if way not in OURS):
        ratios = sorted(
            row["scores"][way]["ms"] / row["scores"]["fastest"]["ms"]
            for row in rows
            if row["scores"][way]["feasible"] and row["scores"]["fastest"]["feasible"]
        )
        axes.plot(ratios, label=f"{way} ({len(ratios)} feasible of {len(rows)})")
    axes.set_yscale("log")
    axes.set_ylabel("predicted time of a token, times ours")
    axes.set_xlabel("models on hosts, sorted for each planner")
    axes.legend()
    plt.savefig(file, bbox_inches="tight")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="a few models on every third host")
    arguments.add_argument("--only", nargs="+", choices=CATALOGUE, metavar="MODEL", help="every one by default")
    arguments.add_argument("--context", type=int, metavar="N", help="the smaller of 4096 and the model's by default")
    arguments.add_argument("--batch", type=int, default=1, metavar="N")
    arguments.add_argument("--certify", action="store_true", help="bound the gap of `fastest` (needs highspy)")
    arguments.add_argument("--json", metavar="FILE", help="write the figures there")
    arguments.add_argument("--plot", metavar="FILE", help="draw them there (needs matplotlib)")
    options = arguments.parse_args()

    rows = []
    for name in options.only or (QUICK if options.quick else CATALOGUE):
        # Peers count what a class builds: what a checkpoint was quantised to is left out for all.
        model, tree = build(CATALOGUE[name].config), replace(ModelTree.load(name), quantization=None)
        rows += [compare(name, tree, model, host, options) for host in hosts(quick=options.quick)]
    ways = list(rows[0]["scores"])
    print("predicted ms for each token; ! over a budget, ~ keeps elsewhere what would fit, (-5%) with lower budgets\n")
    print_table(
        ("model on host", *ways),
        [(f"{row['model']} on {row['host']}", *(cell(row, way) for way in ways)) for row in rows],
    )
    print()
    titles = ("planner", "no plan", "over budget", "needless offload", "peak / optimum", "crossings", "offloaded GiB")
    print_table(titles, summary(rows))
    slower = [row for row in rows if row["slower_than_a_peer"]]
    compared = [row for row in rows if row["best_peer_ms"] is not None and row["scores"]["fastest"]["feasible"]]
    equal = [row for row in compared if abs(row["best_peer_ms"] / row["scores"]["fastest"]["ms"] - 1) < 1e-3]
    print(
        f"\n`fastest` beside the best peer: {len(slower)} slower, {len(equal)} equal, of {len(compared)} feasible rows"
    )
    gaps = sorted(row["gap"] for row in rows if row["gap"] is not None)
    if gaps:
        print(f"certified gap of `fastest`: median {gaps[len(gaps) // 2]:.2%}, at most {gaps[-1]:.2%}")
    write_json(options.json, {"environment": environment(), "rows": rows})
    if options.plot:
        plot(options.plot, rows)
    needless = [row for row in rows if set(row["needless"]) & set(OURS)]
    for row in (*slower, *needless):
        print(f"worse than it could be: {row['model']} on {row['host']}", file=sys.stderr)
    return 1 if slower or needless else 0


if __name__ == "__main__":
    sys.exit(main())
