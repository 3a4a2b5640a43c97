from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from devpolicy._core.sizes import GIB, LARGEST, MIB, UNITS, SizeError, exact_size, format_size, parse_size
from devpolicy.errors import DevPolicyError

SIZES = st.integers(0, LARGEST)


@given(SIZES)
def test_bytes_are_themselves(size):
    assert parse_size(size) == size


@given(SIZES)
@example(0)
@example(LARGEST)
def test_an_exact_size_reads_back_to_the_same_bytes(size):
    assert parse_size(exact_size(size)) == size


@given(SIZES)
def test_a_size_for_people_is_right_to_a_decimal(size):
    number, unit = format_size(size).split()
    assert abs(Fraction(number) * UNITS[unit] - size) <= Fraction(UNITS[unit], 20)


@given(st.decimals(0, 1000, places=3), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " ", "  "]), st.booleans())
def test_a_number_and_a_unit_are_multiplied_exactly(number, unit, gap, lower):
    text = f"{number}{gap}{unit.lower() if lower else unit}"
    assert parse_size(text) == int(Fraction(number) * UNITS[unit])


@given(st.text())
@example("24")
@example("1e3 GiB")
@example("٣ GiB")
@example("1_000 B")
@example("9" * 5000 + " B")
def test_any_text_is_a_size_or_is_refused(text):
    try:
        assert 0 <= parse_size(text) <= LARGEST
    except SizeError as refused:
        assert isinstance(refused, DevPolicyError)
        assert isinstance(refused, ValueError)


@given(st.integers())
@example(10**5000)
@example(-(10**5000))
def test_any_number_is_a_size_or_is_refused(number):
    if 0 <= number <= LARGEST:
        assert parse_size(number) == number
    else:
        with pytest.raises(SizeError):
            parse_size(number)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24 GiB", 24 * GIB),
        ("24GB", 24 * 10**9),
        ("1.5 GiB", 3 * GIB // 2),
        (" 512 mib ", 512 * MIB),
        ("0 B", 0),
        ("1.9 B", 1),
        ("0000000000000000000000000000000000000000000005 B", 5),
        ("0.1 GB", 10**8),
        ("7.999999999 PiB", 7_999_999_999 * 2**50 // 10**9),
    ],
)
def test_a_size_is_exact_and_rounded_down_to_bytes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("24", "`24` has no unit: write `24 GiB`, or `24 B` for bytes"),
        ("24 G", "did you mean `GiB` (1024s) or `GB` (1000s)?"),
        ("24 XB", "known are B, KB, MB"),
        ("-1 GiB", "is not a size"),
        ("", "is not a size"),
        ("GiB", "is not a size"),
        ("9000000 PiB", "larger than any device"),
        (True, "not True"),
        (1.5, "not 1.5"),
        (None, "not None"),
        (-1, "a size is not negative"),
    ],
)
def test_what_is_no_size_is_refused_with_a_way_out(value, message):
    with pytest.raises(SizeError) as refused:
        parse_size(value)
    assert message in str(refused.value)


def test_sizes_for_people():
    assert [format_size(size) for size in (0, 1023, 1024, 3 * GIB // 2)] == ["0 B", "1023 B", "1.0 KiB", "1.5 GiB"]
