"""`devpolicy test`: the tests of policies.

Owns the output of each format, that of coverage too, and the exit status. `devpolicy._core.review` runs the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.inputs import test_overlay_options
from devpolicy._core.cli.report import for_machines, painted, rendered, write_findings
from devpolicy._core.cli.table import UNBOUNDED, table
from devpolicy._core.errors import DevPolicyError, Diagnostic
from devpolicy._core.language.policy import Overrides

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devpolicy._core.cli.output import Line
    from devpolicy._core.review.coverage import Coverage
    from devpolicy._core.review.run import Result
    from devpolicy._core.review.suites import Suite


@click.command(cls=Command, name="test", short_help="Run the tests of policies.")
@click.argument("policies", metavar="POLICY|FOLDER...", nargs=-1, required=True, shell_complete=complete.policies)
@click.option("--run", metavar="PATTERN", help="Only tests whose names contain PATTERN, or match it as a glob.")
@test_overlay_options
@click.option("--coverage", "covered", is_flag=True, help="List rules and preferences that decided nothing, by host.")
@click.option("-j", "--jobs", type=click.IntRange(1), metavar="N", help="Processes. Default: one for each core.")
@common(formats=("human", "plain", "json", "junit", "github"))
@pass_context
def command(
    ctx: CliContext,
    policies: tuple[str, ...],
    run: str | None,
    profile: str | None,
    overrides: tuple[str, ...],
    covered: bool,
    jobs: int | None,
) -> int:
    """Run the `[[test]]`s of policies, on hosts of the catalogue or of the tests themselves. No GPU is needed.

    A folder means every policy with tests and every file of tests inside it. A policy NAME.toml includes the tests of
    NAME.test.toml beside it.

    A test's own profile wins over --profile. --set applies to every policy, after everything else.

    \b
    Examples:
      devpolicy test policy.toml
      devpolicy test policy/ --coverage
      devpolicy test policy/ --run "*head*"
      devpolicy test policy/ --format junit > results.xml
      devpolicy test policy.toml --set workload.context=32768

    Exit status: 0 all passed; 1 some failed; 2 a policy or a test is invalid, or there are no tests.
    """
    from devpolicy._core.review.coverage import coverage
    from devpolicy._core.review.runner import run_all
    from devpolicy._core.review.suites import gather, selected

    found = gather(policies, asked=Overrides(profile, tuple(overrides)))
    suites = [suite for suite in selected(found, run) if suite.tests]
    if not suites:
        raise DevPolicyError(_nothing(policies, found, run))
    with ctx.progress("testing") as progress:
        results = run_all(suites, jobs=jobs, progress=progress)
    table_of = coverage(suites, results) if covered else []
    if ctx.format == "junit":
        from devpolicy._core.cli.junit import junit

        ctx.out.write(junit(results))
    elif ctx.format == "github":
        write_findings(ctx, [finding for result in results for finding in result.findings])
    elif ctx.json:
        ctx.print_json(_as_json(suites, results, table_of))
    else:
        ctx.out.print(_view(results, ctx.out.width))
        for one in table_of:
            ctx.out.print(["", *_coverage_view(one, ctx.out.width)])
    return 0 if all(result.passed for result in results) else 1


def _nothing(policies: Sequence[str], found: Sequence[Suite], run: str | None) -> Diagnostic:
    names = [bound.test.name for suite in found for bound in suite.tests]
    if run and names:
        from devpolicy._core.toml.tables import did_you_mean

        return Diagnostic("", f"no test is named like `{run}`", help=did_you_mean(run, names))
    where = ", ".join(f"`{policy}`" for policy in policies)
    hint = "write one: `[[test]]` with `name`, `host`, `model` and `expect`"
    return Diagnostic("", f"there is no `[[test]]` in {where}", help=hint)


def _as_json(suites: Sequence[Suite], results: Sequence[Result], table_of: Sequence[Coverage]) -> dict[str, object]:
    files: dict[str, list[Result]] = {suite.name: [] for suite in suites}
    for result in results:
        files[result.suite].append(result)
    passed = sum(result.passed for result in results)
    value: dict[str, object] = {
        "schema": 1,
        "files": [
            {"file": suite.name, "policy": suite.policy, "tests": [_test_json(one) for one in files[suite.name]]}
            for suite in suites
        ],
        "summary": {"tests": len(results), "passed": passed, "failed": len(results) - passed, "hosts": _hosts(results)},
    }
    if table_of:
        value["coverage"] = [
            {"policy": one.policy, "hosts": list(one.hosts), "fired": one.fired, "never": one.never} for one in table_of
        ]
    return value


def _test_json(result: Result) -> dict[str, object]:
    failures = [
        {
            "host": failure.host,
            "module": failure.module,
            "expected": failure.expected,
            "got": failure.got,
            "decided_by": failure.rule,
            "message": failure.what,
            "notes": list(failure.notes),
        }
        for case in result.cases
        for failure in case.failures
    ]
    return {
        "name": result.name,
        "passed": result.passed,
        "hosts": len(result.cases),
        "failures": failures,
        "findings": [for_machines(finding) for finding in result.findings],
    }


def _hosts(results: Sequence[Result]) -> int:
    return len({case.host for result in results for case in result.cases})


def _view(results: Sequence[Result], width: int) -> list[Line]:
    lines: list[Line] = []
    file = None
    for result in results:
        if result.suite != file:
            lines += [*([""] if lines else []), [(result.suite, "strong")]]
            file = result.suite
        count = len(result.cases)
        mark = ("ok    ", "good") if result.passed else ("FAILED", "error")
        name = result.name if len(result.name) + 20 < width else result.name[: width - 21] + "…"
        hosts = f"{count} host{'s' * (count != 1)}"
        if width >= UNBOUNDED:
            lines.append(f"  {mark[0].strip()}: {name}, {hosts}")
            continue
        lines.append([("  ", ""), mark, (f"  {name}", ""), (f"  {hosts}", "dim")])
    findings = [finding for result in results for finding in result.findings]
    if findings:
        lines += ["", *painted(rendered(findings))]
    failed = sum(not result.passed for result in results)
    told = f"{len(results)} test{'s' * (len(results) != 1)}, {failed or 'none'} failed"
    return [*lines, "", [(told, "error" if failed else "good")]]


def _coverage_view(one: Coverage, width: int) -> list[Line]:
    fired = len(one.fired) - len(one.never)
    lines: list[Line] = [[(f"{one.policy}: {fired} of {len(one.fired)} decided something", "strong")]]
    rows = []
    for name, hosts in one.fired.items():
        missing = ", ".join(host for host in one.hosts if host not in hosts)
        told = "on none of them: no test needs it" if not hosts else f"not on {missing}" if missing else ""
        rows.append([name, str(len(hosts)), told])
    head = ["decides", f"of {len(one.hosts)}", ""]
    return [*lines, *table(head, rows, width=width, right=(1,), prose=True)]
