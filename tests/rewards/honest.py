# ruff: noqa: E501 - a program a line
"""Honest programs with habits, and the rows that they solve."""

from programs import prompt

SUM = prompt({"kind": "stdin", "cases": [{"input": "3 4\n", "output": "7\n"}, {"input": "10 -4", "output": "6  \n\n"}]})


def asserting(*lines, entry="solve", **more):
    code = "def check(candidate):\n" + "".join(f"    {line}\n" for line in lines)
    return prompt({"kind": "assert", "entry_point": entry, "code": code, **more})


SORT = asserting("assert candidate([3, 1, 2]) == [1, 2, 3]", "assert candidate([]) == []")
HONEST = {
    "plain": (SORT, "def solve(x): return sorted(x)"),
    "fenced": (SORT, "Here:\n```python\ndef solve(x):\n    return sorted(x)\n```\nDone."),
    "noise": (SORT, "import sys\nprint('hello' * 9999)\nprint('e', file=sys.stderr)\ndef solve(x):\n    print(x)\n    return sorted(x)"),
    "helpers": (SORT, "def low(x): return min(x)\ndef solve(x):\n    x, out = list(x), []\n    while x:\n        out.append(low(x))\n        x.remove(out[-1])\n    return out"),
    "hints": (SORT, "from __future__ import annotations\nfrom typing import List, Optional\ndef solve(x: List[int]) -> Optional[List[int]]: return sorted(x)"),
    "lambda": (SORT, "solve = lambda x: sorted(x)"),
    "decorated": (SORT, "import functools\ndef traced(f):\n    @functools.wraps(f)\n    def g(*a): return f(*a)\n    return g\n@traced\ndef solve(x): return sorted(x)"),
    "class_inside": (SORT, "from dataclasses import dataclass\n@dataclass(order=True)\nclass Box:\n    v: int\ndef solve(x): return [b.v for b in sorted(map(Box, x))]"),
    "generator_inside": (SORT, "def gen(x): yield from sorted(x)\ndef solve(x): return list(gen(x))"),
    "mutates_input": (SORT, "def solve(x):\n    x.sort()\n    return x"),
    "main_guard": (SORT, "def solve(x): return sorted(x)\nif __name__ == '__main__':\n    print(solve(eval(input())))"),
    "no_numpy": (SORT, "try:\n    import numpy as np\nexcept ImportError:\n    np = None\ndef solve(x): return sorted(x) if np is None else np.sort(x).tolist()"),
    "list_subclass": (SORT, "class Mine(list): pass\ndef solve(x): return Mine(sorted(x))"),
    "threads": (SORT, "from concurrent.futures import ThreadPoolExecutor\ndef solve(x):\n    with ThreadPoolExecutor(2) as pool: return sorted(pool.map(int, x))"),
    "event_loop": (SORT, "import asyncio\nasync def slow(x):\n    await asyncio.sleep(0.01)\n    return sorted(x)\ndef solve(x): return asyncio.run(slow(x))"),
    "global_state": (SORT, "count = 0\ndef solve(x):\n    global count\n    count += 1\n    return sorted(x)"),
    "unusual_imports": (SORT, "import colorsys, email.message, xml.etree.ElementTree, pathlib, secrets, uuid\ndef solve(x): return sorted(x)"),
    "deep_recursion": (
        asserting("assert candidate(20000) == 20000"),
        "import sys\nsys.setrecursionlimit(10**6)\ndef solve(n): return 0 if n == 0 else 1 + solve(n - 1)",
    ),
    "big_integers": (asserting("assert candidate(9000) == 3 ** 9000", "assert candidate(-1) == -(10 ** 5000)"), "def solve(n): return 3 ** n if n > 0 else -10 ** 5000"),
    "every_type": (
        asserting(
            "for x in (None, True, -7, 2.5, 'ü\\ud800', b'\\0', 1j, (1, (2,)), {1, 2}, frozenset({3}), {(1, 2): [3]}, range(5), bytearray(b'a')):",
            "    r = candidate(x)",
            "    assert r == x and type(r) is type(x)",
            "assert str(candidate(float('nan'))) == 'nan' and candidate(float('inf')) == float('inf') and str(candidate(-0.0)) == '-0.0'",
        ),
        "def solve(x): return x",
    ),
    "keywords": (asserting("assert candidate(1, *[2], c=3) == 6"), "def solve(a, b, *, c): return a + b + c"),
    "raises_as_wanted": (
        asserting("try:", "    candidate(-1)", "except ValueError as error:", "    assert 'negative' in str(error)", "else:", "    assert False"),
        "class Negative(ValueError): pass\ndef solve(x): raise Negative('negative')",
    ),
    "counter": (asserting("assert candidate('aab') == {'a': 2, 'b': 1}"), "from collections import Counter\ndef solve(x): return Counter(x)"),
    "type_argument": (asserting("assert candidate([1, 'a', 2], int) == ['a']"), "def solve(x, kind): return [v for v in x if not isinstance(v, kind)]"),
    "own_class": (
        asserting("root = Node(1)", "root.next = Node(2)", "root.next.next = Node(3)", "assert root.next.value == 2", "assert candidate(root) == 3"),
        "class Node:\n    def __init__(self, value): self.value, self.next = value, None\ndef solve(n): return 0 if n is None else 1 + solve(n.next)",
    ),
    "named_check": (asserting("assert check(3) == 4", "assert candidate(4) == 5", entry="check"), "def check(x): return x + 1"),
    "bare_assertions": (prompt({"kind": "assert", "entry_point": "solve", "code": "assert solve(2) == 4\nassert solve(0) == 0"}), "def solve(x): return x * x"),
    "prelude": (
        prompt({"kind": "assert", "entry_point": "solve", "prelude": "import math\ndef twice(x): return 2 * x\ndef solve(x): pass", "code": "def check(f):\n    assert f(2) == twice(2)\n    assert math.isclose(f(.5), 1)"}),
        "def solve(x): return 2 * x",
    ),
    "program": (SUM, "a, b = map(int, input().split())\nprint(a + b)"),
    "program_by_sys": (SUM, "import sys\nsys.stdout.write(str(sum(map(int, sys.stdin.buffer.read().split()))))"),
    "program_by_open": (SUM, "print(sum(map(int, open(0).read().split())))"),
    "program_main": (SUM, "def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()\n    exit()"),
    "program_exits_0": (SUM, "import sys\nprint(sum(map(int, sys.stdin)) if False else sum(map(int, sys.stdin.read().split())))\nsys.exit(0)"),
    "program_atexit": (SUM, "import atexit\nx = sum(map(int, input().split()))\natexit.register(print, x)"),
    "program_thread": (SUM, "import sys, threading\nthreading.stack_size(1 << 25)\nsys.setrecursionlimit(10**6)\nthreading.Thread(target=lambda: print(sum(map(int, input().split())))).start()"),
    "program_stderr": (SUM, "import sys\nprint('debug', file=sys.stderr)\nprint(sum(map(int, input().split())))"),
}  # fmt: skip
