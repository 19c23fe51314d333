"""One editor's session: its documents, and what is suggested in them and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.statistics import Tally
from lsp.actions.document_range import DocumentRange, document_range_of
from lsp.backend import Backend
from lsp.completion.completer import Completer, Manner, Rhythm
from lsp.completion.prefetch import Ahead, Watch
from lsp.completion.prompts import Prompts
from lsp.completion.suggestion import (
    Growing,
    Item,
    Position,
    Selected,
    Suggestion,
    Suggestions,
    Taken,
    Update,
    taken_with,
)
from lsp.document import Change, Document, Encoding, Place, body
from lsp.site import Site, is_listed
from lsp.uri import Notebooks, earlier_text, normal, path_of

if TYPE_CHECKING:
    from assistant.settings import CompletionSettings

_START = Place(0, 0)
_CANDIDATES = 3
_WARM_WAIT_S = 0.5
"""A request waits this long for the warm-up of its place, then goes on with a short prompt."""
_BINARY = "\0"
_LOOK_CHARS = 4096
_MOST_REPORTED_LINES = 400


@dataclass(frozen=True)
class Edit:
    """A change of a document; without positions `text` is the whole new text."""

    text: str
    start: Position | None = None
    end: Position | None = None


@dataclass(frozen=True)
class _Answered:
    """The last request of a document that was answered with suggestions."""

    site: Site
    position: Position
    taken: Taken
    item: Item


@dataclass
class _Open:
    """An open document with what is known about the work on it; `cursor` was last seen there."""

    document: Document
    suggestions: Suggestions
    ahead: Ahead
    cursor: Place = _START
    rhythm: Rhythm = field(default_factory=Rhythm)
    running: asyncio.Task[list[Suggestion]] | None = None
    growing: Growing | None = None
    answered: _Answered | None = None
    edit_version: int | None = None


class Session:
    """The documents of one editor.

    Attributes:
        settings: how to complete, once `configure` was called; nothing is suggested before.
        encoding: what the client counts positions in; set before any document is opened.
        roots: the folders of the workspace.
        tally: what became of the suggestions.
        backend: the way to the model.
        notebooks: the order of the cells in the open notebooks.
        on_update: sends the editor longer forms of its items; None for an editor that shows none.
            Such an editor gets the longer form when it sends another request.
        on_edit: called after each edit with the URI, the first changed line, and the changed lines
            before (None for very many) and after, without ends.
        on_close: called with the URI of a document that is closed.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Callable[[], float] = time.monotonic,
        watch: Watch | None = None,
    ) -> None:
        self.settings: CompletionSettings | None = None
        self.roots: tuple[Path, ...] = ()
        self.encoding = Encoding.UTF16
        self.tally = Tally(lambda uri: found.text if (found := self.document(uri)) else None)
        self.backend = backend
        self.notebooks = Notebooks()
        self.on_update: Callable[[Update], None] | None = None
        self.on_edit: Callable[[str, int, list[str] | None, list[str]], None] | None = None
        self.on_close: Callable[[str], None] | None = None
        self._completer = Completer(backend, Prompts(earlier=self._earlier))
        self._seen: tuple[object, ...] = ()
        self._chores: set[asyncio.Task[None]] = set()
        self._clock = clock
        self._watch = watch or Watch()
        self._open: dict[str, _Open] = {}  # by their normal URIs
        self._cursors: dict[str, Place] = {}
        self._worked_on: _Open | None = None

    def configure(self, settings: CompletionSettings | None, roots: Iterable[Path]) -> None:
        """Complete by these settings, in this workspace, from now on."""
        self.settings, self.roots = settings, tuple(roots)
        index = settings is not None and settings.workspace
        excludes = settings.excludes if settings is not None else ()
        max_files = settings.workspace_files if settings is not None else None
        seen = (self.roots, index, excludes, max_files)
        if seen != self._seen:
            self._seen = seen
            self._do(self._completer.prompts.aclose())
            self._completer.prompts = Prompts(
                self.roots,
                index=index,
                excludes=excludes,
                max_files=max_files,
                earlier=self._earlier,
            )

    @property
    def prompts(self) -> Prompts:
        """What builds prompts in the workspace as it is now."""
        return self._completer.prompts

    def document(self, uri: str) -> Document | None:
        """An open document."""
        found = self._open.get(normal(uri))
        return found.document if found else None

    def document_range(
        self, uri: str, start: Position = (0, 0), end: Position = (0, 0)
    ) -> DocumentRange | None:
        """An open document as it is now, and a range of it; none for one that is no text."""
        document = self.document(uri)
        document_range = document_range_of(document, start, end) if document is not None else None
        return (
            document_range
            if document_range is not None and _BINARY not in document_range.text[:_LOOK_CHARS]
            else None
        )

    def uri_at(self, path: Path) -> str | None:
        """The URI under which the editor has a file open."""
        uris = (found.document.uri for found in self._open.values())
        return next((uri for uri in uris if path_of(uri) == path), None)

    def open(self, uri: str, text: str, version: int, language: str) -> None:
        """The editor has opened a document."""
        self.close(uri)
        document = Document(uri, text, encoding=self.encoding, version=version, language=language)
        suggestions = Suggestions()
        ahead = Ahead(
            document,
            suggestions,
            self._completer,
            lambda: self.settings,
            self._watch,
            start=self._do,
        )
        found = self._open[normal(uri)] = _Open(document, suggestions, ahead)
        self.notebooks.opened_cell(uri)
        # An editor may open many documents at once, or one beside the one that the user types in.
        busy = self._worked_on is not None and self._worked_on.ahead.warm_up is not None
        if self.wanted(language) and not busy:
            self._work_on(found)
            ahead.opened(self._cursors.get(normal(uri), _START))

    def change(self, uri: str, version: int, edits: Iterable[Edit]) -> None:
        """The editor has changed a document. One that was never opened is left alone."""
        found = self._open.get(normal(uri))
        if found is None:
            return
        self.notebooks.edited_cell(uri)
        for edit in edits:
            self._apply(found.document, found.document.change(edit.text, edit.start, edit.end))
        found.document.version = version
        found.cursor = found.document.edited
        found.rhythm.key(self._clock())
        if found.growing is not None:
            document = found.document
            if found.growing.continues(document.site(document.clamp(document.edited))):
                return  # what follows is being decoded
            self._stop_growing(found)
        if self.wanted(found.document.language):
            self._work_on(found)
            found.ahead.edited()

    def close(self, uri: str) -> None:
        """The editor has closed a document; what was asked for it is given up."""
        found = self._open.get(normal(uri))
        if found is None:
            return
        uri = found.document.uri
        self.tally.closed(uri)  # it still reads the text
        del self._open[normal(uri)]
        self.notebooks.closed_cell(uri)
        if self.on_close is not None:
            self.on_close(uri)
        self._cursors[normal(uri)] = found.cursor
        self._stop_growing(found)
        found.ahead.stop()
        if self._worked_on is found:
            self._worked_on = None
        if found.running is not None:
            found.running.cancel()
        self._do(self._completer.prompts.close(uri))

    def wanted(self, language: str) -> bool:
        """Whether documents of a language get suggestions."""
        settings = self.settings
        if settings is None or not settings.enabled:
            return False
        return not is_listed(language, settings.languages_off)

    async def suggest(
        self, uri: str, position: Position, *, invoked: bool, selected: Selected | None = None
    ) -> list[Item]:
        """Suggestions for a position.

        A newer call for the same document ends an older one, which then returns nothing. An answer
        that comes when the document has changed is kept, not returned.

        Args:
            invoked: a person asked for it: at once, and several.
        """
        found = self._open.get(normal(uri))
        settings = self.settings
        if found is None or settings is None or not self.wanted(found.document.language):
            return []
        document = found.document
        if not invoked and found.edit_version == document.version:
            return []  # a next edit is shown there
        self._work_on(found)
        asked_at = self._clock()
        place = found.cursor = document.place(*position)
        taken = Taken(place) if selected is None else taken_with(selected, document, place)
        if taken is None:
            return []  # the editor shows only what goes on with the selected entry
        site = document.site(place)
        if _BINARY in site.prefix[-_LOOK_CHARS:] + site.suffix[:_LOOK_CHARS]:
            return []
        site = replace(site, prefix=site.prefix + taken.more)
        if found.running is not None:
            found.running.cancel()
        task = asyncio.create_task(self._suggestions(found, site, settings, invoked=invoked))
        found.running = task
        try:
            suggestions = await task
        except asyncio.CancelledError:
            if _cancelling():
                raise  # the client gave this request up
            return []  # a newer request took its place
        finally:
            if found.running is task:
                found.running = None
        if document.version != site.version:
            return []
        ends = document.position(taken.start), document.position(place)
        items = [Item(one.id, taken.text + one.text, *ends) for one in suggestions]
        if items:
            found.answered = _Answered(site, position, taken, items[0])
        latency_ms = 1000 * (self._clock() - asked_at)
        where = document.uri, document.language, document.offset(taken.start)
        for item in items:
            self.tally.offered(item.id, where, item.text, latency_ms)
        return items

    def shown(self, suggestion_id: str) -> None:
        """A suggestion became visible."""
        self.tally.shown(suggestion_id)

    def accepted(self, suggestion_id: str, units: int | None = None) -> None:
        """A suggestion was taken, or a word or a line of it: up to `units` of UTF-16."""
        self.tally.accepted(suggestion_id, units)

    def files(self) -> Iterator[tuple[Path, Document]]:
        """The open documents that are files."""
        for found in self._open.values():
            path = path_of(found.document.uri)
            if path is not None:
                yield path, found.document

    async def suggests(self, uri: str) -> bool:
        """Whether ghost text was sent for a document as it is now. Waits for a request that is
        being answered: it goes first."""
        found = self._open.get(normal(uri))
        if found is not None and found.running is not None:
            await asyncio.wait({found.running})
        if found is None or found.answered is None:
            return False
        return found.answered.site.version == found.document.version

    def edit_shown(self, uri: str, version: int) -> None:
        """A next edit is shown for a version of a document: ghost text waits for the next one."""
        found = self._open.get(normal(uri))
        if found is not None:
            found.edit_version = version

    async def aclose(self) -> None:
        """Give up all work and end the connection."""
        for uri in list(self._open):
            self.close(uri)
        await self.tally.aclose()
        while self._chores:  # a chore that ends may start another
            await asyncio.gather(*self._chores, return_exceptions=True)
        await self._completer.prompts.aclose()
        await self.backend.aclose()

    def _earlier(self, uri: str) -> str:
        """The text of the cells before a document; empty where it is no cell of a notebook."""
        return earlier_text(self.notebooks.before(uri), self.document, self.document(uri))

    def _apply(self, document: Document, change: Change) -> None:
        """Make one change, and report the lines that it changed."""
        start, end, text = change
        if start == end and not text:
            return
        if self.tally.watches(document.uri):
            at = document.offset(start)
            self.tally.edited(document.uri, at, document.offset(end) - at, len(text))
        first, last = start.line, end.line
        many = last - first > _MOST_REPORTED_LINES or text.count("\n") > _MOST_REPORTED_LINES
        old = None if many else [body(document.line(line)) for line in range(first, last + 1)]
        count = len(document)
        document.apply(change)
        stop = min(last + 1 + len(document) - count, len(document))
        new = [] if many else [body(document.line(line)) for line in range(first, stop)]
        if self.on_edit is not None:
            self.on_edit(document.uri, first, old, new)

    def _work_on(self, found: _Open) -> None:
        """The user has turned to a document: what nobody waits for in another one ends."""
        last, self._worked_on = self._worked_on, found
        if last is not None and last is not found:
            last.ahead.stop()
            self._stop_growing(last)

    def _do(self, chore: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have something done that only `aclose` waits for."""
        task = asyncio.get_running_loop().create_task(chore)
        self._chores.add(task)
        task.add_done_callback(self._chores.discard)
        return task

    async def _suggestions(
        self, found: _Open, site: Site, settings: CompletionSettings, *, invoked: bool
    ) -> list[Suggestion]:
        limit_s = settings.time_limit_ms / 1000
        started = self._clock()
        kept = None if invoked else await self._kept(found, site, limit_s)
        found.ahead.asked(site, known=kept is not None)
        if kept is not None:
            if found.growing is None:
                found.ahead.suggested(site, kept)
            return [kept]
        self._stop_growing(found)
        asked_at = self._clock()
        short = await self._completer.shortened(settings, urgent=invoked)
        if short is None:
            return []
        started += self._clock() - asked_at  # the time limit holds for all but a model's load
        if not invoked:
            await asyncio.sleep(found.rhythm.wait_s(self._clock(), settings.debounce_ms / 1000))
        warm_up = found.ahead.warm_up
        if warm_up is not None:
            wait_s = min(_WARM_WAIT_S, limit_s) if short else limit_s / 2
            await asyncio.wait({warm_up}, timeout=wait_s)
        warmed = found.ahead.warmed(site)
        short = short and not warmed
        if not warmed:
            found.ahead.yield_to_request()
        asked_at = self._clock()
        manner = Manner(
            candidates=_CANDIDATES if invoked else 1,
            urgent=invoked,
            short=short,
            limit_s=limit_s - (asked_at - started),
            line_s=0.0 if self.on_update is not None and settings.blocks else limit_s,
        )
        made = await self._completer.suggestions(site, settings, manner)
        found.rhythm.answered(self._clock() - asked_at)
        found.ahead.answered(site, short=short and bool(self.prompts.cut))
        for suggestion in reversed(made.suggestions):
            found.suggestions.keep(site, suggestion)
        if made.growing is not None:
            self._grow(found, made.growing)
        elif made.suggestions and found.document.version == site.version:
            found.ahead.suggested(site, made.suggestions[0])
        return made.suggestions

    async def _kept(self, found: _Open, site: Site, limit_s: float) -> Suggestion | None:
        """What is known to follow the cursor. Where that is being decoded, waits for it."""
        growing = found.growing
        if growing is not None and growing.continues(site):
            with suppress(TimeoutError):
                await asyncio.wait_for(growing.beyond(site), limit_s)
        return found.suggestions.find(site)

    def _grow(self, found: _Open, growing: Growing) -> None:
        """Go on decoding a suggestion, unless the user has typed something else meanwhile."""
        self._stop_growing(found)
        found.growing = growing
        growing.start(lambda: self._has_grown(found, growing))
        document = found.document
        if document.version != growing.site.version and not growing.continues(
            document.site(document.clamp(document.edited))
        ):
            self._stop_growing(found)

    def _stop_growing(self, found: _Open) -> None:
        if found.growing is not None:
            self._do(found.growing.aclose())
            found.growing = None

    def _has_grown(self, found: _Open, growing: Growing) -> None:
        """Keep the longer suggestion, and send it to an editor that shows it."""
        suggestion = growing.suggestion
        found.suggestions.keep(growing.site, suggestion)
        if found.growing is not growing:
            return
        answered = found.answered
        if answered is not None and answered.item.id == suggestion.id:
            rest = found.suggestions.find(answered.site)
            if rest is not None and rest.id == suggestion.id:
                item = replace(answered.item, text=answered.taken.text + rest.text)
                self.tally.grew(item.id, item.text)
                if self.on_update is not None:
                    document, site = found.document, answered.site
                    self.on_update(
                        Update(document.uri, site.version, answered.position, item, growing.ended)
                    )
        if growing.ended:
            found.growing = None
            found.ahead.suggested(growing.site, suggestion)


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
