"""Runs the program and keeps every message of `underkeel acp`, both ways, for `wrong_messages`.

    python acp_tap.py LOG acp

With any other subcommand it is the program itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any


def main() -> None:
    log, *words = sys.argv[1:]
    command = [sys.executable, "-m", "assistant", *words]
    if words[0] != "acp":
        os.execv(sys.executable, command)
    lock = threading.Lock()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def copy(source: IO[bytes], target: IO[bytes], sender: str) -> None:
        for line in source:
            with lock, Path(log).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"from": sender, "message": json.loads(line)}) + "\n")
            target.write(line)
            target.flush()
        target.close()

    assert process.stdin and process.stdout
    inward = (sys.stdin.buffer, process.stdin, "client")
    threading.Thread(target=copy, args=inward, daemon=True).start()
    copy(process.stdout, sys.stdout.buffer, "agent")
    os._exit(process.wait())


def messages(log: Path) -> list[tuple[str, dict[str, Any]]]:
    """Who sent what, in order."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [(row["from"], row["message"]) for row in rows]


def wrong_messages(log: Path) -> list[str]:
    """What of it does not fit the protocol's schema, as the SDK has it."""
    from acp import schema
    from acp.meta import AGENT_METHODS, CLIENT_METHODS
    from pydantic import ValidationError

    names = {wire: name for name, wire in {**AGENT_METHODS, **CLIENT_METHODS}.items()}
    models = {
        "session_update": ("SessionNotification", ""),
        "session_cancel": ("CancelNotification", ""),
        "session_request_permission": ("RequestPermissionRequest", "RequestPermissionResponse"),
        "session_new": ("NewSessionRequest", "NewSessionResponse"),
        "session_load": ("LoadSessionRequest", "LoadSessionResponse"),
        "session_list": ("ListSessionsRequest", "ListSessionsResponse"),
        "session_resume": ("ResumeSessionRequest", "ResumeSessionResponse"),
        "session_delete": ("DeleteSessionRequest", "DeleteSessionResponse"),
        "session_prompt": ("PromptRequest", "PromptResponse"),
        "session_set_mode": ("SetSessionModeRequest", "SetSessionModeResponse"),
        "initialize": ("InitializeRequest", "InitializeResponse"),
        "fs_read_text_file": ("ReadTextFileRequest", "ReadTextFileResponse"),
        "fs_write_text_file": ("WriteTextFileRequest", "WriteTextFileResponse"),
    }
    asked: dict[tuple[str, Any], str] = {}
    wrong = []
    for sender, message in messages(log):
        method = message.get("method")
        if method is not None and method.startswith("_"):
            continue
        if method is None:
            other = "agent" if sender == "client" else "client"
            model = asked.pop((other, message["id"]), "")
            data = message.get("result")
            if "error" in message:
                model, data = "Error", message["error"]
        else:
            if method not in names:
                wrong.append(f"{sender} sent {method}")
                continue
            model, answer = models.get(names[method], ("", ""))
            data = message.get("params")
            if "id" in message:
                asked[sender, message["id"]] = answer
        if message.get("jsonrpc") != "2.0":
            wrong.append(f"{sender}: no jsonrpc 2.0 in {message}")
        try:
            if model:
                getattr(schema, model).model_validate(data)
        except ValidationError as error:
            wrong.append(f"{sender}: {message} is no {model}: {error}")
    return wrong


if __name__ == "__main__":
    main()
