"""What an explanation gets to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import context
from context import FimLayout, TokenCounter, Workspace
from context.prompt.builder import Topic

TEXT = '''from tides import height_at


class Berth:
    """A place to moor."""

    def other(self):
        one = 1
        two = 2
        return one + two + 3 + 4 + 5

    def clearance(self, draught, hour):
        tide = height_at(hour)
        return self.depth + tide - draught
'''


@pytest.fixture
def workspace(
    counter: TokenCounter, layout: FimLayout, control: dict[str, int], tmp_path: Path
) -> Workspace:
    (tmp_path / "tides.py").write_text("def height_at(hour):\n    return hour\n")
    made = context.Workspace([tmp_path], counter, layout, control)
    made.index.refresh()
    return made


def explain(
    workspace: Workspace, tmp_path: Path, span: Any, budget: int = 400, diagnostic: Any = ""
) -> Any:
    document = workspace.open(tmp_path / "main.py", TEXT)
    return workspace.explain(document, span[0], span[1], budget, diagnostic=diagnostic)


def test_selection_enclosing_definitions_and_diagnostic(
    workspace: Workspace, tmp_path: Path
) -> None:
    start = TEXT.index("tide = height_at")
    found = explain(workspace, tmp_path, (start, start + 10), diagnostic="E501 line too long")
    by_topic = {one.topic: one.text for one in found.passages}
    assert by_topic[Topic.SELECTION] == "        tide = height_at(hour)\n"
    assert by_topic[Topic.DIAGNOSTIC] == "E501 line too long"
    assert "class Berth" in by_topic[Topic.ENCLOSING]
    assert "two = 2" not in by_topic[Topic.ENCLOSING], "bodies of others are cut"
    assert "def height_at(hour)" in by_topic[Topic.DEFINITION]
    assert found.tokens == sum(one.tokens for one in found.passages) <= 400
    assert found.language == "python"


def test_a_cursor_means_the_definition_around_it(workspace: Workspace, tmp_path: Path) -> None:
    at = TEXT.index("tide - draught")
    found = explain(workspace, tmp_path, (at, at))
    assert found.passages[0].text.startswith("    def clearance")


@pytest.mark.parametrize("budget", [0, 1, 5, 20, 60, 150])
def test_the_budget_holds(workspace: Workspace, tmp_path: Path, budget: int) -> None:
    found = explain(workspace, tmp_path, (0, len(TEXT)), budget, diagnostic="x" * 500)
    assert found.tokens <= budget
    assert budget > 100 or "the end of the selection" in found.cut


def test_a_whole_file_loses_its_bodies_before_its_end(workspace: Workspace, tmp_path: Path) -> None:
    document = workspace.open(tmp_path / "main.py", TEXT)
    whole = workspace.overview(document, 4000)
    assert [(one.topic, one.text) for one in whole.passages] == [(Topic.FILE, TEXT)]
    assert whole.cut == ()
    smaller = workspace.overview(document, whole.tokens - 10)
    assert "def clearance(self, draught, hour):" in smaller.passages[0].text
    assert "one + two" not in smaller.passages[0].text
    assert smaller.tokens < whole.tokens and smaller.cut == ("the bodies of definitions",)
    for budget in (0, 5, 20):
        assert workspace.overview(document, budget).tokens <= budget
    secret = workspace.open(tmp_path / ".env", "TOKEN=1\n")
    assert workspace.overview(secret, 400).passages == ()
