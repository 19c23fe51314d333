"""Keeps an index up to date as files change on disk."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import watchfiles

from context.index import Index, Progress
from context.secrecy import is_secret, is_skipped

_DEBOUNCE_MS = 400
_REFRESH_AT = 200  # so many changes at once (a checkout, say) are met by one refresh


async def keep(index: Index, stop: asyncio.Event, progress: Progress | None = None) -> None:
    """Refresh the index, then follow changes until `stop` is set.

    The work runs in threads; a root that cannot be watched stays as it was read.
    """
    await asyncio.to_thread(index.refresh, progress)
    roots = [root for root in index.roots if root.is_dir()]
    if not roots:
        return
    try:
        async for changes in watchfiles.awatch(
            *roots, watch_filter=_Wanted(index), debounce=_DEBOUNCE_MS, stop_event=stop
        ):
            paths = {Path(path) for _, path in changes}
            if len(paths) > _REFRESH_AT or await asyncio.to_thread(_reaches_far, index, paths):
                await asyncio.to_thread(index.refresh, progress)
                continue
            for path in sorted(paths):
                await asyncio.to_thread(index.update, path)
    except (OSError, RuntimeError):  # no watches left, or the root is gone
        return


def _reaches_far(index: Index, paths: Iterable[Path]) -> bool:
    """Whether more files than those named may have changed.

    Of a folder that is moved, or that comes with files in it, the system tells only the folder.
    """
    return any(
        path.name == ".gitignore" or path.is_dir() or index.holds_below(path) for path in paths
    )


class _Wanted(watchfiles.BaseFilter):
    """Lets through what may be source; the index decides the rest."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def __call__(self, change: watchfiles.Change, path: str) -> bool:  # noqa: ARG002
        place = self._index.place(Path(path))
        return place is not None and not is_skipped(place[1]) and not is_secret(place[1])
