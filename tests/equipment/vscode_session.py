"""A real VS Code with the extension from its .vsix, driven in a real browser by Node."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
from conformance import wrong_messages

_HERE = Path(__file__).parent / "vscode"
EXTENSION = Path(__file__).parents[2] / "editors" / "vscode"
VSIX = EXTENSION / "underkeel.vsix"

Step = tuple[str, str, dict[str, Any]]
"""Name of the observation, kind of step in drive.mjs, its arguments."""


def missing(*programs: str) -> str:
    """What is not here that the tests need, as a sentence; empty where all is."""
    for program in programs or ("node", "npm", "rg", "chromium"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return ""


def install(kind: str = "") -> Path:
    """VS Code's server and playwright-core, from the npm registry; at once where they are there.

    Args:
        kind: a folder with other versions: "models" for a VS Code that shows language models.
    """
    folder = os.environ.get("UNDERKEEL_TEST_VSCODE", "~/.cache/underkeel-test/vscode")
    path = Path(f"{folder}-{kind}" if kind else folder).expanduser()
    subprocess.run([_HERE / "install.sh", path, _HERE / kind], check=True, timeout=1200)
    return path


def build() -> Path:
    """The .vsix of the sources as they are now; one process builds it, others wait."""
    with _building():
        return _build()


def _build() -> Path:
    newest = max(
        path.stat().st_mtime
        for path in EXTENSION.rglob("*")
        if path.is_file()
        and not {"node_modules", "out", "images"} & set(path.parts)
        and path != VSIX
    )
    if not VSIX.exists() or VSIX.stat().st_mtime < newest:
        _prepare()
        subprocess.run(["npm", "run", "--silent", "package"], cwd=EXTENSION, check=True)
    return VSIX


def prepare() -> None:
    """Install what the extension is built with, as its lock file says."""
    with _building():
        _prepare()


def _prepare() -> None:
    lock = EXTENSION / "package-lock.json"
    installed = EXTENSION / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(["npm", "ci", "--ignore-scripts", *quiet], cwd=EXTENSION, check=True)


def _building() -> filelock.BaseFileLock:
    """Held by the one process that changes the extension's folder."""
    digest = hashlib.sha256(str(EXTENSION).encode()).hexdigest()[:16]
    return filelock.FileLock(Path(tempfile.gettempdir()) / f"underkeel-vscode-{digest}.lock")


@dataclass(frozen=True)
class VSCode:
    """Where one session's files lie.

    Attributes:
        installation: what `install` returned.
        vsix: what `build` returned.
        home: folder of the session's own files.
        workspace: the project that is opened.
        environment: of VS Code's server, and so of the language server.
        others: more extensions to install.
    """

    installation: Path
    vsix: Path
    home: Path
    workspace: Path
    environment: dict[str, str]
    trusted: bool = True
    others: tuple[Path, ...] = ()

    def settings(self, **settings: Any) -> None:
        """Write the user's settings, dots in names as double underscores."""
        self._settings.parent.mkdir(parents=True, exist_ok=True)
        named = {name.replace("__", "."): value for name, value in settings.items()}
        self._settings.write_text(json.dumps(_QUIET | named), encoding="utf-8")

    @property
    def _settings(self) -> Path:
        return self.home / "user-data" / "User" / "settings.json"

    @property
    def pictures(self) -> Path:
        return self.home / "pictures"

    def setting(self, name: str) -> Any:
        """A setting of the user's as it stands in the file."""
        return json.loads(self._settings.read_text(encoding="utf-8")).get(name)

    def messages(self) -> list[dict[str, Any]]:
        """Everything that the scripted language server got, in order."""
        lines = (self.home / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def log(self, method: str) -> list[dict[str, Any]]:
        """The parameters of what the scripted language server got, in order."""
        return [message["params"] for message in self.messages() if message.get("method") == method]

    def run(self, steps: list[Step]) -> dict[str, Any]:
        """What was seen, by name of the step; `failed` says where it ended early.

        All that the editor has said to the scripted server is held to the protocol.
        """
        plan = self.home / "plan.json"
        plan.write_text(
            json.dumps(
                {
                    "installation": str(self.installation),
                    "extensions": [str(path) for path in (self.vsix, *self.others)],
                    "home": str(self.home),
                    "workspace": str(self.workspace),
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
        if (self.home / "log.jsonl").exists():
            assert not (wrong := wrong_messages(self.messages())), "\n".join(wrong)
        seen: dict[str, Any] = json.loads(done.stdout)
        return seen


def prepared(
    home: Path,
    files: dict[str, str],
    *,
    server: str | None = None,
    on_path: bool = True,
    before: str = "",
    rules: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    trusted: bool = True,
    kind: str = "",
    others: tuple[Path, ...] = (),
) -> VSCode:
    """An editor with a project of these files.

    Args:
        kind: of the editor, as `install` takes it; others: more extensions.
        server: shell command of the language server; without it, the scripted one with `rules`.
            The rest of the command line is the real one.
        before: shell lines that take other parts of the command line's work.
        on_path: whether the program is found on the PATH, or else lies in `home / "bin"` only.
    """
    workspace, binaries = home / "project", home / "bin"
    for name, text in files.items():
        path = workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    scripted = f"{sys.executable} -IS {_HERE.parent / 'scripted_lsp.py'} utf-16"
    real = f"{sys.executable} -m assistant"
    program = binaries / "underkeel"
    write_program(
        program,
        f'{before}\ncase "$1" in\n  lsp) exec {server or scripted} ;;\nesac\nexec {real} "$@"',
    )
    # VS Code takes the PATH from a login shell.
    search_path = f"{binaries}:{os.environ['PATH']}" if on_path else os.environ["PATH"]
    (home / ".profile").write_text(f'export PATH="{search_path}"\n')
    (home / "rules.json").write_text(json.dumps(rules or {}), encoding="utf-8")
    return VSCode(
        installation=install(kind),
        vsix=build(),
        home=home,
        workspace=workspace,
        environment={
            "HOME": str(home),
            "SHELL": "/bin/sh",
            "PATH": search_path,
            "PYTHONPATH": str(EXTENSION.parents[1]),
            "SCRIPTED_RULES": str(home / "rules.json"),
            "SCRIPTED_LOG": str(home / "log.jsonl"),
            **{name: value for name, value in os.environ.items() if name.startswith("UNDERKEEL_")},
            **(environment or {}),
        },
        trusted=trusted,
        others=others,
    )


def packed(folder: Path, files: dict[str, str]) -> Path:
    """A .vsix of these files, for `others`; one of them is package.json."""
    about = json.loads(files["package.json"])
    path = folder / f"{about['name']}.vsix"
    named = f'Id="{about["name"]}" Version="{about["version"]}" Publisher="{about["publisher"]}"'
    manifest = (
        f'<PackageManifest Version="2.0.0" xmlns="{_VSIX_NAMESPACE}">'
        f'<Metadata><Identity Language="en-US" {named}/>'
        f"<DisplayName>{about['name']}</DisplayName></Metadata>"
        '<Installation><InstallationTarget Id="Microsoft.VisualStudio.Code"/></Installation>'
        '<Assets><Asset Type="Microsoft.VisualStudio.Code.Manifest" Path="extension/package.json"/>'
        "</Assets></PackageManifest>"
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("extension.vsixmanifest", manifest)
        for name, text in files.items():
            archive.writestr(f"extension/{name}", text)
    return path


def write_program(path: Path, script: str) -> None:
    """A shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


_VSIX_NAMESPACE = "http://schemas.microsoft.com/developer/vsx-schema/2011"

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
