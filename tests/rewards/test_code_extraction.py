"""Where a program is found in a response."""

import time

import pytest

from mimosa.rewards.code_extraction import program


@pytest.mark.parametrize(
    ("response", "found"),
    [
        ("x = 1", "x = 1"),
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```py\nx = 1", "x = 1"),  # cut off
        ("Text\n``` Python\nx = 1\n```\nmore", "x = 1\n"),
        ("```python title=a.py\nx = 1\n```", "x = 1\n"),
        ("~~~python\nx = 1\n~~~", "x = 1\n"),
        ("```python`\nx = 1", "```python`\nx = 1"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("```python\nx = 1\n```\n```python\nx = 2\n```", "x = 2\n"),
        ("```python\nx = 1\n```\nOutput:\n```\n1\n```", "x = 1\n"),  # a tagged block goes before an untagged one
        ("```python\nx = 1\n```\n```bash\nls\n```", "x = 1\n"),
        ("```js\nx = 1\n```", ""),
        ("<think>```python\nx = 1\n```</think>```python\nx = 2\n```", "x = 2\n"),
        ("<think>```python\nx = 1\n```", ""),
        ("- step\n  ```python\n  if x:\n      y\n  ```", "if x:\n    y\n"),
        ("s = 'a ``` b'", "s = 'a ``` b'"),
        ("", ""),
    ],
)
def test_blocks(response, found):
    assert program(response) == found


def test_the_block_that_defines_the_function_is_taken():
    response = "```python\ndef f(x):\n    return x\n```\nUse:\n```python\nprint(f(1))\n```"
    assert program(response, "f") == "def f(x):\n    return x\n"
    assert program(response, "g") == "print(f(1))\n"
    assert program("```\nf = abs\n```\n```python\nf(1)\n```", "f") == "f = abs\n"
    assert program("```python\ndef fa(x): pass\n```\n```python\n0\n```", "f") == "0\n"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "response",
    [
        "```python\n" * 50000, "`" * 400000, "```" + "a" * 400000 + "`", "```python\n" + " " * 400000 + "x",
        "```a`\n" * 90000, "def \t" * 90000,
    ],
    ids=["fences", "ticks", "info", "blanks", "broken", "defs"],
)  # fmt: skip
def test_long_responses_take_no_time(response):
    start = time.perf_counter()
    program(response, "f")
    assert time.perf_counter() - start < 5  # a quadratic search would take minutes
