"""TOML with places: the index of spans agrees with tomli on documents written in every style."""

import datetime as dt
import math
import tracemalloc
from typing import Any

import pytest
import tomli
from hypothesis import example, given
from hypothesis import strategies as st

from devpolicy import ModelTree
from devpolicy._core.model.model_file import BOUNDS as MODEL
from devpolicy._core.toml.amount import Bounds, excess
from devpolicy._core.toml.document import DEEPEST, LARGEST_FILE, Document, Inside
from devpolicy._core.toml.writer import quote, write_key
from devpolicy.errors import ModelError, PolicyError

# A writer of TOML that chooses a style wherever the language leaves one.

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\t\"'\\\r#]}=,"), max_size=6)
KEYS = st.sampled_from(["a", "b", "c-d", "1", "é.f", "", "g h", "'", '"', "#"])
TIMES = st.times().map(lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000, fold=0))
SCALARS = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | TEXTS
    | st.dates()
    | TIMES
    | st.builds(dt.datetime.combine, st.dates(), TIMES)
    | st.builds(dt.datetime.combine, st.dates(), TIMES, st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=-7))]))
)
TABLES = st.recursive(
    st.dictionaries(KEYS, SCALARS, max_size=3),
    lambda inner: st.dictionaries(
        KEYS, inner | SCALARS | st.lists(SCALARS, max_size=3) | st.lists(inner, max_size=3), max_size=4
    ),
    max_leaves=12,
)


class Writer:
    """Writes data as TOML; every choice of style is drawn."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw

    def choose(self, *options: str) -> str:
        return self.draw(st.sampled_from(options))

    def flip(self) -> bool:
        return self.draw(st.booleans())

    def key(self, name: str) -> str:
        styles = [quote(name)]
        if name and write_key(name) == name:
            styles.append(name)
        if "'" not in name and name.isprintable():
            styles.append(f"'{name}'")
        return self.choose(*styles)

    def dotted(self, names: list[str]) -> str:
        return self.choose(".", " . ", "\t.").join(self.key(name) for name in names)

    def string(self, text: str) -> str:
        multiline = quote(text)[1:-1].replace("\\n", "\n").replace('\\"', '"') if "\\\\" not in quote(text) else None
        styles = [quote(text)]
        if multiline is not None and '""' not in multiline:
            styles.append(f'"""\n{multiline}"""')
        if text.strip() == text:
            styles.append(f'"""\\\n  \n  {quote(text)[1:-1]}"""')
        if "'" not in text and all(char >= " " or char == "\t" for char in text) and "\x7f" not in text:
            styles.append(f"'{text}'")
        if "''" not in text and "\r" not in text and "\x7f" not in text:
            styles.append(f"'''\n{text}'''")
        return self.choose(*styles)

    def scalar(self, value: Any) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            return self.string(value)
        if isinstance(value, int):
            return self.choose(str(value), *([hex(value), bin(value), oct(value)] if value >= 0 else []))
        if isinstance(value, float):
            if math.isnan(value) or math.isinf(value):
                return str(value)
            return repr(value)
        text = value.isoformat()
        return text.replace("T", self.choose("T", " ", "t")) if isinstance(value, dt.datetime) else text

    def gap(self) -> str:
        return self.choose("", " ", "\n", ' # ] } = "\n\t')

    def value(self, value: Any) -> str:
        if isinstance(value, list):
            items = [self.gap() + self.value(item) + self.gap() for item in value]
            return "[" + ",".join(items) + (self.choose("", ",") if items else "") + self.gap() + "]"
        if isinstance(value, dict):
            pairs = [f"{self.gap()}{self.key(name)} = {self.value(item)}{self.gap()}" for name, item in value.items()]
            return "{" + ",".join(pairs) + (self.choose("", ",") if pairs else "") + self.gap() + "}"
        return self.scalar(value)

    def end(self) -> str:
        return self.choose("", "  ", " # [x] = '''") + "\n"

    def pairs(self, table: dict[str, Any], above: list[str]) -> tuple[str, list[tuple[str, Any]]]:
        """Write what stands below one header; return it and what needs headers of its own."""
        text, later = "", []
        for name, value in table.items():
            if isinstance(value, dict) and value and self.flip():
                # Below a dotted key nothing can have a header.
                text += self.pairs(value, [*above, name])[0]
            elif (isinstance(value, dict) or is_array_of_tables(value)) and not above and self.flip():
                later.append((name, value))
            else:
                key = self.choose("", " ") + self.dotted([*above, name])
                text += f"{key}{self.choose('=', ' = ')}{self.value(value)}{self.end()}"
        return text, later

    def document(self, table: dict[str, Any], path: list[str]) -> str:
        text, later = self.pairs(table, [])
        for name, value in later:
            here = [*path, name]
            for entry in value if isinstance(value, list) else [value]:
                opening, closing = ("[[", "]]") if isinstance(value, list) else ("[", "]")
                text += (
                    f"{self.choose('', '  ')}{opening}{self.choose('', ' ')}{self.dotted(here)}{closing}{self.end()}"
                )
                text += self.document(entry, here)
        return text


def is_array_of_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


@st.composite
def documents(draw: st.DrawFn) -> tuple[dict[str, Any], str]:
    data = draw(TABLES)
    text = Writer(draw).document(data, [])
    return data, text.replace("\n", "\r\n") if draw(st.booleans()) else text


def same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)  # nan is nan, and True is not 1


def leaves_and_tables(data: Any, path: tuple[str | int, ...] = ()) -> Any:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*path, key), value
        yield from leaves_and_tables(value, (*path, key))


@given(documents())
def test_every_value_has_a_span_that_reads_back_to_it(document):
    _, text = document
    read = Document(text, "x.toml", PolicyError)
    assert same(read.data, tomli.loads(text))
    for path, value in leaves_and_tables(read.data):
        span = read._spans[path]
        start, end = span.value
        written = read.text[start:end]
        of_headers = isinstance(value, dict) and not written.startswith("{")
        of_headers |= is_array_of_tables(value) and written.startswith("[[")
        if not of_headers:
            assert same(tomli.loads(f"x = {written}")["x"], value)
        key = read.text[slice(*span.key)]
        if isinstance(path[-1], str):
            names = [part for part in path if isinstance(part, str)]
            parsed: Any = tomli.loads(f"{key} = 0")
            chain = []
            while isinstance(parsed, dict):
                (name,) = parsed
                chain.append(name)
                parsed = parsed[name]
            # A dotted key or a header also stands for the tables on its way.
            assert any(names[-len(chain[:n]) :] == chain[:n] for n in range(1, len(chain) + 1))


@given(documents())
def test_the_writer_writes_what_it_is_given(document):
    data, text = document
    read = tomli.loads(text)

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(value[key]) for key in sorted(value)}
        return [plain(item) for item in value] if isinstance(value, list) else value

    assert repr(plain(read)).replace("\\r\\n", "\\n") == repr(plain(data)).replace("\\r\\n", "\\n")


@given(documents())
def test_every_place_lies_in_its_line(document):
    read = Document(document[1], "x.toml", PolicyError)
    lines = read.text.split("\n")
    for path, _ in leaves_and_tables(read.data):
        for place in (read.place(path), read.place(path, "key"), read.place((*path, "missing"))):
            assert place.text == lines[place.line - 1]
            assert 1 <= place.column <= len(place.text) + 1
            assert place.length >= 1


@given(st.text())
@example("a = [1\n")
@example("a = 1\r")
def test_what_is_no_toml_is_refused_at_a_place(text):
    try:
        Document(text, "x.toml", PolicyError)
    except PolicyError as refused:
        (finding,) = refused.diagnostics
        assert finding.code == "DP101"
        assert finding.place is not None


@given(st.binary(max_size=20))
@example(b"\xff")
@example(b'a = "\xc3\n"')
def test_any_bytes_are_toml_or_refused(content):
    try:
        Document.read(content, "x.toml", PolicyError)
    except PolicyError as refused:
        assert refused.code == "DP101"


@given(TEXTS, KEYS | TEXTS)
def test_quoted_text_and_keys_read_back(text, key):
    assert tomli.loads(f"{write_key(key)} = {quote(text)}") == {key: text}


def place(text: str, *path: str | int, **more: Any) -> tuple[int, int, int]:
    found = Document(text, "x.toml", PolicyError).place(path, **more)
    return found.line, found.column, found.length


def test_places_of_keys_values_and_headers():
    text = '# x\n[[rule]]\nmatch = "a"\n[[rule]]\nmatch.x = [1, {b = 2}]\n'
    assert place(text, "rule", 0, "match") == (3, 9, 3)
    assert place(text, "rule", 0, "match", part="key") == (3, 1, 5)
    assert place(text, "rule", 1) == (4, 1, 8)
    assert place(text, "rule", 1, part="key") == (4, 3, 4)
    assert place(text, "rule", 1, "match", "x", part="key") == (5, 1, 7)
    assert place(text, "rule", 1, "match", "x", 1, "b") == (5, 20, 1)


LONG_STRINGS = ['"""a""""', '"""a"""""', "'''a''''", '""""a"""', '""""""', "''''a'''", '"""\\""""""']


@pytest.mark.parametrize("string", LONG_STRINGS)
def test_quotes_at_the_ends_of_a_long_string_are_of_it(string):
    assert place(f"k = {string} # '", "k") == (1, 5, len(string))
    assert place(f"k = {string}\nl = 1", "l") == (2, 5, 1)


def test_lines_that_end_as_on_windows_lose_their_ends():
    found = Document('a = 1\r\nb = """x\r\ny"""\r\nc = 2\r\n', "x.toml", PolicyError)
    assert (found.place(("b",)).text, found.place(("c",)).text) == ('b = """x', "c = 2")
    assert found.place(("c",)).line == 4
    assert found.data["b"] == "x\ny"


def test_a_missing_key_gives_its_table():
    text = "a = 1\n[b]\nc = { d = 1 }\n"
    assert place(text, "b", "zzz") == (2, 1, 3)
    assert place(text, "b", "c", "zzz") == (3, 5, 9)
    assert place(text, "zzz") == (1, 1, 1)


def test_a_value_of_several_lines_is_marked_in_its_first():
    assert place("a = [\n  1,\n]", "a") == (1, 5, 1)


@pytest.mark.parametrize("text", ['k = "abc"', "k = 'abc'", 'k = """abc"""', "k = '''abc'''"])
def test_a_place_can_be_narrowed_to_a_part_of_a_text(text):
    column = text.index("b") + 1
    assert place(text, "k", inside=Inside("abc", 1, 1)) == (1, column, 1)


def test_a_place_in_a_text_with_escapes_is_the_whole_text():
    assert place(r'k = "a\u0062c"', "k", inside=Inside("abc", 1, 1)) == (1, 5, 10)
    assert place('"a.b" = 1', "a.b", part="key", inside=Inside("a.b", 2, 1)) == (1, 4, 1)
    assert place("a = {b = 1}", "a", "b", part="key", inside=Inside("b", 0, 1)) == (1, 6, 1)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1),
        "a = " + "[" * 10_000,
        ".".join("a" * (DEEPEST + 2)) + " = 1",
        ".".join("a" * 10_000) + " = 1",
        "[" + ".".join("a" * (DEEPEST + 1)) + "]",
        ("a." * 60 + "a = {") * 50 + "}" * 50,
    ],
)
def test_deep_nesting_is_refused(text):
    with pytest.raises(PolicyError, match="nested deeper than 64"):
        Document(text, "x.toml", PolicyError)


def test_nesting_up_to_the_limit_is_read():
    text = "a = " + "[" * DEEPEST + "]" * DEEPEST
    assert Document(text, "x.toml", PolicyError).place(("a", *[0] * (DEEPEST - 1))).column == 4 + DEEPEST


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
def test_an_integer_beyond_64_bits_is_refused_where_it_stands(number):
    with pytest.raises(PolicyError, match=r"x\.toml:2:6"):
        Document(f"a = 1\nb = [{number}]", "x.toml", PolicyError)


def test_the_ends_of_64_bits_are_read():
    assert Document(f"a = [{2**63 - 1}, {-(2**63)}]", "x.toml", PolicyError).data == {"a": [2**63 - 1, -(2**63)]}


def test_a_file_that_is_too_large_is_refused():
    with pytest.raises(PolicyError, match="larger than 4 MiB"):
        Document.read(b"#" * (LARGEST_FILE + 1), "x.toml", PolicyError)


def test_bytes_that_are_no_text_are_refused_where_they_stand():
    with pytest.raises(PolicyError, match=r"x\.toml:2:4"):
        Document.read(b"# a\n# b\xff", "x.toml", PolicyError)


@pytest.mark.parametrize(
    ("text", "where", "help_"),
    [
        ("a = b", "1:5", "text is written in quotes"),
        ("a = 24 GiB", "1:8", 'text is written in quotes, such as "24 GiB"'),
        ("a.* = 1", "1:3", "or text in quotes"),
        ("a = [1,", "1:8", "a quote, a bracket or a brace is missing"),
        ('a = "x\n', "1:7", "a quote, a bracket or a brace is missing"),
        ('{"prefer": ["cuda"]}', "1:1", "a line is `key = value` or `[table]`"),
        ("// a comment", "1:1", "a comment begins with `#`"),
        ("[a", "1:3", "a quote, a bracket or a brace is missing"),
        ('a = "C:\\models"', "1:10", "the text in single quotes: 'C:\\models'"),
        ('a = "C:\\Users"', "1:10", "the text in single quotes: 'C:\\models'"),
        ('a = "C:\\x"', "1:10", "the text in single quotes: 'C:\\models'"),
        ("\n a = 1\n a = 2 # again", "3:2", ""),
        ("[a]\nb = 1\n[a]\n", "3:1", ""),
    ],
)
def test_the_usual_slips_get_a_way_out(text, where, help_):
    with pytest.raises(PolicyError) as refused:
        Document(text, "x.toml", PolicyError)
    (finding,) = refused.value.diagnostics
    assert str(finding.place) == f"x.toml:{where}"
    assert help_ in finding.help


DENSE = {
    "tables": ("a=[", "{},"),
    "lists": ("a=[", "[],"),
    "numbers": ("a=[", "1,"),
    "texts": ("a=[", "'',"),
    "headers": ("", "[a#]\n"),
    "arrays of tables": ("", "[[a]]\n"),
    "dotted keys": ("", "a#." + "a." * 60 + "a=1\n"),
    "escapes": ('a="', "\\u0041"),
    "lines": ("", "\n"),
}
"""How a text begins, and what is repeated in it, `#` being a number: what costs a parser most for each character."""


@pytest.mark.parametrize("kind", DENSE)
def test_a_large_file_costs_little_before_it_is_refused(kind):
    """Half a megabyte of it took up to 130."""
    opening, repeated = DENSE[kind]
    body = "".join(repeated.replace("#", str(number)) for number in range(LARGEST_FILE // 8 // len(repeated)))
    text = f"{opening}{body}\n}}"
    tracemalloc.start()
    try:
        with pytest.raises(PolicyError):
            Document(text, "x.toml", PolicyError)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_a_model_file_holds_more_but_not_without_end():
    module = '[[module]]\npath = "m{}"\nclass = "M"\n'
    text = '[[module]]\npath = ""\nclass = "M"\n' + "".join(map(module.format, range(MODEL.values // 4)))
    assert len(Document(text[: len(text) // 2].rpartition("[[")[0], "m.toml", ModelError, bounds=MODEL).data["module"])
    with pytest.raises(ModelError, match=f"has more than {MODEL.values} keys"):
        ModelTree.parse(text)


@given(documents())
def test_what_is_counted_before_is_no_less_than_what_is_parsed(document):
    _, text = document
    values = Document(text, "x.toml", PolicyError).values
    assert not values or excess(text, Bounds(values - 1, len(text))) is not None
