"""Languages are data: every folder loads, compiles and has a fixture."""

from __future__ import annotations

from pathlib import Path

import pytest

from context.syntax.language import QUERIES, language_for, languages
from context.syntax.parsed_text import read

WANTED = {
    "python", "javascript", "typescript", "tsx", "go", "rust", "java", "c", "cpp", "csharp",
    "ruby", "php", "bash", "lua",
}  # fmt: skip


def test_all_languages_are_there():
    assert set(languages()) == WANTED


@pytest.mark.parametrize("name", sorted(WANTED))
def test_queries_compile_and_find_something(name, main_file):
    language = languages()[name]
    source = read(main_file(name).read_text(encoding="utf-8"), language)
    assert source.tree.root is not None and not source.tree.root.has_error
    for query in QUERIES:
        assert language.query(query).pattern_count > 0
    assert source.outline.definitions and source.outline.imports
    assert source.spans("comments", "comment") and source.spans("bodies", "body")
    boilerplate = source.spans("boilerplate", "main") + source.spans("boilerplate", "accessor")
    assert boilerplate


@pytest.mark.parametrize(
    ("path", "text", "name"),
    [
        ("a.py", "", "python"),
        ("A.PY", "", "python"),
        ("x/y.test.ts", "", "typescript"),
        ("Rakefile", "", "ruby"),
        ("tool", "#!/usr/bin/env python3\n", "python"),
        ("tool", "#!/bin/sh -e\n", "bash"),
        ("tool", "#!/usr/bin/env -S node --flag\n", "javascript"),
        ("tool", "hello\n", None),
        ("a.unknown", "#!/bin/sh\n", None),
        ("", "", None),
    ],
)
def test_a_file_tells_its_language(path, text, name):
    found = language_for(path, text)
    assert (found.name if found else None) == name


def test_every_language_has_a_folder_with_a_readme():
    folder = Path(__import__("context").__file__).with_name("syntax") / "languages"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for query in QUERIES:
        assert f"`{query}.scm`" in readme
