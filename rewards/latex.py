r"""One spelling for answers that LaTeX and people write in many.

`canonical` maps text to text and never evaluates: spacing commands, sizes of brackets, fonts, unicode symbols and synonyms go;
`\frac12`, `x^(n+1)` and `sqrt(2)` get their braces. Words stay inside `\text{...}`.
"""

from __future__ import annotations

import re

_SUPER = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n")
_SUB = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_VULGAR = {
    "½": (1, 2), "⅓": (1, 3), "⅔": (2, 3), "¼": (1, 4), "¾": (3, 4), "⅕": (1, 5), "⅖": (2, 5), "⅗": (3, 5), "⅘": (4, 5),
    "⅙": (1, 6), "⅚": (5, 6), "⅛": (1, 8), "⅜": (3, 8), "⅝": (5, 8), "⅞": (7, 8),
}  # fmt: skip
_SYMBOLS = {
    "∞": r"\infty ", "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ",
    "φ": r"\phi ", "ω": r"\omega ", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "−": "-", "–": "-",
    "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "≈": r"\approx ", "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "→": r"\to ", "⇒": r"\to ",
    "°": r"^\circ ", "…": r"\ldots ", "⁄": "/", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ", "′": "'",
    "⟨": r"\langle ", "⟩": r"\rangle ", "€": r"\euro ", "£": r"\pound ", "¥": r"\yen ",
}  # fmt: skip
_TABLE = str.maketrans(
    _SYMBOLS
    | {char: rf"\frac{{{n}}}{{{d}}}" for char, (n, d) in _VULGAR.items()}
    | {chr(0x1D7CE + i): str(i % 10) for i in range(50)}  # digits in mathematical fonts
    | {chr(0xFF01 + i): chr(0x21 + i) for i in range(94)}  # full-width forms of ASCII
)

_SYNONYMS = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "nicefrac": r"\frac", "dbinom": r"\binom", "tbinom": r"\binom",
    "le": r"\leq", "ge": r"\geq", "leqslant": r"\leq", "geqslant": r"\geq", "ne": r"\neq", "lt": "<", "gt": ">",
    "varnothing": r"\emptyset", "rightarrow": r"\to", "Rightarrow": r"\to", "longrightarrow": r"\to", "implies": r"\to",
    "iff": r"\to", "Leftrightarrow": r"\to", "dots": r"\ldots", "cdots": r"\ldots", "dotsc": r"\ldots", "lbrace": r"\{",
    "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "lvert": "|", "rvert": "|", "vert": "|", "degree": r"^\circ",
    "ast": "*", "colon": ":", "R": r"\mathbb{R}", "reals": r"\mathbb{R}", "tg": r"\tan", "ctg": r"\cot", "simeq": r"\approx",
    "sim": r"\approx", "langle": "(", "rangle": ")", "backslash": r"\setminus", "smallsetminus": r"\setminus",
    "infin": r"\infty", "lor": r"\text{or}",
    "vee": r"\text{or}", "land": r"\text{and}", "wedge": r"\text{and}",
}  # fmt: skip
_SIZES_AND_STYLES = (
    "left right big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr middle displaystyle textstyle scriptstyle "
    "limits nolimits mathstrut strut rm bf it boxed fbox"
)
_DROPPED = frozenset(_SIZES_AND_STYLES.split())
_SPACE_NAMES = "quad qquad thinspace medspace thickspace space enspace nbsp"
_SPACES = frozenset(_SPACE_NAMES.split())
_FONT_NAMES = (
    "text textbf textit textrm textsf texttt textnormal mathrm mathbf mathit mathsf mathtt mbox hbox emph boldsymbol bm "
    "operatorname"
)
_FONTS = frozenset(_FONT_NAMES.split())
_UPRIGHT_UNITS = frozenset("mgshLNJW")
_FUNCTION_NAMES = "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp sqrt pi theta infty infinity"
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_FONT_NAME = r"\\(" + "|".join(sorted(_FONTS, key=len, reverse=True)) + r")\*?\s*"
_FONT = re.compile(_FONT_NAME + r"\{([^{}]*)\}")
_FONT_AROUND = re.compile(_FONT_NAME + r"\{(?=[^{}]*\{)")
_BARE = re.compile(r"(?<![\\a-zA-Z])(" + "|".join(sorted(_FUNCTIONS, key=len, reverse=True)) + r")(?![a-zA-Z])")
_TEXT = re.compile(r"(\\text\{[^{}]*\})")
_SPACING = re.compile(r"\\[,;:> ]|~|\\hspace\*?\{[^{}]*\}|\s")
_SHORT_FRACTION = re.compile(r"\\(frac|binom) ?([0-9a-zA-Z]) ?([0-9a-zA-Z])")
_HALF_FRACTION = re.compile(r"\\(frac|binom) ?([0-9a-zA-Z]) ?\{")
_TAIL_FRACTION = re.compile(r"(\\(?:frac|binom) ?\{[^{}]*\}) ?([0-9a-zA-Z])")
_SHORT_ROOT = re.compile(r"\\sqrt ?([0-9a-zA-Z])")
_SHORT_EXPONENT = re.compile(r"\^ ?([-+]?[0-9]+|-?[a-zA-Z])")
_SHORT_INDEX = re.compile(r"_ ?([0-9]+|[a-zA-Z])")
_EXPONENT = re.compile(r"([\^_]) ?\{ ?([^{}]+?) ?\}")
_ESCAPED_COMMAND = re.compile(r"\\\\(?=[a-zA-Z])")
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\{,\}|,\\!|\\,)(?=[0-9]{3}(?![0-9]))")
_COLOR = re.compile(r"\\(?:text)?color ?\{[a-zA-Z]+\}|\\(?:underline|underbrace|mathstrut|hfill)(?![a-zA-Z])")
_BLACKBOARD = re.compile(r"\\mathbb ?([A-Z])")
_DELIMITER = re.compile(r"\\[()\[\]]")
_PLUS = re.compile(r"(^ ?|[=(\[{,] ?)\+ ?(?=[0-9a-zA-Z\\.])")
_IDLE_SPACE = re.compile(r"(?<![0-9a-zA-Z]) | (?![0-9a-zA-Z])")


def canonical(text: str) -> str:
    r"""The canonical spelling of an answer; idempotent up to spaces.

    >>> canonical(r"$\left( \dfrac12 ,\, 3 \right)$.")
    '(\\frac{1}{2}, 3)'
    """
    if not text.isascii():
        text = _ascii(text)
    text = text.strip()
    if text.startswith("**") and text.endswith("**"):
        text = text[2:-2]
    if "\\\\" in text:
        text = text if "\\begin" in text else _ESCAPED_COMMAND.sub(r"\\", text)
        text = text.replace("\\\\", "\\newline ")
    text = (
        _THOUSANDS.sub("", text).replace("\\!", "").replace("{,}", ",").replace("\\$", "\\dollar ").replace("\\%", "%")
    )
    text = _lone_dollar(text).replace("**", "^")
    if text.lstrip().startswith("~"):  # no space where there is nothing to part: people write "about" so
        text = text.replace("~", "\\approx ", 1)
    text = text.replace("{:}", ":").replace("\\text{\\dollar }", "\\dollar ")
    if "\\" in text:
        text = _COLOR.sub("", text)
        text = _DELIMITER.sub("", text)
        text = _unwrapped(_FONT_AROUND.sub("{", _FONT.sub(_font, text)))
        text = _BLACKBOARD.sub(r"\\mathbb{\1}", _COMMAND.sub(_command, text))
    text = _SPACING.sub(" ", text)
    text = "".join(part if part.startswith("\\text{") else _mathematics(part) for part in _TEXT.split(text))
    return _trimmed(text)


def compact(text: str) -> str:
    """`text` without the spaces that separate nothing; equal compact texts are equal answers."""
    return _IDLE_SPACE.sub("", text)


def closing(text: str, opening: int) -> int:
    """Index of the bracket that closes the `(`, `[` or `{` at `opening`, or -1."""
    pairs = {"(": ")", "[": "]", "{": "}"}
    stack: list[str] = []
    for at in range(opening, len(text)):
        char = text[at]
        if char in pairs:
            stack.append(pairs[char])
        elif char in ")]}":
            if not stack or stack.pop() != char:
                return -1
            if not stack:
                return at
    return -1


def _ascii(text: str) -> str:
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ]+", lambda match: "^{" + match.group().translate(_SUPER) + "}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", lambda match: "_{" + match.group().translate(_SUB) + "}", text)
    text = re.sub(r"√ ?(\d+|[a-zA-Zπ])", r"\\sqrt{\1}", text, flags=re.ASCII).replace("√", "sqrt")
    return text.translate(_TABLE)


def _lone_dollar(text: str) -> str:
    """Dollar signs that delimit mathematics go; one alone before a number is money."""
    if text.count("$") == 1 and text.lstrip("-+ ").startswith("$"):
        return text.replace("$", "\\dollar ")
    return text.replace("$", "")


def _unwrapped(text: str) -> str:
    """The content of a `\\text{...}` that is all there is."""
    match = _TEXT.fullmatch(text.strip(" .$"))
    return match.group()[len("\\text{") : -1] if match else text


def _font(match: re.Match[str]) -> str:
    command, content = match.groups()
    content = " ".join(content.split())
    if command == "operatorname" and content in _FUNCTIONS:
        return "\\" + content + " "
    if command == "mathrm" and content in _UPRIGHT_UNITS:
        return "\\text{" + content + "}"
    if not command.startswith("t") and command not in ("mbox", "hbox", "emph") and len(content) == 1:
        return content
    return "\\text{" + content + "}" if content else " "


def _command(match: re.Match[str]) -> str:
    name = match.group(1)
    if name in _DROPPED:
        return ""
    if name in _SPACES:
        return " "
    return _SYNONYMS.get(name, match.group())


def _mathematics(text: str) -> str:
    text = text.replace("<=", "\\leq ").replace(">=", "\\geq ").replace("!=", "\\neq ").replace("=>", "\\to ")
    text = text.replace("->", "\\to ")
    text = _BARE.sub(lambda match: "\\" + match.group().replace("infinity", "infty"), text)
    text = _grouped(text, "\\sqrt")
    text = _grouped(text, "^")
    text = _SHORT_FRACTION.sub(r"\\\1{\2}{\3}", text)
    text = _HALF_FRACTION.sub(r"\\\1{\2}{", text)
    text = _TAIL_FRACTION.sub(r"\1{\2}", text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = _SHORT_EXPONENT.sub(r"^{\1}", text)
    text = _SHORT_INDEX.sub(r"_{\1}", text)
    text = text.replace("^{\\circ}", "^\\circ").replace("^{\\circ }", "^\\circ")
    return unsigned(_EXPONENT.sub(r"\1{\2}", text))


def unsigned(text: str) -> str:
    """`text` without plus signs that stand first: x=+3 becomes x=3."""
    return _PLUS.sub(r"\1", text)


def _grouped(text: str, prefix: str) -> str:
    """Parentheses right after `prefix` become braces."""
    for _ in range(text.count(prefix)):
        match = re.search(re.escape(prefix) + r" ?\(", text)
        if match is None:
            break
        end = closing(text, match.end() - 1)
        if end < 0:
            break
        text = text[: match.start()] + prefix + "{" + text[match.end() : end] + "}" + text[end + 1 :]
    return text


def _trimmed(text: str) -> str:
    text = " ".join(text.split()).strip()
    while True:
        before = text
        text = text.rstrip(".").strip()
        if text.startswith("{") and closing(text, 0) == len(text) - 1:
            text = text[1:-1].strip()
        if text == before:
            return text
