"""Prompts of a workspace: shares, stability, jumps, rest, odd input."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from toy_counter import ToyCounter

import context
from context import Prompt, TokenCounter, Workspace
from context.prompt import FimLayout, Part
from context.prompt.head import SETTLE_CHARS, Reason, Shares, rooms
from context.prompt.window import order_of
from context.syntax.text import CursorKind

FILE = "".join(
    f"def function_{at}(one, two):\n    total = one * {at}\n    for step in range(two):\n"
    f"        total += step\n    return total\n\n\n"
    for at in range(120)
)


@pytest.fixture
def workspace(
    counter: TokenCounter, layout: FimLayout, control: dict[str, int], tmp_path: Path
) -> Workspace:
    (tmp_path / "tides.py").write_text(
        'def height_at(hour, mean=1.5):\n    """Height."""\n    return mean * hour\n'
    )
    made = context.Workspace([tmp_path], counter, layout, control)
    made.index.refresh()
    return made


def parts(prompt: Prompt) -> Any:
    return [one.part for one in prompt.sections]


def text_of(prompt: Prompt, part: Any) -> Any:
    return "".join(one.text for one in prompt.sections if one.part is part)


def common(one: Any, other: Any) -> Any:
    same = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        same += 1
    return same


def test_what_does_not_fit_is_given_aside(
    workspace: Workspace, tmp_path: Path, counter: ToyCounter
) -> None:
    """The file around what is shown, and passages of other files, without secrets; the same object
    while the head is kept, so that it is indexed once."""
    (tmp_path / "moons.py").write_text(
        "def phase(day):\n    cycle = 29.53\n" + "    day = day + 1\n" * 30 + "    return day\n"
    )
    workspace.index.refresh()
    secret = "ghp_" + "Ab3dE6gH9jK2" * 3
    text = f"from moons import phase\n\nTOKEN = '{secret}'\n\n\n" + FILE
    cursor = text.index("def function_10(")
    opened = text[:cursor] + "phase(" + text[cursor:]
    document = workspace.open(tmp_path / "main.py", opened)
    prompt = workspace.prompt(document, cursor + 6, 200)
    aside = counter.decode(prompt.aside)
    assert "def function_3(" in aside and "def function_20(" in aside
    assert aside.index("def function_20(") < aside.index("def function_3(")
    assert aside.index("def function_3(") < aside.index("def phase(day)"), "passages come last"
    assert secret not in aside and secret[:12] not in aside
    document.replace(opened[: cursor + 6] + "1" + opened[cursor + 6 :])
    assert workspace.prompt(document, cursor + 7, 200).aside is prompt.aside
    hidden = workspace.open(tmp_path / ".env", opened)
    assert workspace.prompt(hidden, cursor, 200).aside == ()


def test_sections_stand_in_the_layouts_order(
    workspace: Workspace, tmp_path: Path, counter: TokenCounter
) -> None:
    text = "from tides import height_at\n\n\n" + FILE + "def last(hour):\n    height_at("
    document = workspace.open(tmp_path / "main.py", text + "\n")
    prompt = workspace.prompt(document, len(text), 700)
    in_order = list(dict.fromkeys(parts(prompt)))
    assert in_order == [Part.REPO, Part.FAR_PREFIX, Part.SUFFIX, Part.PREFIX]
    assert "def height_at(hour, mean=1.5):" in text_of(prompt, Part.REPO)
    assert "from tides import height_at" in text_of(prompt, Part.FAR_PREFIX)
    assert text_of(prompt, Part.PREFIX).endswith("    height_at(")
    assert prompt.ids[0] == 1 and len(prompt.ids) <= 700
    assert any("earlier in this file" in what for what in prompt.cut)


def test_typing_changes_only_the_tail(workspace: Workspace, tmp_path: Path) -> None:
    start = len(FILE) // 2
    typed = "    value = function_7(one, two) + 1\n    if value:\n        return value\n"
    document = workspace.open(tmp_path / "main.py", FILE)
    before = workspace.prompt(document, start, 700)
    for at, char in enumerate(typed):
        document.edit(start + at, start + at, char)
        prompt = workspace.prompt(document, start + at + 1, 700)
        assert workspace.head_reason(document) is Reason.KEPT
        assert len(before.ids) - common(before.ids, prompt.ids) <= 6
        before = prompt


def test_a_long_spell_of_typing_builds_the_head_again_now_and_then(
    workspace: Workspace, tmp_path: Path
) -> None:
    start = len(FILE) // 2
    document = workspace.open(tmp_path / "main.py", FILE)
    reasons = []
    at = start
    for line in FILE.splitlines(keepends=True)[:150]:
        document.edit(at, at, line)
        at += len(line)
        workspace.prompt(document, at, 700)
        reasons.append(workspace.head_reason(document))
    assert 1 <= reasons.count(Reason.NEAR_FULL) <= 20
    assert reasons.count(Reason.KEPT) > 120


def test_a_jump_keeps_the_head_until_the_cursor_rests(workspace: Workspace, tmp_path: Path) -> None:
    document = workspace.open(tmp_path / "main.py", FILE)
    first = workspace.prompt(document, len(FILE) // 2, 1000)
    jumped = workspace.prompt(document, len(FILE) // 5, 1000)
    assert workspace.head_reason(document) is Reason.KEPT_OVER_JUMP
    assert common(first.ids, jumped.ids) / len(jumped.ids) >= 0.8
    assert text_of(jumped, Part.PREFIX) and FILE[: len(FILE) // 5].endswith(
        text_of(jumped, Part.PREFIX)
    )
    rested = workspace.prompt(document, len(FILE) // 5, 1000, rest=True)
    assert workspace.head_reason(document) is Reason.SETTLED
    assert len(text_of(rested, Part.PREFIX)) > len(text_of(jumped, Part.PREFIX))


def test_work_at_the_new_place_settles_too(workspace: Workspace, tmp_path: Path) -> None:
    document = workspace.open(tmp_path / "main.py", FILE)
    workspace.prompt(document, len(FILE) // 2, 1000)
    at = len(FILE) // 5
    seen = []
    for step in range(SETTLE_CHARS + 2):
        workspace.prompt(document, at + step, 1000)
        seen.append(workspace.head_reason(document))
        document.edit(at + step, at + step, "x")
    assert seen[0] is Reason.KEPT_OVER_JUMP
    assert seen.index(Reason.SETTLED) == SETTLE_CHARS
    assert seen[-1] is Reason.KEPT


def test_an_import_that_was_typed_is_followed_once_the_cursor_rests(
    workspace: Workspace, tmp_path: Path
) -> None:
    document = workspace.open(tmp_path / "main.py", "one = 1\n")
    workspace.prompt(document, len(document.text), 700)
    document.edit(0, 0, "from tides import height_at\n\nheight_at(")
    typed = workspace.prompt(document, len(document.text), 700)
    assert workspace.head_reason(document) is Reason.KEPT and Part.REPO not in parts(typed)
    rested = workspace.prompt(document, len(document.text), 700, rest=True)
    assert workspace.head_reason(document) is Reason.IMPORTED
    assert "def height_at(hour, mean=1.5):" in text_of(rested, Part.REPO)
    workspace.prompt(document, len(document.text), 700, rest=True)
    assert workspace.head_reason(document) is Reason.KEPT


def test_a_workspace_that_was_read_late_comes_in_once_the_cursor_rests(
    counter: TokenCounter, layout: FimLayout, control: dict[str, int], tmp_path: Path
) -> None:
    (tmp_path / "tides.py").write_text("def tide_of_the_harbour(hour):\n    return hour * 3\n")
    late = context.Workspace([tmp_path], counter, layout, control)
    document = late.open(tmp_path / "main.py", "tide_of_the_harbour(")
    assert Part.REPO not in parts(late.prompt(document, len(document.text), 700, rest=True))
    late.index.refresh()
    assert Part.REPO not in parts(late.prompt(document, len(document.text), 700))
    assert Part.REPO in parts(late.prompt(document, len(document.text), 700, rest=True))
    assert late.head_reason(document) is Reason.INDEXED


def test_another_budget_builds_again(workspace: Workspace, tmp_path: Path) -> None:
    document = workspace.open(tmp_path / "main.py", FILE)
    workspace.prompt(document, 500, 800)
    small = workspace.prompt(document, 500, 300)
    assert workspace.head_reason(document) is Reason.ROOM and len(small.ids) <= 300


def test_the_same_state_gives_the_same_prompt(
    counter: TokenCounter, layout: FimLayout, control: dict[str, int], tmp_path: Path
) -> None:
    made = []
    for _ in range(2):
        workspace = context.Workspace([tmp_path], counter, layout, control)
        document = workspace.open(tmp_path / "main.py", FILE)
        made.append(workspace.prompt(document, len(FILE) // 3, 640))
    assert made[0].ids == made[1].ids and made[0].sections == made[1].sections


def test_recent_regions_come_in(workspace: Workspace, tmp_path: Path) -> None:
    other = workspace.open(tmp_path / "other.py", "def harbour_master(berth):\n    berth.open()\n")
    workspace.visited(other, 0, 40)
    workspace.visited(other, 0, 40)
    assert len(workspace.recent.newest()) == 1
    document = workspace.open(tmp_path / "main.py", "x = 1\n")
    prompt = workspace.prompt(document, 6, 400)
    assert "harbour_master" in text_of(prompt, Part.REPO)
    assert "recently" in prompt.sections[0].reason


def test_layouts_without_far_prefix_or_repo(
    counter: TokenCounter, control: dict[str, int], tmp_path: Path
) -> None:
    tokens = {Part.PREFIX_TOKEN: "<pre>", Part.SUFFIX_TOKEN: "<suf>", Part.MIDDLE_TOKEN: "<mid>"}
    order = (Part.PREFIX_TOKEN, Part.PREFIX, Part.SUFFIX_TOKEN, Part.SUFFIX, Part.MIDDLE_TOKEN)
    plain = FimLayout("plain", {}, dict.fromkeys(CursorKind, (Part.PREFIX,)))
    for layout in (FimLayout("psm", tokens, dict.fromkeys(CursorKind, order)), plain):
        workspace = context.Workspace([tmp_path], counter, layout, control)
        document = workspace.open(tmp_path / "main.py", FILE)
        at = len(FILE) // 2
        prompt = workspace.prompt(document, at, 500)
        assert 100 < len(prompt.ids) <= 500
        assert FILE[:at].endswith(text_of(prompt, Part.PREFIX)[-200:])
    with pytest.raises(ValueError, match="no order"):
        order_of(FimLayout("none", {}, {}), CursorKind.MID_LINE)


def test_file_separators_stand_before_each_file(
    counter: TokenCounter, control: dict[str, int], tmp_path: Path
) -> None:
    (tmp_path / "tides.py").write_text("def height_at(hour):\n    return hour\n")
    (tmp_path / "moon.py").write_text("def phase_of(day):\n    return day\n")
    order = (Part.FILE_TOKEN, Part.REPO, Part.PREFIX_TOKEN, Part.FAR_PREFIX, Part.PREFIX)
    tokens = {Part.FILE_TOKEN: "<file>", Part.PREFIX_TOKEN: "<pre>"}
    layout = FimLayout("files", tokens, dict.fromkeys(CursorKind, order))
    workspace = context.Workspace([tmp_path], counter, layout, {**control, "<file>": 5})
    workspace.index.refresh()
    text = "from tides import height_at\nfrom moon import phase_of\n\nheight_at(phase_of("
    document = workspace.open(tmp_path / "main.py", text)
    for budget in range(10, 200, 7):
        prompt = workspace.prompt(document, len(text), budget)
        repo = [one for one in prompt.sections if one.part is Part.REPO]
        assert prompt.ids.count(5) == len(repo) and len(prompt.ids) <= budget
    assert len(repo) == 2 and repo[0].text.startswith(("moon.py\n", "tides.py\n"))


def test_a_model_of_another_kind_is_refused(
    workspace: Workspace, counter: TokenCounter, layout: FimLayout
) -> None:
    with pytest.raises(ValueError, match="no control token"):
        workspace.use_model(counter, layout, {})


def test_shares_flow_on() -> None:
    shares = Shares()
    full = rooms(1000, shares, repo_tokens=9999, far_tokens=9999, suffix_tokens=9999)
    assert full.repo == 300 and full.suffix == 120
    assert full.repo + full.far + full.suffix + full.near <= 1000
    no_repo = rooms(1000, shares, repo_tokens=0, far_tokens=9999, suffix_tokens=9999)
    assert no_repo.far == full.far + full.repo
    short = rooms(1000, shares, repo_tokens=9999, far_tokens=10, suffix_tokens=9999)
    assert short.repo > full.repo
    tiny = rooms(1000, shares, repo_tokens=10, far_tokens=10, suffix_tokens=9999)
    assert tiny.suffix == 1000 - tiny.near - 20
    rng = random.Random(1)
    for _ in range(2000):
        room, repo, far, suffix = (rng.randrange(3000) for _ in range(4))
        one = rooms(room, shares, repo_tokens=repo, far_tokens=far, suffix_tokens=suffix)
        assert one.repo + one.far + one.suffix + one.near <= room
        assert one.repo <= repo and one.far <= far and one.suffix <= suffix
        assert min(one.repo, one.far, one.suffix, one.near) >= 0


ODD = {
    "empty.py": "",
    "broken.py": "def (((:\n  class\n\t)]}{{" * 40,
    "crlf.py": "def f():\r\n    return 1\r\n" * 60,
    "tabs.go": "func f() {\n\t\t\tx := 1\n}\n" * 60,
    "nul.py": "a = '\0\0'\nb\0c = 2\n" * 30,
    "long.js": "var x = [" + "1," * 50_000 + "];\nf(x)\n",
    "minified.js": "function a(b){return b+1};" * 4000,
    "deep.py": "(" * 5000 + ")" * 5000,
    "nested.js": "if(a){" * 3000 + "}" * 3000,
    "nested.json": "[" * 3000 + "]" * 3000,
    "surrogate.py": "x = '\ud800'\ny = 1\n" * 20,
    "ends.py": "a\rb\u2028c\x0cd\u0085e\n" * 50,
    "mixed.py": "caf\u00e9 = '\U0001f600\ufffd\u202e'\n" * 80,
    "noname": "#!/bin/sh\necho hello\n" * 40,
    "unknown.xyz": "free text, nothing more\n" * 100,
    "blank.py": "\n" * 20_000,
}


@pytest.mark.parametrize("name", sorted(ODD))
def test_odd_files_never_raise_nor_pass_the_budget(
    name: str, workspace: Workspace, tmp_path: Path
) -> None:
    text = ODD[name]
    document = workspace.open(tmp_path / name, text)
    size = len(document.data)
    rng = random.Random(name)
    for step in range(16):
        at = rng.choice((0, size, -7, size + 99, rng.randrange(size + 1)))
        budget = rng.choice((-1, 0, 2, 17, 256, 1024))
        prompt = workspace.prompt(document, at, budget, rest=step % 5 == 0)
        assert len(prompt.ids) <= max(0, budget)
        workspace.visited(document, at, at + 500)
        explained = workspace.explain(document, at, at + rng.randrange(3000), max(0, budget))
        assert explained.tokens <= max(0, budget)
        document.edit(at, at + rng.randrange(5), rng.choice(("", "x", "\n", "(", "\u00e9", "\0")))
        size = len(document.data)


def test_fifty_thousand_lines(
    counter: TokenCounter, layout: FimLayout, control: dict[str, int]
) -> None:
    text = FILE * 60
    assert text.count("\n") > 50_000
    workspace = context.Workspace([], counter, layout, control)
    document = workspace.open(Path("/nowhere/huge.py"), text)
    for share in (0.01, 0.5, 0.99):
        prompt = workspace.prompt(document, int(len(text) * share), 1000, rest=True)
        assert 500 < len(prompt.ids) <= 1000


def test_open_and_close(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "main.py"
    document = workspace.open(path, "a = 1\n")
    assert workspace.open(path, "a = 2\n") is document and document.text == "a = 2\n"
    path.write_text("def saved_one(): pass\n")
    workspace.saved(document)
    assert workspace.index.store.named(["saved_one"])
    workspace.close(document)
    workspace.close(document)
    assert workspace.open(path, "b = 1\n") is not document


def test_code_like_that_here_is_shown_from_far_away_in_the_file(
    workspace: Workspace, tmp_path: Path
) -> None:
    """Neither the far prefix nor the suffix reaches there, but an echo does, from either side."""
    twin = (
        "def harbour_of(self, ship):\n    found = self.harbours.get(ship.number)\n"
        "    if found is None:\n        raise UnknownShip(ship)\n    self.log_the_visit(ship)\n"
    )
    start = twin.replace("harbour", "channel").replace("    self.log_the_visit(ship)\n", "    ")
    filler = "".join(
        f"def filler_{i}(tide):\n    return tide * {i} + other_{i}\n\n\n" for i in range(99)
    )
    for text in (twin + "\n\n" + filler + start + "|\n", start + "|\n\n\n" + filler + twin):
        before, _, after = text.partition("|")
        document = workspace.open(tmp_path / "twins.py", before + after)
        prompt = workspace.prompt(document, len(before), 500, rest=True)
        shown = [one for one in prompt.sections if "self.log_the_visit" in one.text]
        assert [one.path for one in shown] == ["twins.py"] and "goes on" in shown[0].reason


def test_an_import_that_nothing_uses_yet_stays_in_sight(
    workspace: Workspace, tmp_path: Path
) -> None:
    filler = "".join(f"def filler_{i}(tide):\n    return tide * {i}\n\n\n" for i in range(99))
    imports = "".join(f"from lib_{i} import name_{i}\n" for i in range(30))
    uses = "".join(f"print(name_{i})\n" for i in range(30))
    text = imports + "from collections import deque\n\n" + uses + filler + "queue = "
    document = workspace.open(tmp_path / "imports.py", text + "\n")
    prompt = workspace.prompt(document, len(text), 400, rest=True)
    assert "import deque" in text_of(prompt, Part.FAR_PREFIX)


def test_a_licence_header_is_cut_however_near_it_stands(
    workspace: Workspace, tmp_path: Path
) -> None:
    header = "# Copyright 2026 The Harbour Project\n" + "# Permission is hereby granted.\n" * 12
    text = f"{header}\nimport tides\n\n\ndef f(hour):\n    "
    document = workspace.open(tmp_path / "main.py", text + "\n")
    prompt = workspace.prompt(document, len(text), 400)
    assert "Permission" not in "".join(one.text for one in prompt.sections)
    assert text_of(prompt, Part.PREFIX).startswith("import tides")
    inside = workspace.prompt(document, len(header) // 2, 400, rest=True)
    assert "Permission" in text_of(inside, Part.PREFIX), "who writes in it sees it"


def test_a_helper_that_nothing_calls_yet_is_shown_from_below(
    workspace: Workspace, tmp_path: Path
) -> None:
    text = "def _tide_of(hour: int) -> float:\n    return 1.5 * hour\n"
    before = FILE + "def last(hour):\n    "
    document = workspace.open(tmp_path / "main.py", f"{before}\n\n\n{FILE}{text}")
    prompt = workspace.prompt(document, len(before), 700)
    assert "def _tide_of(hour: int) -> float:" in text_of(prompt, Part.REPO)


def test_imports_of_the_workspaces_own_names_stay_in_sight(
    workspace: Workspace, tmp_path: Path
) -> None:
    imports = "import json\nfrom tides import height_at\nfrom re import compile\n"
    uses = "\n\ndef use():\n    json.x, height_at(1), compile('')\n\n\n"
    text = f"{imports}{uses}{FILE}def last(hour):\n    "
    document = workspace.open(tmp_path / "main.py", text + "\n")
    far = text_of(workspace.prompt(document, len(text), 700), Part.FAR_PREFIX)
    assert "from tides import height_at" in far
