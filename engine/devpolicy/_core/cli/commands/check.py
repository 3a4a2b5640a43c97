"""`devpolicy check`: policies read, validated and linted.

Owns which findings are reported for each file, and the exit status that they give.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from devpolicy._core.cli import complete
from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.inputs import load_model, model_help, named_models
from devpolicy._core.cli.pipeline_view import pipeline_option
from devpolicy._core.cli.report import findings_of, for_machines, painted, rendered, write_findings
from devpolicy._core.errors import Diagnostic, ModelError, PolicyError
from devpolicy._core.language.layers import addresses, in_order, source
from devpolicy._core.language.policy import Policy
from devpolicy._core.toml.tables import did_you_mean
from devpolicy._core.verbs.inputs import own_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from devpolicy._core.language.policy import Component
    from devpolicy._core.model.tree import ModelTree
    from devpolicy._core.targets.haystack_components.names import Saved


@click.command(cls=Command, name="check", short_help="Report every mistake in policies.")
@click.argument("policies", metavar="POLICY...", nargs=-1, required=True, shell_complete=complete.policies)
@click.option("--strict", is_flag=True, help="Exit with 1 if there are warnings.")
@click.option(
    "--model",
    metavar="[NAME=]MODEL",
    multiple=True,
    shell_complete=complete.models,
    help=f"Also report rules that match or decide nothing in MODEL, or in the component NAME. {model_help}",
)
@pipeline_option
@common(formats=("human", "plain", "json", "github", "sarif"))
@pass_context
def command(
    ctx: CliContext, policies: tuple[str, ...], strict: bool, model: tuple[str, ...], pipeline: str | None
) -> int:
    """Report every mistake in policies.

    It reads every file, also after one with mistakes. With --model, it also reports rules that match nothing or decide
    nothing in that model. It compares the rules of components with the models that the policy names. With --pipeline,
    it compares the names of components with those of a saved Haystack pipeline.

    \b
    Examples:
      devpolicy check policy.toml
      devpolicy check policy/*.toml --strict
      devpolicy check policy.toml --model llama-3.1-8b --strict
      devpolicy check policy.toml --pipeline rag.yaml --strict
      devpolicy check policy/*.toml --format sarif > devpolicy.sarif

    Exit status: 0 no errors; 1 rules that never decide (DP502), or with --strict any warning; 2 other errors.
    """
    from devpolicy._core.targets.haystack_components.survey import read_pipeline

    models = _Models(ctx, model)
    saved = None if pipeline is None else read_pipeline(pipeline)
    found = {name: _findings(name, models, saved) for name in dict.fromkeys(policies)}
    every = [finding for findings in found.values() for finding in findings]
    if not any(finding.severity == "error" for finding in every):
        models.check_names()
    errors = sum(finding.severity == "error" for finding in every)
    warnings = len(every) - errors
    if ctx.json:
        ctx.print_json(
            {
                "schema": 1,
                "policies": [
                    {"policy": name, "findings": [for_machines(finding) for finding in findings]}
                    for name, findings in found.items()
                ],
                "summary": {"policies": len(found), "errors": errors, "warnings": warnings},
            }
        )
    elif not ctx.for_people:
        write_findings(ctx, every)
    else:
        if every:
            ctx.out.print([*painted(rendered(every)), ""])
        counts = [(len(found), "policy", "policies"), (errors, "error", "errors"), (warnings, "warning", "warnings")]
        summary = ", ".join(f"{number} {one if number == 1 else more}" for number, one, more in counts)
        ctx.out.print([[(summary, "error" if errors else "warning" if warnings else "good")]])
    if any(finding.severity == "error" and not finding.code.startswith("DP5") for finding in every):
        return 2
    return 1 if errors or (warnings and strict) else 0


class _Models:
    """The models that the command names: for every policy, or for components of one name."""

    def __init__(self, ctx: CliContext, given: Iterable[str]) -> None:
        self.every: list[ModelTree] = []
        self.named: dict[str, ModelTree] = {}
        for text in given:
            ((name, model),) = named_models([text]).items()
            if name is None:
                self.every.append(load_model(ctx, model))
            else:
                self.named[name] = load_model(ctx, model)
        self._components: dict[str, Component] = {}

    def check_names(self) -> None:
        """Raise `PolicyError`, DP202, for models of components that no policy has: they were compared with nothing."""
        missing = [name for name in self.named if not any(addresses(one, name) for one in self._components.values())]
        known = list(self._components)
        findings = [
            Diagnostic(
                "DP202",
                f"no policy that is checked has a component `{name}`",
                help=did_you_mean(name, known) if known else "a model without a name is for every policy",
            )
            for name in missing
        ]
        if findings:
            raise PolicyError(findings)

    def of_components(self, policy: Policy, findings: list[Diagnostic]) -> list[tuple[str, ModelTree]]:
        """Return the models of a policy's components. One that is not here is a warning: it may be elsewhere."""
        from devpolicy._core.review.outcome import variants_of

        for variant in variants_of(policy) if self.named else ():
            self._components |= {entry.name: entry for entry in variant.components}
        trees: list[tuple[str, ModelTree]] = []
        meant = [name for name in self.named if any(addresses(entry, name) for entry in policy.components)]
        for name in in_order(policy, meant):
            entry = source(policy, name)
            given = self.named.get(name)
            for number in range(max(1, 0 if entry is None else len(entry.models))) if given is None else ():
                try:
                    tree = own_tree(entry, number) if entry else None
                except ModelError as broken:
                    findings += [replace(finding, severity="warning") for finding in findings_of(broken)]
                    continue
                trees += [] if tree is None else [(name, tree)]
            trees += [] if given is None else [(name, given)]
        return trees


def _findings(name: str, models: _Models, pipeline: Sequence[Saved] | None) -> list[Diagnostic]:
    from devpolicy._core.placement.lint import lint, lint_components
    from devpolicy._core.review.suites import problems
    from devpolicy._core.targets.haystack_components.survey import names_of

    tests = problems(name)
    if tests is not None:
        return tests
    try:
        policy = Policy.load(name)
    except PolicyError as error:
        return list(findings_of(error))
    findings = [*policy.warnings, *(problems(name, policy) or [])]
    findings += [finding for tree in models.every for finding in lint(policy.top, tree)]
    if pipeline is not None:
        findings += names_of(policy, pipeline)
    trees = models.of_components(policy, findings)
    several = Counter(name for name, _ in trees)
    resolved = {name: replace(policy.for_component(name), several_models=several[name] > 1) for name in several}
    return findings + lint_components((resolved[name], tree) for name, tree in trees)
