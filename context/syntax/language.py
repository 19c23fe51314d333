"""What is known of each programming language: data, read from `context/syntax/languages/NAME/`.

A language is a folder with `language.toml` and one `.scm` query file for each of `QUERIES`. To add
one, add a folder, the grammar's wheel, and a fixture; no code changes. The captures that the
queries must use are said in `context/syntax/languages/README.md`.
"""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePath
from typing import NamedTuple

import msgspec
import tree_sitter

FOLDER = Path(__file__).with_name("languages")
QUERIES = ("imports", "definitions", "comments", "bodies", "boilerplate")
OPTIONAL_QUERIES = ("scopes",)
_LOOK_CHARS = 100_000
_LOOK_BACK_CHARS = 400
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
        compiled: endings of what a file is compiled to, which an import may name in its place.
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
    compiled: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sign:
    """What one language has and another does not.

    Attributes:
        word: a part of every text with this sign; it is looked for first, since that is quick.
        pattern: the sign itself. It begins with `word`, or is searched for in any case.
        before: what the statement must have before the sign, from the start of a line on, or with
            "^" from the statement's own start; None where anything may stand there.
    """

    word: str
    pattern: str
    before: str | None = None

    @cached_property
    def search(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.VERBOSE | re.MULTILINE)

    @cached_property
    def _before(self) -> re.Pattern[str]:
        before = self.before or ""
        line = r"(?s:.*\n)?\s*" if before[:1] != "^" else ""
        return re.compile(f"{line}(?:{before})", re.VERBOSE)

    def is_in(self, code: str) -> bool:
        """Whether the code has this sign."""
        if self.word not in code:
            return False
        return any(
            self.before is None or self._before.fullmatch(_statement_before(code, found.start()))
            for found in self.search.finditer(code)
        )


@dataclass(frozen=True, eq=False)
class Language:
    """One language. `*_marker` texts stand where something was cut, and are legal there.

    Attributes:
        other, other_extensions: a language that uses some of the file extensions too, and these
            extensions (C++ in a `.h` file).
        other_signs: what only the other language has.
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
    other_signs: tuple[Sign, ...] = ()
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


_MAGIC = re.compile(r"\s{0,200}%%(?:script\s+)?(?:/\S{0,80}/)?(\w+)")
_MAGIC_LANGUAGES = {"system": "shellscript", "sx": "shellscript", "writefile": "", "file": ""}


def cell_language_id(language_id: str, text: str) -> str:
    """VS Code's id of the language of a notebook's cell: its magic (`%%bash`) may name another than
    its language id."""
    name = canonical_id(language_id)
    magic = _MAGIC.match(text) if name == "python" else None
    if magic is None:
        return name
    named = _MAGIC_LANGUAGES.get(magic[1], magic[1])
    return canonical_id(named) if named and is_known_id(named) else name


def language_of_id(language_id: str) -> Language | None:
    """The language with an editor's language id; None for one without a grammar here."""
    name = canonical_id(language_id)
    return languages().get(_ids()[1].get(name, name))


def language_for(
    path: str, text: str = "", language_id: str = "", beside: Collection[str] = ()
) -> Language | None:
    """The language of a document; None if it is unknown.

    The language id decides, except for `.h` files: editors call C++ in them C. The path, and then
    the first line, count where there is none, where nobody knows it, and for plain text, which
    editors call every file that they do not know.

    Args:
        beside: names of the files in the same folder, if they are known. They count for a `.h`
            file that has nothing of C++ and does not ask either whether it is read as C++.
    """
    name = canonical_id(language_id)
    if is_known_id(name) and name != "plaintext":
        return _or_other(language_of_id(name), path, text, beside)
    found = _or_other(_by_path(path), path, text, beside)
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


def has_other(language: Language | None, path: str) -> bool:
    """Whether another language than `language` uses the path's extension too."""
    return language is not None and PurePath(path).suffix.lower() in language.other_extensions


def _or_other(
    language: Language | None, path: str, text: str, beside: Collection[str]
) -> Language | None:
    """`language`, or the other that uses the path's extension too, if the text has its signs."""
    if language is None or not has_other(language, path):
        return language
    text = text[:_LOOK_CHARS]
    other = languages()[language.other]
    is_other = _is_other(language, text) or (
        _IS_FOR_BOTH not in text and _is_among(language, other, path, beside)
    )
    return other if is_other else language


_IS_FOR_BOTH = "__cplusplus"


def _is_among(language: Language, other: Language, path: str, beside: Collection[str]) -> bool:
    """Whether files of `other` and none of `language` alone are beside the path; first those with
    its stem count, then all."""
    names = list(map(PurePath, beside))
    same = [one for one in names if one.stem == PurePath(path).stem]
    for some in (same, names):
        found = {one.suffix for one in some} - set(language.other_extensions)
        if found & set(language.extensions):
            return False
        if found & set(other.extensions):
            return True
    return False


def _statement_before(code: str, at: int) -> str:
    """What its statement has before `at`; "?" for a part that is not known."""
    first = max(at - _LOOK_BACK_CHARS, 0)
    start = max(code.rfind(end, first, at) for end in (*";{}", _START))
    return code[start + 1 : at] if start >= 0 else f"?{code[first:at]}"


def _is_other(language: Language, text: str) -> bool:
    """Whether a text has what only `language.other` has, outside of comments, strings and of what
    is for that language's compilers only."""
    code = _common_code(text)
    return (
        code is None
        or any(sign.is_in(code) for sign in language.other_signs)
        or any(_has_methods(name, members) for name, members in _structures(code))
    )


_BRACE = re.compile("[{}]")
_STRUCTURE = re.compile(
    r"(?:[\w\s]*\s)?(?:struct|union)(?:\s*\w*\({1,2}[^()]*\){1,2})?\s*([\w\s]*)", re.DOTALL
)
_METHOD_WORDS = re.compile(
    r"(?:static|inline|using|virtual|friend|explicit|typename|template|mutable)\s+[\w:<]"
)
_INITIAL_VALUE = re.compile(r"=(?<![=!<>&|^%*/+-]=)(?!=)")
_METHOD = re.compile(
    r"""\((?:\s*(?:void\s*)?\)
        |(?=[^(){};]{0,200}+\))(?:
            [^(){};]*?\b(?:int|char|bool|float|double|long|short|unsigned)\b
            |[^(){};]*?[A-Za-z_]\w*(?:\s+|\s*[*&]+\s*)[A-Za-z_])[^(){};]*\))
        \s*(?:const\s*)?[;{]""",
    re.VERBOSE,
)
_TYPE_AND_NAME = re.compile(r".*[\w>*&]\s+[*&]*(?!__|[A-Z_0-9]+\b)[A-Za-z_]\w*\s*", re.DOTALL)
_NAMED = re.compile(r"[;}:]\s*(?:(?:explicit|inline|constexpr)\s+)*(\w+)\s*\(")
_MEMBERS_CHARS = 20_000


def _has_methods(name: str, members: str) -> bool:
    """Whether a struct has what only C++ allows in one: methods, initial values, specifiers."""
    if _INITIAL_VALUE.search(members) or _METHOD_WORDS.search(members):
        return True
    if "(" not in members:
        return False
    return any(found[1] == name for found in _NAMED.finditer(members)) or any(
        _TYPE_AND_NAME.fullmatch(_statement_before(members, found.start()))
        for found in _METHOD.finditer(members)
    )


def _structures(code: str) -> Iterator[tuple[str, str]]:
    """Names and members of structs and unions; of a block within the members only the braces."""
    around: list[tuple[str, list[str]] | None] = []
    at = 0
    for brace in _BRACE.finditer(code):
        if around and around[-1] is not None:
            around[-1][1].append(code[at : brace.end()])
        at = brace.end()
        if brace[0] == "{":
            found = _STRUCTURE.fullmatch(_statement_before(code, brace.start()))
            name = found[1].split()[-1:] if found is not None else []
            around.append(("".join(name), [";"]) if found is not None else None)
        elif around and (done := around.pop()) is not None:
            yield done[0], _without_directives("".join(done[1])[:_MEMBERS_CHARS])
    for rest in around:
        if rest is not None:
            yield rest[0], _without_directives("".join(rest[1])[:_MEMBERS_CHARS])


def _without_directives(code: str) -> str:
    return _DIRECTIVE.sub("\n", code)


_NO_CODE = re.compile(
    r"""
    /(?:\*[^*]*+(?:\*(?!/)[^*]*+)*+(?:\*/)?|/(?:[^\\\n]|\\.)*+)
    |"(?:(?<=(?<!\w)R")|(?<=(?<!\w)[uUL]R")|(?<=(?<!\w)u8R"))(?P<raw>[^()\\\s"]{0,16}\()
    |"(?:[^"\\\n]|\\.)*+"?
    |'(?:(?<=[0-9a-fA-F]')(?=[0-9a-fA-F]{3})|(?:[^'\\\n]|\\.)*+'?)
    |\\\n
    """,
    re.VERBOSE | re.DOTALL,
)
"""Comments, texts and joined lines. Raw strings are C++'s only."""

_KEEPS_TEXT = re.compile(r"\s*(?:#\s*(?:include|import)\b|extern\b)")
_DIRECTIVE = re.compile(r"\n[ \t]*#[ \t]*(\w*)([^\n]*)")
_VERSION = re.compile(r"__cplusplus\s*[<>]")
_NOT_OTHER = re.compile(r"!\s*(?:defined\b)?\s*\(?\s*__cplusplus\b")


def _common_code(text: str) -> str | None:
    """What C and C++ compilers both read of a header; None if no C compiler can read it.

    A statement begins at the start and after a directive. Of directives only definitions and
    includes stay, and only the names of files stay of texts.
    """
    code = f"\n{_NO_CODE.sub(_blanked, text)}"
    if _ONLY_OTHER in code:
        return None
    kept = [_START]
    conditions = _Conditions()
    at = 0
    for found in _DIRECTIVE.finditer(code):
        left_out = conditions.saw_code(code[at : found.start()])
        if not left_out:
            kept.append(code[at : found.start()])
        at = found.end()
        name, rest = found.groups()
        if name == "error" and conditions.is_c:
            return None
        conditions.take(name, rest)
        if name in ("define", "include", "import") and not left_out:
            kept.append(found[0])
        kept.append(f"\n{_START}\n")
    if not conditions.saw_code(code[at:]):
        kept.append(code[at:])
    made = "".join(kept)
    has_code = _DIRECTIVE.sub("", made).replace(_START, "").strip()
    return made if has_code or not conditions.has_versions else None


_START = "\1"
"""Stands where a statement begins."""

_ONLY_OTHER = "\0"
"""Stands for a raw string and for a number with separators."""


def _blanked(found: re.Match[str]) -> str:
    text, at = found.string, found.start()
    if found["raw"] is not None or (found[0] == "'" and text[at - 1 : at].isdigit()):
        return _ONLY_OTHER
    if text[at] != '"':
        return " "
    line = text.rfind("\n", max(at - _LOOK_BACK_CHARS, 0), at) + 1
    return found[0] if line <= at and _KEEPS_TEXT.match(text, line, at) else '""'


class _Branch(NamedTuple):
    """The branch of a condition that a header is in.

    Attributes:
        left_out: no C compiler reads it.
        is_c: no C++ compiler reads it, and nothing else is asked.
    """

    left_out: bool
    is_c: bool

    @classmethod
    def of(cls, name: str, rest: str) -> _Branch:
        if "__cplusplus" not in rest:
            return cls(name == "if" and rest.strip() == "0", False)
        is_c = name == "ifndef" or _NOT_OTHER.search(rest) is not None
        return cls(not is_c, is_c and "&&" not in rest and "||" not in rest)


class _Conditions:
    """Follows the conditions of a header.

    Attributes:
        has_versions: code is left out, and a version of C++ is asked for.
    """

    def __init__(self) -> None:
        self.has_versions = False
        self._branches: list[_Branch] = []
        self._left_out = 0  # of the branches
        self._asks = False

    @property
    def is_c(self) -> bool:
        return bool(self._branches) and self._branches[-1].is_c

    def saw_code(self, code: str) -> bool:
        """Whether no C compiler reads `code`, which stands here."""
        if self._left_out and self._asks and not self.has_versions:
            self.has_versions = bool(code.strip())
        return self._left_out > 0

    def take(self, name: str, rest: str) -> None:
        """Go past a directive."""
        self._asks = self._asks or _VERSION.search(rest) is not None
        if name in ("if", "ifdef", "ifndef"):
            self._enter(_Branch.of(name, rest))
        elif self._branches and (name == "endif" or name.startswith("el")):
            before = self._branches.pop()
            self._left_out -= before.left_out
            if name == "else":
                self._enter(_Branch(before.is_c, False))
            elif name != "endif":
                self._enter(_Branch.of(name[2:], rest))

    def _enter(self, branch: _Branch) -> None:
        self._branches.append(branch)
        self._left_out += branch.left_out
