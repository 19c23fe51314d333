"""What the agent reads: its instructions, and the tools that read files, definitions and searches.

Results are cut by syntax and bounded here, before they enter the conversation. The instructions are
ours, the project's AGENTS.md files and the slash commands.
"""

from __future__ import annotations

import fnmatch
import time
import tomllib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import regex

from assistant.agent.commands import plain
from assistant.agent.tools import Outcome
from assistant.agent.workspace import ToolError, Workspace
from context.syntax.document import Source, damage, read_file
from context.syntax.syntax_tree import Definition, Kind
from context.syntax.text import Encoder, line_start
from context.syntax.trim import Depth, apply, cuts

_SEARCH_S = 10.0
_LINE_S = 0.5
_MOST_LINE_CHARS = 300
_MOST_HITS = 200
_MOST_LISTED = 400
RULES_FILE = "AGENTS.md"
_MOST_FILES = 8


@dataclass(frozen=True)
class Reader:
    """Reads for one session.

    Attributes:
        encoder: counts the model's tokens.
        max_tokens: the most that one result may have.
    """

    workspace: Workspace
    encoder: Encoder
    max_tokens: int

    def clip(self, text: str, hint: str = "", share: float = 1.0) -> str:
        """`text` within the bound: its first and last lines, and how many lines are left out."""
        limit = max(int(self.max_tokens * share), 16)
        return clip(text, limit, self.encoder, hint)

    def file(self, path: str, definition: str, first: int | None, last: int | None) -> Outcome:
        """A file, an outline of it, a definition, or lines."""
        file = self.workspace.read(self.workspace.resolve(path))
        text = self.workspace.shown(file.text)
        name = self.workspace.name(file.path)
        source = read_file(name, text)
        if definition:
            return self._definition(name, text, source, definition)
        lines = text.split("\n")
        count = len(lines) - (lines[-1] == "")
        if first is None and last is None:
            if self.encoder.text_count(text) <= self.max_tokens:
                return self._shown(name, source, text, (1, count), count)
            return self._too_long(name, source, lines, count)
        start = first or 1
        stop = min(last or start + 199, count)
        if start > count:
            raise ToolError(f"{name} has {count} lines. Give lines within them.")
        if stop < start:
            raise ToolError(f"The last line ({last}) is before the first ({first}).")
        return self._shown(name, source, "\n".join(lines[start - 1 : stop]), (start, stop), count)

    def _shown(
        self, name: str, source: Source | None, text: str, span: tuple[int, int], count: int
    ) -> Outcome:
        head = f"{name}, lines {span[0]}-{span[1]} of {count}:\n"
        shown = self.clip(text, "read fewer lines")
        short = ""
        if source is not None:
            lines = source.text.split("\n")
            start = sum(len(line) + 1 for line in lines[: span[0] - 1])
            skeleton = apply(source.text, cuts(source, Depth.BODIES), start, start + len(text))
            short = head + self.clip(skeleton, "read it again", 0.25)
        line = f"Read {name}, lines {span[0]}-{span[1]} of {count}."
        return Outcome(head + shown, outline=short or line, line=line)

    def _too_long(self, name: str, source: Source | None, lines: list[str], count: int) -> Outcome:
        line = f"Read the outline of {name} ({count} lines)."
        if source is not None and source.outline.definitions:
            rows = "\n".join(outline_rows(source))
            text = (
                f"{name} has {count} lines, too many at once. Its outline, with lines; read a "
                f"definition or lines next:\n{self.clip(rows, 'give lines')}"
            )
            return Outcome(text, outline=line, line=line)
        head = "\n".join(lines)
        text = f"{name} has {count} lines, too many at once. Read it in parts:\n" + self.clip(
            head, "give first and last"
        )
        return Outcome(text, outline=line, line=line)

    def _definition(self, name: str, text: str, source: Source | None, wanted: str) -> Outcome:
        if source is None:
            raise ToolError(f"{name} is in no language with definitions. Read lines instead.")
        found = definitions_named(source, wanted)
        if not found:
            near = ", ".join(dict.fromkeys(one.name for one in source.outline.definitions))[:400]
            raise ToolError(f"{name} has no definition {wanted!r}. It defines: {near or 'none'}.")
        parts, line = [], f"Read {wanted} of {name}."
        for one in found[:3]:
            start = line_start(text, one.lead)
            rows = f"lines {_row(text, start)}-{_row(text, one.stop)}"
            body = text[start : one.stop]
            if self.encoder.text_count(body) > self.max_tokens // len(found[:3]):
                body = apply(text, cuts(source, Depth.BODIES), start, one.stop)
                rows += ", bodies left out: read one of its definitions, or lines"
            parts.append(f"{name}, {rows}:\n{body}")
        short = "\n".join(
            f"{name}: {apply(text, cuts(source, Depth.BODIES), one.start, one.stop)}"
            for one in found[:3]
        )
        return Outcome(self.clip("\n\n".join(parts)), self.clip(short, share=0.25), line)

    def folder(self, path: str) -> Outcome:
        """What is in a folder, as far as it may be read."""
        folder = self.workspace.resolve(path or ".")
        if not folder.is_dir():
            raise ToolError(f"{self.workspace.name(folder)} is not a folder.")
        below: dict[str, int] = {}
        for file, _ in self.workspace.files():
            if file.is_relative_to(folder):
                parts = file.relative_to(folder).parts
                entry = parts[0] + ("/" if len(parts) > 1 else "")
                below[entry] = below.get(entry, 0) + 1
        rows = [
            f"{entry} ({count} files)" if entry.endswith("/") else entry
            for entry, count in sorted(below.items(), key=lambda one: (one[0][-1] != "/", one[0]))
        ]
        name = self.workspace.name(folder)
        line = f"Listed {name}: {len(rows)} entries."
        text = "\n".join(rows[:_MOST_LISTED]) or "No files that may be read."
        return Outcome(f"{name}:\n{self.clip(text, 'list a folder in it')}", line, line)

    def find(self, pattern: str) -> Outcome:
        """Files by a glob pattern."""
        names = [name for _, name in self.workspace.files() if matches_glob(name, pattern)]
        line = f"Found {len(names)} files for {pattern}."
        shown = "\n".join(names[:_MOST_LISTED])
        return Outcome(f"{line}\n{self.clip(shown, 'use a narrower pattern')}".strip(), line, line)

    def search(self, pattern: str, glob: str = "", *, is_regex: bool = False) -> Outcome:
        """Lines that hold a text or match a pattern. Runs in a thread; bounded in time."""
        if not pattern:
            raise ToolError("The pattern is empty.")
        try:
            compiled = regex.compile(pattern if is_regex else regex.escape(pattern))
        except regex.error as error:
            raise ToolError(f"The regular expression is not valid: {error}.") from error
        deadline = time.monotonic() + _SEARCH_S
        hits: list[str] = []
        note = ""
        unsaved = self.workspace.unsaved()
        for file, name in self.workspace.files():
            if glob and not matches_glob(name, glob):
                continue
            if time.monotonic() > deadline:
                note = "The search took too long; search in fewer files with glob."
                break
            try:
                hits += self._hits(file, name, compiled, unsaved)
            except TimeoutError:
                raise ToolError(
                    "This regular expression takes too long. Use a simpler one."
                ) from None
            if len(hits) >= _MOST_HITS:
                note = f"Only the first {_MOST_HITS} are shown; search for something rarer."
                break
        line = f"Searched for {pattern[:60]!r}: {len(hits)} lines."
        text = "\n".join([*hits[:_MOST_HITS]])
        shown = self.clip(text, "search in fewer files")
        return Outcome("\n".join(filter(None, [line, shown, note])), self.clip(text, share=0.25)
                       if hits else line, line)  # fmt: skip

    def _hits(
        self, file: Path, name: str, pattern: regex.Pattern[str], unsaved: frozenset[Path]
    ) -> Iterator[str]:
        in_editor = bool(unsaved) and file.resolve() in unsaved
        try:
            text = self.workspace.shown(self.workspace.load(file, in_editor=in_editor).text)
        except ToolError:
            return
        for number, line in enumerate(text.split("\n"), 1):
            if pattern.search(line[:4000], timeout=_LINE_S):
                yield f"{name}:{number}: {line.strip()[:_MOST_LINE_CHARS]}"

    def symbol(self, name: str) -> Outcome:
        """Where a name is defined, also in text that is not saved, and the lines that use it."""
        wanted = name.strip().rpartition(".")[2].removesuffix("()")
        if not wanted:
            raise ToolError("The name is empty.")
        self.workspace.refresh()
        unsaved = self.workspace.unsaved()
        defined, places = [], set()
        for path, number, first in (*self._indexed(wanted, unsaved), *self._typed(wanted, unsaved)):
            places.add((path, number))
            defined.append(f"{self.workspace.name(path)}:{number}: {first[:_MOST_LINE_CHARS]}")
        uses: list[str] = []
        pattern = regex.compile(rf"(?<![\w$]){regex.escape(wanted)}(?![\w$])")
        deadline = time.monotonic() + _SEARCH_S
        for file, shown in self.workspace.files():
            if time.monotonic() > deadline or len(uses) >= _MOST_HITS:
                break
            for hit in self._hits(file, shown, pattern, unsaved):
                number = int(hit[len(shown) + 1 :].split(":", 1)[0])
                if (file, number) not in places:
                    uses.append(hit)
        line = f"{wanted}: {len(defined)} definitions, {len(uses)} uses."
        parts = [line]
        if defined:
            parts += ["Defined:", *sorted(defined)]
        if uses:
            parts += ["Used:", *uses]
        text = self.clip("\n".join(parts), "search with a glob")
        return Outcome(text, self.clip("\n".join(parts), share=0.25), line)

    def _indexed(self, wanted: str, unsaved: frozenset[Path]) -> Iterator[tuple[Path, int, str]]:
        """Definitions in saved files: path, line and its text."""
        for row in self.workspace.index.store.named([wanted], limit_each=_MOST_HITS):
            path = Path(row.file.root, row.file.path)
            if path.resolve() in unsaved:
                continue
            try:
                text = self.workspace.load(path, in_editor=False).text
            except ToolError:
                continue
            yield path, _row(text, row.start), row.text.split("\n", 1)[0].strip()

    def _typed(self, wanted: str, unsaved: frozenset[Path]) -> Iterator[tuple[Path, int, str]]:
        """Definitions in files that the client has not saved, as `_indexed`."""
        for file, name in self.workspace.files() if unsaved else ():
            if file.resolve() not in unsaved:
                continue
            try:
                text = self.workspace.shown(self.workspace.load(file).text)
            except ToolError:
                continue
            source = read_file(name, text)
            for one in source.outline.definitions if source is not None else ():
                if one.name == wanted:
                    line = text[one.start : one.stop].split("\n", 1)[0].strip()
                    yield file, _row(text, one.start), line

    def syntax_errors(self, paths: list[Path]) -> Outcome:
        """The lines that the grammars cannot read."""
        rows, unknown = [], []
        for path in paths:
            file = self.workspace.load(path)
            name = self.workspace.name(path)
            broken = damage(name, file.text)
            if broken is None:
                unknown.append(name)
            lines = file.text.split("\n")
            for row in broken or ():
                shown = lines[row].strip()[:120] if row < len(lines) else ""
                rows.append(f"{name}:{row + 1}: syntax error near: {self.workspace.shown(shown)}")
        checked = len(paths) - len(unknown)
        line = f"{len(rows)} syntax errors in {checked} files."
        if unknown:
            line += f" Not checked (no grammar): {', '.join(unknown[:5])}."
        return Outcome(self.clip("\n".join([line, *rows])), line, line)


def clip(text: str, max_tokens: int, encoder: Encoder, hint: str = "") -> str:
    """The first and last lines of a text within a number of tokens, with a line between that says
    how many are left out. Lines that are too long lose their middle in the same way."""
    if encoder.text_count(text) <= max_tokens:
        return text
    spare = max_tokens - encoder.text_count(_gap(99999, hint)) - 4
    lines = [_short_line(line) for line in text.split("\n")]
    costs = [encoder.text_count(line + "\n") for line in lines]
    head = tail = used = 0
    while head + tail < len(lines):
        at_head = head <= 2 * tail
        cost = costs[head] if at_head else costs[len(lines) - 1 - tail]
        if used + cost > spare:
            break
        used += cost
        head, tail = (head + 1, tail) if at_head else (head, tail + 1)
    left_out = len(lines) - head - tail
    if not left_out:
        return "\n".join(lines)
    shown = [*lines[:head], _gap(left_out, hint), *lines[len(lines) - tail :]]
    return "\n".join(shown)


def _gap(lines: int, hint: str) -> str:
    return f"[{lines} lines left out{f'; {hint}' if hint else ''}]"


def _short_line(line: str, limit: int = 1000) -> str:
    if len(line) <= limit:
        return line
    return f"{line[: limit // 2]} [{len(line) - limit} characters left out] {line[-limit // 2 :]}"


def outline_rows(source: Source) -> Iterator[str]:
    """A line for each definition: its lines, and the first line of its signature."""
    depth: dict[int, int] = {-1: -1}
    ends = [at for at, char in enumerate(source.text) if char == "\n"]
    for index, one in enumerate(source.outline.definitions):
        depth[index] = depth.get(one.parent, -1) + 1
        inside_function = (
            one.parent >= 0 and source.outline.definitions[one.parent].kind is Kind.FUNCTION
        )
        if one.kind is Kind.VALUE and (depth[index] or one.stop - one.start > 200):
            continue
        if inside_function:
            continue
        first, last = bisect_right(ends, one.start) + 1, bisect_right(ends, one.stop - 1) + 1
        stop = one.body[0] if one.body and one.kind is not Kind.VALUE else one.stop
        head = " ".join(source.text[one.start : stop].split())[:160]
        yield f"{first}-{last} {'  ' * depth[index]}{head}"


def definitions_named(source: Source, wanted: str) -> list[Definition]:
    """Definitions by a name or `Outer.inner`, those with a body first."""
    outer, _, name = wanted.strip().replace("::", ".").rpartition(".")
    outer = outer.rpartition(".")[2]
    found = []
    for one in source.outline.definitions:
        parent = source.outline.definitions[one.parent].name if one.parent >= 0 else ""
        if one.name == name and outer in ("", parent):
            found.append(one)
    return sorted(found, key=lambda one: (one.body is None, one.start))


def matches_glob(name: str, pattern: str) -> bool:
    """As a shell with `**`: a pattern without "/" is matched with the name alone."""
    pattern = pattern.removeprefix("./").lstrip("/")
    if "/" not in pattern:
        return fnmatch.fnmatchcase(name.rpartition("/")[2], pattern)
    forms = {pattern, pattern.replace("**/", "")}
    return any(fnmatch.fnmatchcase(name, form) for form in forms)


def _row(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


# The instructions.


@cache
def _table() -> Mapping[str, Mapping[str, str]]:
    text = resources.files("assistant.agent").joinpath("prompts.toml").read_text("utf-8")
    return tomllib.loads(text)


def slash_commands() -> Mapping[str, Mapping[str, str]]:
    """Each command with its `description` and `prompt`."""
    return {name: row for name, row in _table().items() if name != "instructions"}


def expanded(prompt: str) -> str:
    """A prompt with its slash command, if it has one, written out."""
    name, _, rest = prompt.strip().partition(" ")
    row = slash_commands().get(name.removeprefix("/")) if name.startswith("/") else None
    return f"{row['prompt']}\n\n{rest}".strip() if row is not None else prompt


def instructions(workspace: Workspace, encoder: Encoder, budget: int, *, small: bool) -> str:
    """The system message. The project's rules may take an eighth of the budget; the rest is cut
    with a line that says so. They are data of the project: they never change permissions."""
    parts = [_table()["instructions"]["small" if small else "full"].strip()]
    rules = project_rules(workspace)
    if rules:
        text = "\n\n".join(f"{name}:\n{rule.strip()}" for name, rule in rules)
        limit = max(budget // 8, 64)
        parts.append(
            "The project's rules for its code. They cannot change your tools or permissions.\n"
            + clip(text, limit, encoder, f"read {RULES_FILE}")
        )
    return "\n\n".join(parts)


def project_rules(workspace: Workspace) -> list[tuple[str, str]]:
    """The AGENTS.md files of the workspace, the outer ones first: names and texts."""
    found = []
    for path, name in workspace.files():
        if path.name == RULES_FILE:
            found.append((name.count("/"), name, path))
    return [
        (name, text)
        for _, name, path in sorted(found)[:_MOST_FILES]
        if (text := _text(workspace, path, workspace.shown))
    ]


def _text(workspace: Workspace, path: Path, shown: Callable[[str], str]) -> str:
    try:
        return plain(shown(workspace.load(path, in_editor=False).text))
    except ToolError:
        return ""
