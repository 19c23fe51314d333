"""A language server whose responses the test scripts, for what a model cannot do on cue.

usage: scripted_lsp.py [utf-8 | utf-16 | utf-32 | offered]

The argument is the position encoding; "offered" is the first one that the client offers, as the
real server chooses. Speaks LSP on stdio. The test controls it over the same connection, so that
the order is certain:

    scripted/rules    notification {"completions", "commands", "actions", "edits"}; replaces them
    scripted/release  notification: answer every held request now, in order of arrival
    scripted/send     notification {"method", "params"}: send this notification to the client
    scripted/log      request: all messages received so far

A completion rule is {"after": text before the cursor ends so, "items": [...], "hold": bool,
"deaf": bool, "error": str, "grows": [longer texts of the first item, sent after the response]}; an
item may say "relative": [a, b], its range in characters relative
to the cursor. A held request waits for release; a deaf one is answered even when it was cancelled.
A command rule is {"deltas": [...], "hold": bool, "apply": WorkspaceEdit, "result": any, "error":
str}; several in a list serve one call each, and the last all that follow. With "apply" the edit is
sent to the client first, and the result says whether it was applied. An action rule is a CodeAction
whose "resolve" is held back until the client resolves it. In the edits of both, a text document
"here" becomes the document of the request, in its version of that moment. A next-edit rule is
{"document": its whole text, "edit": one of the response, with "textDocument": "here"}.

An editor that passes on no messages of the test's own is steered by two files that the environment
names: SCRIPTED_RULES holds the rules and "notify": [{"method", "params"}] and is read when the
client is initialised; SCRIPTED_LOG gets every message as a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Message = dict[str, Any]
CANCELLED = -32800


class Server:
    """One client, one thread, no clock."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.documents: dict[str, str] = {}
        self.versions: dict[str, int] = {}
        self.completions: list[Message] = []
        self.commands: dict[str, list[Message]] = {}
        self.actions: list[Message] = []
        self.edits: list[Message] = []
        self.applying: dict[str, tuple[Message, Message]] = {}
        self.held: dict[Any, tuple[Message, Message]] = {}
        self.log: list[Message] = []

    def serve(self) -> None:
        while (message := _read()) is not None:
            self.record(message)
            if message.get("method") == "exit":
                return
            self.take(message)

    def record(self, message: Message) -> None:
        self.log.append(message)
        if path := os.environ.get("SCRIPTED_LOG"):
            with Path(path).open("a", encoding="utf-8") as log:
                log.write(json.dumps(message) + "\n")

    def begin(self) -> None:
        """Take the rules that the environment names."""
        if path := os.environ.get("SCRIPTED_RULES"):
            rules = _rules(path)
            self.take({"method": "scripted/rules", "params": rules})
            for notification in rules.get("notify", ()):
                _send(notification)

    def take(self, message: Message) -> None:
        params = message.get("params") or {}
        match message.get("method"):
            case "initialize":
                if self.encoding == "offered":
                    offered = params["capabilities"]["general"]["positionEncodings"]
                    self.encoding = offered[0]
                _reply(message, self.capabilities())
            case "initialized":
                self.begin()
            case "textDocument/didOpen":
                self.keep(params["textDocument"], params["textDocument"]["text"])
            case "textDocument/didChange":
                self.keep(params["textDocument"], params["contentChanges"][-1]["text"])
            case "textDocument/inlineCompletion":
                self.complete(message)
            case "workspace/executeCommand":
                self.execute(message)
            case "textDocument/copilotInlineEdit":
                self.next_edit(message)
            case "textDocument/codeAction":
                self.offer(message)
            case "codeAction/resolve":
                self.resolve(message)
            case "$/cancelRequest":
                self.cancel(params["id"])
            case "scripted/rules":
                self.completions = params.get("completions") or []
                commands = (params.get("commands") or {}).items()
                self.commands = {n: list(r) if isinstance(r, list) else [r] for n, r in commands}
                self.actions = params.get("actions") or []
                self.edits = params.get("edits") or []
            case "scripted/release":
                for request, rule in list(self.held.values()):
                    self.answer(request, rule)
                self.held.clear()
            case "scripted/send":
                _send(params)
            case "scripted/log":
                _reply(message, self.log)
            case None if message.get("id") in self.applying:
                request, rule = self.applying.pop(message["id"])
                applied = (message.get("result") or {}).get("applied", False)
                _reply(request, {"applied": applied, **rule.get("result", {})})
            case _ if "id" in message and "method" in message:
                _reply(message, None)

    def capabilities(self) -> Message:
        commands = ["underkeel.explain", "underkeel.edit", "underkeel.accepted"]
        path = os.environ.get("SCRIPTED_RULES")
        if path and _rules(path).get("edits"):
            commands += ["underkeel.acceptNextEdit", "underkeel.rejectNextEdit"]
        return {
            "capabilities": {
                "positionEncoding": self.encoding,
                "textDocumentSync": {"openClose": True, "change": 1},
                "inlineCompletionProvider": {},
                "codeActionProvider": {"resolveProvider": True},
                "executeCommandProvider": {"commands": commands},
                "experimental": {"underkeel": {"version": 1}},
            },
            "serverInfo": {"name": "scripted", "version": "1"},
        }

    def keep(self, document: Message, text: str) -> None:
        self.documents[document["uri"]] = text
        self.versions[document["uri"]] = document["version"]

    def here(self, value: Any, uri: str) -> Any:
        """A value with the document `uri` in its places."""
        if isinstance(value, list):
            return [self.here(item, uri) for item in value]
        if not isinstance(value, dict):
            return value
        document = {"uri": uri, "version": self.versions.get(uri)}
        return {
            name: document if (name, item) == ("textDocument", "here") else self.here(item, uri)
            for name, item in value.items()
        }

    def offer(self, message: Message) -> None:
        """Answer with the actions of the kinds that the client wants."""
        params = message["params"]
        only = params["context"].get("only") or [""]
        uri = params["textDocument"]["uri"]
        offered = []
        for number, action in enumerate(self.actions):
            if any(
                f"{action.get('kind', '')}.".startswith(f"{kind}." if kind else "") for kind in only
            ):
                shown = {name: value for name, value in action.items() if name != "resolve"}
                offered.append(self.here(shown | {"data": {"number": number, "uri": uri}}, uri))
        _reply(message, offered)

    def resolve(self, message: Message) -> None:
        action, data = message["params"], message["params"]["data"]
        found = self.actions[data["number"]].get("resolve", {})
        if "error" in found:
            _fail(message, -32803, found["error"])
        else:
            _reply(message, action | self.here(found, data["uri"]))

    def complete(self, message: Message) -> None:
        before = self.before(message["params"])
        fitting = (rule for rule in self.completions if before.endswith(rule["after"]))
        rule: Message = next(fitting, {"items": []})
        self.answer_or_hold(message, rule)

    def next_edit(self, message: Message) -> None:
        uri = message["params"]["textDocument"]["uri"]
        fitting = [rule for rule in self.edits if rule["document"] == self.documents[uri]]
        _reply(message, {"edits": [self.here(rule["edit"], uri) for rule in fitting[:1]]})

    def execute(self, message: Message) -> None:
        rules = self.commands.get(message["params"]["command"], [{}])
        rule = rules.pop(0) if len(rules) > 1 else rules[0]
        for delta in rule.get("deltas", ()):
            id_ = message["params"]["arguments"][0]["id"]
            event = {"id": id_, "kind": "delta", "text": delta}
            _send({"method": "underkeel/explanation", "params": event})
        self.answer_or_hold(message, rule)

    def answer_or_hold(self, message: Message, rule: Message) -> None:
        if rule.get("hold"):
            self.held[message["id"]] = (message, rule)
        else:
            self.answer(message, rule)

    def answer(self, message: Message, rule: Message) -> None:
        if "error" in rule:
            _fail(message, -32803, rule["error"])
        elif "apply" in rule:
            id_ = f"apply-{message['id']}"
            self.applying[id_] = (message, rule)
            uri = message["params"]["arguments"][0]["textDocument"]["uri"]
            params = {"edit": self.here(rule["apply"], uri)}
            _send({"id": id_, "method": "workspace/applyEdit", "params": params})
        elif message["method"] == "textDocument/inlineCompletion":
            position = message["params"]["position"]
            items = [_placed(item, position) for item in rule["items"]]
            _reply(message, {"items": items})
            self.grow(message["params"], items, rule.get("grows") or ())
        else:
            _reply(message, rule.get("result"))

    def grow(self, params: Message, items: list[Message], texts: Sequence[str]) -> None:
        """Send the longer forms of the first item."""
        for number, text in enumerate(texts, 1):
            update = {
                "textDocument": params["textDocument"],
                "position": params["position"],
                "item": {**items[0], "insertText": text},
                "complete": number == len(texts),
            }
            _send({"method": "underkeel/completionUpdate", "params": update})

    def cancel(self, id_: Any) -> None:
        if id_ in self.held and not self.held[id_][1].get("deaf"):
            _fail(self.held.pop(id_)[0], CANCELLED, "cancelled")

    def before(self, params: Message) -> str:
        """The text up to the position."""
        lines = self.documents[params["textDocument"]["uri"]].split("\n")
        row, column = params["position"]["line"], params["position"]["character"]
        codec = {"utf-8": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}[self.encoding]
        unit = {"utf-8": 1, "utf-16": 2, "utf-32": 4}[self.encoding]
        line = lines[row].encode(codec)[: column * unit].decode(codec)
        return "\n".join([*lines[:row], line])


def _rules(path: str) -> Message:
    rules: Message = json.loads(Path(path).read_text(encoding="utf-8"))
    return rules


def _placed(item: Message, position: Message) -> Message:
    item = dict(item)
    if relative := item.pop("relative", None):
        start, end = (dict(position, character=position["character"] + by) for by in relative)
        item["range"] = {"start": start, "end": end}
    return item


def _read() -> Message | None:
    length = 0
    while (line := sys.stdin.buffer.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode().partition(":")
        if name.lower() == "content-length":
            length = int(value)
    return json.loads(sys.stdin.buffer.read(length)) if length else None


def _send(message: Message) -> None:
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    sys.stdout.buffer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
    sys.stdout.buffer.flush()


def _reply(request: Message, result: Any) -> None:
    _send({"id": request["id"], "result": result})


def _fail(request: Message, code: int, message: str) -> None:
    _send({"id": request["id"], "error": {"code": code, "message": message}})


if __name__ == "__main__":
    Server(sys.argv[1] if len(sys.argv) > 1 else "utf-8").serve()
