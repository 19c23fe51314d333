"""What a model wrote is cleaned before anybody sees it: cases C2, C9, T5 and T6."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsp.output import (
    TextCleaner,
    clean,
    first_control_token,
    spelled_in,
    with_line_feeds,
    without_unsafe_characters,
)

UNSAFE = (
    "\u202e\u2066\u2069\u200b\x1b\x07\x00\u3164\uffa0\u115f\u1160\u034f\u00ad\ufeff\u2060\u180e\u061c"
    "\U000e0100\U000e0041\ufffd\ufdd0\ue000\x85\u200e\u200f\u17b4\ufff9"
)


@pytest.mark.parametrize("char", UNSAFE)
def test_no_unsafe_character_is_shown(char: str) -> None:
    """T5: in ghost text, explanations and edits."""
    assert without_unsafe_characters(f"na{char}me") == "name"
    if char != "\x1b":  # with the character after it an escape sequence
        assert clean(f"na{char}me").replace("\n", "") == "name"


@given(st.text())
def test_only_characters_are_left_out(text: str) -> None:
    cleaned = iter(without_unsafe_characters(text))
    rest = iter(text)
    assert all(char in rest for char in cleaned)


@pytest.mark.parametrize(
    "text",
    [
        "👩\u200d🚀",
        "🏳\ufe0f\u200d🌈",
        "می\u200cروم",
        "क्\u200dष",
        "❤\ufe0f",
        "#\ufe0f\u20e3",
        "ශ්\u200dරී",
        "é中😀",
        "URL\u200c\u0647\u0627\u06cc",
        "\u06f2\u06f0\u200c\u0633\u0627\u0644\u0647",
        "\u2139\ufe0f",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "ᠨ\u180eᠠ",
        "𞤀\u200d𞤁",
        "ꦲ\u200bꦤ",
    ],
)
def test_what_scripts_and_emoji_need_stays(text: str) -> None:
    """C9."""
    assert without_unsafe_characters(f"'{text}'") == f"'{text}'"
    assert clean(f"It prints {text}.") == f"It prints {text}."
    cleaner = TextCleaner()
    assert "".join(map(cleaner.feed, f"'{text}'")) + cleaner.finish() == f"'{text}'"


@pytest.mark.parametrize(
    ("token", "sibling"),
    [
        *(("<fim-middle>", "<fim-prefix>"), ("[MIDDLE]", "[SUFFIX]"), ("<MID>", "<PRE>")),
        *(("<eos>", "<bos>"), ("<unk>", "<s>"), ("<</SYS>>", "<<SYS>>")),
        *(
            ("<|file_sep|>", "<|repo_name|>"),
            ("<\uff5cfim\u2581end\uff5c>", "<\uff5cfim\u2581hole\uff5c>"),
        ),
    ],
)
def test_tokens_of_every_family_are_text_beside_their_siblings(token: str, sibling: str) -> None:
    """C2: in quotes; without a sibling, and outside of quotes, the token has leaked."""
    before = f'A = "{sibling}"\nB = '
    assert first_control_token(f'"{token}"', before, "", [token], "python") is None
    assert first_control_token(f'"{token}"', "B = ", "", [token], "python") == 1
    assert first_control_token(f"1{token}", before, "", [token], "python") == 1


@pytest.mark.parametrize(
    "sequence",
    [
        *(
            "\x1b[2J",
            "\x1b[31;1m",
            "\x1b]0;title\x07",
            "\x1b]8;;x\x1b\\",
            "\x1bc",
            "\x1b(B",
            "\x1b#8",
        ),
        *("\x9b31m", "\x9d0;title\x07", "\x9d0;t\x9c", "\x90q1\x9c", "\x1bPq#0;2\x1b\\", "\x1b%G"),
        *("\x1b_Gf=100;AA\x1b\\", "\x1b^x\x1b\\", "\x1bXx\x07", "\x1b[?25l", "\x1b[38;2;1;2;3m"),
    ],
)
def test_escape_sequences_are_removed_whole(sequence: str) -> None:
    """T5: the visible rest of a sequence would be noise."""
    assert clean(f"a{sequence}b") == "ab" == without_unsafe_characters(f"a{sequence}b")
    cleaner = TextCleaner()
    assert "".join(map(cleaner.feed, f"a{sequence}b")) + cleaner.finish() == "ab"


def test_braille_without_dots_stays_in_braille() -> None:
    """T5, C9: everywhere else it looks like a blank and is part of a name in some languages."""
    assert without_unsafe_characters("na\u2800me") == "name"
    assert without_unsafe_characters("\u2813\u2800\u2811") == "\u2813\u2800\u2811"
    assert without_unsafe_characters("a\u2800", before="x = '\u2800'") == "a\u2800"


@pytest.mark.parametrize("end", ["\r\n", "\r", "\u2028", "\u2029", "\x85", "\x0b", "\x0c"])
def test_line_ends_are_line_feeds(end: str) -> None:
    """T6."""
    assert with_line_feeds(f"a{end}b") == "a\nb" == clean(f"a{end}b")


@pytest.mark.parametrize(
    "token", ["<|im_end|>", "<|endoftext|>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<fim_pad>"]
)
def test_an_explanation_ends_at_a_control_token(token: str) -> None:
    """T5: also where the pieces of the stream part the token."""
    text = f"It adds numbers.{token}\nuser: and then"
    assert clean(text) == "It adds numbers."
    for size in range(1, len(token) + 2):
        cleaner = TextCleaner()
        shown = [cleaner.feed(text[at : at + size]) for at in range(0, len(text), size)]
        assert "".join(shown) + cleaner.finish() == "It adds numbers."


def test_an_explanation_of_control_tokens_may_write_them() -> None:
    """C2: what the document spells is text, and so is what is written in a code span."""
    document = 'END = "<|im_end|>"'
    assert clean("A turn ends with <|im_end|>.", document) == "A turn ends with <|im_end|>."
    assert clean("A turn ends with `<|im_end|>`.") == "A turn ends with `<|im_end|>`."


def test_a_stop_string_is_not_sent_where_the_document_spells_it() -> None:
    """C2: the server would cut the answer there."""
    before = 'PREFIX = "<|fim_prefix|>"\nMIDDLE = '
    assert spelled_in("<|fim_middle|>", before, "")
    assert not spelled_in("<|fim_middle|>", "x = ", "")
    assert not spelled_in("<EOT>", before, "")
    assert first_control_token('"<|fim_middle|>"', before) is None
    assert first_control_token("1<|fim_middle|>", before) == 1


@pytest.mark.parametrize("seed", range(300))
def test_pieces_give_the_same_text_as_the_whole(seed: int) -> None:
    dice = random.Random(seed)
    parts = [
        *("a", " ", "\n", "\r", "\r\n", "<", "<|", "im_end|>", "`", '"', "[", "]"),
        *("👩\u200d🚀", "\u202e", "\x9b", "\x1b(", "\x1b[3", "1m", "می\u200cر"),
    ]
    text = "".join(dice.choice(parts) for _ in range(60))
    cleaner, shown, at = TextCleaner(), "", 0
    while at < len(text):
        size = dice.randint(1, 5)
        shown += cleaner.feed(text[at : at + size])
        at += size
    assert shown + cleaner.finish() == clean(text)


def test_cleaning_takes_linear_time() -> None:
    """A text twice as long takes about twice the steps, also where every character is suspect."""
    import sys

    def steps(text: str) -> int:
        count = 0

        def trace(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(trace)
        try:
            clean(text)
        finally:
            sys.setprofile(None)
        return count

    for unit in ("\u200b", "<|", "\x1b[", "`", "<|im_end", "\r", "[INST", "`<|im_end|>` "):
        one, two = steps(unit * 2000), steps(unit * 4000)
        assert two <= 2.5 * one + 200, unit


@pytest.mark.parametrize(
    "token", ["</s>", "<EOT>", "<eos>", "<bos>", "<end_of_turn>", "<repo_name>", "[/INST]"]
)
def test_tokens_of_families_are_known_without_a_vocabulary(token: str) -> None:
    """C2, T6: a remote server does not name its model's control tokens."""
    assert first_control_token(f"1{token}2", "x = ", language_id="python") == 1
    assert first_control_token(f'"{token}"', f'STOP = ["{token}", ', "]\n") is None


def test_a_closing_tag_is_text_after_its_opening_tag() -> None:
    """C2: in every language, since any may hold markup in strings."""
    assert first_control_token("'<s>old</s>'", "x = ", language_id="python") is None
    assert first_control_token("old</s>", "x = '<s>", language_id="python") is None


def test_a_zero_width_space_stays_between_letters_of_scripts_without_blanks() -> None:
    """C9: it ends a word in Thai, Lao, Myanmar and Khmer, and hides in all other text."""
    for word in ("ภาษา\u200bไทย", "ພາສາ\u200bລາວ", "မြန်\u200bမာ", "ភាសា\u200bខ្មែរ"):
        assert without_unsafe_characters(word) == word
    assert without_unsafe_characters("us\u200ber") == "user"
    assert without_unsafe_characters("ไ\u200bx") == "ไx"


@pytest.mark.parametrize(
    ("before", "answer", "language_id"),
    [
        ('P = """\n<|im_start|>system\nYou', "<|im_end|>", "python"),
        ("# tokens: <|fim_prefix|> ", "<|fim_middle|>", "python"),
        ("/* <|im_start|>\n   ", "<|im_end|>", "c"),
        ("bos: <|im_start|>\neos: ", "<|im_end|>", "yaml"),
        ("<|im_start|>{{ role }}\n{{ content }}", "<|im_end|>", "jinja"),
        ("A prompt begins with <|im_start|> and ends with ", "<|im_end|>", "markdown"),
        ("<|im_start|>user\nHello", "<|im_end|>", "plaintext"),
        ("cat <<EOT\n<|im_start|>x", "<|im_end|>", "shellscript"),
        ("let y = ", "x <| f |> g", "fsharp"),
        ("y = ", "f <| x |> g", "elm"),
    ],
)
def test_control_tokens_that_are_text(before: str, answer: str, language_id: str) -> None:
    """C2: in strings of several lines, comments, data, templates and prose that spell others."""
    control = ("<|im_end|>", "<|im_start|>", "<|fim_middle|>", "<eos>", "<bos>")
    assert first_control_token(answer, before, "", control, language_id) is None


@pytest.mark.parametrize(
    ("before", "language_id"),
    [
        ('P = """\n<|im_start|>\n"""\nx = ', "python"),
        ("# <|im_start|>\nx = ", "python"),
        ("cat <<EOT\n<|im_start|>\nEOT\nx=", "shellscript"),
        ("a: 1\nb: ", "yaml"),
    ],
)
def test_control_tokens_that_have_leaked(before: str, language_id: str) -> None:
    """C2: behind what spells others, or where nothing does."""
    control = ("<|im_end|>",)
    assert first_control_token("1<|im_end|>", before, "", control, language_id) == 1


@pytest.mark.parametrize(
    "text", ["\u0d28\u0d4d\u200d'", "\u0915\u094d\u200d'", "\u0647\u200d)", "\u0915\u094d\u200c "]
)
def test_joiners_at_the_end_of_a_word(text: str) -> None:
    """C9: chillus, half forms and abbreviations."""
    assert without_unsafe_characters(text) == text


@pytest.mark.parametrize("text", ["a\u200d ", "\u200db", "1\u200d'", "\u05d0\u200d'"])
def test_joiners_that_join_nothing(text: str) -> None:
    """C9, T5."""
    assert "\u200d" not in without_unsafe_characters(text)
