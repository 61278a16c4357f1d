"""The examples of docs/rewards.md: files are written, commands are typed, outputs compared, as a reader would from top to bottom."""

import doctest
import re
import shlex
import sys
from pathlib import Path

import pytest

from mimosa.__main__ import main

PAGE = Path(__file__).parent.parent / "docs" / "rewards.md"
BLOCK = re.compile(r"^```(\w+)(?: (\w+)=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAME = doctest.OutputChecker()
LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks():
    """(kind, attribute, its value, content) of every fenced block that says what language it is."""
    return BLOCK.findall(PAGE.read_text())


def typed(content):
    """(command, output) pairs of a console block."""
    parts = re.split(r"^\$ mimosa (.+)\n", content, flags=re.MULTILINE)
    assert not parts[0].strip(), "a console block begins with a command"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def test_the_examples_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    ran = {"file": 0, "wanted": 0, "console": 0, "pycon": 0}
    for kind, attribute, value, content in blocks():
        if attribute == "file":
            (tmp_path / value).write_text(content)
            ran["file"] += 1
        elif attribute == "wanted":
            assert SAME.check_output(content, (tmp_path / value).read_text(), LOOSE), (tmp_path / value).read_text()
            ran["wanted"] += 1
        elif kind == "console":
            for command, output in typed(content):
                status = main(shlex.split(command))
                said = capsys.readouterr()
                assert status == int(value or 0), (command, said)
                assert SAME.check_output(output, said.out, LOOSE), f"{command}\n{said.out}{said.err}"
                ran["console"] += 1
        elif kind == "pycon":
            test = doctest.DocTestParser().get_doctest(content, {}, "docs/rewards.md", None, 0)
            report = []
            doctest.DocTestRunner(verbose=False).run(test, out=report.append)
            assert not report, "".join(report)
            ran["pycon"] += 1
    sys.modules.pop("length", None)
    assert ran == {"file": 6, "wanted": 1, "console": 12, "pycon": 2}


@pytest.mark.parametrize("page", sorted((PAGE.parent).glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
