"""C8: notebooks on disk: cells are read, outputs never are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from context.index.open_file import Cell, joined, parsed
from context.index.project_index import Index

OUTPUT = "a_secret_output"


def notebook(cells: Any, **more: Any) -> Any:
    return json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5, "metadata": {}} | more)


def code(*lines: Any) -> Any:
    outputs = [{"output_type": "stream", "name": "stdout", "text": [OUTPUT * 9]}]
    return {"cell_type": "code", "source": list(lines), "outputs": outputs, "metadata": {}}


def markdown(text: str) -> Any:
    return {"cell_type": "markdown", "source": text, "metadata": {}}


def test_code_cells_in_order_and_little_of_markdown() -> None:
    """C8: code in full, of Markdown the first line, of outputs nothing."""
    text = notebook(
        [code("import os\n", "x = 1"), markdown("# Tides\n\nlong prose"), code("y = x\n")]
    )
    found = parsed(text)
    assert found is not None
    assert found.text == "import os\nx = 1\n\n# Tides\n\ny = x\n\n"
    assert found.language_id == "python"


@pytest.mark.parametrize(
    "first", ["%%bash\n", "%%sh -x\n", "%%script /bin/bash\n", "%%javascript\n", "%%system\n"]
)
def test_cells_in_another_language_are_left_out(first: str) -> None:
    """C8: a magic names the language of a cell; one that names none leaves it as it is."""
    cells = [code("x = 1"), code(first, "ls -l"), code("%%time\n", "y = 2"), code("\n", first, "z")]
    found = parsed(notebook(cells))
    assert found is not None
    assert found.text == "x = 1\n\n%%time\ny = 2\n\n"


def test_older_and_other_notebooks() -> None:
    """C8: nbformat 3, other kernels, sources as one string."""
    old = {"worksheets": [{"cells": [{"cell_type": "code", "input": ["a = 1"], "outputs": []}]}]}
    found = parsed(json.dumps(old))
    assert found is not None and found.text == "a = 1\n\n"
    text = notebook([markdown("x")], metadata={"kernelspec": {"language": "julia", "name": "j"}})
    found = parsed(text)
    assert found is not None and found.language_id == "julia"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", '{"cells": 1}', "[" * 100_000, '{"cells": [1]}']
)
def test_what_is_no_notebook(text: str) -> None:
    """C8: foreign text is refused, never a failure."""
    assert parsed(text) is None


CODE = {"cell_type": "code", "source": ["a = 1"], "outputs": [], "metadata": {}}


@pytest.mark.parametrize(
    ("change", "language"),
    [
        ({"metadata": None}, "python"),
        ({"metadata": {"language_info": None, "kernelspec": {"language": "R"}}}, "R"),
        ({"metadata": {"kernelspec": "python3"}}, "python"),
        ({"metadata": {"language_info": {"name": None}}}, "python"),
        ({"worksheets": None}, "python"),
        ({"cells": [CODE, None, {"cell_type": None, "source": "x"}]}, "python"),
        ({"cells": [CODE, {"cell_type": "code", "source": None}]}, "python"),
        ({"cells": [{"cell_type": "code", "source": ["a", 1, " = 1"]}]}, "python"),
        ({"cells": [CODE | {"outputs": [{"data": float("nan")}]}]}, "python"),
        ({"cells": [CODE, {"cell_type": "raw", "source": "\ud83d"}]}, "python"),
        ({"cells": None, "worksheets": [None, {"cells": None}, {"cells": [CODE]}]}, "python"),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_odd_notebooks_are_read_as_far_as_they_go(change: Any, language: str, mark: str) -> None:
    """C8: other tools write null, NaN, halves of surrogate pairs and byte order marks."""
    found = parsed(mark + json.dumps({"cells": [CODE], "metadata": {}, "nbformat": 4} | change))
    assert found is not None and (found.text, found.language_id) == ("a = 1\n\n", language)


def test_the_index_holds_cells_and_no_outputs(tmp_path: Path) -> None:
    """C8: definitions of a notebook are found; a large output does not keep it out."""
    cells = [code("def harbour_depth(tide):\n", "    return tide\n")]
    cells[0]["outputs"][0]["text"] = [OUTPUT * 100_000]
    (tmp_path / "a.ipynb").write_text(notebook(cells))
    (tmp_path / "broken.ipynb").write_text("{" + OUTPUT)
    index = Index([tmp_path])
    index.refresh()
    (row,) = index.store.named(["harbour_depth"])
    assert row.file.language == "python" and row.file.path == "a.ipynb"
    assert not index.store.search([OUTPUT.replace("_", "")], 3) and not index.store.search(
        ["output"], 3
    )
    assert index.update(tmp_path / "a.ipynb")


def test_joined_cells_have_blank_lines_between() -> None:
    """C8: empty cells leave nothing."""
    assert (
        joined([Cell("a"), Cell(""), Cell("## b", code=False), Cell("  ", code=False)])
        == "a\n\n# b\n\n"
    )
