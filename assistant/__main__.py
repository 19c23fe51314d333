"""The `underkeel` command. `underkeel lsp` becomes the language server at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    _distrust_working_directory()
    if sys.argv[1:2] == ["lsp"]:
        os.execv(sys.executable, [sys.executable, "-m", "lsp", *sys.argv[2:]])  # noqa: S606
    from assistant.errors import hide_library_warnings

    hide_library_warnings()
    from assistant.cli import run

    run()


def _distrust_working_directory() -> None:
    """Let no Python that is started from here import from the folder it is started in.

    Editors start the language server inside the user's project, which may be a stranger's: with
    `python -m`, a folder `lsp` or a file `json.py` there would run in place of ours.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    ours = str(Path(__file__).resolve().parents[1])
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if ours not in known and not any("site-packages" in part for part in Path(ours).parts):
        os.environ["PYTHONPATH"] = os.pathsep.join([ours, *filter(None, known)])


if __name__ == "__main__":
    main()
