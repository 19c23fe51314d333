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
OPTIONAL_QUERIES = ("scopes",)
_LOOK_CHARS = 100_000
_LOOK_BACK_CHARS = 240
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
    """One language. `*_marker` texts stand where something was cut, and are legal there.

    Attributes:
        other, other_extensions: a language that uses some of the file extensions too, and these
            extensions (C++ in a `.h` file).
        other_if, other_within: patterns of what only the other language has: at the start of a
            line, and within one but not in a string or comment.
        self_names: what an object calls itself.
        implicit_self: methods reach the object's members without it.
        queries: the folders whose query files it uses, one after another; by default its own.
        family: languages of one family see each other's definitions; by default its own name.
    """

    name: str
    grammar: str
    extensions: tuple[str, ...]
    line_comment: str
    body_marker: str
    literal_marker: str = "..."
    filenames: tuple[str, ...] = ()
    interpreters: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ()
    other: str = ""
    other_if: str = ""
    other_within: str = ""
    other_extensions: tuple[str, ...] = ()
    queries: tuple[str, ...] = ()
    family: str = ""
    self_names: tuple[str, ...] = ()
    implicit_self: bool = False
    resolve: Resolve = Resolve()

    def sees(self, name: str) -> bool:
        """Whether code in this language may use definitions of the language `name`."""
        other = languages().get(name)
        return other is not None and other.family == self.family

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

    def has_query(self, name: str) -> bool:
        """Whether there is a file for a query; one of OPTIONAL_QUERIES may be missing."""
        return bool(self._query_files(name))

    def query(self, name: str) -> tree_sitter.Query:
        """The compiled query `name`, one of QUERIES, or of OPTIONAL_QUERIES if `has_query`."""
        if name not in self._queries:
            files = self._query_files(name)
            source = "\n".join(file.read_text(encoding="utf-8") for file in files)
            self._queries[name] = tree_sitter.Query(self.parser_language, source)
        return self._queries[name]

    def _query_files(self, name: str) -> list[Path]:
        files = (FOLDER / folder / f"{name}.scm" for folder in self.queries or (self.name,))
        return [file for file in files if file.is_file()]


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
        named = {"family": path.parent.name} | raw | {"name": path.parent.name}
        language = msgspec.convert(named, Language)
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


@cache
def _ids() -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Canonical language ids by every id, and names of languages by canonical ids.

    Raises:
        ValueError: an id stands for two languages.
    """
    raw = tomllib.loads(FOLDER.with_name("language_ids.toml").read_text(encoding="utf-8"))
    canonical: dict[str, str] = {}
    for name, aliases in raw["aliases"].items():
        for one in (name, *aliases):
            if canonical.setdefault(one, name) != name:
                raise ValueError(f"{one} is an id of {canonical[one]} and of {name}")
    return canonical, raw["grammars"]


def canonical_id(language_id: str) -> str:
    """VS Code's id of the language that any editor calls `language_id`.

    Case does not matter. Of a compound file type of Neovim (`javascript.jsx`, `python.django`) the
    first part that is known counts. An id that nobody knows stays as it is.
    """
    canonical, _ = _ids()
    plain = language_id.strip().lower()
    for one in (plain, *plain.split(".")):
        if one in canonical:
            return canonical[one]
    return plain


def is_known_id(language_id: str) -> bool:
    """Whether the table of ids has a language that some editor calls `language_id`."""
    return canonical_id(language_id) in _ids()[0]


def language_of_id(language_id: str) -> Language | None:
    """The language with an editor's language id; None for one without a grammar here."""
    name = canonical_id(language_id)
    return languages().get(_ids()[1].get(name, name))


def language_for(path: str, text: str = "", language_id: str = "") -> Language | None:
    """The language of a document; None if it is unknown.

    The language id decides, except for `.h` files: editors call C++ in them C. The path, and then
    the first line, count where there is none, where nobody knows it, and for plain text, which
    editors call every file that they do not know.
    """
    name = canonical_id(language_id)
    if is_known_id(name) and name != "plaintext":
        return _or_other(language_of_id(name), path, text)
    found = _or_other(_by_path(path), path, text)
    if found is not None or PurePath(path).suffix:
        return found
    shebang = _SHEBANG.match(text[:200])
    words = shebang.groups() if shebang is not None else ()
    return next((table[one] for one in words if one and one in (table := _by_interpreter())), None)


def _by_path(path: str) -> Language | None:
    name, suffix = PurePath(path).name, PurePath(path).suffix
    table = _by_name()
    found = table.get(name) or table.get(suffix) or table.get(suffix.lower())
    return found or _by_lower_name().get(name.lower())


@cache
def _by_lower_name() -> Mapping[str, Language]:
    return {name.lower(): one for one in languages().values() for name in one.filenames}


def _or_other(language: Language | None, path: str, text: str) -> Language | None:
    """`language`, or the other that uses the path's extension too, if the text has its lines."""
    if language is None or PurePath(path).suffix.lower() not in language.other_extensions:
        return language
    return languages()[language.other] if _is_other(language, text[:_LOOK_CHARS]) else language


def _is_other(language: Language, text: str) -> bool:
    """Whether a text has what only `language.other` has, outside of comments and of what is for
    that language's compilers only."""
    text = f"\n{text}"
    return _has_other(language, text) and _has_other(language, _NOT_FOR_ALL.sub("\n", text))


def _has_other(language: Language, text: str) -> bool:
    at_start, within = _other_patterns(language)
    return at_start.search(text) is not None or any(
        _is_code(text, found.start()) for found in within.finditer(text)
    )


_NOT_FOR_ALL = re.compile(
    r"/\*(?:[^*]|\*(?!/))*+(?:\*/)?"
    r"|\n#[ \t]*if(?!ndef)[^\n]*__cplusplus.{0,20000}?(?=\n[ \t]*#[ \t]*(?:endif|el))",
    re.DOTALL,
)
"""Comments of several lines, and what only a C++ compiler reads of a header that is C too."""


@cache
def _other_patterns(language: Language) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Both begin with a character and not with a place, which is several times as fast."""
    at_start = rf"\n[ \t]*(?:{language.other_if})"
    flags = re.VERBOSE | re.MULTILINE
    return re.compile(at_start, flags), re.compile(language.other_within, flags)


def _is_code(text: str, at: int) -> bool:
    """Whether no string or comment begins before `at` on its line, which is not too long."""
    line = text.rfind("\n", max(at - _LOOK_BACK_CHARS, 0), at)
    return line >= 0 and not any(char in text[line:at] for char in '"/*')
