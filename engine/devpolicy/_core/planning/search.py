"""The search over wishes: which of many attempts has given way least.

Owns the order of attempts. An attempt is a plan with every wish fixed, and its cost is the bytes that `overflow` keeps
away in it. INVARIANT: the result has given way least in the last entry of `relax`; among those that have, in the entry
before it; and so on to the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from devpolicy._core.language.wishes import Wish

STEP = 256
"""Between the ends of a range of `context`, multiples of this many tokens are tried."""

Away = tuple[int, ...]
"""Bytes that are kept away by `overflow`, at its last place first."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of each ordered list, by its position."""

    prefer: int = 0
    quantization: int = 0
    model: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """Every wish, fixed: what one attempt is made of."""

    candidate: Candidate
    context: int | None
    """`None` where the policy writes no range."""
    overflow: bool
    """Whether anything may be kept away."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a search chooses from."""

    candidates: Sequence[Candidate]
    contexts: Mapping[int, Contexts]
    """By model; empty where the policy writes no range."""
    overflow: bool
    relax: Sequence[Wish]
    """Complete: every wish is in it, the first to give way first."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """The numbers of tokens that are tried: both ends, and the multiples of `STEP` between."""

    least: int
    most: int

    def __len__(self) -> int:
        first, last = self.least // STEP + 1, -(-self.most // STEP) - 1
        return max(0, last - first + 1) + (2 if self.most > self.least else 1)

    def __getitem__(self, number: int) -> int:
        if number <= 0:
            return self.least
        return self.most if number >= len(self) - 1 else (self.least // STEP + number) * STEP

    def number(self, tokens: int) -> int:
        """Return the number of the largest of them that is no more than `tokens`."""
        if tokens >= self.most:
            return len(self) - 1
        return max(0, min(tokens // STEP - self.least // STEP, len(self) - 2))


def largest(low: int, high: int, fits: Callable[[int], bool], guess: int | None) -> int:
    """Return the largest number from `low` to `high` that fits, where `low` does and more never fits better.

    Near a good `guess` it takes two tries; else it doubles its distance and halves.
    """
    if guess is None:
        return high if high > low and fits(high) else _halved(low, high, fits)
    at, step = max(low, min(high, guess)), 1
    if at > low and not fits(at):
        top = at
        while at > low:
            at = max(low, at - step)
            if at == low or fits(at):
                break
            top, step = at, step * 2
    else:
        top = high + 1
        while at + 1 < top:
            above = min(high, at + step)
            if not fits(above):
                top = above
                break
            at, step = above, step * 2
    return _halved(at, top, fits)


def _halved(low: int, above: int, fits: Callable[[int], bool]) -> int:
    while above - low > 1:
        middle = (low + above) // 2
        low, above = (middle, above) if fits(middle) else (low, middle)
    return low


class Search:
    """A search among options. `attempt` returns what a choice keeps away, or `None` where it is refused."""

    def __init__(
        self,
        options: Options,
        attempt: Callable[[Choice], Away | None],
        guess: Callable[[Candidate], int | None] | None = None,
    ) -> None:
        self._options = options
        self._attempt = attempt
        self._guess = guess
        self._context: int | None = None
        """Decided: no fewer tokens."""
        self._limit: Away | None = None
        """Decided: no more bytes."""

    def run(self) -> Choice | None:
        """Return the choice that has given way least, `None` where every one is refused."""
        alive: Sequence[Candidate] = self._options.candidates
        for wish in reversed(self._options.relax):
            alive = self._least(wish, alive)
            if not alive:
                return None
        found = next((one for one in alive if self._fits(one)), None)
        if found is None:
            return None
        away = self._away(found, self._at(found))
        return Choice(found, self._at(found), overflow=away is not None and any(away))

    def spent(self) -> Iterator[Choice]:
        """Yield the choices that give way as far as they may, those first that have given way most."""
        for one in reversed(self._options.candidates):
            yield Choice(one, self._at(one), self._options.overflow)

    def _least(self, wish: Wish, alive: Sequence[Candidate]) -> Sequence[Candidate]:
        """Return the candidates among which those are that have given way least in one wish."""
        if wish == "overflow":
            return self._least_away(alive)
        if wish == "context":
            return self._most_context(alive)
        for value in dict.fromkeys(sorted(getattr(one, wish) for one in alive)):
            group = [one for one in alive if getattr(one, wish) == value]
            if any(map(self._fits, group)):
                return group
        return ()

    def _least_away(self, alive: Sequence[Candidate]) -> Sequence[Candidate]:
        if not self._options.overflow:
            return alive
        if any(self._attempt(Choice(one, self._at(one), overflow=False)) is not None for one in alive):
            self._limit = ()
            return alive
        kept = [away for one in alive if (away := self._away(one, self._at(one))) is not None]
        self._limit = min(kept, default=None)
        return alive if kept else ()

    def _most_context(self, alive: Sequence[Candidate]) -> Sequence[Candidate]:
        if not self._options.contexts:
            return alive
        found: dict[Candidate, int] = {}
        best = 0
        for one in alive:
            contexts = self._options.contexts[one.model]
            # The next candidate counts only where it takes more.
            first = contexts.number(best) + (contexts[contexts.number(best)] < best) if best else 0
            if contexts[first] < best or not self._fits(one, contexts[first]):
                continue
            number = self._most(one, contexts, first)
            found[one] = contexts[number]
            best = max(best, contexts[number])
        self._context = best or None
        return [one for one, tokens in found.items() if tokens == best]

    def _most(self, one: Candidate, contexts: Contexts, first: int) -> int:
        last = len(contexts) - 1
        guess = None if self._guess is None else self._guess(one)
        return largest(first, last, lambda number: self._fits(one, contexts[number]), guess)

    def _at(self, one: Candidate) -> int | None:
        """Return the tokens that are decided, else the fewest."""
        if self._context is not None or not self._options.contexts:
            return self._context
        return self._options.contexts[one.model].least

    def _fits(self, one: Candidate, context: int | None = None) -> bool:
        return self._away(one, self._at(one) if context is None else context) is not None

    def _away(self, one: Candidate, context: int | None) -> Away | None:
        """Return what is kept away, `None` where that is more than is decided, or the attempt is refused."""
        overflow = self._options.overflow and self._limit != ()
        away = self._attempt(Choice(one, context, overflow))
        return away if away is not None and (self._limit is None or not any(away) or away <= self._limit) else None
