"""Writes the reference page of all settings, `assistant/docs/settings.md`, from the fields' rules.

`python -m assistant.settings.reference` prints it; a test compares the page with it.
"""

from __future__ import annotations

import sys

import msgspec

from assistant.settings.fields import tables
from assistant.settings.rules import Editor, rule_of

_HEAD = """\
# Settings

One TOML file, `config.toml`, in `~/.config/underkeel` on Linux,
`~/Library/Application Support/underkeel` on macOS and `%LOCALAPPDATA%\\underkeel\\underkeel` on
Windows. It need not exist.

```toml
[model]
name = "my-model"
n_ctx = 16384

[completion]
excludes = ["private/", "*.sql"]
```

A value of the wrong type or out of range is reported and its default is used. An unknown name is
reported and ignored. The daemon reads the file again when it is saved; a wrong value then leaves
its setting unchanged. `underkeel reload` lists what took effect, and what waits for a restart or
for the next load of a model.

## What an editor or a workspace may set

An editor sends options (`initializationOptions`, `workspace/didChangeConfiguration`), and many
editors take them from files of the workspace, which is not trusted. So these options can only make
your settings stricter:

"""
_TAIL = """\

Everything else is read from your own file only: a workspace can set no model, program, library,
server, port or key. What is refused is reported.

## Environment variables

| variable | meaning |
|---|---|
| `UNDERKEEL_HOME` | one folder for settings, models, caches, logs and socket |
| `UNDERKEEL_MODELS` | the folder of downloaded models |
| `UNDERKEEL_DEBUG` | `1` shows the traceback of an unexpected error |
| `UNDERKEEL_GGML_BACKENDS` | backend libraries, in place of `engine.backend_libraries` |
| `HF_TOKEN`, `HF_ENDPOINT` | token and address of the Hugging Face Hub |
"""


def page() -> str:
    """The whole page in Markdown."""
    parts = [_HEAD, *_editor_rows(), _TAIL]
    for name, table in tables().items():
        parts.append(f"\n## [{name}]\n\n{(type(table).__doc__ or '').strip()}\n\n")
        parts.append("| setting | default | accepted | meaning |\n|---|---|---|---|\n")
        for field in msgspec.structs.fields(table):
            kind, rule = rule_of(field)
            accepted = rule.accepted if kind is not bool else "true, false"
            if kind is tuple:
                accepted = f"list: {accepted}"
            default = msgspec.json.encode(field.default).decode()
            parts.append(f"| `{field.name}` | `{default}` | {accepted} | {rule.meaning} |\n")
    return "".join(parts)


def _editor_rows() -> list[str]:
    rows = ["| setting | options of an editor can |\n|---|---|\n"]
    for name, table in tables().items():
        for field in msgspec.structs.fields(table):
            rule = rule_of(field)[1]
            if rule.editor is not Editor.NEVER:
                rows.append(f"| `{name}.{field.name}` | {rule.editor.value} |\n")
    return rows


if __name__ == "__main__":
    sys.stdout.write(page())
