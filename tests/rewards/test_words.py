"""Words and the letters of choices."""

from mimosa.rewards.words import without_label, words_of


def test_words_lose_fonts_case_and_punctuation():
    assert words_of("\\text{New York}") == words_of("new york.") == "new york"
    assert words_of("no") == words_of("\\text{No}") == "no"
    assert words_of("well-known fact") == "well known fact"


def test_one_letter_keeps_its_case():
    assert words_of("(B)") == words_of("B.") == words_of("\\text{(B)}") == "B"
    assert words_of("b") is None


def test_mathematics_is_no_words():
    for text in ("x", "ab", "x y", "p - q", "2abc", "\\pi", "abc+d", ""):
        assert words_of(text) is None


def test_a_label_stands_for_the_choice_or_before_the_value():
    assert without_label("(B) 7", "B") == "B"
    assert without_label("\\text{(B)} 7", "7") == "7"
    for text in ("(B) or (C)", "(B)(C)", "(B) is wrong", "(B) not this", "(B) \x00", "B"):
        assert without_label(text, "B") == text
