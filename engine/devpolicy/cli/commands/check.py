"""`devpolicy check`: policies read, validated and linted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from devpolicy.cli import complete
from devpolicy.cli.inputs import load_model, model_help
from devpolicy.cli.report import findings_of, for_machines, painted, rendered, write_findings
from devpolicy.cli.session import Session, common, pass_session
from devpolicy.errors import PolicyError
from devpolicy.language.policy import Policy

if TYPE_CHECKING:
    from devpolicy.errors import Diagnostic
    from devpolicy.model import ModelTree


@click.command(name="check", short_help="Tell everything that is wrong with policies.")
@click.argument("policies", metavar="POLICY...", nargs=-1, required=True, shell_complete=complete.policies)
@click.option("--strict", is_flag=True, help="Exit with 1 where there are warnings.")
@click.option(
    "--model",
    metavar="MODEL",
    multiple=True,
    shell_complete=complete.models,
    help=f"Also tell rules that match or decide nothing in it. {model_help}",
)
@common(formats=("human", "json", "github", "sarif"))
@pass_session
def command(session: Session, policies: tuple[str, ...], strict: bool, model: tuple[str, ...]) -> int:
    """Read policies and tell everything that is wrong with them.

    Every file is read, also after one that cannot be. Whether a rule matches anything depends on the model: give
    one to know.

    \b
    Examples:
      devpolicy check policy.toml
      devpolicy check policy/*.toml --strict
      devpolicy check policy.toml --model llama-3.1-8b --strict
      devpolicy check policy/*.toml --format sarif > devpolicy.sarif

    Exit status: 0 without errors, 1 with rules that never decide (DP502), and with warnings under --strict, 2 with
    other errors.
    """
    trees = [load_model(session, name) for name in model]
    found = {name: _findings(name, trees) for name in dict.fromkeys(policies)}
    every = [finding for findings in found.values() for finding in findings]
    errors = sum(finding.severity == "error" for finding in every)
    warnings = len(every) - errors
    if session.json:
        session.print_json(
            {
                "schema": 1,
                "policies": [
                    {"policy": name, "findings": [for_machines(finding) for finding in findings]}
                    for name, findings in found.items()
                ],
                "summary": {"policies": len(found), "errors": errors, "warnings": warnings},
            }
        )
    elif session.format != "human":
        write_findings(session, every)
    else:
        if every:
            session.out.print([*painted(rendered(every)), ""])
        counts = [(len(found), "policy", "policies"), (errors, "error", "errors"), (warnings, "warning", "warnings")]
        summary = ", ".join(f"{number} {one if number == 1 else more}" for number, one, more in counts)
        session.out.print([[(summary, "error" if errors else "warning" if warnings else "good")]])
    if any(finding.severity == "error" and not finding.code.startswith("DP5") for finding in every):
        return 2
    return 1 if errors or (warnings and strict) else 0


def _findings(name: str, trees: list[ModelTree]) -> list[Diagnostic]:
    from devpolicy.placement.lint import lint
    from devpolicy.review.suites import problems

    tests = problems(name)
    if tests is not None:
        return tests
    try:
        policy = Policy.load(name)
    except PolicyError as error:
        return list(findings_of(error))
    findings = [*policy.warnings, *(problems(name, policy) or [])]
    return findings + [finding for tree in trees for finding in lint(policy, tree)]
