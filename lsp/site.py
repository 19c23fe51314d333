"""Where a suggestion goes, how far it reaches there, and what its language needs for that. Pure.

What is known of each language is in `languages.toml`; a document may hold several languages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, cached_property
from typing import Any

_LOOK_CHARS = 1 << 14
_LONGEST_LINE_CHARS = 1 << 12
"""What opens a block is not looked for in a longer line, which no person has written."""
_TEXT_LOOK_CHARS = 1 << 17
_CLOSERS = ")]}>\"'`;:, \t"
_NOT_BLANK = re.compile(r"\S")
_COLON_STATEMENT = re.compile(
    r"\s*(?:(?:async\s+)?(?:if|elif|for|while|with|except|def|class|match|case|proc|func|iterator|"
    r"when|of|block)\b(?!\s*:)|(?:else|try|except|finally|block)\s*:)"
)
"""What a line begins with that ends with `:` before an indented block."""
_STATEMENT = re.compile(
    r"\s*(?:(?:export|pub(?:\([a-z]+\))?|public|private|protected|internal|static|abstract|final|"
    r"default|async|unsafe|sealed|open|data|partial)\s+)*(?:if|else|for|foreach|while|do|switch|"
    r"match|loop|try|catch|finally|fn|func|fun|function|class|struct|interface|trait|impl|enum|"
    r"namespace|module|mod|unsafe|select|defer|object|record|union|extension)\b(?!\s*[=:(.])"
)
"""What a line begins with that ends with `{` before a block, where no bracket closes before it."""
_BEFORE_BODY = re.compile(
    r"(?:\)(?:\s*(?:const|noexcept|override|final))*|=>|\b(?:else|try|do|finally))$"
)


@dataclass(frozen=True)
class _Open:
    """A comment or a string of several lines that is open at the end of a text.

    Attributes:
        depth: how many comments within each other are open; 1 for a string.
    """

    opener: str
    closer: str
    depth: int
    comment: bool


@dataclass(frozen=True)
class _Marked:
    """A kind of string or comment whose closer repeats a mark of its opener, such as `R"x(`.

    Attributes:
        opener: a regular expression; its group `mark` is the mark.
        closer: the text that ends it, with `{}` for the mark.
    """

    opener: str
    closer: str
    comment: bool


@dataclass(frozen=True)
class Language:
    """See `languages.toml`."""

    comment: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()
    opening: re.Pattern[str] | None = None
    blocks: tuple[tuple[str, str], ...] = ()
    nested: bool = False
    quotes: tuple[str, ...] = ()
    long_quotes: tuple[str, ...] = ()
    chars: bool = False
    texts: tuple[tuple[str, str], ...] = ()
    marked: tuple[_Marked, ...] = ()
    scalars: bool = False
    datum: str = ""
    column: int = 0
    column_marks: str = ""
    heredoc: re.Pattern[str] | None = None
    code: tuple[str, ...] = ()
    recipes: bool = False
    spaces: bool = False

    def is_comment(self, line: str) -> bool:
        """Whether a line, outside a comment of several lines, starts with a comment."""
        start = line.lstrip()
        if not start or start.startswith(("#!", *self.code)):
            return False
        if any(start.startswith(opener.strip()) for opener, _ in self.blocks):
            return True
        if self.column and line[self.column - 1 : self.column] in tuple(self.column_marks):
            return True
        for mark in self.comment:
            if start.startswith(mark):
                return not (mark[-1].isalpha() and start[len(mark) :][:1].isalnum())
        return False

    def in_comment(self, text: str) -> bool:
        """Whether a comment of several lines is open at the end of `text`; its last part counts."""
        found = self._open_at_end(text[-_LOOK_CHARS:]) if self.blocks else None
        return found is not None and found.comment

    def in_text(self, text: str) -> bool:
        """Whether a string of several lines is open at the end of `text`."""
        text = text[-_TEXT_LOOK_CHARS:]
        if self.heredoc is not None and self._in_heredoc(text, self.heredoc):
            return True
        if self.scalars and _in_block_scalar(text):
            return True
        has_texts = self.texts or self.long_quotes or self.marked
        inside = self._open_at_end(text) if has_texts else None
        return inside is not None and not inside.comment

    def _in_heredoc(self, text: str, start: re.Pattern[str]) -> bool:
        """Whether a string that ends with a line of its own is open at the end of `text`."""
        at = 0
        while found := start.search(text, at):
            at = text.find("\n", found.end())
            if at < 0:
                return False
            for one in (found, *start.finditer(text, found.end(), at)):
                end = re.compile(rf"^[ \t]*{re.escape(one['end'])}\b", re.MULTILINE)
                closed = end.search(text, at)
                if closed is None:
                    return True
                at = closed.end()
        return False

    def only_comments(self, text: str, before: str = "") -> bool:
        """Whether `text`, which follows `before`, has no line with anything but comments.

        `text` starts at the start of a line. A very long one is more than comments.
        """
        if len(text) > _LOOK_CHARS:
            return False
        inside = self._open_at_end(before[-_LOOK_CHARS:]) if self.blocks else None
        at = 0
        if inside is not None and inside.comment:
            at, _ = self._comment_end(text, 0, inside.opener, inside.closer.strip(), inside.depth)
        while found := _NOT_BLANK.search(text, at):
            at = found.start()
            end = text.find("\n", at)
            first = text.rfind("\n", 0, at) + 1 if self.column else at
            line = text[first : end if end >= 0 else None]
            if self.datum and line.startswith(self.datum):
                at = _datum_end(text, at, self.datum)
                continue
            if not self.is_comment(line):
                return False
            pair = next((one for one in self.blocks if line.startswith(one[0].strip())), None)
            if pair is not None:
                opener, closer = pair[0].strip(), pair[1].strip()
                at, _ = self._comment_end(text, at + len(opener), opener, closer, 1)
            elif end < 0:
                break
            else:
                at = end
        return True

    def opens_block(self, line: str) -> bool:
        """Whether a deeper block follows after this line."""
        words = line[-_LOOK_CHARS:].rstrip()
        if words.endswith(("{", "(", "[", "=>")):
            return True
        searched = self.opening if len(line) <= _LONGEST_LINE_CHARS else None
        if searched is not None and searched.search(words):
            return True
        for mark in self.opens:
            if words.endswith(mark):
                before = words[: -len(mark)]
                return not (mark[0].isalpha() and before[-1:].isalnum())
        return False

    def body_is_below(self, line: str) -> bool:
        """Whether the block that this line opens begins on a line of its own, by what people write.

        False where the line could go on: `{` of a literal, `:` of a type or of a key.
        """
        words = line[-_LOOK_CHARS:].rstrip()
        if words.endswith("{"):
            before = words[:-1].rstrip()
            statement = _STATEMENT.match(words) and not before.endswith("=")
            return bool(statement or _BEFORE_BODY.search(before))
        by_colon = ":" in self.opens and not self.scalars
        return by_colon and words.endswith(":") and bool(_COLON_STATEMENT.match(words))

    def _open_at_end(self, text: str) -> _Open | None:
        """What is open at the end of `text`. Strings and comments of one line are passed over."""
        comments, texts = dict(self.blocks), dict(self.texts)
        at = 0
        while found := self._parts.search(text, at):
            opener, at = found[0], found.end()
            if (marked := self._marked_at(found)) is not None:
                kind, closer = marked
                end = text.find(closer, at)
                if end < 0:
                    return _Open(opener, closer, 1, kind.comment)
                at = end + len(closer)
            elif opener in comments:
                closer = comments[opener]
                at, depth = self._comment_end(text, at, opener, closer, 1)
                if depth:
                    return _Open(opener, closer, depth, comment=True)
            elif opener in texts:
                end = text.find(texts[opener], at)
                if end < 0:
                    return _Open(opener, texts[opener], 1, comment=False)
                at = end + len(texts[opener])
            elif found.lastgroup is not None:
                return _Open(opener[0], opener[0], 1, comment=False)
        return None

    def _marked_at(self, found: re.Match[str]) -> tuple[_Marked, str] | None:
        """The kind of marked string or comment that begins at `found`, and its closer."""
        for number, kind in enumerate(self.marked):
            mark: str | None = found[f"mark_{number}"]
            if mark is not None:
                return kind, kind.closer.replace("{}", mark)
        return None

    def _comment_end(
        self, text: str, at: int, opener: str, closer: str, depth: int
    ) -> tuple[int, int]:
        """Just past the end of a comment that is open at `at`, and 0; or the text's end, and how
        many comments are open there."""
        while depth:
            end = text.find(closer, at)
            if end < 0:
                return len(text), depth + (text.count(opener, at) if self.nested else 0)
            depth += text.count(opener, at, end) if self.nested else 0
            at, depth = end + len(closer), depth - 1
        return at, 0

    @cached_property
    def _parts(self) -> re.Pattern[str]:
        """The start of a comment or string of several lines, a string of one line (one that does
        not close ends with its line), one of several that has no start of its own, or a comment of
        one line."""
        starts = sorted(
            (opener for opener, _ in (*self.blocks, *self.texts)), key=len, reverse=True
        )
        strings = [rf"{quote}(?:[^{quote}\\\n]|\\.)*+{quote}?" for quote in self.quotes]
        if self.long_quotes:
            strings += [
                rf"{quote}(?:[^{quote}\\]|\\[\s\S])*+(?:{quote}|(?P<open_{at}>\\?\Z))"
                for at, quote in enumerate(self.long_quotes)
            ]
            strings.append(r"\\[\s\S]")
        if self.chars:
            strings.insert(0, r"'(?:[^'\\\n]|\\[^\n][^'\n]{0,8})'")
        marked = [
            kind.opener.replace("(?P<mark>", f"(?P<mark_{number}>")
            for number, kind in enumerate(self.marked)
        ]
        marks = "|".join(
            r"(?<![\w${&\\])#" if mark == "#" else re.escape(mark)
            for mark in self.comment
            if not mark[-1].isalpha()
        )
        has_strings = self.quotes or self.long_quotes
        lines = [rf"(?:{marks})[^\n]*"] if marks and has_strings else []
        return re.compile("|".join([*marked, *map(re.escape, starts), *lines, *strings]))


_BLOCK_SCALAR = re.compile(r"[|>](?:[-+]?([1-9])?|([1-9])[-+])")
_ENTRIES = re.compile(r" *(?:[-?][ \t]+)*+")


def _in_block_scalar(text: str) -> bool:
    """Whether the end of a YAML text is in a block scalar (YAML 1.2.2, section 8.1)."""
    least: int | None = None  # columns that the lines of the scalar are indented by at least
    known = inside = False  # `known`: the first line of the scalar has said how many
    for line in text.split("\n"):
        columns = len(line) - len(line.lstrip(" "))
        blank = not line.strip()
        inside = least is not None and columns >= least
        if inside and not blank and not known:
            least, known = columns, True
        elif not inside and not blank:
            least, known = _scalar_columns(line)
    return inside


def _scalar_columns(line: str) -> tuple[int | None, bool]:
    """The least columns of the lines of the block scalar that begins after `line`, or None; whether
    `line` says itself how many they are."""
    words = line[-_LOOK_CHARS:].split()
    comment = next((at for at, word in enumerate(words) if word.startswith("#")), len(words))
    words = words[:comment]
    header = _BLOCK_SCALAR.fullmatch(words.pop()) if words else None
    while words and words[-1].startswith(("!", "&")):
        words.pop()
    if header is None or not words or not words[-1].endswith((":", "-", "?")):
        return None, False
    entries = _ENTRIES.match(line)
    before = entries[0] if entries is not None else ""
    outer = len(before.rstrip()) - 1 if words[-1] in {"-", "?"} else len(before)
    if words == ["---"]:
        outer = -1
    given = header[1] or header[2]
    return (max(outer, 0) + int(given), True) if given else (outer + 1, False)


_DATUM_PARTS = re.compile(
    r"""
    (?P<blank>\s+|;[^\n]*+|\#\|(?:[^|]|\|(?!\#))*+(?:\|\#)?|\#?['`,]@?)
    |(?P<open>(?:\#\w*)?[(\[{])
    |(?P<close>[)\]}])
    |"(?:[^"\\]|\\[\s\S])*+"?
    |\#\\(?:\w+|[\s\S]|\Z)
    |[^\s()\[\]{}";]+
    """,
    re.VERBOSE,
)


def _datum_end(text: str, at: int, mark: str) -> int:
    """Just past the datum of Scheme that the `mark` at `at` makes a comment, or the text's end."""
    due, depth = 1, 0  # data that are still to come on the outermost level; open brackets
    at += len(mark)
    while due and at < len(text):
        if text.startswith(mark, at):
            due += not depth
            at += len(mark)
            continue
        found = _DATUM_PARTS.match(text, at)
        if found is None or (found["close"] and not depth):
            break
        at = found.end()
        depth += bool(found["open"]) - bool(found["close"])
        if not found["blank"] and not depth:
            due -= 1
    return at


@cache
def language(name: str) -> Language:
    """The table's row for an editor's language id; a default for those that it does not have."""
    from context.syntax.language import canonical_id

    rows = _rows()
    return rows.get(canonical_id(name), rows["default"])


def is_listed(language_id: str, ids: Iterable[str]) -> bool:
    """Whether one of the ids that editors have for a language is among `ids`."""
    from context.syntax.language import canonical_id

    name = canonical_id(language_id)
    return any(canonical_id(one) == name for one in ids)


@cache
def _table() -> dict[str, Any]:
    import tomllib
    from importlib import resources

    return tomllib.loads((resources.files("lsp") / "languages.toml").read_text("utf-8"))


@cache
def _rows() -> dict[str, Language]:
    table = {name: row for name, row in _table().items() if name != "alias"}
    aliases: dict[str, list[str]] = _table()["alias"]
    rows = {
        name: Language(
            comment=tuple(row["comment"]),
            opens=tuple(row["opens"]),
            opening=re.compile(row["opening"]) if "opening" in row else None,
            blocks=tuple((opener, closer) for opener, closer in row.get("block", ())),
            nested=row.get("nested", False),
            quotes=tuple(row.get("quotes", ())),
            long_quotes=tuple(row.get("long_quotes", ())),
            chars=row.get("chars", False),
            texts=tuple((opener, closer) for opener, closer in row.get("text", ())),
            marked=tuple(
                _Marked(opener, closer, comment)
                for key, comment in (("marked_block", True), ("marked", False))
                for opener, closer in row.get(key, ())
            ),
            scalars=row.get("scalars", False),
            datum=row.get("datum", ""),
            column=row.get("column", 0),
            column_marks=row.get("column_marks", ""),
            heredoc=re.compile(row["heredoc"]) if "heredoc" in row else None,
            code=tuple(row.get("code", ())),
            recipes=row.get("recipes", False),
            spaces=row.get("spaces", False),
        )
        for name, row in table.items()
    }
    return rows | {alias: rows[name] for name, names in aliases.items() for alias in names}


_EMBEDDED_LOOK_CHARS = 1 << 18

_MARKDOWN = frozenset({"markdown", "mdx"})
_FENCE = re.compile(r"^[ \t>]*(`{3,}|~{3,})[ \t]*\{?\.?([\w+#.-]*)[^`\n]*$", re.MULTILINE)

# Templates by what stands between their marks, and the language of that.
_TEMPLATES = {
    "php": ("<?", "?>", "php"),
    "erb": ("<%", "%>", "ruby"),
}
_HTML = frozenset(
    {"html", "vue", "svelte", "astro", "jinja", "twig", "django-html", "liquid", "handlebars"}
    | {"blade", "razor", "erb", "php", "gotmpl"}
)
_MAGIC_CHARS = 256
_SECTION_ENDS = re.compile(r"<(/?)(script|style)\b", re.IGNORECASE)
_ATTRIBUTES = re.compile(r"[^<>]{0,2000}>")
_SECTION_LANGUAGE = re.compile(r"""\b(?:lang|type)\s*=\s*["']?(?:text/|application/)?([\w+.-]+)""")
_SECTION_DEFAULT = {"script": "javascript", "style": "css"}
_SECTION_TYPES = {
    **dict.fromkeys(("x-template", "html", "ng-template"), "html"),
    **dict.fromkeys(("importmap", "ld+json", "speculationrules", "json"), "json"),
    **dict.fromkeys(("babel", "jsx"), "javascriptreact"),
    **dict.fromkeys(("x-handlebars", "x-handlebars-template"), "handlebars"),
    "postcss": "scss",
}


def embedded_id(language_id: str, before: str) -> str:
    """VS Code's id of the language behind `before`, the text of a document up to a cursor.

    The document's own, by its language id, where no other is known to stand there.
    """
    from context.syntax.language import canonical_id, cell_language_id

    name = canonical_id(language_id)
    if name in _MARKDOWN:
        return _in_markdown(before[-_EMBEDDED_LOOK_CHARS:]) or name
    if name == "python" and "%%" in before[:_MAGIC_CHARS]:
        return cell_language_id(name, before) if "\n" in before.lstrip() else name
    if name not in _HTML:
        return name
    before = before[-_EMBEDDED_LOOK_CHARS:]
    if name in _TEMPLATES:
        opener, closer, inner = _TEMPLATES[name]
        start, end = before.rfind(opener), before.rfind(closer)
        if start > end or (name == "php" and start < 0 and end < 0):
            return inner
        name = "html" if name == "php" else name
    if name == "astro" and before.startswith("---\n") and "\n---" not in before[3:]:
        return "typescript"
    return _in_section(before) or name


def _in_markdown(before: str) -> str:
    """The language of the fenced block that is open at the end of `before`."""
    marks = language = ""
    if "```" not in before and "~~~" not in before:
        return ""
    for fence in _FENCE.finditer(before):
        if fence.end() == len(before):
            break  # the cursor's own line
        if not marks:
            marks, language = fence[1], fence[2] or "plaintext"
        elif fence[1].startswith(marks) and not fence[2]:
            marks = language = ""
    return _known(language)


def _in_section(before: str) -> str:
    """The language of the script or the style that is open at the end of `before`."""
    last = next(reversed(list(_SECTION_ENDS.finditer(before))), None)
    if last is None or last[1]:
        return ""
    attributes = _ATTRIBUTES.match(before, last.end())
    if attributes is None or attributes[0].endswith("/>"):
        return ""
    given = _SECTION_LANGUAGE.search(attributes[0])
    name = given[1].lower() if given is not None else ""
    return _SECTION_TYPES.get(name) or _known(name) or _SECTION_DEFAULT[last[2].lower()]


def _known(name: str) -> str:
    """VS Code's id of a language, if the table of ids has it."""
    from context.syntax.language import canonical_id, is_known_id

    return canonical_id(name) if name and is_known_id(name) else ""


class Shape(StrEnum):
    """How far a suggestion should go.

    `middle` stays on the cursor's line, before other code; `line` ends with the line; `block` ends
    where the block does.
    """

    MIDDLE = "middle"
    LINE = "line"
    BLOCK = "block"


@dataclass(frozen=True)
class Origin:
    """The state of a document that a site was taken from.

    Attributes:
        document: identifies the document.
        revision: number of changes made to it so far.
        kept: for each of the last changes, how many characters at the start and at the end of the
            document it surely left as they were; line ends count as one character.
        left_out: characters of the document before and after the site's text.
        before, after: how many characters of `prefix`, from its start, and of `suffix`, from its
            end, are the document's; the rest was added.
    """

    document: object
    revision: int
    kept: tuple[tuple[int, int], ...]
    left_out: tuple[int, int]
    before: int
    after: int


@dataclass(frozen=True)
class Site:
    """A cursor in a document at one moment, with the text around it.

    Line ends are `\\n`, whatever the document has: models know that best, and editors keep a file's
    own line ends when they insert a suggestion.

    Attributes:
        prefix, suffix: the text before and after the cursor; of a huge document, a part of it.
        language_id: LSP language id; may be empty.
        control: control tokens of the model, as text.
        uri, version: of the document.
        origin: what it was taken from; None for a text that is in no document.
    """

    prefix: str
    suffix: str
    language_id: str = ""
    control: tuple[str, ...] = ()
    uri: str = ""
    version: int = 0
    origin: Origin | None = field(default=None, compare=False, repr=False)

    @property
    def text(self) -> str:
        return self.prefix + self.suffix

    @cached_property
    def cursor_byte(self) -> int:
        """UTF-8 bytes of `text` before the cursor."""
        return len(self.prefix.encode())

    @cached_property
    def code_language_id(self) -> str:
        """VS Code's id of the language at the cursor: of code in another language's document, such
        as a script in HTML or a fenced block in Markdown, else the document's."""
        return embedded_id(self.language_id, self.prefix)

    @cached_property
    def language(self) -> Language:
        return language(self.code_language_id)

    @cached_property
    def line_prefix(self) -> str:
        """The cursor's line up to the cursor."""
        return self.prefix[self.prefix.rfind("\n") + 1 :]

    @cached_property
    def line_suffix(self) -> str:
        """The cursor's line from the cursor."""
        return self.suffix.partition("\n")[0]

    @cached_property
    def indent(self) -> str:
        """The blanks at the start of the cursor's line, up to the cursor."""
        return leading_blanks(self.line_prefix)

    @cached_property
    def previous_line(self) -> str:
        """The nearest line above that is not blank; empty if there is none."""
        before = self.prefix[-_LOOK_CHARS:][: -len(self.line_prefix) or None]
        return next((line for line in reversed(before.split("\n")) if line.strip()), "")

    @cached_property
    def next_line(self) -> str:
        """The nearest line below that is not blank; empty if there is none."""
        after = self.suffix[len(self.line_suffix) : len(self.line_suffix) + _LOOK_CHARS]
        return next((line for line in after.split("\n") if line.strip()), "")

    @cached_property
    def shape(self) -> Shape:
        """What to suggest here, by the cursor's line alone."""
        if self.line_suffix.strip(_CLOSERS):
            return Shape.MIDDLE
        if self.line_suffix.strip():
            return Shape.LINE
        if not self.line_prefix.strip() or self.language.opens_block(self.line_prefix):
            return Shape.BLOCK
        return Shape.LINE


def known_equal(old: Site, new: Site) -> tuple[int, int]:
    """How many characters at the start and at the end two sites' texts surely have in common.

    Nothing is compared: it follows from the changes of their document between the two.
    """
    first, last = old.origin, new.origin
    if first is None or last is None or first.document is not last.document:
        return 0, 0
    changes = last.revision - first.revision
    if first.left_out != last.left_out or not 0 <= changes <= len(last.kept):
        return 0, 0
    starts = [min(origin.before, len(site.prefix)) for origin, site in ((first, old), (last, new))]
    ends = [min(origin.after, len(site.suffix)) for origin, site in ((first, old), (last, new))]
    for start, end in last.kept[len(last.kept) - changes :]:
        starts.append(start - last.left_out[0])
        ends.append(end - last.left_out[1])
    return max(min(starts), 0), max(min(ends), 0)


def leading_blanks(line: str) -> str:
    """The blanks that a line starts with."""
    return line[: len(line) - len(line.lstrip(" \t"))]


def width(blanks: str, tab: int = 4) -> int:
    """How many columns blanks take."""
    return len(blanks.expandtabs(tab))
