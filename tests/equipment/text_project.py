"""A project of a few texts, for the rules of next edits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from context.edits import OtherDefinition
from context.syntax.document import Source, read_file
from context.syntax.syntax_tree import Kind

ROOT = "/p"
_NAME = re.compile(r"[^\W\d]\w*")


class TextProject:
    """Knows at once what an index knows after it has been built."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._sources: dict[str, Source | None] = {}
        self._paths: dict[str, list[str]] = {}
        for path, text in texts.items():
            for name in dict.fromkeys(_NAME.findall(text)):
                self._paths.setdefault(name, []).append(path)

    def definitions(self, name: str) -> Sequence[OtherDefinition]:
        found = []
        for path in self._paths.get(name, ()):
            source = self.source(ROOT, path)
            if source is None:
                continue
            every = source.outline.definitions
            found += [
                OtherDefinition(
                    ROOT,
                    path,
                    source.language.name,
                    name,
                    source.text[one.start : one.stop],
                    top_level=one.parent < 0 or every[one.parent].kind == Kind.SCOPE,
                )
                for one in every
                if one.name == name
            ]
        return found

    def mentions(self, name: str) -> Sequence[tuple[str, str]]:
        return [(ROOT, path) for path in self._paths.get(name, ())]

    def source(self, root: str, path: str) -> Source | None:
        assert root == ROOT
        if path not in self._sources:
            text = self._texts.get(path)
            self._sources[path] = read_file(path, text) if text is not None else None
        return self._sources[path]
