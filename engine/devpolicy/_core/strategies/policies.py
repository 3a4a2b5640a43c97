"""Strategies for patterns of module paths and for policies, as TOML text and as values.

All arguments are keyword-only. A policy shrinks towards `prefer = "cpu"` and nothing else. `hostile=True` gives
policies that are well-formed and unkind: devices that no host has, caps of nothing, rules that contradict each other,
patterns that match everything or nothing, many times over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from devpolicy._core.device import LARGEST_ID
from devpolicy._core.host import ACCELERATOR_TYPES
from devpolicy._core.language.kinds import CACHE_DTYPES
from devpolicy._core.language.patterns import LONGEST, Pattern
from devpolicy._core.language.policy import Policy
from devpolicy._core.model.tree import FLOATING
from devpolicy._core.toml.writer import quote, write_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MODULES = (
    "lm_head", "model", "model.embed_tokens", "model.layers.0", "model.layers.1.mlp", "model.norm",
    "model.layers.3.mlp.experts", "model.layers.10.self_attn.q_proj",
)  # fmt: skip
"""The module paths from which patterns are made where none are given."""
CLASSES = ("Linear", "Embedding", "*Attention", "*MLP", "*", "Llama*Layer")

_PLACES = st.sampled_from(["cpu", "disk"])
_SIZES = st.sampled_from(["1 KiB", "1 MiB", "256 MiB", "1 GiB", "1.5 GiB", "20 GiB", "24 GB", "1 TiB"])
_CARDS = st.sampled_from(["1 GiB", "8 GiB", "12 GiB", "24 GiB", "40 GiB", "80 GiB"])
_OPERATORS = st.sampled_from([">=", "<=", ">", "<", "=="])
_UNKIND_SIZES = st.sampled_from(["0 B", "1 B", "8000 PiB"]) | st.integers(0, 2**63 - 1).map(lambda size: f"{size} B")


def patterns(*, modules: Sequence[str] = MODULES) -> st.SearchStrategy[Pattern]:
    """Return a strategy for `Pattern`: paths of `modules` with some of their segments made general.

    A pattern often matches the path that it was made from, and sometimes nothing.
    """
    if not any(modules):
        raise InvalidArgument("modules has no path but the root's")
    return st.sampled_from([path for path in modules if path]).flatmap(_general).map(Pattern)


@st.composite
def _general(draw: st.DrawFn, path: str) -> str:
    segments: list[str] = []
    for segment in path.split("."):
        choices = [st.just(segment), st.sampled_from(["*", "**", f"{segment[:1]}*"])]
        if segment.isascii() and segment.isdecimal() and str(int(segment)) == segment:
            number = int(segment)
            low, high = st.integers(0, number), st.integers(number, number + 20)
            choices.append(st.builds(lambda a, b: f"{{{a}..{b}}}", low, high) | low.map(lambda a: f"{{{a}..}}"))
        segments.append(draw(st.one_of(choices)))
    text = ".".join(segments)
    # A name may hold what a pattern gives a meaning to; such a name is matched by a wildcard only.
    return text if len(text) <= LONGEST and _well_formed(text) else "**"


def _well_formed(text: str) -> bool:
    try:
        Pattern.parse(text)
    except ValueError:
        return False
    return True


def policies(
    *, modules: Sequence[str] = MODULES, types: Sequence[str] = ("cuda", "mps", "xpu"), hostile: bool = False
) -> st.SearchStrategy[Policy]:
    """Return a strategy for `Policy`. Patterns are made from the paths of `modules`, terms from `types` and the CPU."""
    return policy_texts(modules=modules, types=types, hostile=hostile).map(Policy.parse)


def policy_texts(
    *, modules: Sequence[str] = MODULES, types: Sequence[str] = ("cuda", "mps", "xpu"), hostile: bool = False
) -> st.SearchStrategy[str]:
    """Return a strategy for the TOML text of well-formed policies, with the arguments of `policies`."""
    if not types or not set(types) <= set(ACCELERATOR_TYPES):
        raise InvalidArgument(f"types are some of {', '.join(ACCELERATOR_TYPES)}, got {types!r}")
    return _texts(modules, types, hostile=hostile)


@st.composite
def _texts(draw: st.DrawFn, modules: Sequence[str], types: Sequence[str], *, hostile: bool) -> str:
    make = _Maker(draw, modules, types, hostile=hostile)
    classes = make.class_lines()
    lines = [f"prefer = {make.run_terms()}"]
    lines += make.some(
        {
            "overflow": make.places,
            "avoid": lambda: _array(draw(st.lists(make.named_terms.map(quote), max_size=2))),
            "split": lambda: quote(draw(st.sampled_from(["when-needed", "never", "balanced"]))),
            "ties": make.ties,
        }
    )
    lines += make.require_lines()
    # Rules and the shorthand stand in either order, which means something.
    parts = [make.offload_lines(), make.rule_lines()]
    lines += [line for part in draw(st.permutations(parts)) for line in part]
    lines += [*classes, *make.memory_lines(), *make.component_lines()]
    # A context holds the answer, and a prompt.
    answer = draw(st.integers(0, 512))
    workload = make.some(
        {
            "context": lambda: str(draw(st.integers(answer + 1, 2**31 - 1 if hostile else 8192))),
            "batch": lambda: str(draw(st.integers(1, 2**31 - 1 if hostile else 8))),
            "beams": lambda: str(draw(st.integers(1, 2**16 if hostile else 5))),
            "dtype": lambda: quote(draw(st.sampled_from(sorted(FLOATING)))),
            "kv_dtype": lambda: quote(draw(st.sampled_from(CACHE_DTYPES))),
            "new_tokens": lambda: str(answer),
        }
    )
    return "\n".join([*lines, *(["[workload]", *workload] if workload else [])]) + "\n"


class _Maker:
    """Draws the parts of one policy, each as TOML text."""

    def __init__(self, draw: st.DrawFn, modules: Sequence[str], types: Sequence[str], *, hostile: bool) -> None:
        self.draw = draw
        self.patterns = patterns(modules=modules).map(lambda pattern: pattern.text)
        if hostile:
            self.patterns |= st.sampled_from(["**", "*", "**.**", "**.{0..}.**", "no.such.module", "lm_head.weight"])
        ids = st.integers(0, LARGEST_ID if hostile else 3)
        self.types = st.sampled_from(list(types))
        self.plain_terms = st.just("cpu") | self.types | st.builds(lambda kind, n: f"{kind}:{n}", self.types, ids)
        self.kinds = self.types
        self.named_terms = self.plain_terms
        self.sizes = _SIZES | _UNKIND_SIZES if hostile else _SIZES
        self.most = 8 if hostile else 3

    def some(self, keys: dict[str, Callable[[], str]]) -> list[str]:
        """Return lines `key = value` for some of the keys."""
        return [f"{key} = {value()}" for key, value in keys.items() if self.draw(st.booleans())]

    def class_lines(self) -> list[str]:
        """Return `[devices]`, whose classes may then be used as devices."""
        lines: list[str] = []
        names = self.draw(st.just([]) | st.lists(st.sampled_from(["big", "small"]), min_size=1, unique=True))
        for name in names:
            tests = self.some({**self.device_tests(), "count": lambda: str(self.draw(st.integers(1, 2)))})
            lines += [f"[devices.{name}]", f"type = {quote(self.draw(self.types))}", *tests]
        if names:
            self.kinds = self.types | st.sampled_from(names)
            self.named_terms = self.plain_terms | st.sampled_from(names)
        return lines

    def device_tests(self) -> dict[str, Callable[[], str]]:
        """Return what may be asked of accelerators of one type."""
        draw = self.draw
        numbers = st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True)
        names = st.sampled_from(["*", "NVIDIA *", "*RTX*", "*A100*", "Apple *"])
        return {
            "id": lambda: str(draw(numbers)),
            "name": lambda: quote(draw(names)),
            "memory": lambda: self.least(_CARDS),
            "free": lambda: self.least(_CARDS),
            "capability": lambda: quote(draw(st.sampled_from(["8", "8.0", ">8.0", "<9.0", "==8.9", ">=7.5"]))),
            "same": lambda: quote(draw(st.sampled_from(["name", "memory", "capability"]))),
        }

    def least(self, sizes: st.SearchStrategy[str]) -> str:
        return quote(self.draw(_OPERATORS | st.just("")) + self.draw(sizes))

    def condition(self) -> str:
        """Return a condition on a host, as an inline table."""
        draw = self.draw
        kind = draw(self.types)
        keys: dict[str, Callable[[], str]] = {
            kind: lambda: draw(st.sampled_from(["1", "2", '"==0"', '"<=2"'])),
            "os": lambda: draw(st.sampled_from(['"linux"', '["linux", "macos"]', '"windows"'])),
            "memory": lambda: self.least(_SIZES),
            "free": lambda: self.least(_SIZES),
            "disk_free": lambda: self.least(_SIZES),
            "torch": lambda: quote(draw(st.sampled_from(["2.6", ">=2.6", "<2.13", "==2.13.*", ">=2.6, <3"]))),
        }
        if draw(st.booleans()):
            keys[kind] = lambda: _inline([*self.some(self.device_tests()), "count = 1"])
        return _inline(self.some(keys) or [f"{kind} = {keys[kind]()}"])

    def require_lines(self) -> list[str]:
        rarely = st.sampled_from([False, False, False, True])
        return [f"require = {self.condition()}"] if self.draw(rarely) else []

    def run_terms(self) -> str:
        same = st.lists(st.sampled_from(["name", "memory", "capability"]), unique=True, min_size=1).map(_quoted_array)
        alike = st.builds(lambda kind, names: f'{{ device = "{kind}", same = {names} }}', self.kinds, same)
        several = st.builds(lambda kind, n: f'{{ device = "{kind}", count = {n} }}', self.kinds, st.integers(1, 4))
        term = self.named_terms.map(quote) | several | alike
        return self.draw(term | st.lists(term, min_size=1, max_size=3).map(_array))

    def places(self) -> str:
        return self.draw(_PLACES.map(quote) | st.lists(_PLACES, min_size=1, max_size=2, unique=True).map(_quoted_array))

    def ties(self) -> str:
        return quote(self.draw(st.sampled_from(["refuse", "follow", "skip"])))

    def amount(self) -> str:
        percent = st.integers(0, 50).map(lambda number: f"{number}%")
        one = self.sizes | percent
        return self.draw(one.map(quote) | st.lists(self.sizes, min_size=1, max_size=2).map(_quoted_array))

    def offload_lines(self) -> list[str]:
        keys = self.draw(st.lists(self.patterns, max_size=self.most, unique=True))
        return ["[offload]", *(f"{write_key(key)} = {self.places()}" for key in keys)] if keys else []

    def rule_lines(self) -> list[str]:
        return [line for number in range(self.draw(st.integers(0, self.most))) for line in self.rule(number)]

    def rule(self, number: int) -> list[str]:
        draw = self.draw
        match = st.lists(self.patterns, min_size=1, max_size=2).map(_quoted_array)
        selectors: dict[str, Callable[[], str]] = {
            "match": lambda: draw(self.patterns.map(quote) | match),
            "class": lambda: quote(draw(st.sampled_from(CLASSES))),
            "size": lambda: quote(draw(_OPERATORS) + draw(self.sizes)),
        }
        actions: dict[str, Callable[[], str]] = {
            "prefer": self.run_terms,
            "offload": self.places,
            "together": lambda: "true",
        }
        selected = self.some(selectors) or [f"match = {selectors['match']()}"]
        done = draw(st.sampled_from([["offload"], ["prefer"], ["together"], ["prefer", "together"]]))
        others = self.some(
            {
                "name": lambda: quote(f"r{number} {draw(st.text(max_size=3))}"),
                "ties": self.ties,
                "on_exhausted": lambda: quote(draw(st.sampled_from(["error", "next"]))),
                "reason": lambda: quote(draw(st.text(max_size=5))),
                "when": self.condition,
            }
        )
        return ["[[rule]]", *selected, *(f"{key} = {actions[key]()}" for key in done), *others]

    def memory_lines(self) -> list[str]:
        lines: list[str] = []
        for term in self.draw(st.lists(self.named_terms, max_size=2, unique=True)):
            keys: dict[str, Callable[[], str]] = {
                "basis": lambda: quote(self.draw(st.sampled_from(["free", "total"]))),
                "cap": self.amount,
                "headroom": self.amount,
                "reserve": lambda: f"{{ kv_cache = {self.amount()}, activations = {self.amount()} }}",
            }
            lines += [f"[memory.{write_key(term)}]", *self.some(keys)]
        return [*lines, "[memory.disk]", 'path = "offload"'] if self.draw(st.booleans()) else lines

    def component_lines(self) -> list[str]:
        """Return entries for components of which some have a model and some only need bytes."""
        draw = self.draw
        lines: list[str] = []
        for name in draw(st.just([]) | st.lists(st.sampled_from(["embedder", "rank*", "generator"]), unique=True)):
            keys: dict[str, Callable[[], str]] = {
                "share": lambda: draw(st.integers(1, 100).map(lambda number: quote(f"{number}%")) | st.just("0.5")),
                "target": lambda: quote(draw(st.sampled_from(["hf", "haystack", "torch", "spacy"]))),
                "prefer": self.run_terms,
                "avoid": lambda: quote(draw(self.named_terms)),
            }
            of_models: dict[str, Callable[[], str]] = {
                "overflow": self.places,
                "ties": self.ties,
                "offload": lambda: f"{{ {quote(draw(self.patterns))} = {self.places()} }}",
                "workload": lambda: f"{{ context = {draw(st.integers(513, 8192))} }}",
            }
            needs = draw(st.booleans())
            size = [f"needs = {quote(draw(_SIZES))}"] if needs else self.some(of_models)
            lines += [f"[component.{write_key(name)}]", *self.some(keys), *size]
        return lines


def _array(items: Sequence[str]) -> str:
    return f"[{', '.join(items)}]"


def _quoted_array(items: Sequence[Any]) -> str:
    return _array([quote(item) for item in items])


def _inline(keys: Sequence[str]) -> str:
    return f"{{ {', '.join(keys)} }}"
