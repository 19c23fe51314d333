"""C8: the order of a notebook's cells, reported by the client or seen from how it opens them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from assistant.engine.types import ModelInfo
from lsp.completion.prompts import Prompts
from lsp.document import Document
from lsp.served_model import Served
from lsp.site import Site
from lsp.uri import Notebooks, earlier_text, file_of, normal, notebook_of

BOOK = "file:///x/a.ipynb"


def cell(number: int, book: str = "/x/a.ipynb") -> str:
    return f"vscode-notebook-cell:{book}#W{number}sZmlsZQ%3D%3D"


def before(notebooks: Notebooks, number: int) -> list[str]:
    return [uri for uri, _ in notebooks.before(cell(number))]


def names(*numbers: int) -> list[str]:
    return [normal(cell(number)) for number in numbers]


def test_reported_cells_follow_every_change() -> None:
    """C8: insert, delete, move, and close; bounds of a wrong client are clamped."""
    notebooks = Notebooks()
    notebooks.opened(BOOK, [(cell(0), True), (cell(1), False), (cell(2), True)])
    assert before(notebooks, 2) == names(0, 1) and before(notebooks, 0) == []
    notebooks.spliced(BOOK, 1, 0, [(cell(3), True)])
    assert before(notebooks, 2) == names(0, 3, 1)
    notebooks.spliced(BOOK, 0, 1, [])
    assert before(notebooks, 2) == names(3, 1) and before(notebooks, 0) == []
    notebooks.spliced(BOOK, 0, 2, [(cell(1), False), (cell(3), True)])  # moved
    assert notebooks.before(cell(2)) == [(normal(cell(1)), False), (normal(cell(3)), True)]
    notebooks.changed_kinds(BOOK, [(cell(1), True), (cell(9), True)])
    assert notebooks.before(cell(3)) == [(normal(cell(1)), True)]
    notebooks.spliced(BOOK, -4, 99, [(cell(7), True), (cell(8), True)])
    assert before(notebooks, 8) == names(7) and before(notebooks, 2) == []
    notebooks.spliced("file:///x/other.ipynb", 0, 9, [(cell(5), True)])
    assert before(notebooks, 5) == []
    notebooks.closed(BOOK)
    assert before(notebooks, 8) == []


def test_cells_that_are_only_opened() -> None:
    """C8: their order is that of opening until one is edited; a later one has no known place."""
    notebooks = Notebooks()
    for number in (4, 1, 2):
        notebooks.opened_cell(cell(number))
        notebooks.opened_cell(cell(number, "/x/b.ipynb"))
    assert before(notebooks, 2) == names(4, 1)
    notebooks.edited_cell(cell(1))
    notebooks.opened_cell(cell(9))
    assert before(notebooks, 9) == [] and before(notebooks, 2) == names(4, 1)
    notebooks.closed_cell(cell(1))
    notebooks.opened_cell(cell(1))  # its language was changed
    assert before(notebooks, 2) == names(4, 1)
    for number in (1, 2, 4, 9):
        notebooks.closed_cell(cell(number))
    assert before(notebooks, 2) == []
    notebooks.opened_cell("file:///x/a.py")
    notebooks.opened_cell("untitled:Untitled-1")
    assert notebooks.before("file:///x/a.py") == []


def test_a_report_replaces_what_was_seen() -> None:
    """C8: a client that opens cells and reports the notebook as well."""
    notebooks = Notebooks()
    for number in (1, 0):
        notebooks.opened_cell(cell(number))
    notebooks.opened(BOOK, [(cell(0), True), (cell(1), True)])
    assert before(notebooks, 1) == names(0) and before(notebooks, 0) == []


@pytest.mark.parametrize(
    ("uri", "notebook"),
    [
        ("vscode-notebook-cell:/x/a.ipynb#W0", "vscode-notebook-cell:/x/a.ipynb"),
        ("vscode-notebook-cell://wsl%2Bubuntu/x/a.ipynb#W0", "vscode-notebook-cell://wsl+ubuntu/x/a.ipynb"),
        ("vscode-notebook-cell:Untitled-1.ipynb#W0", "vscode-notebook-cell:Untitled-1.ipynb"),
        ("vscode-notebook-cell:/x/a.dib#W0", "vscode-notebook-cell:/x/a.dib"),
        ("file:///x/a.ipynb#cell1", "file:///x/a.ipynb"),
        ("file:///x/a.ipynb", ""),
        ("file:///C#/app/a.py", ""),
        ("vscode-notebook-cell:/x/a.ipynb", ""),
        ("x", ""),
        ("http://[", ""),
    ],
)  # fmt: skip
def test_which_notebook_a_cell_is_of(uri: str, notebook: str) -> None:
    """C8: cells of one notebook share all of their URI but the fragment."""
    assert notebook_of(uri) == notebook


@pytest.mark.parametrize(
    ("uri", "path", "is_file"),
    [
        ("file:///x/a.py", "/x/a.py", True),
        ("file:///x/a.ipynb#W0", "/x/a.ipynb", False),
        ("vscode-notebook-cell:/x/a%20b.ipynb#W0", "/x/a b.ipynb", False),
        ("git:/x/a.py?%7Bref%7D", "/x/a.py", False),
        ("untitled:/x/a.py", "/x/a.py", False),
        ("untitled:Untitled-1", "/Untitled-1", False),
        ("untitled:../../etc/x", "/../../etc/x", False),
        ("file:///C#/app/a.py", "/C#/app/a.py", True),
        ("file:///a?b/c.py", "/a?b/c.py", True),
        ("", "/untitled", True),
        ("http://[", "/untitled", False),
    ],
)
def test_documents_of_one_path_are_distinguished(uri: str, path: str, is_file: bool) -> None:
    """C1, C8, C12: a cell, a diff's other side and a new text never are the file of that path."""
    found, view = file_of(uri)
    assert found == Path(path) and (view == "") is is_file


@pytest.mark.parametrize(
    ("current", "expected"),
    [
        ("python", "x = 1\n\n# Head\n\ny = 2\n\n"),
        ("markdown", "# Head\n\nwords\n\n"),
        ("sql", "select 1;\n\n"),
        ("nonsense", ""),
    ],
)
def test_what_of_the_earlier_cells_is_context(current: str, expected: str) -> None:
    """C8: code of the same language in order, of Markdown one line, nothing of other languages."""
    texts = [("python", "x = 1\r\n"), ("markdown", "# Head\n\nwords"), ("sql", "select 1;"),
             ("python", ""), ("python", "y = 2\n\n\n")]  # fmt: skip
    documents = {
        f"c{number}": Document(f"c{number}", text, language=language)
        for number, (language, text) in enumerate(texts)
    }
    cells = [(uri, one.language != "markdown") for uri, one in documents.items()]
    here = Document("here", "", language=current)
    assert earlier_text([*cells, ("gone", True)], documents.get, here) == expected
    assert earlier_text([], documents.get, here) == earlier_text(cells, documents.get, None) == ""


def test_magics_say_what_cells_are_written_in() -> None:
    """C8: a cell of a shell in a Python notebook is no context for Python, but for the shell."""
    texts = ["x = 1", "%%bash\nls", "%%time\ny = 2"]
    documents = {
        f"c{at}": Document(f"c{at}", text, language="python") for at, text in enumerate(texts)
    }
    cells = [(uri, True) for uri in documents]
    assert earlier_text(cells, documents.get, Document("h", "z", language="python")) == (
        "x = 1\n\n%%time\ny = 2\n\n"
    )
    shell = Document("h", "%%sh\n", language="python")
    assert earlier_text(cells, documents.get, shell) == "%%bash\nls\n\n"
    assert earlier_text(cells, documents.get, Document("h", "", language="shellscript")) == (
        "%%bash\nls\n\n"
    )


def test_a_very_long_notebook_shows_its_last_cells() -> None:
    """C8: earlier cells are bounded, and the nearest are kept."""
    documents = {
        f"c{n}": Document(f"c{n}", f"x{n} = 1\n" * 5000, language="python") for n in range(9)
    }
    text = earlier_text([(uri, True) for uri in documents], documents.get, documents["c8"])
    assert len(text) < 1 << 17 and "x8" in text and "x0" not in text


def prompt_of(
    dense_model: Path, root: Path, excludes: list[str], uri: str, earlier: Callable[[str], str]
) -> str:
    async def main() -> str:
        prompts = Prompts([root], excludes=excludes, earlier=earlier)
        fim = Served.of(ModelInfo(name="m", path=str(dense_model)), None).fim
        site = Site("depth = ", "\n", "python", uri=uri, version=1)
        ids = await prompts.ids(site, fim, 600)
        assert all(not one.endswith("# W0") for one in prompts.cut)
        await prompts.aclose()
        return str(fim.counter._counter.decode(ids))  # type: ignore[attr-defined]

    return asyncio.run(main())


SECRET = "AKIA" + "Z7Q2M4N8P1R5T3V9"


def test_earlier_cells_are_in_the_prompt_without_their_secrets(
    tmp_path: Path, dense_model: Path, home: Path
) -> None:
    """C8, T2: the cursor stays in its cell, after the earlier ones; one rule for what is read."""
    uri = f"vscode-notebook-cell:{(tmp_path / 'a.ipynb').as_posix()}#W1"

    def earlier(_: str) -> str:
        return f"harbour = 'é'\nkey = '{SECRET}'\n\n"

    shown = prompt_of(dense_model, tmp_path, [], uri, earlier)
    assert shown.index("harbour = 'é'") < shown.index("depth =") and SECRET not in shown
    for excludes in (["a.ipynb"], ["*.ipynb"], [f"{tmp_path.name}/*"]):
        hidden = prompt_of(dense_model, tmp_path, excludes, uri, earlier)
        assert (hidden == "") is excludes[0].endswith(".ipynb")


@pytest.mark.parametrize(
    "uri", ["file:///x/.env#L3", "git:/x/.env?ref", "untitled:.env", "vscode-remote://h/x/.ENV", "file:///C#/.env"]
)  # fmt: skip
def test_names_of_secrets_count_in_every_form_of_uri(
    uri: str, tmp_path: Path, dense_model: Path, home: Path
) -> None:
    """C1, C5, T9: neither an unescaped `#` nor another scheme hides what a file is called."""
    assert prompt_of(dense_model, tmp_path, [], uri, lambda _: "") == ""
