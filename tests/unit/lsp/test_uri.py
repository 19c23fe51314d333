"""C1, C20: URIs with odd characters and drive letters, decoded once and in one place."""

# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lsp.uri import file_of, folders_of, normal, path_of


@pytest.mark.parametrize(
    "path",
    ["/home/u/C#/app", "/#work/x", "/a?b/c", "/50%/x", "/a%23b", "/a b", "/caf\u00e9", "/\u65e5\u672c",
     "/a&b=c;d,e", "/a:b", "/[x]", "/a+b", "/~x", "/a\\b", "/'q'", "/C:x"],
)  # fmt: skip
def test_paths_survive_their_uri(path: Any) -> None:
    """C1: whatever a folder is called, its URI leads to it and not to another one."""
    assert path_of(Path(path).as_uri()) == Path(path)
    assert folders_of([Path(path).as_uri()] * 2) == [Path(path)]
    assert normal(Path(path).as_uri()) == normal(normal(Path(path).as_uri()))
    assert path_of(normal(Path(path).as_uri())) == Path(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("file:///c%3A/Users/x.py", "file:///C:/Users/x.py"),
        ("file:///c%3a/x.py", "file:///c:/x.py"),
        ("FILE:///x.py", "file:///x.py"),
        ("file:///a%2Db.py", "file:///a-b.py"),
        ("file:///caf%C3%A9.py", "file:///caf%c3%a9.py"),
        ("file:///caf\u00e9.py", "file:///caf%C3%A9.py"),
        ("file:///x%20y.py", "file:///x y.py"),
        ("file:/x.py", "file:///x.py"),
        ("file:///C%3A%5CUsers%5Cx.py", "file:///c:/Users/x.py"),
        ("file:///C|/Users/x.py", "file:///c:/Users/x.py"),
        ("file://C:/Users/x.py", "file:///c:/Users/x.py"),
        ("file:///a/./b/../x.py", "file:///a/x.py"),
        ("file:///a//x.py", "file:///a/x.py"),
        ("file://SERVER/share/x.py", "file://server/share/x.py"),
    ],
)
def test_spellings_of_one_uri_are_one(one: Any, other: Any) -> None:
    """C20: the other spelling gets what this one gets."""
    assert normal(one) == normal(other) == normal(normal(one))
    first, second = path_of(one), path_of(other)
    assert first is not None and str(first).lower() == str(second).lower()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("file:///a%23b", "file:///a#b"),
        ("file:///a%3Fb", "file:///a?b"),
        ("file:///a%2523", "file:///a%23"),
        ("file:///X.py", "file:///x.py"),
        ("vscode-notebook-cell:/x.ipynb#W0", "vscode-notebook-cell:/x.ipynb#W1"),
        ("untitled:Untitled-1", "untitled:Untitled-2"),
        ("file:///%E9.py", "file:///%E8.py"),
        ("file:///%E9.py", "file:///%EF%BF%BD.py"),
        ('git:/x.py?{"ref":"a"}', 'git:/x.py?{"ref":"b"}'),
        ("file:///e%CC%81.py", "file:///%C3%A9.py"),
    ],
)
def test_different_uris_stay_different(one: Any, other: Any) -> None:
    """C1, C8, C12: nothing that tells two documents apart is lost."""
    assert normal(one) != normal(other)


@pytest.mark.parametrize("uri", ["file:///\ud83d.py", "x:\udce9", "file:///%ED%A0%BD.py"])
def test_half_a_surrogate_pair_is_no_reason_to_fail(uri: str) -> None:
    """C20: a client that works in UTF-16 may send one."""
    assert normal(uri).isascii() and normal(normal(uri)) == normal(uri)


@pytest.mark.parametrize("uri", ["file:///c:/x.py", "file:x.py", "untitled:x.py"])
def test_no_document_is_taken_for_one_of_the_folder_at_hand(uri: str) -> None:
    """C20, C7: the language server may run in a workspace."""
    path, _ = file_of(uri)
    assert path.is_absolute() and not path.is_relative_to(Path.cwd())


def test_drive_letters_and_shares() -> None:
    """C20: a drive letter begins the path; a host is part of it."""
    assert str(path_of("file:///c%3A/Users/x.py")) == "c:/Users/x.py"
    assert str(path_of("file:///D:")) == "d:"
    assert str(path_of("file://server/share/x.py")) == "//server/share/x.py"
    assert str(path_of("file://localhost/x.py")) == "/x.py"


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "file://",
        "file:///",
        "untitled:Untitled-1",
        "http://x/y",
        "file:///a%00b",
        "file://[",
        "file:x.py",
        "x",
    ],
)
def test_what_names_no_file(uri: str) -> None:
    """C12: such a document has no path."""
    assert path_of(uri) is None
    assert isinstance(normal(uri), str)
