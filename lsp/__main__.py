"""Logging to stderr that never holds the user's code.

pygls logs message bodies: all of them at INFO, and at ERROR those that it could not handle. So of
its records only the template and the kind of the exception are written.

`python -m lsp`: the language server on stdin and stdout.
"""

from __future__ import annotations

import gc
import logging
import os
import sys

from assistant.errors import hide_library_warnings


class _WithoutBodies(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        kind = record.exc_info[0] if record.exc_info else None
        return f"{record.levelname} {record.name}: {record.msg}" + (
            f" ({kind.__name__})" if kind else ""
        )


def configure(level: int = logging.WARNING) -> None:
    """Send our log to stderr from `level` on, and warnings of pygls without what they are about."""
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", force=True)
    quiet = logging.StreamHandler()
    quiet.setFormatter(_WithoutBodies())
    for name in ("pygls", "asyncio", "httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.handlers = [quiet]
        logger.propagate = False
        logger.setLevel(logging.WARNING)


def main() -> None:
    """Serve one editor until it leaves. The exit code is 1 if it left without a shutdown."""
    # Thousands of objects are made while modules are imported, and none of them is garbage.
    gc.disable()
    hide_library_warnings()
    from lsp import protocol_types

    protocol_types.load()
    from lsp import server

    gc.enable()
    gc.freeze()
    configure()
    language_server = server.create()
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as channel:
        # Whatever else prints must not end up between the messages.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        language_server.start_io(stdout=channel)
    sys.exit(0 if language_server.left else 1)


if __name__ == "__main__":
    main()
