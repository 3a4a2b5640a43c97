"""How a valid input becomes a hostile one.

Owns the values, texts and bytes that are put in place of what belongs there. All of it is drawn from the generator
that is handed in, so that a seed says which inputs they are.
"""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from random import Random
from typing import Any

ODD_TEXTS = (
    *(
        "",
        " ",
        "a" * 10_000,
        "\0",
        "a\0b",
        "\x1b[2J\x1b]0;pwned\x07",
        "\x9b31m",
        "\n::error file=pwn::x",
        "  ::add-mask::y",
    ),
    *(
        "##[error]pwned",
        "\u202egnp.exe",
        "\u2028",
        "\u200b",
        "\ud800",
        "\U000e0041",
        "../../../etc/passwd",
        "/etc/passwd",
    ),
    *(
        "/dev/zero",
        "/dev/stdin",
        "/proc/self/mem",
        "C:\\x",
        "http://127.0.0.1:9/x",
        "org/name",
        "evil.Evil",
        "org/a--evil.Evil",
    ),
    *(
        "{0..999999999}",
        "**",
        "*" * 500,
        "[",
        "(a+)+$",
        "%s%n",
        "$(touch PWNED)",
        "`touch PWNED`",
        "[/bold]",
        "[link=x]y",
    ),
    *(
        "1e400 GiB",
        "-1 GiB",
        "\uff19 GiB",
        "nan",
        "101%",
        "cuda:-1",
        "cuda:99999999999999999999",
        "disk",
        "float128",
        "é" * 300,
    ),
)
ODD_NUMBERS = (0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 10**30, -(10**30), 0.5, 1e308, float("nan"), float("inf"))
ODD_KEYS = (
    "auto_map",
    "trust_remote_code",
    "attn_implementation",
    "_name_or_path",
    "architectures",
    "model_type",
    "schema",
)
MOST = 100_000
"""Values of what is repeated: a hostile input is no larger than somebody would send. A long text counts as several."""
_CHARACTERS = 100
"""Characters of a text that count as one value more."""
LONGEST = 8 << 20
"""Characters of a line that is repeated, or grows: twice what a TOML file may hold."""


def text(random: Random) -> str:
    """Return a text that means harm somewhere."""
    odd = random.choice(ODD_TEXTS)
    return odd if random.random() < 0.8 else odd + random.choice(ODD_TEXTS)


def value(random: Random, depth: int = 0) -> Any:
    """Return any value that JSON or TOML can hold."""
    kind = random.randrange(9 if depth < 3 else 5)
    if kind < 2:
        return text(random)
    if kind < 4:
        return random.choice(ODD_NUMBERS)
    if kind == 4:
        return random.choice([None, True, False, [], {}, ""])
    if kind < 7:
        return [value(random, depth + 1) for _ in range(random.choice([1, 2, 3, 20 if depth else 200]))]
    return {text(random): value(random, depth + 1) for _ in range(random.choice([1, 2, 50]))}


def nested(depth: int) -> Any:
    """Return arrays within arrays."""
    made: Any = 0
    for _ in range(depth):
        made = [made]
    return made


def tree(given: Any, random: Random, changes: int | None = None) -> Any:
    """Return a copy of a JSON value with some of its parts replaced, removed, renamed, repeated or added."""
    made = copy.deepcopy(given)
    for _ in range(changes or random.choice([1, 1, 1, 2, 3, 8])):
        made = _changed(made, random)
    return made


def _changed(given: Any, random: Random) -> Any:
    found = list(holders(given))
    if not found or random.random() < 0.02:
        return value(random)
    holder = random.choice(found)
    keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    action = random.randrange(6)
    if not keys or action == 0:
        if isinstance(holder, dict):
            holder[random.choice([text(random), random.choice(ODD_KEYS)])] = value(random)
        else:
            holder.insert(random.randint(0, len(holder)), value(random))
        return given
    key = random.choice(keys)
    if action == 1:
        del holder[key]
    elif action == 2 and isinstance(holder, dict):
        holder[text(random)] = holder.pop(key)
    elif action == 3 and isinstance(holder, list):
        # Each is a value of its own: a change within one that is shared would be made as often as it is there.
        times = min(random.choice([1, 100, 2_000]), MOST // size(holder[key], MOST))
        with suppress(RecursionError):  # one that is nested too deeply is no more often there
            holder += [copy.deepcopy(holder[key]) for _ in range(times)]
    elif action == 4 and isinstance(holder[key], int | float):
        holder[key] = holder[key] * random.choice([-1, 0, 1000, 10**9, 0.5])
    else:
        holder[key] = nested(random.choice([50, 2_000])) if random.random() < 0.05 else value(random)
    return given


def holders(given: Any) -> Any:
    """Yield every table and array within a value. Ends: the value was copied from JSON, which has no circles."""
    waiting = [given]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list):
            yield one
            waiting += list(one.values()) if isinstance(one, dict) else one


def size(given: Any, most: int) -> int:
    """Return how many values a value holds, or `most` where it holds more."""
    found = 0
    waiting = [given]
    while waiting and found < most:
        one = waiting.pop()
        found += 1
        if isinstance(one, str):
            found += len(one) // _CHARACTERS
        elif isinstance(one, dict | list):
            waiting += [*one, *one.values()] if isinstance(one, dict) else one
    return min(found, most)


def as_json(given: Any) -> bytes:
    """Return a value as JSON, in whatever depth."""
    try:
        return json.dumps(given).encode()
    except RecursionError:
        return b"[" * 5_000 + b"]" * 5_000


def lines(given: str, random: Random) -> bytes:
    """Return a text with some of its lines or words replaced, removed, repeated or moved."""
    made = given.split("\n")
    for _ in range(random.choice([1, 1, 2, 4, 10])):
        at = random.randrange(len(made))
        action = random.randrange(6)
        if action == 0:
            del made[at : at + random.choice([1, 2, 5])]
        elif action == 1:
            made[at:at] = [made[at]] * min(random.choice([1, 2, 300]), LONGEST // (len(made[at]) + 1))
        elif action == 2:
            made.insert(random.randrange(len(made) + 1), made[at])
        else:
            made[at] = _line(made[at], random)
        made = made or [""]
    return "\n".join(made).encode("utf-8", "surrogatepass")


def _line(given: str, random: Random) -> str:
    key, equals, old = given.partition("=")
    if not equals or random.random() < 0.2:
        return toml_value(random) if random.random() < 0.3 else _replaced(given, random)
    if random.random() < 0.25:
        return f"{json.dumps(text(random))} = {old}"
    return f"{key}= {toml_value(random)}"


def _replaced(given: str, random: Random) -> str:
    old, new = random.choice(given or " "), text(random)
    return given.replace(old, new, max(0, LONGEST - len(given)) // max(1, len(new)))


def toml_value(random: Random) -> str:
    """Return a value as TOML, which mostly is that of JSON."""
    made = value(random)
    if isinstance(made, dict):
        pairs = ", ".join(f"{json.dumps(key)} = {json.dumps(inner)}" for key, inner in made.items())
        return f"{{ {pairs} }}".replace("NaN", "nan").replace("Infinity", "inf")
    return json.dumps(made).replace("NaN", "nan").replace("Infinity", "inf").replace("null", "1979-05-27T07:32:00Z")


def raw(given: bytes, random: Random) -> bytes:
    """Return bytes with some of them changed, cut off, repeated, or put in place of all."""
    made = bytearray(given)
    for _ in range(random.choice([1, 1, 3, 20])):
        at = random.randrange(len(made) + 1)
        action = random.randrange(6)
        if action == 0:
            del made[at:]
        elif action == 1:
            made[at:at] = random.randbytes(random.choice([1, 8, 100]))
        elif action == 2:
            made[at : at + 8] = random.choice([2**63, 2**64 - 1, 2**40, 0, 1]).to_bytes(8, "little")
        elif action == 3:
            made[at:at] = bytes(made[at : at + 200]) * random.choice([2, 100])
        elif made and at < len(made):
            made[at] = random.randrange(256)
    return bytes(made) if random.random() > 0.03 else random.randbytes(random.choice([0, 7, 8, 9, 5_000]))
