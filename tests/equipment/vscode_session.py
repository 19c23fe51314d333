"""A real VS Code with the extension from its .vsix, driven in a real browser by Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent / "vscode"
EXTENSION = Path(__file__).parents[2] / "editors" / "vscode"
VSIX = EXTENSION / "underkeel.vsix"

Step = tuple[str, str, dict[str, Any]]
"""Name of the observation, kind of step in drive.mjs, its arguments."""


def missing() -> str:
    """What is not here that the tests need, as a sentence; empty where all is."""
    for program in ("node", "npm", "rg", "chromium"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return ""


def install() -> Path:
    """VS Code's server and playwright-core, from the npm registry; at once where they are there."""
    folder = os.environ.get("UNDERKEEL_TEST_VSCODE", "~/.cache/underkeel-test/vscode")
    path = Path(folder).expanduser()
    subprocess.run([_HERE / "install.sh", path], check=True, timeout=1200)
    return path


def build() -> Path:
    """The .vsix of the sources as they are now."""
    newest = max(
        path.stat().st_mtime
        for path in EXTENSION.rglob("*")
        if path.is_file()
        and not {"node_modules", "out", "images"} & set(path.parts)
        and path != VSIX
    )
    if not VSIX.exists() or VSIX.stat().st_mtime < newest:
        prepare()
        subprocess.run(["npm", "run", "--silent", "package"], cwd=EXTENSION, check=True)
    return VSIX


def prepare() -> None:
    """Install what the extension is built with, as its lock file says."""
    lock = EXTENSION / "package-lock.json"
    installed = EXTENSION / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(["npm", "ci", "--ignore-scripts", *quiet], cwd=EXTENSION, check=True)


@dataclass(frozen=True)
class VSCode:
    """Where one session's files lie.

    Attributes:
        installation: what `install` returned.
        vsix: what `build` returned.
        home: folder of the session's own files.
        workspace: the project that is opened.
        pictures: where screenshots go.
        environment: of VS Code's server, and so of the language server.
    """

    installation: Path
    vsix: Path
    home: Path
    workspace: Path
    pictures: Path
    environment: dict[str, str]
    trusted: bool = True

    def settings(self, **settings: Any) -> None:
        """Write the user's settings, dots in names as double underscores."""
        path = self.home / "user-data" / "User" / "settings.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        named = {name.replace("__", "."): value for name, value in settings.items()}
        path.write_text(json.dumps(_QUIET | named), encoding="utf-8")

    def run(self, steps: list[Step]) -> dict[str, Any]:
        """What was seen, by name of the step; `failed` says where it ended early."""
        plan = self.home / "plan.json"
        plan.write_text(
            json.dumps(
                {
                    "installation": str(self.installation),
                    "vsix": str(self.vsix),
                    "home": str(self.home),
                    "workspace": str(self.workspace),
                    "pictures": str(self.pictures),
                    "environment": self.environment,
                    "trusted": self.trusted,
                    "chromium": shutil.which("chromium"),
                    "steps": steps,
                }
            ),
            encoding="utf-8",
        )
        done = subprocess.run(
            ["node", _HERE / "drive.mjs", plan], capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stderr
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen


_QUIET = {
    "workbench.startupEditor": "none",
    "workbench.tips.enabled": False,
    "workbench.colorTheme": "Default Light Modern",
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "telemetry.telemetryLevel": "off",
    "chat.commandCenter.enabled": False,
    "editor.minimap.enabled": False,
    "editor.quickSuggestions": {"other": "off", "comments": "off", "strings": "off"},
    "editor.suggestOnTriggerCharacters": False,
    "editor.wordBasedSuggestions": "off",
    "editor.autoClosingBrackets": "never",
    "extensions.ignoreRecommendations": True,
}
