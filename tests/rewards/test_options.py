"""What the command line says of a reward."""

import pytest

from mimosa.rewards.options import parse


@pytest.mark.parametrize(
    ("spec", "words", "found"),
    [
        ("math", [], ("math", {})),
        ("math:lenient", [], ("math", {"lenient": True})),
        ("math", ["answer_after=####"], ("math", {"answer_after": "####"})),
        ("math", ["answer_after=a=b", "lenient=false"], ("math", {"answer_after": "a=b", "lenient": False})),
        ("code:unsafe", ["memory_mb=256"], ("code", {"unsafe": True, "memory_mb": 256})),
    ],
)
def test_options_are_read(spec, words, found):
    assert parse(spec, words) == found


@pytest.mark.parametrize(
    ("spec", "words", "said"),
    [
        ("maths", [], "unknown verifier 'maths'; nearest known: 'math'"),
        ("math:lenien", [], "unknown option 'lenien' of verifier 'math'; nearest known: 'lenient'"),
        ("math", ["lenient=1"], "option 'lenient' of verifier 'math' is 1, wanted a value of type bool"),
        ("math", ["lenient"], "option of the reward: got 'lenient', wanted key=value"),
        ("nowhere.py:grade", [], "nowhere.py:grade"),
    ],
)
def test_a_mistake_is_one_line(spec, words, said):
    with pytest.raises(ValueError) as error:
        parse(spec, words)
    assert said in str(error.value) and "\n" not in str(error.value)
