"""`python -m lsp`: the language server on stdin and stdout."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Serve one editor until it leaves. The exit code is 1 if it left without a shutdown."""
    # Thousands of classes are made while the protocol's types are imported, and none is garbage.
    gc.disable()
    from lsp import logs, server

    gc.enable()
    logs.configure()
    language_server = server.create()
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as channel:
        # Whatever else prints must not end up between the messages.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        language_server.start_io(stdout=channel)
    sys.exit(0 if language_server.left else 1)


if __name__ == "__main__":
    main()
