"""The workspace: open documents, the index of the others, and prompts for a cursor.

How a language server uses it:

    workspace = Workspace(roots, counter, layout, control, store=cache / "index.db")
    threading.Thread(target=workspace.index.refresh, args=(report,)).start()   # or watch.keep
    document = workspace.open(path, text, language_id)     # didOpen
    document.apply([TextEdit(start, end, new_text)])       # didChange with ranges
    document.replace(text)                                 # didChange with the whole text
    prompt = workspace.prompt(document, cursor_byte, budget_tokens)            # a keystroke
    prompt = workspace.prompt(document, cursor_byte, budget_tokens, rest=True) # the cursor rests
    workspace.visited(document, start_byte, stop_byte)     # the cursor left this region
    workspace.saved(document)                              # didSave

A keystroke that keeps the head costs a fraction of a millisecond; one that builds a new head costs
tens of milliseconds in a large file (a parse of what changed, an outline, look-ups in the index).
All calls come from one thread; the index may be refreshed in another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from context.index.open_file import names_beside, names_of
from context.index.project_index import Index
from context.index.read_policy import hidden_part, is_secret
from context.index.walk import Limits
from context.prompt import FimLayout, Part, Prompt
from context.prompt.builder import Builder, Explanation, explain, overview
from context.prompt.head import Head, Reason, Shares, compose, room_for, verdict
from context.prompt.window import control_ids, order_of, window
from context.retrieval import MAX_REGION_CHARS, Recent, Region
from context.syntax.document import Document
from context.syntax.language import has_other, language_for
from context.syntax.secrets import masked_runs
from context.syntax.text import (
    CursorKind,
    Encoder,
    TokenCounter,
    byte_offset,
    char_offset,
    cursor_kind,
    line_end,
    line_start,
)

_FRAGMENT = re.compile("[#?]")


@dataclass
class _Session:
    """What is remembered of one document between prompts."""

    head: Head | None = None
    jumped_at: int | None = None
    cursor: int = 0
    edited_chars: int = 0
    reason: Reason = Reason.FIRST


def _key(document: Document) -> tuple[str, str, str]:
    return document.root, document.path, document.view


class Workspace:
    """Builds prompts from open documents and the index of the workspace.

    Args:
        roots: the workspace's folders; may be none.
        counter, layout, control: of the model, see `use_model`.
        store: where the index is kept between sessions; None keeps it in memory.
        excludes: the user's own patterns of files that are never read, in .gitignore's form.

    Raises:
        ValueError: `control` lacks a token of `layout`.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        counter: TokenCounter,
        layout: FimLayout,
        control: Mapping[str, int],
        *,
        store: Path | None = None,
        limits: Limits | None = None,
        excludes: Sequence[str] = (),
        shares: Shares | None = None,
    ) -> None:
        self.index = Index(roots, store, limits=limits, excludes=excludes)
        self.shares = shares or Shares()
        self.recent = Recent()
        self.documents: dict[tuple[str, str, str], Document] = {}
        self._sessions: dict[tuple[str, str, str], _Session] = {}
        self.use_model(counter, layout, control)

    def use_model(
        self, counter: TokenCounter, layout: FimLayout, control: Mapping[str, int]
    ) -> None:
        """Build prompts for this model from now on; heads of another are forgotten.

        Raises:
            ValueError: `control` lacks a token of `layout`.
        """
        control_ids(layout, control)
        self._encoder = Encoder(counter)
        self._layout = layout
        self._control = dict(control)
        self._builder = Builder(self.index.store, self._encoder, layout, self.shares)
        self._sessions.clear()

    def open(self, path: Path, text: str, language_id: str = "", view: str = "") -> Document:
        """An open document; opened again it takes the new text.

        Args:
            language_id: the editor's name for the language; it decides over the path.
            view: which of several documents of this path it is: see `Document`.
        """
        document = self.document(path, text, language_id)
        document.view = view
        key = _key(document)
        if document.root:
            self.index.approach(document.root, document.path)
        known = self.documents.get(key)
        if known is not None and known.language_id == language_id:
            known.names = tuple(dict.fromkeys((*known.names, *document.names)))
            known.replace(text)
            return known
        self._sessions.pop(key, None)
        self.documents[key] = document
        return document

    def document(self, path: Path, text: str, language_id: str = "") -> Document:
        """A document of its own for a file of the workspace, which is not an open one."""
        names = names_of(path)
        plain = _FRAGMENT.split(path.name, maxsplit=1)[0]  # `.env#L3` is `.env`, if it is a link
        if plain and plain != path.name:
            names = (*names_of(path.with_name(plain)), *names)
        place = self.index.place(names[-1])
        root, relative = (str(place[0]), place[1]) if place else ("", str(names[-1]))
        shared = has_other(language_for(path.name, "", language_id), path.name)
        beside = names_beside(path) if shared else ()
        document = Document(root, relative, text, language_id, beside)
        document.names = tuple(dict.fromkeys((*map(self._name, names), relative)))
        return document

    def _name(self, path: Path) -> str:
        place = self.index.place(path)
        return place[1] if place else str(path)

    def close(self, document: Document) -> None:
        """Forget an open document; the index keeps the file as it is on disk."""
        self.documents.pop(_key(document), None)
        self._sessions.pop(_key(document), None)

    def saved(self, document: Document) -> None:
        """Bring the index up to date with a document that was written to disk."""
        if document.root:
            self.index.update(Path(document.root, document.path))

    def visited(self, document: Document, start_byte: int, stop_byte: int) -> None:
        """Note a region that was edited or read: it may be of use elsewhere. Whole lines count."""
        if self.hidden(document):
            return
        if document.root and not self.index.allows(document.root, document.path):
            return  # what .gitignore keeps out of the index must not enter a prompt here
        text = document.text
        start = line_start(text, char_offset(text, start_byte))
        stop = line_end(text, char_offset(text, max(start_byte, stop_byte)))
        stop = min(stop, line_end(text, min(start + MAX_REGION_CHARS, len(text))))
        shown = document.shown_text[start : min(stop, start + 2 * MAX_REGION_CHARS)]
        self.recent.add(Region(document.root, document.path, start, masked_runs(shown)))

    def prompt(
        self,
        document: Document,
        cursor_byte: int,
        budget_tokens: int,
        *,
        max_answer_tokens: int = 0,
        rest: bool = False,
    ) -> Prompt:
        """The best prompt for a cursor.

        Args:
            cursor_byte: UTF-8 byte offset in the document, clamped.
            budget_tokens: most tokens that prompt and answer may take together.
            max_answer_tokens: of these, kept for the answer; 0 where the budget is the prompt's.
            rest: the cursor rests here, so a better head is worth its evaluation.

        Returns:
            A prompt within the budget; an empty one for a file on the list of secrets or the
            user's own, or where not even control tokens fit, with the reason in `cut`.
        """
        text = document.text
        cursor = char_offset(text, cursor_byte)
        kind = cursor_kind(text, cursor)
        if hidden := self.hidden(document):
            return Prompt((), (), self._layout, kind, budget_tokens, (hidden,))
        document.look_at(byte_offset(text, cursor))
        room = room_for(self._layout, kind, budget_tokens, max_answer_tokens)
        if room <= 0:
            return self._plain(document, cursor, budget_tokens, max_answer_tokens)
        head = self._head(document, cursor, kind, room, rest)
        made = compose(
            head,
            document.shown_text,
            cursor,
            layout=self._layout,
            kind=kind,
            control=self._control,
            encoder=self._encoder,
            budget_tokens=budget_tokens,
        )
        if len(made.ids) + max(0, max_answer_tokens) > budget_tokens:
            return self._plain(document, cursor, budget_tokens, max_answer_tokens)
        return made

    def head_reason(self, document: Document) -> Reason:
        """Why the head of the document's last prompt was built or kept."""
        return self._session(document).reason

    def explain(
        self,
        document: Document,
        start_byte: int,
        stop_byte: int,
        budget_tokens: int,
        *,
        diagnostic: str = "",
    ) -> Explanation:
        """What a model should see to explain a selection: see `context.prompt.builder`."""
        if hidden := self.hidden(document):
            return Explanation((), budget_tokens, cut=(hidden,))
        document.look_at(start_byte)
        return explain(
            self.index.store,
            document,
            (start_byte, stop_byte),
            self._encoder,
            budget_tokens,
            diagnostic=diagnostic,
        )

    def overview(self, document: Document, budget_tokens: int) -> Explanation:
        """What a model should see to explain a file: `context.prompt.builder.overview`."""
        if hidden := self.hidden(document):
            return Explanation((), budget_tokens, cut=(hidden,))
        return overview(document, self._encoder, budget_tokens)

    def hidden(self, document: Document) -> str:
        """Why nothing of a document may be shown to a model; empty where it may."""
        above = hidden_part(Path(document.root)) if document.root else ""
        if any(is_secret(name) or (above and is_secret(above + name)) for name in document.names):
            return "this file may hold secrets"
        if any(map(self.index.excluded, document.names)):
            return "the user's settings exclude this file"
        return ""

    def _plain(
        self, document: Document, cursor: int, budget_tokens: int, max_answer_tokens: int
    ) -> Prompt:
        at = byte_offset(document.text, cursor)
        return window(
            document.text,
            at,
            self._layout,
            self._encoder,
            self._control,
            budget_tokens,
            max_answer_tokens,
        )

    def _session(self, document: Document) -> _Session:
        return self._sessions.setdefault(_key(document), _Session())

    def _head(
        self, document: Document, cursor: int, kind: CursorKind, room: int, rest: bool
    ) -> Head:
        session = self._session(document)
        order = order_of(self._layout, kind)
        reason = verdict(
            session.head,
            document,
            cursor,
            room_tokens=room,
            order=order,
            encoder=self._encoder,
            rest=rest,
            index_version=self.index.version,
            moved_chars=abs(cursor - session.cursor)
            - (document.edited_chars - session.edited_chars),
            jumped_at=session.jumped_at,
        )
        if reason is Reason.KEPT and rest and session.head is not None and Part.REPO in order:
            asked = self._builder.imported(document, cursor)
            reason = reason if asked <= session.head.imported else Reason.IMPORTED
        session.reason = reason
        session.cursor, session.edited_chars = cursor, document.edited_chars
        if reason is Reason.KEPT_OVER_JUMP and session.jumped_at is None:
            session.jumped_at = document.edited_chars
        if session.head is not None and reason in (Reason.KEPT, Reason.KEPT_OVER_JUMP):
            return session.head
        session.head = self._builder.build(
            document,
            cursor,
            kind,
            room,
            recent=self.recent.newest(),
            order=order,
            index_version=self.index.version,
            reason=reason,
        )
        session.jumped_at = None
        return session.head
