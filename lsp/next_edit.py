"""Finds the next edit of a document, by rules or by a model, judged by the gate, at the editor's
positions."""

from __future__ import annotations

import itertools
import logging
import os
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.errors import UnderkeelError
from lsp.actions.document_range import DocumentRange
from lsp.document import Place, to_units
from lsp.site import is_listed
from lsp.uri import path_of

if TYPE_CHECKING:
    from assistant.settings import NextEditSettings
    from context import Document, Workspace
    from context.edits import NextEdit, Scene
    from context.edits.gate import Key, Showings
    from context.edits.history import History
    from context.edits.model_edits import Answer, EditPrompt, Format
    from lsp.backend import Backend
    from lsp.completion.session import Session
    from lsp.completion.suggestion import Position
    from lsp.served_model import Fim, Served

_log = logging.getLogger(__name__)

_MOST_PENDING = 2000
_MOST_OFFERED = 64
_MOST_DECIDED = 256
_MOST_OPEN_TEXTS = 20
_MOST_JUDGED = 8
_LEAST_TOKENS = 256
_MOST_ANSWER_TOKENS = 1024
_LIMIT_MS = 20_000
_RECENT_EDITS = 6
_FOLLOWED_EDITS = 40


@dataclass(frozen=True)
class Offer:
    """A next edit as the editor gets it: `text` takes the place of what is between the positions.

    Attributes:
        version: of the document; None for one that is not open.
    """

    id: str
    uri: str
    version: int | None
    start: Position
    end: Position
    text: str


@dataclass(frozen=True)
class EditModel:
    """A served model that may be requested to edit now.

    Attributes:
        form: the prompt's format.
        budget_tokens: the longest prompt.
    """

    served: Served
    form: Format
    budget_tokens: int

    @property
    def fim(self) -> Fim:
        return self.served.fim


@dataclass
class _Known:
    """An offer that may be shown, accepted or rejected.

    `shown`: the editor has reported that it is, or has accepted or rejected it. `origin`: the
    document whose edits it follows from, where it is an edit of another file.
    """

    uri: str
    version: int
    language: str
    key: Key
    newest: int
    shown: bool = False
    origin: str = ""


_Judged = tuple["NextEdit", "Key", int]
"""An edit that passes the gate, what identifies it, and the number of the newest hunk."""


@dataclass(frozen=True)
class _Look:
    """What the rules found, from the edits of which document, and the prompt for a model where they
    found nothing."""

    judged: _Judged | None = None
    prompt: EditPrompt | None = None
    origin: str = ""


@dataclass
class _Tracked:
    """What was edited in a document: changes that are not in the history yet, and the history.

    `answered`: the last prompt that a model answered, with the answer.
    """

    pending: deque[tuple[int, list[str] | None, list[str]]] = field(
        default_factory=lambda: deque(maxlen=_MOST_PENDING)
    )
    history: History | None = None
    answered: tuple[str, Answer] | None = None

    @property
    def edited(self) -> bool:
        """Whether anything of it is known."""
        return bool(self.pending or (self.history is not None and self.history.hunks))


@dataclass(frozen=True)
class _Origin:
    """Another document that was edited, from whose edits more may follow.

    `everywhere`: the user has accepted such an edit, so those of any file are wanted.
    """

    where: DocumentRange
    tracked: _Tracked
    everywhere: bool


class NextEdits:
    """The next edits of one editor.

    Attributes:
        settings: the current ones; None before the client is initialised.
        focused: URI of the document that the user looks at, if the client reports it.
    """

    def __init__(self, session: Session) -> None:
        self.settings: NextEditSettings | None = None
        self.focused = ""
        self._session = session
        self._tracked: dict[str, _Tracked] = {}
        self._numbers = itertools.count(1)
        self._ids = itertools.count(1)
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._rejected: OrderedDict[Key, None] = OrderedDict()
        self._accepted: OrderedDict[Key, None] = OrderedDict()
        self._followed = ""
        """The document whose edits the user follows through other files."""
        session.on_edit = self._edited
        session.on_close = self._closed

    @cached_property
    def _showings(self) -> Showings:
        from context.edits.gate import Showings

        return Showings()

    async def find(
        self,
        uri: str,
        version: int | None,
        position: Position,
        *,
        problems: Sequence[tuple[int, str]] = (),
        shown: bool = False,
    ) -> list[Offer]:
        """The next edit for a position; nothing for a version that is not the current one, and
        nothing while ghost text is shown there or being computed.

        What follows from the edits of the document comes first, then what follows in it from those
        of the one edited before.

        Where the rules find none, the model that is served may be asked (`next_edits.model`).

        Args:
            problems: line and message of what the editor shows as wrong; hints for the model.
            shown: the client shows at once what it gets, and need not report it.
        """
        document = self._session.document(uri)
        if document is None or not self._wanted(document.language):
            return []
        uri, asked = document.uri, document.version
        if version is not None and version != asked:
            return []
        if await self._session.suggests(uri):
            return []
        where = self._session.document_range(uri, position, position)
        if where is None or where.version != asked:
            return []
        others = dict(self._open_texts())
        tracked = self._tracked.setdefault(uri, _Tracked())
        origins = list(self._origins(uri))
        how = _edit_model(self._session.backend.ready, self.settings) if self.settings else None
        found = await self._session.prompts.study_workspace(
            uri,
            where.text,
            lambda workspace, studied, hidden: self._look(
                tracked,
                workspace,
                studied,
                where,
                others=others,
                origins=origins,
                how=None if hidden else how,
                problems=problems,
            ),
            language_id=document.language,
        )
        if document.version != asked:
            return []
        judged = found.judged
        if judged is None and how is not None and found.prompt is not None:
            judged = await self._by_model(tracked, how, found.prompt, where)
            if judged is None or document.version != asked or await self._session.suggests(uri):
                return []
        offer = self._offer(where, *judged, found.origin) if judged is not None else None
        if offer is not None and shown:
            self._session.edit_shown(uri, asked)
        return [offer] if offer is not None else []

    def shown(self, id_: str) -> None:
        """An edit became visible: no ghost text is suggested until the text changes."""
        known = self._known.get(id_)
        if known is not None:
            self._session.edit_shown(known.uri, known.version)
            self._note_shown(known)

    def accepted(self, id_: str) -> None:
        """An edit was applied by the editor."""
        known = self._known.pop(id_, None)
        if known is not None:
            self._note_shown(known)
            _remember(self._accepted, known.key)
            self._followed = known.origin or self._followed
            self._session.tally.count_edit(known.language, accepted=1)

    def rejected(self, id_: str) -> None:
        """An edit was rejected: it is not offered again."""
        known = self._known.pop(id_, None)
        if known is not None:
            self._note_shown(known)
            _remember(self._rejected, known.key)

    def _note_shown(self, known: _Known) -> None:
        """Once for each offer, whatever the editor reports."""
        if not known.shown:
            known.shown = True
            self._showings.note(known.key, known.newest)
            self._session.tally.count_edit(known.language, shown=1)

    def _wanted(self, language: str) -> bool:
        settings = self.settings
        if settings is None or not settings.enabled:
            return False
        return not is_listed(language, settings.languages_off)

    def _edited(self, uri: str, first: int, old: list[str] | None, new: list[str]) -> None:
        tracked = self._tracked.pop(uri, None) or _Tracked()
        tracked.pending.append((first, old, new))
        self._tracked[uri] = tracked  # the last one is the one edited last

    def _closed(self, uri: str) -> None:
        self._tracked.pop(uri, None)

    def _open_texts(self) -> Iterator[tuple[Path, str]]:
        """The texts of open files, which may differ from what is on disk; those that were edited
        last first."""
        order = {uri: at for at, uri in enumerate(self._tracked)}
        files = sorted(self._session.files(), key=lambda one: -order.get(one[1].uri, -1))
        for path, document in files[:_MOST_OPEN_TEXTS]:
            yield path, document.text

    def _origins(self, uri: str) -> Iterator[_Origin]:
        """The document that the user follows through other files, and the one edited last."""
        edited = [one for one, tracked in self._tracked.items() if one != uri and tracked.edited]
        for one in dict.fromkeys([self._followed, *edited[-1:]]):
            where = self._session.document_range(one) if one in edited else None
            if where is not None:
                yield _Origin(where, self._tracked[one], everywhere=one == self._followed)

    async def _by_model(
        self, tracked: _Tracked, how: EditModel, prompt: EditPrompt, where: DocumentRange
    ) -> _Judged | None:
        """The model's edit, if it passes the gate. A prompt is answered once."""
        known = tracked.answered
        if known is None or known[0] != prompt.text:
            made = await _ask(self._session.backend, how, prompt, f"{where.uri}#next-edit")
            if made is None:
                return None
            known = tracked.answered = prompt.text, made
        made = known[1]
        return await self._session.prompts.study(
            where.uri,
            where.text,
            lambda studied: self._judge_answer(tracked, studied, where, prompt, made),
            language_id=where.language,
        )

    # In the prompts' thread.

    def _judge_answer(
        self,
        tracked: _Tracked,
        document: Document,
        where: DocumentRange,
        prompt: EditPrompt,
        made: Answer,
    ) -> _Judged | None:
        from context.edits import Scene, gate, model_edits

        source, history = document.source, tracked.history
        if source is None or history is None or tracked.pending or self.settings is None:
            return None
        scene = Scene(document, source, where.start, history.hunks)
        edit = model_edits.edit_in(prompt, made.text, scene)
        if edit is None:
            return None
        moment = gate.Moment(
            document.path,
            where.text,
            scene.line_of(where.start),
            history.hunks,
            history.undone,
            self._rejected.keys(),
            model_edits.confidence(made),
            self._showings.passed(history.newest),
        )
        level = gate.Level(self.settings.level)
        passes = gate.judge(edit, moment).passes(level, prompt.format.thresholds)
        found = gate.key(document.path, where.text, edit)
        return (edit, found, history.newest) if passes else None

    def _look(
        self,
        tracked: _Tracked,
        workspace: Workspace | None,
        document: Document,
        where: DocumentRange,
        *,
        others: dict[Path, str],
        origins: Sequence[_Origin],
        how: EditModel | None,
        problems: Sequence[tuple[int, str]],
    ) -> _Look:
        from context.edits import IndexedFiles, Problem, Scene, model_edits

        history = self._history(tracked)
        source = document.source
        if source is None or self.settings is None:
            return _Look()
        project = IndexedFiles(workspace.index, others) if workspace is not None else None
        hints = tuple(itertools.starmap(Problem, problems))
        accepted = self._accepted_in(document)
        scene = Scene(document, source, where.start, history.hunks, project, hints, accepted)
        found = self._first_that_passes(_found(scene), scene, history, history.newest)
        if found is not None:
            return _Look(found, origin=where.uri)
        for origin in origins:
            found = self._follow(origin, workspace, scene, history) if workspace else None
            if found is not None:
                return _Look(found, origin=origin.where.uri)
        if how is None or not history.hunks:
            return _Look()
        count = how.fim.counter.count
        return _Look(prompt=model_edits.prompt_for(scene, how.form, how.budget_tokens, count))

    def _follow(
        self, origin: _Origin, workspace: Workspace, scene: Scene, history: History
    ) -> _Judged | None:
        """What follows from the recent edits of another document, if it passes the gate."""
        from context.edits import Scene

        path = path_of(origin.where.uri)
        past = self._history(origin.tracked)
        recent = _FOLLOWED_EDITS if origin.everywhere else _RECENT_EDITS
        if path is None or history.newest - past.newest > recent:
            return None
        other = workspace.document(path, origin.where.text, origin.where.language)
        if other.source is None:
            return None
        accepted = self._accepted_in(other)
        edited = Scene(other, other.source, 0, past.hunks, scene.project, accepted=accepted)
        edits = list(_elsewhere(edited, scene, everywhere=origin.everywhere))
        return self._first_that_passes(edits, scene, history, max(history.newest, past.newest))

    def _history(self, tracked: _Tracked) -> History:
        """The history of a document, with all its changes."""
        from context.edits.history import History

        if tracked.history is None:
            tracked.history = History(self._numbers)
        while tracked.pending:
            first, old, new = tracked.pending.popleft()
            if old is None:
                tracked.history.clear()
            else:
                tracked.history.changed(first, old, new)
        return tracked.history

    def _accepted_in(self, document: Document) -> frozenset[tuple[str, str]]:
        return frozenset(key[1:] for key in list(self._accepted) if key[0] == document.path)

    def _first_that_passes(
        self, edits: Sequence[NextEdit], scene: Scene, history: History, newest: int
    ) -> _Judged | None:
        """The first edit of a document or of another file that passes the gate."""
        from context.edits import gate

        level = gate.Level(self.settings.level) if self.settings else gate.Level.OFF
        passed = self._showings.passed(newest)
        for edit in edits[:_MOST_JUDGED]:
            text = scene.text
            if edit.path and scene.project is not None:
                other = scene.project.source(edit.root, edit.path)
                text = other.text if other is not None else ""
            moment = gate.Moment(
                edit.path or scene.document.path,
                text,
                None if edit.path else scene.line_of(scene.cursor),
                () if edit.path else history.hunks,
                () if edit.path else history.undone,
                self._rejected.keys(),
                passed=passed,
            )
            verdict = gate.judge(edit, moment)
            if verdict.passes(level):
                return edit, gate.key(moment.path, text, edit), newest
            if verdict.ends:
                break
        return None

    def _offer(
        self, where: DocumentRange, edit: NextEdit, key: Key, newest: int, origin: str
    ) -> Offer | None:
        target: DocumentRange | None = where
        uri, version = where.uri, where.version
        if edit.path:
            path = Path(edit.root, edit.path)
            known = self._session.uri_at(path)
            uri = known or path.as_uri()
            target = self._session.document_range(known) if known is not None else None
            version = target.version if target is not None else -1
        id_ = f"{os.getpid()}-edit-{next(self._ids)}"
        lines = target.lines if target is not None else None
        if lines is None:
            ends = _positions_on_disk(Path(edit.root, edit.path), edit)
        else:
            ends = self._position(lines, edit.start), self._position(lines, edit.stop)
        if ends is None:
            return None
        self._known[id_] = _Known(
            where.uri,
            where.version,
            where.language,
            key,
            newest,
            origin=origin if edit.path else "",
        )
        self._session.tally.count_edit(where.language, offered=1)
        while len(self._known) > _MOST_OFFERED:
            self._known.popitem(last=False)
        text = edit.text.replace("\n", target.line_end if target is not None else "\n")
        return Offer(id_, uri, version if version >= 0 else None, *ends, text)

    def _position(self, lines: Sequence[str], offset: int) -> Position:
        place = _place(lines, offset)
        return place.line, to_units(lines[place.line], place.column, self._session.encoding)


def _found(scene: Scene) -> list[NextEdit]:
    """What the rules find. Nothing where a part of a very long file is not parsed: what a rule
    looks for may stand there."""
    from context.edits import gate

    return gate.find(scene) if scene.source.parsed_bytes is None and scene.hunks else []


def _elsewhere(origin: Scene, scene: Scene, *, everywhere: bool) -> Iterator[NextEdit]:
    """What follows from the edits of another document: in the current one, and in other files where
    that is wanted."""
    own = scene.document.root, scene.document.path
    found = [one for one in _found(origin) if one.path]
    here = [one for one in found if (one.root, one.path) == own]
    yield from scene.nearest([replace(one, root="", path="") for one in here])
    yield from (one for one in found if everywhere and one not in here)


def _remember(keys: OrderedDict[Key, None], key: Key) -> None:
    """Add what the user decided about to the bounded list of such edits."""
    keys[key] = None
    keys.move_to_end(key)
    while len(keys) > _MOST_DECIDED:
        keys.popitem(last=False)


def _place(lines: Sequence[str], offset: int) -> Place:
    """The line and column of a character offset in lines that are joined by `\\n`."""
    for number, line in enumerate(lines):
        if offset <= len(line):
            return Place(number, offset)
        offset -= len(line) + 1
    return Place(len(lines) - 1, len(lines[-1]))


def _positions_on_disk(path: Path, edit: NextEdit) -> tuple[Position, Position] | None:
    """The positions in a file that is not open; None unless its line is ASCII, since the editor's
    encoding of it is the same then."""
    from context.edits import MAX_FILE_BYTES
    from context.index.open_file import read_text

    text = read_text(path, MAX_FILE_BYTES)
    if text is None:
        return None
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    start, stop = _place(lines, edit.start), _place(lines, edit.stop)
    if not (lines[start.line].isascii() and lines[stop.line].isascii()):
        return None
    return (start.line, start.column), (stop.line, stop.column)


# The model.


def _edit_model(served: Served | None, settings: NextEditSettings) -> EditModel | None:
    """Whether the served model is to be asked, and how.

    None while no model is loaded (a next edit loads none), while memory is short, so that what is
    left is for typing, and for a model that the settings leave out.
    """
    if served is None or settings.model == "off":
        return None
    if served.budget is not None and served.budget.level:
        return None
    from context.edits import model_edits

    form = model_edits.format_for(served.info.name)
    if form is None and settings.model == "on":
        form = model_edits.formats()[model_edits.GENERIC]
    if form is None:
        return None
    budget_tokens = served.prompt_tokens(settings.context_tokens, _MOST_ANSWER_TOKENS)
    if budget_tokens < min(_LEAST_TOKENS, settings.context_tokens):
        return None
    return EditModel(served, form, budget_tokens)


async def _ask(
    backend: Backend, how: EditModel, prompt: EditPrompt, document: str
) -> Answer | None:
    """The model's answer; None where it is cut or the request fails, which is logged only.

    Every other request goes first. Cancelling the call ends the generation.
    """
    from assistant.client.events import read_edit
    from assistant.engine.types import Priority
    from assistant.wire import CompletionRequest
    from context.edits import model_edits

    fim = how.fim
    ids = prompt.ids(fim.start, fim.special, fim.counter.encode)
    most = min(model_edits.answer_tokens(prompt, fim.counter.count), _MOST_ANSWER_TOKENS)
    request = CompletionRequest(
        prompt=fim.body(ids),
        max_tokens=most,
        temperature=0.0,
        stop=prompt.stop,
        document=document,
        priority=Priority.BACKGROUND,
        time_limit_ms=_LIMIT_MS,
        budget_tokens=how.budget_tokens,
        prompt_model=how.served.info.name,
        n_probs=1,
        exact_drafts=False,
    )
    try:
        return await read_edit(backend.complete(request), prompt)
    except UnderkeelError as error:
        _log.info("no next edit from the model, for an error of kind %s", error.code)
        return None
