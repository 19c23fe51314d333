"""Prompts: the workspace's own files in them, secrets never, and nothing that nobody has typed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from llama_tokeniser import vocabulary_only

from assistant.engine.types import ModelInfo
from context.syntax.text import common_ends
from lsp.completion.prompts import Prompts
from lsp.document import Document, Place
from lsp.served_model import Fim, Served, estimated_fim
from lsp.site import Site
from lsp.uri import path_of

BUDGET_TOKENS = 600


@pytest.fixture
def fim(dense_model: Path, home: Path) -> Fim:
    return Served.of(ModelInfo(name="m", path=str(dense_model)), None).fim


def at(path: Path, prefix: str, suffix: str = "\n") -> Site:
    return Site(prefix, suffix, "python", uri=path.as_uri(), version=1)


def play(prompts: Prompts, test: Callable[[Prompts], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(prompts)
        await prompts.aclose()

    asyncio.run(main())


def text_of(fim: Fim, ids: tuple[int, ...]) -> str:
    return fim.counter._counter.decode(ids)  # type: ignore[attr-defined,no-any-return]


def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "shapes.py").write_text(
        "class Circle:\n    def __init__(self, radius_mm):\n        self.radius_mm = radius_mm\n"
    )
    return root


def test_another_file_of_the_workspace_is_shown(tmp_path: Path, fim: Fim) -> None:
    root = workspace(tmp_path)
    asked = at(root / "use.py", "from shapes import Circle\n\ncircle = Circle(")

    async def test(prompts: Prompts) -> None:
        await prompts.ids(asked, fim, BUDGET_TOKENS)
        for _ in range(200):  # the index is built in the background
            ids = await prompts.ids(asked, fim, BUDGET_TOKENS, rest=True)
            if "radius_mm" in text_of(fim, ids):
                return
            await asyncio.sleep(0.05)
            asked_elsewhere = at(root / "use.py", f"# {_}\n")
            await prompts.ids(asked_elsewhere, fim, BUDGET_TOKENS, rest=True)
        pytest.fail("the workspace was not read")

    play(Prompts([root]), test)


def test_other_files_stay_out_where_the_user_wants_it(tmp_path: Path, fim: Fim) -> None:
    root = workspace(tmp_path)
    asked = at(root / "use.py", "from shapes import Circle\n\ncircle = Circle(")

    async def test(prompts: Prompts) -> None:
        for _ in range(5):
            ids = await prompts.ids(asked, fim, BUDGET_TOKENS, rest=True)
            assert "radius_mm" not in text_of(fim, ids)
            await asyncio.sleep(0.02)

    play(Prompts([root], index=False), test)


@pytest.mark.parametrize("index", [True, False])
def test_what_was_visited_shows_elsewhere_only_where_other_files_may(
    tmp_path: Path, fim: Fim, index: bool
) -> None:
    root = workspace(tmp_path)
    visited = at(root / "seen.py", "def harbour_master(berth):\n    berth.open()\n")
    far = at(root / "other.py", "x = 1\n")
    asked = at(root / "use.py", "y = ")

    async def test(prompts: Prompts) -> None:
        for one in (visited, far):
            await prompts.ids(one, fim, BUDGET_TOKENS)
        ids = await prompts.ids(asked, fim, BUDGET_TOKENS, rest=True)
        assert ("harbour_master" in text_of(fim, ids)) is index

    play(Prompts([root], index=index), test)


@pytest.mark.parametrize("index", [True, False])
def test_what_the_user_excludes_is_never_shown(tmp_path: Path, fim: Fim, index: bool) -> None:
    root = workspace(tmp_path)
    hidden = at(root / "private" / "plan.py", "def hidden_plan():\n    ")
    asked = at(root / "use.py", "y = hidden")

    async def test(prompts: Prompts) -> None:
        assert await prompts.ids(hidden, fim, BUDGET_TOKENS) == ()
        shown = text_of(fim, await prompts.ids(asked, fim, BUDGET_TOKENS, rest=True))
        assert shown and "hidden_plan" not in shown

    play(Prompts([root], index=index, excludes=["/private/"]), test)


def test_a_file_that_may_hold_secrets_gives_no_prompt(tmp_path: Path, fim: Fim) -> None:
    async def test(prompts: Prompts) -> None:
        assert await prompts.ids(at(tmp_path / ".env", "TOKEN="), fim, 500) == ()

    play(Prompts([tmp_path]), test)


def test_imagined_text_leaves_no_trace(tmp_path: Path, fim: Fim) -> None:
    real = at(tmp_path / "a.py", "x = ")

    async def test(prompts: Prompts) -> None:
        before = await prompts.ids(real, fim, BUDGET_TOKENS)
        imagined = at(tmp_path / "a.py", "x = never_typed\n")
        assert "never_typed" in text_of(
            fim, await prompts.ids(imagined, fim, BUDGET_TOKENS, imagined=True)
        )
        assert await prompts.ids(real, fim, BUDGET_TOKENS) == before

    play(Prompts(), test)


def test_a_prompt_never_exceeds_its_budget(tmp_path: Path, fim: Fim) -> None:
    async def test(prompts: Prompts) -> None:
        for budget in (0, 1, 5, 40, 300):
            asked = at(tmp_path / "a.py", "value = 1\n" * 500, "other = 2\n" * 500)
            assert len(await prompts.ids(asked, fim, budget)) <= budget

    play(Prompts(), test)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a%20b/%C3%A9.py", Path("/a b/é.py")),
        ("untitled:Untitled-1", None),
        ("vscode-notebook-cell:/a.ipynb#x", None),
        ("", None),
    ],
)
def test_paths_of_uris(uri: str, path: Path | None) -> None:
    assert path_of(uri) == path


@pytest.mark.parametrize(
    "uri",
    [
        "untitled:Untitled-1",
        "file:///x/%23a/b%25.txt",
        "vscode-notebook-cell:/x/a.ipynb#W0sZmlsZQ%3D%3D",
        "git:/x/a.h?ref",
    ],
)
def test_the_language_id_decides_in_what_is_studied(uri: str) -> None:
    """C7, C14: a document without a telling path is parsed as the language that the editor names,
    and again when the editor names another."""

    async def test(prompts: Prompts) -> None:
        for language_id in ("python", "cpp", "python"):
            name = await prompts.study(
                uri,
                "x = 1\n",
                lambda document: document.language and document.language.name,
                language_id=language_id,
            )
            assert name == language_id

    play(Prompts(), test)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("file:///c%3A/x.py", "file:///C:/x.py"),
        ("file:///a%20b/%c3%a9.py", "file:///a%20b/%C3%A9.py"),
        ("FILE:///a/x.py", "file:///a/x.py"),
    ],
)
def test_spellings_of_a_uri_are_one_document(one: str, other: str, fim: Fim) -> None:
    """C20: the text that came under one spelling is replaced under the other."""

    async def test(prompts: Prompts) -> None:
        for uri in (one, other):
            await prompts.ids(Site("x = ", "", "python", uri=uri, version=1), fim, BUDGET_TOKENS)
        assert len(prompts._documents) == 1
        await prompts.close(one)
        assert not prompts._documents

    play(Prompts(), test)


def test_cells_of_a_notebook_are_documents_of_their_own(fim: Fim) -> None:
    """C8: their URIs differ in the fragment only."""

    async def test(prompts: Prompts) -> None:
        for cell in ("W0", "W1", "w1"):
            uri = f"vscode-notebook-cell:/x/a.ipynb#{cell}"
            await prompts.ids(Site("x = ", "", "python", uri=uri, version=1), fim, BUDGET_TOKENS)
        assert len(prompts._documents) == len(set(map(id, prompts._documents.values()))) == 3

    play(Prompts(), test)


def test_a_vocabulary_that_cannot_be_counted_leaves_the_encoding_to_the_engine(
    dense_model: Path, tmp_path: Path, home: Path
) -> None:
    """Never no completion: the prompt keeps its layout, with texts between the control tokens."""
    path = vocabulary_only(dense_model, tmp_path / "m.gguf", "viking")  # no split pattern of ours
    info = ModelInfo(name="m", path=str(path), add_bos=True, bos=151643)
    fim = Served.of(info, None).fim
    known = Served.of(ModelInfo(name="m", path=str(dense_model)), None).fim
    site = at(tmp_path / "a.py", "größe = 1\nprint(", ")\n")

    async def test(prompts: Prompts) -> None:
        ids = await prompts.ids(site, fim, BUDGET_TOKENS)
        exact = await prompts.ids(site, known, BUDGET_TOKENS)
        assert len(exact) < len(ids) <= BUDGET_TOKENS
        body = fim.body(ids)
        assert known.body(exact) == exact
        texts = [part for part in body if isinstance(part, str)]
        assert "größe = 1\nprint(" in "".join(texts)
        decode = known.counter._counter.decode  # type: ignore[attr-defined]
        written = "".join(part if isinstance(part, str) else decode([part]) for part in body)
        assert written == text_of(known, exact)

    play(Prompts(index=False), test)


def test_typing_in_a_large_file_compares_what_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0

    def counted(old: str, new: str) -> tuple[int, int]:
        nonlocal compared
        compared += max(len(old), len(new))
        return common_ends(old, new)

    monkeypatch.setattr("context.syntax.document.common_ends", counted)
    lines = "".join(f"value_{number} = {number}  # é\r\n" for number in range(4000))
    path = tmp_path / "large.py"
    document = Document(path.as_uri(), lines, language="python")
    known = estimated_fim()
    typed = "total = value_1"

    async def test(prompts: Prompts) -> None:
        nonlocal compared
        await prompts.ids(document.site(Place(2000, 0)), known, BUDGET_TOKENS)
        compared = 0
        for column, char in enumerate(typed):
            document.apply(document.change(char, (2000, column), (2000, column)))
            site = document.site(Place(2000, column + 1))
            half_typed = site.line_prefix.rpartition(" ")[2]
            await prompts.ids(site, known, BUDGET_TOKENS, start=half_typed)
            imagined = replace(site, prefix=site.prefix + "7")
            await prompts.ids(imagined, known, BUDGET_TOKENS, imagined=True)
            held = next(iter(prompts._documents.values())).text
            cut = site.prefix[: len(site.prefix) - len(half_typed)]
            assert held == cut + site.suffix
        assert compared < 3 * len(typed) * (len(typed) + 4)

    play(Prompts(), test)
