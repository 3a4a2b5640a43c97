"""What a plan looks like: bars, tables, and the width of a screen."""

import io
from itertools import cycle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import devpolicy
from devpolicy._core.cli.memory_bars import BAR, PARTS, cells
from devpolicy._core.cli.output import STYLES, Output, plain
from devpolicy._core.cli.plan_view import view
from devpolicy._core.cli.table import table
from devpolicy._core.model.catalogue import model_catalogue
from devpolicy._core.placement.plan import Budget
from devpolicy._core.simulation.catalogue import host_catalogue
from devpolicy._core.views.names import count
from devpolicy._core.views.parts import sizes_of
from devpolicy.errors import Unsatisfiable

BYTES = st.integers(0, 2**40)
# Every model once; neighbours in the list are planned on other hosts by other policies.
EACH_MODEL = list(
    zip(
        model_catalogue(),
        cycle(["24-24-12-8", "8x141gb", "macbook-m3-36gb", "strix-halo"]),
        cycle(["offload-lm-head", "split-across-gpus", "prefer-accelerator"]),
        strict=False,
    )
)
BUDGETS = st.builds(Budget, *[BYTES] * 6).flatmap(
    lambda one: BYTES.map(lambda free: Budget(*_parts(one), cap=one.used + one.headroom + free))
)


def _parts(budget: Budget) -> list[int]:
    return [getattr(budget, part) for part in PARTS if part != "free"]


@given(BUDGETS)
def test_a_bar_is_full_and_every_part_of_it_is_seen(budget):
    shown = cells(sizes_of(budget))
    assert sum(shown.values()) == BAR
    for part, number in shown.items():
        assert number >= 0
        assert (number > 0) == (getattr(budget, part) > 0 or (budget.cap == 0 and part == "free"))


@given(st.lists(st.one_of(BYTES, st.integers(0, 3)), max_size=200), st.integers(1, 60))
@example([1] * 39 + [1, 1], 40)
def test_a_bar_of_any_number_of_parts_is_full(sizes, width):
    named = {f"component {at}": size for at, size in enumerate(sizes)}
    shown = cells(named, width)
    assert sum(shown.values()) == width
    assert all(number >= 0 for number in shown.values())
    drawn = [size for part, size in named.items() if shown[part]]
    left = [size for part, size in named.items() if not shown.get(part)]
    assert not drawn or not any(drawn) or min(drawn) >= max(left, default=0)


@pytest.mark.parametrize("count", [38, 39, 40, 41, 500])
def test_a_plan_of_any_number_of_components_is_shown(count, tmp_path):
    from tests.cli.harness import invoke

    components = "".join(f"[component.c{at}]\nneeds = '1 MiB'\n" for at in range(count))
    (tmp_path / "p.toml").write_text(f"prefer = ['cuda']\n{components}")
    assert invoke("plan", str(tmp_path / "p.toml"), "--host", "1x24gb").status == 0


@given(BUDGETS)
def test_a_part_takes_its_share_of_the_bar(budget):
    total = budget.cap
    for part, number in cells(sizes_of(budget)).items():
        # Up to six parts may have been given a cell that they would not have by their size.
        assert not total or abs(number - getattr(budget, part) * BAR / total) <= len(PARTS)


@pytest.mark.parametrize(("model", "host", "policy"), EACH_MODEL)
def test_a_plan_fits_eighty_columns_in_known_styles(model, host, policy):
    loaded, tree, machine = devpolicy.Policy.load(policy), devpolicy.ModelTree.load(model), devpolicy.Host.load(host)
    try:
        plan = devpolicy.plan(loaded, tree, machine)
    except Unsatisfiable:
        return
    lines = view(plan, loaded, tree, machine, Output(io.StringIO()))
    # A finding is one line, however long: terminals fold it, and tools read it.
    assert max(len(text) for text in map(plain, lines) if not text.startswith(("warning[", "  = "))) <= 80
    assert {style for line in lines if not isinstance(line, str) for _, style in line} <= set(STYLES)


@pytest.mark.parametrize("host", host_catalogue())
def test_every_host_can_be_shown_and_read_back(host):
    from tests.cli.harness import invoke

    shown = invoke("host", "show", host).stdout
    assert devpolicy.Host.parse(shown) == devpolicy.Host.load(host)


def test_a_path_that_is_too_long_has_a_line_of_its_own():
    lines = [plain(line) for line in table(["module", "size"], [["m" * 50, "1 B"], ["x", "2 B"]], width=30)]
    assert lines == [f"  {'module':22}  size", "  " + "m" * 50, f"  {'':22}  1 B", f"  {'x':22}  2 B"]


def test_prose_that_does_not_fit_beside_goes_below():
    rows = [["a", "1 B", "short"], ["b", "2 B", "words " * 8]]
    beside = [plain(line) for line in table(["what", "size", "why"], rows, width=80, prose=True)]
    assert beside[1] == "  a     1 B   short"
    below = [plain(line) for line in table(["what", "size", "why"], rows, width=40, prose=True)]
    assert below == [
        "  what  size",
        "  a     1 B",
        "    short",
        "  b     2 B",
        "    words words words words words words",
        "    words words",
    ]


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (7, "7"),
        (999, "999"),
        (1_500, "1.5 K"),
        (999_999, "1 M"),
        (124_439_808, "124 M"),
        (999_600_000, "1 B"),
        (70_553_706_496, "70.6 B"),
        (10**12, "1 T"),
        (10**16, "10,000 T"),
    ],
)
def test_parameters_are_counted_as_people_do(number, told):
    assert count(number) == told


@given(st.integers(0, 10**18))
def test_a_count_has_no_exponent(number):
    assert "e" not in count(number)


WIDE = [["module", *(f"column {at}" for at in range(8))], ["model.embed_tokens", *["1002.0 MiB"] * 8]]


def test_columns_move_closer_before_a_row_breaks():
    lines = [plain(line) for line in table(["module", "size", "by"], [["m" * 20, "1 B", "x"]], width=31)]
    assert lines == ["  module               size by", f"  {'m' * 20} 1 B  x"]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_wide_tables_fit(width):
    lines = [plain(line) for line in table(WIDE[0], WIDE[1:], width=width, right=range(1, 9))]
    assert max(map(len, lines)) <= width
    assert sum(line.count("1002.0 MiB") for line in lines) == 8


@pytest.mark.parametrize("width", ["40", "60"])
@pytest.mark.parametrize(
    "command", ["plan offload-lm-head --model llama-3.1-70b --host 4x80gb", "host list", "model list"]
)
def test_columns_is_followed(command, width, monkeypatch):
    from tests.cli.harness import invoke

    monkeypatch.setenv("COLUMNS", width)
    lines = invoke(*command.split()).stdout.splitlines()
    assert max(len(line) for line in lines if not line.startswith("digest")) <= int(width)


@pytest.mark.parametrize("columns", ["", "0", "-1", "x", "9" * 30, "\N{SUPERSCRIPT TWO}"])
def test_columns_of_nonsense_are_eighty(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert Output(io.StringIO()).width == 80


def test_what_is_not_quantised_elsewhere_is_said(tmp_path):
    from tests.cli.harness import invoke

    policy = tmp_path / "p.toml"
    policy.write_text('prefer = "cuda"\nloading.quantization = "nf4"\noffload.lm_head = "cpu"\n', "utf-8")
    shown = invoke("plan", str(policy), "--model", "llama-3.1-8b", "--host", "2x24gb").stdout
    assert "as nf4, unquantised on cpu" in shown
