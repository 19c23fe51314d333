"""Plans a tool call: from the model's words to what would be read, changed or run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assistant.agent import commands
from assistant.agent.conversation import ToolCall
from assistant.agent.editing import Editor
from assistant.agent.loop import QUESTION_TOOL
from assistant.agent.permissions import simple_words
from assistant.agent.reading import Reader
from assistant.agent.tools import Access, Outcome, Planned, Tool, arguments_of, named, tools
from assistant.agent.workspace import ToolError, Workspace
from context.syntax.text import rewritten

Diagnose = Callable[[Path | None], Awaitable[str | None]]
"""The client's diagnostics of a file, or of all; None where it has none."""


@dataclass
class Toolbox:
    """The tools of one session.

    Attributes:
        reader: bounds what a result may hold; replaced as the budget changes.
        diagnose: asks the client; None where it cannot.
        foreign: MCP tools, each with the function that plans a call.
    """

    workspace: Workspace
    reader: Reader
    editor: Editor
    diagnose: Diagnose | None = None
    foreign: dict[str, tuple[Tool, Callable[[dict[str, Any]], Planned]]] = field(
        default_factory=dict
    )

    @property
    def known(self) -> Mapping[str, Tool]:
        """All tools by name."""
        return {**tools(), **{name: tool for name, (tool, _) in self.foreign.items()}}

    async def plan(self, call: ToolCall) -> Planned:
        """What a call would do. Reads and computes in a thread; changes nothing.

        Raises:
            ToolError: for the model.
        """
        tool = named(call.name, self.known)
        given = arguments_of(call, tool)
        if tool.name in self.foreign:
            return self.foreign[tool.name][1](given)
        make = getattr(self, f"_{tool.name}")
        planned: Planned = await asyncio.to_thread(make, tool, given)
        return planned

    def _reading(
        self, tool: Tool, title: str, read: Callable[[], Outcome], path: str = ""
    ) -> Planned:
        async def run() -> Outcome:
            return await asyncio.to_thread(read)

        paths = (self.workspace.resolve(path),) if path else ()
        return Planned(tool.name, tool.kind, Access.READ, title, run, paths)

    def _read_file(self, tool: Tool, given: dict[str, Any]) -> Planned:
        path, wanted = given["path"], given.get("definition", "")
        first, last = given.get("first"), given.get("last")
        planned = self._reading(
            tool,
            f"Read {path}{f' {wanted}' if wanted else ''}",
            lambda: self.reader.file(path, wanted, first, last),
            path,
        )
        return replace(planned, line=first)

    def _list_folder(self, tool: Tool, given: dict[str, Any]) -> Planned:
        path = given.get("path", "") or "."
        return self._reading(tool, f"List {path}", lambda: self.reader.folder(path), path)

    def _find_files(self, tool: Tool, given: dict[str, Any]) -> Planned:
        pattern = given["pattern"]
        return self._reading(tool, f"Find {pattern}", lambda: self.reader.find(pattern))

    def _search_text(self, tool: Tool, given: dict[str, Any]) -> Planned:
        pattern, glob = given["pattern"], given.get("glob", "")
        is_regex = given.get("regex", False)
        return self._reading(
            tool,
            f"Search for {pattern}",
            lambda: self.reader.search(pattern, glob, is_regex=is_regex),
        )

    def _find_symbol(self, tool: Tool, given: dict[str, Any]) -> Planned:
        name = given["name"]
        return self._reading(tool, f"Find {name}", lambda: self.reader.symbol(name))

    def _diagnostics(self, tool: Tool, given: dict[str, Any]) -> Planned:
        path = self.workspace.resolve(given["path"]) if given.get("path") else None
        title = f"Diagnostics of {given.get('path') or 'the changed files'}"

        async def run() -> Outcome:
            if self.diagnose is not None:
                found = await self.diagnose(path)
                if found is not None:
                    text = self.reader.clip(commands.plain(found))
                    return Outcome(text, line=title)
            paths = [path] if path else self._changed_files()
            return await asyncio.to_thread(self.reader.syntax_errors, paths)

        return Planned(
            tool.name, tool.kind, Access.READ, title, run, (path,) if path is not None else ()
        )

    def _changed_files(self) -> list[Path]:
        changed = dict.fromkeys(Path(one.path) for one in self.editor.journal.changes)
        return [path for path in changed if path.exists()]

    def _git(self, tool: Tool, given: dict[str, Any]) -> Planned:
        what, path = given["what"], given.get("path", "")

        async def run() -> Outcome:
            found = await commands.git(self.workspace, what, path)
            text = self.workspace.shown(found)
            line = f"git {what}: {text.count(chr(10))} lines."
            return Outcome(
                self.reader.clip(text, "give a path") or "Nothing.",
                self.reader.clip(text, "run it again", 0.25) or line,
                line,
            )

        return Planned(tool.name, tool.kind, Access.READ, f"git {what} {path}".strip(), run)

    def _replace_text(self, tool: Tool, given: dict[str, Any]) -> Planned:  # noqa: ARG002
        return self.editor.replace(given["path"], given["old"], given["new"])

    def _apply_patch(self, tool: Tool, given: dict[str, Any]) -> Planned:  # noqa: ARG002
        return self.editor.patch(given["patch"])

    def _create_file(self, tool: Tool, given: dict[str, Any]) -> Planned:  # noqa: ARG002
        return self.editor.create(given["path"], given["text"])

    def _move_file(self, tool: Tool, given: dict[str, Any]) -> Planned:  # noqa: ARG002
        return self.editor.move(given["path"], given["to"])

    def _delete_file(self, tool: Tool, given: dict[str, Any]) -> Planned:  # noqa: ARG002
        return self.editor.delete(given["path"])

    def _run_command(self, tool: Tool, given: dict[str, Any]) -> Planned:
        command = given["command"].strip()
        if not command:
            raise ToolError("The command is empty.")
        if commands.plain(command) != command or rewritten(command) != command:
            raise ToolError(
                "The command has control characters, or some that cannot be seen. "
                "Write it without them."
            )
        limit_s = given.get("time_limit_s", commands.DEFAULT_LIMIT_S)
        words = simple_words(command)
        argv = list(words) if words is not None else ["/bin/sh", "-c", command]
        confine = commands.can_confine()

        async def run() -> Outcome:
            before = await asyncio.to_thread(self.workspace.snapshot)
            ended = await commands.run(
                argv, self.workspace.root, self.workspace.roots, limit_s, confine=confine
            )
            changes, complete = await asyncio.to_thread(self.workspace.changes_since, before)
            for change in changes:
                self.editor.journal.add(change)
            if ended.code is None:
                head = f"The command was ended after {limit_s} s, its limit."
            elif ended.code < 0:
                head = f"The command was ended by signal {-ended.code}."
            else:
                head = f"Exit code {ended.code}."
            if not complete:
                head += " Its changes of files are too many to be undone."
            output = self.workspace.shown(ended.output).strip("\n")
            text = self.reader.clip(output, "write less output, or search it with a command")
            line = f"Ran {command[:80]}: {head}"
            short = self.reader.clip(output, share=0.2)
            return Outcome(
                f"{head}\n{text}".strip(),
                f"{line}\n{short}".strip(),
                line,
                changed=bool(changes) or not complete,
            )

        warning = "" if confine else "Not confined: bubblewrap is not available."
        return Planned(
            tool.name, tool.kind, Access.COMMAND, command, run, command=command, warning=warning
        )

    def _ask_user(self, tool: Tool, given: dict[str, Any]) -> Planned:
        question = rewritten(commands.plain(given["question"])).strip()
        if not question:
            raise ToolError("The question is empty.")

        async def run() -> Outcome:
            return Outcome(question, question, question)

        return Planned(QUESTION_TOOL, tool.kind, Access.TALK, "Ask the user", run)

    def _update_plan(self, tool: Tool, given: dict[str, Any]) -> Planned:
        items = tuple(
            (rewritten(commands.plain(one["text"]))[:300], one["status"]) for one in given["items"]
        )
        marks = {"pending": " ", "in_progress": ">", "completed": "x"}
        text = "\n".join(f"[{marks[status]}] {text}" for text, status in items)
        done = sum(status == "completed" for _, status in items)

        async def run() -> Outcome:
            line = f"Plan: {done} of {len(items)} items completed."
            return Outcome(f"The plan:\n{text}", f"The plan:\n{text}", line, plan=items)

        return Planned(tool.name, tool.kind, Access.TALK, "Update the plan", run)
