import assert from "node:assert/strict";
import test from "node:test";
import type { WorkspaceEdit } from "vscode-languageclient/node";
import { changesOf, notesOf, spliced, withoutAnnotations } from "../src/common/edits";

const range = { start: { line: 0, character: 0 }, end: { line: 0, character: 1 } };
const edit: WorkspaceEdit = {
  documentChanges: [
    { textDocument: { uri: "file:///a.py", version: 7 }, edits: [{ range, newText: "x", annotationId: "u" }] },
    { kind: "create", uri: "file:///new.py", annotationId: "u" },
    { textDocument: { uri: "file:///new.py", version: null }, edits: [{ range, newText: "y" }] },
  ],
  changeAnnotations: { u: { label: "Underkeel", needsConfirmation: true, description: "adds 2 lines" } },
};

test("what changes: documents, versions, and which are new", () => {
  assert.deepEqual(
    changesOf(edit).map(({ uri, version, created }) => [uri, version, created]),
    [
      ["file:///a.py", 7, false],
      ["file:///new.py", undefined, true],
    ],
  );
  assert.deepEqual(changesOf({ changes: { "file:///b.py": [{ range, newText: "z" }] } })[0]?.edits[0]?.newText, "z");
});

test("splices count in the text as it was, in any order", () => {
  const splices = [
    { start: 4, end: 5, newText: "-" },
    { start: 0, end: 1, newText: "A" },
    { start: 2, end: 2, newText: "1" },
    { start: 2, end: 2, newText: "2" },
  ];
  assert.equal(spliced("abcdef", splices), "Ab12cd-f");
  assert.equal(spliced("", [{ start: 0, end: 0, newText: "new" }]), "new");
});

test("the server's notes are shown, and VS Code does not ask again", () => {
  assert.equal(notesOf(edit), "This adds 2 lines.");
  const plain = withoutAnnotations(edit);
  assert.ok(!JSON.stringify(plain).includes("nnotation"));
  assert.equal(JSON.stringify(changesOf(plain)), JSON.stringify(changesOf(edit)).replace(',"annotationId":"u"', ""));
  assert.equal(notesOf(plain), "");
});
