"""Prompts for next-edit models, and what is made of their answers."""

from __future__ import annotations

import math
import random
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from assistant.memory.gguf.remote import choose_file
from assistant.memory.model.known_models import known_models
from assistant.models.catalogue import model_name
from context.edits import NextEdit, Problem, Scene, gate, model_edits
from context.edits.history import History, between
from context.edits.model_edits import Answer, AnswerToken, EditPrompt
from context.syntax.document import Document

_GOLDEN: dict[str, str] = tomllib.loads(
    Path(__file__).with_name("model_prompts.toml").read_text("utf-8")
)
BEFORE = """import math


def area(r):
    return math.pi * r ** 2


def volume(r):
    return 4 / 3 * math.pi * r ** 3
"""
AFTER = BEFORE.replace(
    "def area(r):\n    return math.pi * r ", "def area(radius):\n    return math.pi * radius "
)


def scene(before: str, after: str, cursor: int | None = None, path: str = "shapes.py") -> Scene:
    document = Document("/p", path, after)
    changed = between(before.split("\n"), after.split("\n"))
    assert changed is not None
    history = History()
    history.changed(*changed)
    source = document.source
    assert source is not None
    return Scene(
        document, source, after.index("radius **") if cursor is None else cursor, history.hunks
    )


def prompt(family: str, seen: Scene | None = None, budget_tokens: int = 10_000) -> EditPrompt:
    form = model_edits.formats()[family]
    made = model_edits.prompt_for(seen or scene(BEFORE, AFTER), form, budget_tokens, len)
    assert made is not None
    return made


@pytest.mark.parametrize("family", model_edits.formats())
def test_a_prompt_is_as_in_the_golden_file(family: str) -> None:
    assert prompt(family).text == _GOLDEN[family]


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("sweep-next-edit-1.5b", "sweep"),
        ("Sweep Next Edit 0.5B", "sweep"),
        ("zeta-2.1-Q4_K_M", "zeta-2-1"),
        ("zeta-2", "zeta-2"),
        ("Zeta", "zeta-1"),
        ("instinct", "instinct"),
    ],
)
def test_a_family_is_known_by_the_models_name(model: str, family: str) -> None:
    found = model_edits.format_for(model)
    assert found is not None and found.name == family


@pytest.mark.parametrize(
    ("name", "file", "family"),
    [
        ("sweep-next-edit-0.5b", "sweep-next-edit-0.5b.q8_0.gguf", "sweep"),
        ("sweep-next-edit-1.5b", "sweep-next-edit-1.5b.q8_0.v2.gguf", "sweep"),
        ("zeta-2", "zed-industries_zeta-2-Q4_K_M.gguf", "zeta-2"),
        ("zeta-2.1", "zeta-2.1-q4_k_m.gguf", "zeta-2-1"),
    ],
)
def test_a_model_that_can_be_pulled_has_a_file_and_a_format(
    name: str, file: str, family: str
) -> None:
    known = known_models()[name]
    assert choose_file([file], known.quantisation, known.repository) == file
    found = model_edits.format_for(model_name(file))
    assert found is not None and found.name == family


def test_other_models_were_not_trained_for_it() -> None:
    assert model_edits.format_for("Qwen2.5 Coder 0.5B Instruct") is None


def test_what_the_editor_reports_near_the_region_is_a_hint() -> None:
    seen = scene(BEFORE, AFTER)
    secret = "ghp_" + "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"
    problems = (Problem(8, "r is\nundefined"), Problem(500, "far"), Problem(9, f"bad {secret}"))
    text = prompt("generic", replace(seen, problems=problems)).text
    assert "Problems that the editor reports:\nline 9: r is undefined\nline 10: bad" in text
    assert "far" not in text and secret not in text
    assert "Problems" not in prompt("generic", seen).text


def test_control_tokens_count_in_the_format_only() -> None:
    text = BEFORE.replace("import math", "import math  # <|file_sep|>")
    seen = scene(text, text.replace("area(r)", "area(radius)"), 0)
    parts = prompt("sweep", seen).parts({"<|file_sep|>": 7, "<|unused|>": 8})
    assert parts.count(7) == 5
    assert any(isinstance(one, str) and "# <|file_sep|>" in one for one in parts)
    texts = ["<|file_sep|>" if one == 7 else str(one) for one in parts]
    assert "".join(texts) == prompt("sweep", seen).text


def confidence(made: EditPrompt, tokens: list[AnswerToken]) -> float:
    text = b"".join(one.data for one in tokens).decode("utf-8", "replace")
    return model_edits.confidence(Answer(made, text, tokens))


def applied(seen: Scene, edit: NextEdit) -> str:
    return seen.text[: edit.start] + edit.text + seen.text[edit.stop :]


ANSWERS = {
    "sweep": "{}<|file_sep|>more",
    "zeta-2-1": "<|marker_1|>{}<|marker_2|>\n",
    "zeta-2": "{}>>>>>>> UPDATED\n",
    "zeta-1": "<|editable_region_start|>\n{}<|editable_region_end|>\n```",
    "instinct": "<|editable_region_start|>\n{}<|editable_region_end|>",
    "generic": "{}```\nMore text.",
}


@pytest.mark.parametrize("family", model_edits.formats())
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    return math.pi * radius ** 2\n", "    return math.pi * radius**2\n"),
        ("    return math.pi * radius ** 2\n", ""),
        ("def area(radius):\n", "# Of a circle.\ndef area(radius):\n"),
        ("radius ** 2\n", "radius ** 2\n\n    # end\n"),
    ],
)
def test_the_edit_makes_the_text_of_the_answer(family: str, old: str, new: str) -> None:
    seen = scene(BEFORE, AFTER)
    made = prompt(family, seen)
    assert old in made.region
    answer = ANSWERS[family].format(made.region.replace(old, new))
    edit = model_edits.edit_in(made, answer, seen)
    assert edit is not None and applied(seen, edit) == AFTER.replace(old, new)


@pytest.mark.parametrize("family", model_edits.formats())
def test_an_answer_without_a_change_is_no_edit(family: str) -> None:
    seen = scene(BEFORE, AFTER)
    made = prompt(family, seen)
    for answer in (ANSWERS[family].format(made.region), made.region, "", "\n"):
        assert model_edits.edit_in(made, answer, seen) is None
    if made.format.unchanged:
        assert model_edits.edit_in(made, made.format.unchanged, seen) is None


@pytest.mark.parametrize(
    "char", "\u202e\u2066\u200b\u3164\uffa0\u115f\u034f\ufeff\U000e0100\x00\x07"
)
@pytest.mark.parametrize("family", model_edits.formats())
def test_an_edit_has_no_unsafe_characters(family: str, char: str) -> None:
    """T5: of new and of changed lines; a change of nothing else is no edit."""
    seen = scene(BEFORE, AFTER)
    made = prompt(family, seen)
    answer = ANSWERS[family].format(made.region.replace("** 2", f"*{char}* 2.0"))
    edit = model_edits.edit_in(made, answer, seen)
    assert edit is not None and applied(seen, edit) == AFTER.replace("** 2", "** 2.0")
    answer = ANSWERS[family].format(made.region.replace("** 2", f"*{char}* 2"))
    assert model_edits.edit_in(made, answer, seen) is None


@pytest.mark.parametrize("char", ["\u202e", "\u200b", "\u3164", "\x1b[1m", "\x0c"])
def test_an_edit_keeps_what_the_lines_have(char: str) -> None:
    """T5, C9: characters that cannot be seen, in a line that is changed elsewhere."""
    before, after = (
        one.replace("radius ** 2", f'radius ** 2  # "{char}"') for one in (BEFORE, AFTER)
    )
    seen = scene(before, after)
    made = prompt("generic", seen)
    answer = ANSWERS["generic"].format(made.region.replace("** 2", "**2"))
    edit = model_edits.edit_in(made, answer, seen)
    assert edit is not None and applied(seen, edit) == after.replace("** 2", "**2")


@pytest.mark.parametrize("end", ["\r", "\u2028", "\u2029", "\x85", "\x0b"])
def test_line_ends_of_an_edit_are_line_feeds(end: str) -> None:
    """T6: what another program would take for a line end is one for all."""
    seen = scene(BEFORE, AFTER)
    made = prompt("generic", seen)
    answer = ANSWERS["generic"].format(made.region.replace("** 2\n", f"** 2  # x{end}    # y\n"))
    edit = model_edits.edit_in(made, answer, seen)
    assert edit is not None and end not in edit.text and "# x\n    # y" in edit.text


def marked_prompt() -> tuple[Scene, EditPrompt, list[str]]:
    """Two blocks, the second from the first line after a blank one that may begin a block."""
    lines = [f"name_{number} = {number}" for number in range(60)]
    lines[26:30] = ["", "}", "break;", "title = 1"]
    text = "\n".join([*lines, ""])
    seen = scene(text.replace("name_30 ", "other "), text, text.index("name_30 "))
    made = prompt("zeta-2-1", seen)
    region = made.region.splitlines(keepends=True)
    return seen, made, ["".join(region[a:b]) for a, b in pairwise(made.starts)]


def test_the_blocks_of_a_region_are_marked() -> None:
    _, made, blocks = marked_prompt()
    assert made.starts == (0, 9, 21)
    written = "<|marker_1|>{}<|marker_2|>{}<|marker_3|>\n<[fim-middle]>".format(*blocks)
    assert written in made.text.replace("<|user_cursor|>", "")
    assert model_edits._block_starts(["a"] * 6 + ["", "}", "b"] + ["c"] * 6, 6, 16) == (0, 8, 15)
    assert model_edits._block_starts(["a"] * 6 + ["", "b"], 6, 16) == (0, 8)
    assert model_edits._block_starts(["a"] * 40, 6, 16) == (0, 16, 32, 40)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("<|marker_2|>{new}<|marker_3|><[end▁of▁sentence]>", "title = 2"),
        ("<|marker_2|>{new}<|marker_3|>", "title = 2"),
        ("<|marker_1|>{first}<|marker_2|>{new}<|marker_3|>", "title = 2"),
        ("<|marker_1|>{first}{new}<|marker_3|>", "title = 2"),
        ("<|marker_2|>{new}", "title = 2"),
        ("<|marker_2|>\n{new}<|marker_3|>", "title = 2"),
        ("<|marker_2|><|marker_2|>", None),
        ("<|marker_3|>{new}<|marker_2|>", None),
        ("<|marker_2|>{new}<|marker_7|>", None),
        ("<|marker_0|>{new}<|marker_2|>", None),
        ("<|marker_2|>{old}<|marker_3|>", None),
        ("NO_EDITS", None),
    ],
)
def test_an_answer_goes_from_one_mark_to_a_later_one(answer: str, expected: str | None) -> None:
    seen, made, (first, old) = marked_prompt()
    new = old.replace("title = 1", "title = 2")
    edit = model_edits.edit_in(made, answer.format(first=first, old=old, new=new), seen)
    assert (edit.text if edit is not None else None) == expected
    if edit is not None:
        assert applied(seen, edit) == seen.text.replace("title = 1", "title = 2")


@pytest.mark.parametrize("parts", [("<|marker_2|>",), ("<|marker_1|>", "first", "<|marker_2|>")])
def test_confidence_in_a_block_is_that_of_its_changed_tokens(parts: tuple[str, ...]) -> None:
    _, made, (first, old) = marked_prompt()
    before, _, after = old.partition("1\n")
    tokens = [AnswerToken((first if one == "first" else one).encode(), -9.0) for one in parts]
    tokens += [AnswerToken(before.encode(), -9.0), AnswerToken(b"2", math.log(0.5))]
    tokens += [AnswerToken(one.encode(), -9.0) for one in (f"\n{after}", "<|marker_3|>")]
    assert confidence(made, tokens) == pytest.approx(0.5)


def test_an_answer_that_begins_with_a_later_block_is_settled() -> None:
    _, made, (first, old) = marked_prompt()
    new = old.replace("title = 1", "title = 2")
    found = Answer(made)
    for line in f"<|marker_2|>{new}".splitlines(keepends=True):
        if found.add(line, [AnswerToken(line.encode(), -0.5)]):
            break
    assert found.settled and found.text == f"<|marker_1|>{first}{new}"


def test_the_cursor_mark_is_not_part_of_the_edit() -> None:
    seen = scene(BEFORE, AFTER)
    made = prompt("zeta-2", seen)
    answer = made.region.replace("** 2", "** 2.0").replace("area", "ar<|user_cursor|>ea")
    edit = model_edits.edit_in(made, answer, seen)
    assert edit is not None and "<|" not in applied(seen, edit)


def test_confidence_is_that_of_the_changed_tokens() -> None:
    made = prompt("zeta-2-1")
    start, end = made.region.split("** 2")
    tokens = [AnswerToken(one.encode(), -9.0) for one in ("<|marker_1|>", "\n", start)]
    tokens += [AnswerToken(b"**", math.log(0.5)), AnswerToken(b"2", math.log(0.5))]
    tokens += [AnswerToken(one.encode(), -9.0) for one in (end, "<|marker_2|>")]
    assert confidence(made, tokens) == pytest.approx(0.5)
    assert confidence(made, []) == made.format.confidence


def test_confidence_in_a_deletion_is_that_of_the_token_after_it() -> None:
    made = prompt("sweep")
    before, _, after = made.region.partition("    return math.pi * radius ** 2\n")
    tokens = [AnswerToken(before.encode(), -9.0), AnswerToken(after.encode(), math.log(0.25))]
    assert confidence(made, tokens) == pytest.approx(0.25)


def test_a_prompt_keeps_to_its_budget_by_showing_less() -> None:
    text = "".join(f"name_{number} = {number}\n" for number in range(400))
    seen = scene(text, text.replace("name_200 ", "title_200 "), text.index("name_200 "))
    lengths = []
    for budget in (20_000, 4000, 2500, 1500):
        made = model_edits.prompt_for(seen, model_edits.formats()["zeta-2"], budget, len)
        assert made is not None and len(made.text) <= budget
        lengths.append(len(made.text))
    assert lengths == sorted(lengths, reverse=True)
    assert model_edits.prompt_for(seen, model_edits.formats()["zeta-2"], 200, len) is None


def test_most_of_a_prompt_stays_while_the_cursor_moves() -> None:
    text = "".join(f"name_{number} = {number}\n" for number in range(400))
    after = text.replace("name_200 ", "title_200 ")
    first, second = (
        prompt("sweep", scene(text, after, after.index(name))).text
        for name in ("title_200", "name_203 ")
    )
    same = next(at for at in range(len(first)) if first[at] != second[at])
    assert same > 0.6 * len(first)


def test_a_secret_never_enters_a_prompt() -> None:
    secret = "ghp_" + "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"
    text = BEFORE + f'\n\n\n\n\n\n\n\n\n\n\n\n\n\n\nTOKEN = "{secret}"\n'
    after = text.replace("def area(r)", "def area(radius)")
    for family in model_edits.formats():
        assert secret not in prompt(family, scene(text, after, 40)).text
    near = after.index("TOKEN")
    form = model_edits.formats()["sweep"]
    assert model_edits.prompt_for(scene(text, after, near), form, 9999, len) is None
    typed = scene(BEFORE, BEFORE.replace("import math", f"import math\nK = '{secret}'"), 140)
    for family, form in model_edits.formats().items():
        made = model_edits.prompt_for(typed, form, 9999, len)
        assert made is None or secret not in made.text, family


def test_a_fence_in_the_text_gets_a_longer_one() -> None:
    text = '"""Use it.\n\n```\nf()\n```\n"""\n' + BEFORE
    made = prompt("generic", scene(text, text.replace("area(r)", "area(radius)"), 0))
    assert made.stop == ("`````",) and made.text.endswith("`````\n")


def test_any_answer_is_read_without_an_error() -> None:
    rng = random.Random(1)
    seen = scene(BEFORE, AFTER)
    for family, form in model_edits.formats().items():
        made = prompt(family, seen)
        pieces = [*made.region, *form.ends, *form.begins, form.cursor, "\r\n", "\n\n", "é", "```"]
        for _ in range(200):
            answer = "".join(rng.choices(pieces, k=rng.randrange(40)))
            edit = model_edits.edit_in(made, answer, seen)
            if edit is not None:
                assert 0 <= edit.start <= edit.stop <= len(seen.text)
                gate.judge(edit, gate.Moment("shapes.py", seen.text, 3))
            tokens = [AnswerToken(one.encode(), -rng.random()) for one in answer]
            assert 0 <= confidence(made, tokens) <= 1


def long_prompt(family: str) -> tuple[Scene, EditPrompt]:
    text = "".join(f"name_{number} = {number}\n" for number in range(60))
    seen = scene(text, text.replace("name_30 ", "title_30 "), text.index("name_30 "))
    return seen, prompt(family, seen)


@pytest.mark.parametrize("family", model_edits.formats())
def test_an_answer_is_settled_where_the_lines_after_its_change_are_as_before(family: str) -> None:
    seen, made = long_prompt(family)
    whole = made.region.replace("name_31 = 31\n", "title_31 = 31\ntitle_x = 0\n")
    begin = next(iter(made.format.begins), "")
    found = Answer(made)
    heard = 0
    for line in (begin + whole).splitlines(keepends=True):
        heard += 1
        if found.add(line, [AnswerToken(line.encode(), -0.5)]):
            break
    assert found.settled and heard < len((begin + whole).splitlines())
    assert found.text == begin + whole
    edit = model_edits.edit_in(made, found.text, seen)
    assert edit is not None and edit.text == "title_31 = 31\ntitle_x = 0"
    assert model_edits.confidence(found) == pytest.approx(math.exp(-0.5))


def test_an_answer_without_a_change_or_with_little_after_it_is_not_settled() -> None:
    _, made = long_prompt("sweep")
    found = Answer(made)
    assert not any(found.add(line) for line in made.region.splitlines(keepends=True))
    found = Answer(made)
    for line in ("x = 1\n", "\n", "\n", "\n", "name_20 = 20\n", "name_25 = 25\n"):
        assert not found.add(line)


def test_the_ids_of_a_prompt_begin_with_the_models_own() -> None:
    made = prompt("sweep")
    special = {"<|file_sep|>": 7}
    ids = made.ids((1,), special, lambda text: [len(text)])
    assert ids[0] == 1 and ids.count(7) == 5
    assert sum(one for one in ids[1:] if one != 7) == len(made.text) - 5 * len("<|file_sep|>")
