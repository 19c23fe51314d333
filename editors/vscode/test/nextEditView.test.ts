import assert from "node:assert/strict";
import test from "node:test";
import { hint, view } from "../src/common/nextEditView";

const LINES = ["import sys", "", "def f(a):", "\treturn a", "f(1)"];

const lineAt = (line: number): string | undefined => LINES[line];

function at(line: number, from: number, endLine = line, to = from): Parameters<typeof view>[1] {
  return { start: { line, character: from }, end: { line: endLine, character: to } };
}

function rows(range: Parameters<typeof view>[1], text: string): string[] {
  return view(lineAt, range, text, 4).rows.map((row) => `${row.line}:${row.text}`.replace(/\u00a0/g, " "));
}

test("a change within a line is drawn inside it, and keeps its blanks", () => {
  assert.deepEqual(view(lineAt, at(4, 0, 4, 1), "g", 4), { inline: "g", rows: [] });
  assert.deepEqual(view(lineAt, at(4, 3), ", b =  2", 4), { inline: ",\u00a0b\u00a0=\u00a0\u00a02", rows: [] });
});

test("a deletion draws no new text", () => {
  assert.deepEqual(view(lineAt, at(2, 0, 4, 0), "", 4), { inline: "", rows: [] });
});

test("new lines are drawn beside the place where they go", () => {
  assert.deepEqual(rows(at(0, 0), "import json\n"), ["0:+ import json"]);
  assert.deepEqual(rows(at(0, 10), "\r\nimport json"), ["0:+ import json"]);
});

test("a larger change is drawn as whole lines in one column", () => {
  const { rows: drawn } = view(lineAt, at(2, 6, 3, 9), "a, b):\n\treturn a + b", 4);
  assert.deepEqual(drawn.map(({ line, text }) => `${line}:${text}`.replace(/\u00a0/g, " ")), [
    "2:+ def f(a, b):",
    "3:+     return a + b",
  ]);
  const widths = ["def f(a):".length, "    return a".length];
  assert.deepEqual(drawn.map(({ margin }, index) => margin + (widths[index] ?? 0)), [16, 16]);
  assert.deepEqual(rows(at(2, 0, 3, 9), "f = 1"), ["2:+ f = 1"]);
});

test("lines after the end of the document join the last row", () => {
  assert.deepEqual(rows(at(4, 4), "\nf(2)\nf(3)"), ["4:+ f(2) ⏎ + f(3)"]);
});

test("what is drawn is bounded", () => {
  const many = view(lineAt, at(0, 0), `${"x".repeat(9999)}\n`.repeat(999), 4).rows;
  assert.ok(many.length <= 31 && many.every(({ text }) => text.length < 31 * 200));
  assert.ok(view(lineAt, at(0, 0), "x".repeat(9999), 4).inline.length < 200);
});

test("the hint names the line, and the file if it is another", () => {
  assert.equal(hint(65, undefined), "next edit: line 66");
  assert.equal(hint(0, "shop.py"), "next edit: shop.py:1");
});
