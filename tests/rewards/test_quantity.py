"""Numbers and their units."""

import pytest

from mimosa.rewards.latex import canonical, compact
from mimosa.rewards.quantity import Quantity, split


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10", Quantity("10")),
        ("10\\text{ cm}", Quantity("10", "cm")),
        ("10 centimetres", Quantity("10", "cm")),
        ("10\\,\\mathrm{m}^2", Quantity("10", "m^2")),
        ("10\\text{ square meters}", Quantity("10", "m^2")),
        ("60\\text{ km}/\\text{h}", Quantity("60", "km/h")),
        ("60 miles per hour", Quantity("60", "mi/h")),
        ("60 mph", Quantity("60", "mi/h")),
        ("\\$1.50", Quantity("1.50", "$")),
        ("-\\$5", Quantity("-5", "$")),
        ("5 dollars", Quantity("5", "$")),
        ("5€", Quantity("5", "euro")),
        ("\\$3\\text{ million}", Quantity("(3)*10^{6}", "$")),
        ("50\\%", Quantity("50", percent=True)),
        ("50 percent", Quantity("50", percent=True)),
        ("90^\\circ", Quantity("90", "deg")),
        ("20°C", Quantity("20", "degc")),
        ("7 apples", Quantity("7", "apple")),
        ("10:30\\text{ a.m.}", Quantity("10:30", "am")),
        ("1011_2", Quantity("1011", base="2")),
        ("2b_{16}", Quantity("2b", base="16")),
        ("11_{\\text{two}}", Quantity("11", base="2")),
        ("11_{10}", Quantity("11")),
        ("x_1", Quantity("x_{1}")),
        ("5t", Quantity("5t")),
        ("5 t", Quantity("5 t")),
        ("5\\text{ or so}", Quantity("5\\text{or so}")),
        ("5\\text{ squared}", Quantity("5\\text{squared}")),
        ("\\text{cm}", Quantity("cm")),
    ],
)
def test_split(text, wanted):
    found = split(canonical(text))
    assert (compact(found.value), found.unit, found.percent, found.base) == (
        compact(wanted.value), wanted.unit, wanted.percent, wanted.base,
    )  # fmt: skip


def test_a_single_letter_is_a_unit_only_where_one_is_expected():
    assert split("5m") == Quantity("5m")
    assert split("5m", bare=True) == Quantity("5", "m")
