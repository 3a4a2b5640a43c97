"""What became of wishes: what was granted, and why each earlier choice did not do.

Owns the words. It looks at attempts that were made, and at most makes the ones next to the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from devpolicy._core.errors import Diagnostic, Unsatisfiable
from devpolicy._core.language.policy import ResolvedPolicy
from devpolicy._core.language.wishes import Wish
from devpolicy._core.loading.quantizations import NONE, QUANTIZATIONS
from devpolicy._core.placement.granted import Granted, NotGranted
from devpolicy._core.planning.attempts import PASSED_OVER, Attempts
from devpolicy._core.planning.replicas import Group
from devpolicy._core.planning.search import Choice
from devpolicy._core.sizes import format_size


def granted(attempts: Attempts, choice: Choice, policy: ResolvedPolicy, plans: Group) -> Granted:
    """Return the wishes as they were granted, given the policy with every wish fixed."""
    kept = dict(zip(reversed(attempts.places), attempts.kept(plans), strict=True))
    context = policy.workload.context
    return Granted(
        attempts.models.names[choice.candidate.model],
        _scheme(policy, plans),
        context if isinstance(context, int) else None,
        tuple(place for place in attempts.places if kept[place]),
        str(policy.prefer[0]),
    )


def _scheme(policy: ResolvedPolicy, plans: Group) -> str | None:
    """Return the word for how the weights are held: of a checkpoint that is quantised its own, where it has one."""
    word = next(iter(policy.loading.quantization), None)
    held = plans[0].loading.scheme
    return word if word is None or word == held else held if held in QUANTIZATIONS else NONE


def not_granted(attempts: Attempts, choice: Choice, plans: Group) -> Iterator[NotGranted]:
    """Yield each earlier choice of a wish, those first that would have given way last."""
    one, policy = choice.candidate, attempts.policy
    values: dict[Wish, Sequence[object]] = {
        "model": attempts.models.names,
        "quantization": policy.loading.quantization,
        "prefer": policy.prefer,
    }
    for wish in reversed(attempts.relax):
        if wish in values:
            for number in range(getattr(one, wish)):
                why = why_not(attempts, wish, number)
                yield NotGranted(wish, str(values[wish][number]), why.code, why.message)
        elif wish == "overflow" and any(attempts.kept(plans)):
            why = _refusal(attempts, replace(choice, overflow=False))
            yield NotGranted(wish, "none", why.code, why.message)
        elif wish == "context" and choice.context is not None:
            contexts = attempts.options.contexts[one.model]
            number = contexts.number(choice.context)
            if number + 1 < len(contexts):
                above = contexts[number + 1]
                why = _refusal(attempts, replace(choice, context=above), replace(choice, context=above, overflow=True))
                yield NotGranted(wish, above, why.code, why.message)


def why_not(attempts: Attempts, wish: Wish, number: int) -> Diagnostic:
    """Return why an earlier choice of a wish did not do: of its attempts the one that gave way most."""
    if wish == "model" and number in attempts.passed_over:
        return attempts.passed_over[number]
    made = [group for choice, group in attempts.made.items() if getattr(choice.candidate, wish) == number]
    refused = [one for one in made if isinstance(one, Diagnostic)]
    if refused and len(refused) == len(made):
        return refused[-1]
    plans = next((one for one in made if isinstance(one, tuple)), ())
    return _gives_way(attempts, plans)


def _refusal(attempts: Attempts, *choices: Choice) -> Diagnostic:
    known = [attempts.made[choice] for choice in choices if choice in attempts.made]
    made = known or [attempts.attempt(choices[0])]
    refused = next((one for one in made if isinstance(one, Diagnostic)), None)
    return refused or _gives_way(attempts, next((one for one in made if isinstance(one, tuple)), ()))


def _gives_way(attempts: Attempts, plans: Group) -> Diagnostic:
    kept = sum(attempts.kept(plans))
    if kept:
        return Diagnostic(PASSED_OVER, f"it fits only with {format_size(kept)} kept elsewhere")
    return Diagnostic(PASSED_OVER, "it fits only where a wish gives way that is to give way later")


def refused_at_last(attempts: Attempts, refused: Unsatisfiable, last: Choice) -> Unsatisfiable:
    """Return the refusal of the choice that gave way most, which names what had given way before it."""
    rooms, first = attempts.rooms, refused.diagnostics[0]
    spent = [f"model `{attempts.models.names[last.candidate.model]}`"] if "model" in rooms else []
    tree = attempts.models.read(last.candidate.model)
    if "quantization" in rooms and (tree is None or tree.quantization is None):
        spent.append(f"quantization `{attempts.policy.loading.quantization[last.candidate.quantization]}`")
    spent += [] if last.context is None else [f"{last.context:,} tokens"]
    notes = [f"its wishes had given way as far as they may: {', '.join(spent)}"] if spent else []
    help_ = first.help if last.context is None else first.help.replace("`context = ", "`context.min = ")
    return Unsatisfiable([replace(first, notes=(*first.notes, *notes), help=help_), *refused.diagnostics[1:]])
