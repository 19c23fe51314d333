"""Explanations and edits by the real starter model, through the real server, daemon and worker.

What the small model says is its own affair: asserted is that it says something, that it is streamed
and can be continued, and that what it changes stays where it belongs.
"""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path
from typing import Any

import pytest
from chatting import at, edited, environment
from checked_client import checked_server
from real_daemon import configure, ended_afterwards

pytestmark = [pytest.mark.model, pytest.mark.timeout(600)]

URI = "file:///harbour/work.py"
TEXT = """def clearance(depth, draught, tide):
    return depth + tide - draught


def greet(name):
    return "Hello, " + nam
"""


def test_explain_ask_further_document_and_fix(home: Path, moe_model: Path) -> None:
    configure(home, model={"name": moe_model, "n_ctx": 2048})

    async def main() -> None:
        options = {"underkeel": {"actions": {"explain_tokens": 48, "edit_tokens": 160}}}
        given = {"initializationOptions": options}
        async with checked_server(environment(), **given) as client, asyncio.timeout(500):
            client.open(URI, TEXT, "python")
            asked = {
                "id": "e1",
                "textDocument": {"uri": URI},
                "range": at(TEXT, "depth + tide"),
                "kind": "symbol",
            }
            result = await client.execute("underkeel.explain", asked)
            deltas = [one["text"] for one in client.events("e1") if one["kind"] == "delta"]
            assert len(deltas) > 5 and "".join(deltas) == result["text"]
            assert {"depth", "tide", "draught"} & set(result["text"].replace("`", " ").split())
            if result["stopReason"] == "limit":
                more = await client.execute("underkeel.explain", {"id": "e2", "continue": "e1"})
                assert more["text"] and not more["text"].startswith(result["text"][:20])
            further = {"id": "e3", "followUp": {"of": "e1", "question": "Which unit is it in?"}}
            assert (await client.execute("underkeel.explain", further))["text"].strip()

            kind = "refactor.rewrite.underkeel.document"
            (action,) = await client.actions(URI, at(TEXT, "depth + tide"), only=[kind])
            action = await client.request("codeAction/resolve", action)
            (change,) = action["edit"]["documentChanges"]
            text = edited(TEXT, change["edits"][0])
            before, after = ast.parse(TEXT), ast.parse(text)
            function = after.body[0]
            assert isinstance(function, ast.FunctionDef) and ast.get_docstring(function)
            function.body.pop(0)
            assert ast.dump(after) == ast.dump(before), "the code is what it was"

            trouble: dict[str, Any] = {
                "range": at(TEXT, "nam\n", "nam"),
                "message": "undefined name 'nam'",
            }
            kind = "quickfix.underkeel.fix"
            (action,) = await client.actions(
                URI, trouble["range"], only=[kind], diagnostics=[trouble]
            )
            action = await client.request("codeAction/resolve", action)
            (change,) = action["edit"]["documentChanges"]
            assert change["textDocument"]["version"] == 1
            text = edited(TEXT, change["edits"][0])
            untouched = TEXT[: TEXT.index("def greet")]
            assert text.startswith(untouched) and text != TEXT

    with ended_afterwards():
        asyncio.run(main())
