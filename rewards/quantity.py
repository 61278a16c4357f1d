r"""A number and what it is counted in: 10\text{ cm}, \$5, 50%, 90^\circ, 3 million, 1010_2.

`split` takes the unit off canonical text. Units that both sides name must be the same; one that only one side names is let
pass, as authors of answers leave it out as often as not. Nothing is converted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ALIASES = {
    "centimeter": "cm", "centimetre": "cm", "millimeter": "mm", "millimetre": "mm", "meter": "m", "metre": "m",
    "kilometer": "km", "kilometre": "km", "kilogram": "kg", "gram": "g", "gm": "g", "milligram": "mg", "second": "s",
    "sec": "s", "minute": "min", "hour": "h", "hr": "h", "foot": "ft", "feet": "ft", "inch": "in", "inche": "in",
    "mile": "mi", "pound": "lb", "lbs": "lb", "ounce": "oz", "liter": "l", "litre": "l", "milliliter": "ml", "yard": "yd",
    "dollar": "$", "usd": "$", "buck": "$", "degree": "deg", "deg": "deg", "celsiu": "c", "fahrenheit": "f", "yr": "year",
    "sq": "square", "cu": "cubic", "kph": "km/h", "mph": "mi/h", "hrs": "h", "mins": "min", "people": "person",
    "men": "man", "women": "woman", "children": "child", "cents": "cent",
}  # fmt: skip
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_KNOWN_NAMES = (
    "cm mm km kg mg ml lb lbs ft yd mi oz hr hrs mph kph hz kw gb mb am pm sq cu min sec deg unit units degrees"
)
_KNOWN = frozenset(_KNOWN_NAMES.split()) | frozenset(_ALIASES)
_COMMITLESS = (
    "or and not no nor if where when for is are to than then about approximately approx around roughly maybe perhaps "
    "possibly either both neither mod modulo base times plus minus over choose squared cubed factorial except but "
    "root sqrt log sin cos tan pi infinity half third quarter dozen double twice ago more less least most"
)
_NOT_UNITS = frozenset(_COMMITLESS.split())
_WORDS = re.compile(r"[A-Za-z]+")
_TEXT_UNIT = re.compile(r"(.*[^ ]) ?\\text\{ ?([A-Za-z][A-Za-z ./]*?)\.? ?\} ?(?:\^\{([23])\})?", re.DOTALL)
_RATIO_UNIT = re.compile(
    r"(.*[^ ]) ?\\text\{ ?([A-Za-z ]+?) ?\} ?/ ?\\text\{ ?([A-Za-z ]+?) ?\} ?(?:\^\{([23])\})?", re.DOTALL
)
_PLAIN_UNIT = re.compile(r"(.*[0-9)}%]) ?([A-Za-z]{2,}(?:[ /][A-Za-z]+){0,3})\.? ?(?:\^\{([23])\})?", re.DOTALL)
_BARE_UNIT = re.compile(r"(.*[0-9)}]) ?([a-zA-Z]) ?(?:\^\{([23])\})?", re.DOTALL)
_DEGREES = re.compile(r"(.*[^ ]) ?\^\\circ ?(?:\\text\{ ?([CF]) ?\}|([CF]))?", re.DOTALL)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_ANGLE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?\^\\circ")
_MONEY = re.compile(r"([-+]?) ?\\(dollar|euro|pound|yen) ?(.*)", re.DOTALL)
_MONEY_AFTER = re.compile(r"(.*[^ ]) ?\\(dollar|euro|pound|yen)", re.DOTALL)
_BASE = re.compile(r"\(?([0-9][0-9a-zA-Z]*)\)? ?_ ?\{ ?\(?([0-9]{1,2}|\\text\{[a-z]+\})\)? ?\}")
_BASE_NAMES = {
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}


@dataclass(frozen=True, slots=True)
class Quantity:
    """Canonical text of a value without its unit."""

    value: str
    unit: str = ""  # normalised; empty: none named
    percent: bool = False
    base: str = ""  # of a numeral with a subscript, whose digits are `value`


def split(text: str, bare: bool = False) -> Quantity:
    """Takes unit, percent sign, currency, degrees and numeral base off; `bare`: a single letter may be a unit too."""
    numeral = _BASE.fullmatch(text)
    if numeral:
        base = _BASE_NAMES.get(numeral.group(2)[6:-1], numeral.group(2))
        return Quantity(numeral.group(1).lower(), base="" if base == "10" else base)
    money = _MONEY.fullmatch(text)
    if money:
        inner = split(money.group(3))
        return Quantity(
            money.group(1) + inner.value, "$" if money.group(2) == "dollar" else money.group(2), inner.percent
        )
    money = _MONEY_AFTER.fullmatch(text)
    if money:
        return Quantity(money.group(1), "$" if money.group(2) == "dollar" else money.group(2))
    degrees = _DEGREES.fullmatch(text)
    if "\\circ" in text and _TRIGONOMETRY.search(text):
        return Quantity(_ANGLE.sub(r"(\\frac{\1\\pi}{180})", text))
    if degrees:
        return Quantity(degrees.group(1), "deg" + (degrees.group(2) or degrees.group(3) or "").lower())
    if text.endswith("%"):
        return Quantity(text[:-1].rstrip(), percent=True)
    return _with_words(text, bare)


def _with_words(text: str, bare: bool) -> Quantity:
    ratio = _RATIO_UNIT.fullmatch(text)
    if ratio:
        value, top, bottom, power = ratio.groups()
        return _quantity(text, value, f"{top}/{bottom}", power)
    match = _TEXT_UNIT.fullmatch(text)
    if match:
        return _quantity(text, *match.groups())
    match = _PLAIN_UNIT.fullmatch(text)
    if match and (_known(match.group(2)) or _spelled_out(match)):
        return _quantity(text, *match.groups())
    match = _BARE_UNIT.fullmatch(text) if bare else None
    if match:
        return _quantity(text, *match.groups())
    return Quantity(text)


def _known(words: str) -> bool:
    return all(word.lower() in _KNOWN or word.lower() in ("per", "percent", "square", "cubic") or word.lower() in _SCALES
               or word.lower().rstrip("s") in _KNOWN for word in _WORDS.findall(words))  # fmt: skip


def _spelled_out(match: re.Match[str]) -> bool:
    """Words after a space that are long enough to be no product of variables: 42 apples."""
    value, words, _ = match.groups()
    return match.string[len(value)] == " " and all(len(word) >= 4 for word in _WORDS.findall(words))


def _quantity(text: str, value: str, words: str, power: str | None = None) -> Quantity:
    names = [word.lower() for word in _WORDS.findall(words.replace(".", ""))]
    if any(name in _NOT_UNITS for name in names) or not any(char.isalnum() for char in value):
        return Quantity(text)
    if names[0] in _SCALES:
        value = f"({value})*10^{{{_SCALES[names[0]]}}}"
        names = names[1:]
    if names and names[0] in ("percent", "pct", "percentage"):
        return Quantity(value, percent=True)
    if not names:
        return Quantity(value)
    money = split(value) if "\\dollar" in value else None
    if money:
        return Quantity(money.value, money.unit)
    return Quantity(value, _unit("/" in words, names, power))


def _unit(ratio: bool, names: list[str], power: str | None) -> str:
    words = []
    for name in names:
        if name in ("square", "sq"):
            power = "2"
        elif name in ("cubic", "cu"):
            power = "3"
        elif name == "per":
            ratio = True
        else:
            name = _ALIASES.get(name, name[:-1] if len(name) > 3 and name.endswith("s") else name)
            words.append(_ALIASES.get(name, name))
    return ("/" if ratio else " ").join(words) + (f"^{power}" if power else "")
