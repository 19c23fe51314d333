"""Keeps the libraries' own warnings away from users.

Underkeel reports its own problems as errors with advice. A library's warning names a line of its
source, and a user can do nothing about it.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

_LIBRARIES = {
    # huggingface_hub logs to stderr by itself, and draws its own progress.
    "HF_HUB_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def hide_library_warnings() -> None:
    """Hide them in this process and in those that it starts. For entry points only.

    `UNDERKEEL_DEBUG=1`, `PYTHONWARNINGS` and `python -W` keep them visible.
    """
    for name, value in _LIBRARIES.items():
        os.environ.setdefault(name, value)
    if sys.warnoptions or os.environ.get("UNDERKEEL_DEBUG"):
        return
    os.environ["PYTHONWARNINGS"] = "ignore"
    warnings.simplefilter("ignore")
    # The handler for records where none is configured writes to stderr.
    logging.lastResort = logging.NullHandler()
