"""T7: where tests go, and that no link leads there out of the workspace."""

from __future__ import annotations

from pathlib import Path

import pytest

from assistant.errors import RequestError
from lsp.actions import conventions


@pytest.fixture
def convention() -> conventions.TestConvention:
    return conventions.TestConvention(
        framework="pytest", paths=("{root}/tests/test_{stem}.py", "{folder}/test_{stem}.py")
    )


def test_links_out_of_the_workspace_get_no_tests(
    tmp_path: Path, convention: conventions.TestConvention
) -> None:
    """T7: an existing file, a folder and a dangling link that lead outside are all passed over."""
    root, out = tmp_path / "root", tmp_path / "out"
    (root / "tests").mkdir(parents=True)
    out.mkdir()
    (out / "notes.txt").write_text("outside\n")
    code = root / "foo.py"
    code.write_text("def foo(): ...\n")
    for target in (out / "notes.txt", out / "new.py"):
        link = root / "tests" / "test_foo.py"
        link.symlink_to(target)
        found = conventions.test_target(code, [root], convention)
        assert (found.path, found.text) == (root / "test_foo.py", None)
        link.unlink()
    (root / "tests").rmdir()
    (root / "tests").symlink_to(out)
    assert conventions.test_target(code, [root], convention).path == root / "test_foo.py"
    (root / "test_foo.py").symlink_to(out / "notes.txt")
    with pytest.raises(RequestError, match="outside of the workspace"):
        conventions.test_target(code, [root], convention)


def test_an_existing_file_inside_is_read(
    tmp_path: Path, convention: conventions.TestConvention
) -> None:
    """T7: links inside of the workspace stay usable."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "real.py").write_text("import foo\n")
    (tmp_path / "tests" / "test_foo.py").symlink_to("real.py")
    found = conventions.test_target(tmp_path / "foo.py", [tmp_path], convention)
    assert found.text == "import foo\n"
