"""Logging to stderr that never holds the user's code.

pygls logs message bodies: all of them at INFO, and at ERROR those that it could not handle. So of
its records only the template and the kind of the exception are written.
"""

from __future__ import annotations

import logging


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
