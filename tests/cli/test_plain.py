"""`--format plain`, for people who hear a screen: sentences, no drawings, and every figure."""

from __future__ import annotations

import pytest
from tests.cli.harness import invoke

import devpolicy
from devpolicy._core.cli.memory_bars import gib

PLAN = ("plan", "offload-lm-head", "--model", "llama-3.1-70b", "--host", "4x80gb")


def test_every_figure_of_a_plan_is_named():
    plan = devpolicy.plan("offload-lm-head", "llama-3.1-70b", "4x80gb")
    shown = invoke(*PLAN, "--format", "plain").stdout
    for device, budget in plan.ledger.items():
        line = next(line for line in shown.splitlines() if line.startswith(f"  {device}, in GiB: "))
        assert f"weights {gib(budget.weights)}" in line
        assert f"cap {gib(budget.cap)}" in line
    assert "lm_head: units 1, stored on disk, executes on cuda:0, size 2.0 GiB, decided by offload.lm_head" in shown
    assert plan.digest in shown


@pytest.mark.parametrize(
    "arguments",
    [PLAN, ("plan", "rag-pipeline", "--host", "1x24gb"), ("host", "list"), ("model", "show", "gpt2"),
     ("fit", "prefer-accelerator", "--model", "gpt2", "--host", "1x*"), ("doctor", "psutil"),
     ("test", "cpu-only", "--coverage"), ("show", "prefer-accelerator"), ("targets",)],
    ids=lambda arguments: arguments[0],
)  # fmt: skip
def test_nothing_is_drawn_or_set_in_columns(arguments):
    run = invoke(*arguments, "--format", "plain")
    assert run.status in (0, 1), run
    assert not set("█▓▒░▚▞│┃─") & set(run.stdout)
    assert "\x1b" not in invoke(*arguments, "--format", "plain", "--color", "always").stdout
    wide = [line for line in run.stdout.splitlines() if "   " in line.strip()]
    assert wide == []


@pytest.mark.parametrize("columns", [60, 80, 100, 120, 160, 200])
@pytest.mark.parametrize(
    "arguments",
    [PLAN, ("plan", "rag-pipeline", "--host", "1x24gb"), ("host", "list"), ("targets",)],
    ids=lambda arguments: arguments[0],
)
def test_lines_fit_a_terminal(arguments, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = invoke(*arguments).stdout.splitlines()
    # What is copied keeps its length: a digest, a module's path.
    wide = [line for line in shown if len(line) > columns and " " in line.strip()]
    assert [line for line in wide if not line.startswith("digest")] == []
