"""What is known of each programming language: data, read from `context/syntax/languages/NAME/`.

A language is a folder with `language.toml` and one `.scm` query file for each of `QUERIES`. To add
one, add a folder, the grammar's wheel, and a fixture; no code changes. The captures that the
queries must use are said in `context/syntax/languages/README.md`.
"""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePath

import msgspec
import tree_sitter

FOLDER = Path(__file__).with_name("languages")
QUERIES = ("imports", "definitions", "comments", "bodies", "boilerplate")
_SHEBANG = re.compile(r"^#!\s*\S*?([\w.+-]+?)[\d.]*(?:\s+(?:-\S+\s+)*([\w.+-]+?)[\d.]*)?(?:\s|$)")


@dataclass(frozen=True)
class Resolve:
    """How the text of an import becomes the path of a file.

    Attributes:
        separator: what stands between the parts of a module's name.
        templates: paths to try, `{}` being the parts joined with "/".
        relative_dots: leading dots go up from the file's folder, as in Python.
        folder: a module is a folder, and all files in it belong to it.
        same_folder: files beside each other see each other without an import.
        name_in_module: the imported name is the module's last part, as in Java.
        wildcard: an import brings in all names of the file.
        parents: an imported name may itself be the file, and the module its folder.
        strip: characters around the module's text to drop.
        skip: leading parts that mean "here".
    """

    separator: str = "/"
    templates: tuple[str, ...] = ("{}",)
    relative_dots: bool = False
    folder: bool = False
    same_folder: bool = False
    name_in_module: bool = False
    wildcard: bool = False
    parents: bool = False
    strip: str = ""
    skip: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Language:
    """One language. `*_marker` texts stand where something was cut, and are legal there."""

    name: str
    grammar: str
    extensions: tuple[str, ...]
    line_comment: str
    body_marker: str
    literal_marker: str = "..."
    filenames: tuple[str, ...] = ()
    interpreters: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ()
    self_names: tuple[str, ...] = ()
    resolve: Resolve = Resolve()

    @property
    def cut_marker(self) -> str:
        """A line that stands for cut lines."""
        return f"{self.line_comment} ..."

    @cached_property
    def parser_language(self) -> tree_sitter.Language:
        module, function = self.grammar.split(":")
        return tree_sitter.Language(getattr(importlib.import_module(module), function)())

    @cached_property
    def _queries(self) -> dict[str, tree_sitter.Query]:
        return {}

    def query(self, name: str) -> tree_sitter.Query:
        """The compiled query `name`, one of QUERIES."""
        if name not in self._queries:
            source = (FOLDER / self.name / f"{name}.scm").read_text(encoding="utf-8")
            self._queries[name] = tree_sitter.Query(self.parser_language, source)
        return self._queries[name]


@cache
def languages() -> Mapping[str, Language]:
    """All languages by name.

    Raises:
        ValueError: two of them claim the same file extension or name.
    """
    found: dict[str, Language] = {}
    claimed: dict[str, str] = {}
    for path in sorted(FOLDER.glob("*/language.toml")):
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        language = msgspec.convert(raw | {"name": path.parent.name}, Language)
        for key in (*language.extensions, *language.filenames):
            if claimed.setdefault(key, language.name) != language.name:
                raise ValueError(f"{key} is claimed by {claimed[key]} and {language.name}")
        found[language.name] = language
    return found


@cache
def _by_name() -> Mapping[str, Language]:
    table: dict[str, Language] = {}
    for language in languages().values():
        table.update(dict.fromkeys((*language.extensions, *language.filenames), language))
    return table


@cache
def _by_interpreter() -> Mapping[str, Language]:
    return {name: one for one in languages().values() for name in one.interpreters}


def language_for(path: str, text: str = "") -> Language | None:
    """The language of a file by its name, or else by its first line; None if unknown."""
    name = PurePath(path).name
    table = _by_name()
    if name in table:
        return table[name]
    suffix = PurePath(path).suffix
    if suffix:
        return table.get(suffix) or table.get(suffix.lower())
    found = _SHEBANG.match(text[:200])
    if found is None:
        return None
    for word in found.groups():
        if word and word in _by_interpreter():
            return _by_interpreter()[word]
    return None
