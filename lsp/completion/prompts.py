"""Prompts from open documents and the workspace around them.

The library that builds them keeps trees and an index and wants one thread for itself: it gets one
here, so that the editor is never kept waiting by a parse.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lsp.site import Site, known_equal
from lsp.uri import file_of, normal

if TYPE_CHECKING:
    from context import Document, Explanation, Workspace
    from lsp.served_model import Fim

T = TypeVar("T")

_REGION_BYTES = 2000
_SEEN_BYTES = 500  # around where the cursor was, which one sees too
_STUDIED = 4
_STOP_LIMIT_S = 2.0


@dataclass(frozen=True)
class _Content:
    """What a prompt is made of: the text around a cursor, after the earlier cells of a notebook."""

    site: Site
    earlier: str = ""

    @cached_property
    def text(self) -> str:
        return self.earlier + self.site.text

    @property
    def cursor_byte(self) -> int:
        return len(self.earlier.encode()) + self.site.cursor_byte

    def known_equal(self, other: _Content) -> tuple[int, int]:
        """How many characters at both ends the texts surely have in common; see `known_equal`."""
        start, end = known_equal(other.site, self.site)
        return (len(self.earlier) + start if self.earlier == other.earlier else 0), end


@dataclass
class _Visit:
    """The region that is being worked on; it is noted as visited when it is left."""

    document: Document
    start_byte: int
    stop_byte: int

    def takes_in(self, document: Document, cursor_byte: int) -> bool:
        """Whether a cursor belongs to this region; if so, the region reaches to it from now on."""
        near = range(self.start_byte - _REGION_BYTES, self.stop_byte + _REGION_BYTES + 1)
        if document is not self.document or cursor_byte not in near:
            return False
        self.start_byte = min(self.start_byte, cursor_byte)
        self.stop_byte = max(self.stop_byte, cursor_byte)
        return True


class Prompts:
    """Builds prompts for one workspace.

    Args:
        roots: the workspace's folders; may be none.
        index: whether other files of the workspace may be read, and shown to the model.
        excludes: patterns, in .gitignore's form, of files that are never shown to it.
        max_files: how many files are indexed at most; None leaves it to the index.
        earlier: the text of the cells before a document, given its URI; empty for what is no cell.
    """

    def __init__(
        self,
        roots: Sequence[Path] = (),
        *,
        index: bool = True,
        excludes: Sequence[str] = (),
        max_files: int | None = None,
        earlier: Callable[[str], str] = lambda _: "",
    ) -> None:
        self._roots = tuple(roots)
        self._index = index
        self._excludes = tuple(excludes)
        self._max_files = max_files
        self._earlier = earlier
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prompts")
        self._workspace: Workspace | None = None
        self._fim: Fim | None = None
        self._documents: dict[str, Document] = {}  # by their normal URIs
        self._contents: dict[Document, _Content] = {}  # what each holds now
        self._studied: dict[str, Document] = {}
        self._visit: _Visit | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self.cut: tuple[str, ...] = ()
        """What was left out of the last prompt, one phrase each."""
        self.aside: tuple[int, ...] = ()
        """Tokens besides the last prompt from which its answer can be drafted."""

    @property
    def problem(self) -> str:
        """Why the index lacks files, in plain words; empty where it is complete or not used."""
        workspace = self._workspace
        return workspace.index.problem if self._index and workspace is not None else ""

    @property
    def shows_workspace(self) -> bool:
        """Whether other files of the workspace may be shown to the model."""
        return self._index

    async def ids(
        self,
        site: Site,
        fim: Fim,
        budget_tokens: int,
        *,
        start: str = "",
        imagined: bool = False,
        rest: bool = False,
    ) -> tuple[int, ...]:
        """The prompt for a cursor as token ids, at most `budget_tokens`.

        Empty where nothing fits, and for a file that may hold secrets.

        Args:
            start: the end of the text before the cursor that the prompt leaves out.
            imagined: the text is not in the editor; the user may type it.
            rest: the cursor rests, so that a better start of the prompt is worth its evaluation.
        """
        loop = asyncio.get_running_loop()
        seen = replace(site, prefix=site.prefix[: len(site.prefix) - len(start)])
        content = _Content(seen, self._earlier(site.uri))
        made = await loop.run_in_executor(
            self._thread,
            lambda: self._build(content, fim, budget_tokens, imagined=imagined, rest=rest),
        )
        self._keep_index()
        return made

    async def study(
        self, uri: str, text: str, look: Callable[[Document], T], *, language_id: str = ""
    ) -> T:
        """What `look` finds in a document, parsed as it is now. It needs no model."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, lambda: look(self._studied_document(uri, text, language_id))
        )

    async def study_workspace(
        self,
        uri: str,
        text: str,
        look: Callable[[Workspace | None, Document, bool], T],
        *,
        language_id: str = "",
    ) -> T:
        """As `study`, with the workspace, if other files may be read, and with whether the document
        may not be shown to a model.

        It needs no model: until one is known, tokens are estimated.
        """

        def found() -> T:
            workspace = self._workspace
            if workspace is None:
                from lsp.served_model import estimated_fim

                workspace = self._workspace_for(estimated_fim())
            document = self._studied_document(uri, text, language_id)
            hidden = bool(workspace.hidden(document))
            return look(workspace if self._index else None, document, hidden)

        made = await asyncio.get_running_loop().run_in_executor(self._thread, found)
        self._keep_index()
        return made

    async def explanation(
        self,
        uri: str,
        text: str,
        fim: Fim,
        look: Callable[[Workspace, Document], Explanation],
        *,
        language_id: str = "",
    ) -> Explanation:
        """What a model should see of a document and its workspace, counted in `fim`'s tokens."""

        def found() -> Explanation:
            workspace = self._workspace_for(fim)
            return look(workspace, self._studied_document(uri, text, language_id))

        made = await asyncio.get_running_loop().run_in_executor(self._thread, found)
        self._keep_index()
        return made

    async def close(self, uri: str) -> None:
        """The editor has closed a document."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._forget, normal(uri))

    async def aclose(self) -> None:
        """End the thread, and stop following the files."""
        self._stop.set()
        if self._workspace is not None:
            self._workspace.index.stop()
            if self._keeping is not None:
                await asyncio.wait({self._keeping}, timeout=_STOP_LIMIT_S)
                self._keeping.cancel()
            self._thread.submit(self._workspace.index.close)
        self._thread.shutdown(wait=False)

    def _keep_index(self) -> None:
        """Have the index follow the files, once there is one."""
        wanted = self._index and self._roots
        if self._keeping is None and wanted and self._workspace is not None:
            from context.index import project_index

            self._keeping = asyncio.create_task(
                project_index.keep(self._workspace.index, self._stop)
            )

    # In the thread.

    def _build(
        self,
        content: _Content,
        fim: Fim,
        budget_tokens: int,
        *,
        imagined: bool,
        rest: bool,
    ) -> tuple[int, ...]:
        workspace = self._workspace_for(fim)
        key = normal(content.site.uri)
        document = self._documents.get(key)
        if document is None:
            path, view = file_of(key)
            document = workspace.open(path, content.text, content.site.language_id, view)
            self._documents[key] = document
            self._contents[document] = content
        known = self._contents[document]
        before, edited_chars = document.text, document.edited_chars
        equal = content.known_equal(known)
        document.replace(content.text, equal)
        self._contents[document] = content
        cursor_byte = content.cursor_byte
        prompt = workspace.prompt(document, cursor_byte, budget_tokens - len(fim.start), rest=rest)
        self.cut, self.aside = prompt.cut, prompt.aside
        if imagined:
            document.replace(before, equal)
            self._contents[document] = known
            document.edited_chars = edited_chars
        else:
            self._visited(workspace, document, cursor_byte)
        return fim.start + prompt.ids if prompt.ids else ()

    def _studied_document(self, uri: str, text: str, language_id: str) -> Document:
        """A document of its own: what is studied must not look like typing to the prompts."""
        from context import Document

        key = normal(uri)
        path, _ = file_of(key)
        if self._workspace is not None:
            made = self._workspace.document(path, text, language_id)
        else:
            made = Document("", str(path), text, language_id)
        document = self._studied.pop(key, made)
        identity = (made.root, made.path, made.language_id)
        if (document.root, document.path, document.language_id) == identity:
            document.replace(text)
        else:
            document = made
        self._studied[key] = document
        while len(self._studied) > _STUDIED:
            del self._studied[next(iter(self._studied))]
        return document

    def _workspace_for(self, fim: Fim) -> Workspace:
        if self._workspace is None:
            from context import Limits, Workspace

            self._workspace = Workspace(
                self._roots,
                fim.counter,
                fim.layout,
                fim.special,
                store=index_file(self._roots) if self._index and self._roots else None,
                excludes=self._excludes,
                limits=Limits(max_files=self._max_files) if self._max_files else None,
            )
        elif fim is not self._fim:
            self._workspace.use_model(fim.counter, fim.layout, fim.special)
        self._fim = fim
        return self._workspace

    def _visited(self, workspace: Workspace, document: Document, cursor_byte: int) -> None:
        if not self._index:
            return  # a region of one file must not show in the prompts of another
        visit = self._visit
        if visit is not None and visit.takes_in(document, cursor_byte):
            return
        if visit is not None:
            first = max(0, visit.start_byte - _SEEN_BYTES)
            workspace.visited(visit.document, first, visit.stop_byte + _SEEN_BYTES)
        self._visit = _Visit(document, cursor_byte, cursor_byte)

    def _forget(self, key: str) -> None:
        self._studied.pop(key, None)
        document = self._documents.pop(key, None)
        if document is None or self._workspace is None:
            return
        self._contents.pop(document, None)
        self._workspace.close(document)
        if self._visit is not None and self._visit.document is document:
            self._visit = None


def index_file(roots: Sequence[Path]) -> Path:
    """Where the index of a workspace is kept between sessions."""
    from assistant import paths

    name = hashlib.sha256("\n".join(map(str, roots)).encode("utf-8", "replace")).hexdigest()
    return paths.cache_dir() / "index" / f"{name[:24]}.db"
