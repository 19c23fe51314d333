/** What is drawn of a next edit; pure, so that it can be tested without VS Code. */

import type { Range } from "./protocol";

/** Shown as text of decorations, so bounded. */
const MAX_ROWS = 30;
const MAX_WIDTH = 160;
const GAP = 4;

/** A line of the new text, beside a line of the document. */
export interface Row {
  line: number;
  /** Characters between the end of the document's line and the text. */
  margin: number;
  text: string;
}

export interface View {
  /** Shown at the end of the range: the new text of a change within one line; "" for none. */
  inline: string;
  /** A larger change: the lines as they will be, beside those that are there. */
  rows: Row[];
}

/** A line of the document; undefined after its end. */
type LineAt = (line: number) => string | undefined;

/** How a change of `range` to `text` is drawn on the document's lines. */
export function view(lineAt: LineAt, range: Range, text: string, tabSize: number): View {
  const { start, end } = range;
  const inserted = text.split(/\r?\n/);
  if (text === "") return { inline: "", rows: [] };
  if (start.line === end.line && inserted.length === 1) return { inline: drawn(text, tabSize), rows: [] };
  const result = resultLines(lineAt, range, inserted);
  const shown = result.slice(0, MAX_ROWS).map((line) => `+ ${drawn(line, tabSize)}`);
  if (result.length > MAX_ROWS) shown.push(`… ${result.length - MAX_ROWS} more lines`);
  return { inline: "", rows: beside(lineAt, start.line, shown, tabSize) };
}

/** Where a next edit is that is not visible. */
export function hint(line: number, file: string | undefined): string {
  return `next edit: ${file === undefined ? "line " : `${file}:`}${line + 1}`;
}

/** The lines that the change touches as they will be, without those that it leaves alone. */
function resultLines(lineAt: LineAt, { start, end }: Range, inserted: readonly string[]): string[] {
  const first = lineAt(start.line) ?? "";
  const last = lineAt(end.line) ?? "";
  const result = [...inserted];
  result[0] = first.slice(0, start.character) + (result[0] ?? "");
  const wholeLines = end.character === 0 && result.length > 1 && result.at(-1) === "";
  if (wholeLines) result.pop();
  else result.push((result.pop() ?? "") + last.slice(end.character));
  if (result.length > 1 && result[0] === first) result.shift();
  return result;
}

/** The rows in one column to the right of the lines; what has no line beside it joins the last row. */
function beside(lineAt: LineAt, first: number, shown: readonly string[], tabSize: number): Row[] {
  const lines = shown.map((_, index) => lineAt(first + index)).filter((line) => line !== undefined);
  const there = Math.max(1, lines.length);
  const widths = lines.map((line) => expanded(line, tabSize).length);
  const column = Math.min(Math.max(0, ...widths), MAX_WIDTH) + GAP;
  return Array.from({ length: there }, (_, index) => ({
    line: first + index,
    margin: Math.max(GAP, column - (widths[index] ?? 0)),
    text: index < there - 1 ? (shown[index] ?? "") : shown.slice(index).join("\u00a0⏎\u00a0"),
  }));
}

/** A line as the text of a decoration, which would otherwise lose its blanks. */
function drawn(line: string, tabSize: number): string {
  const text = expanded(line, tabSize);
  return (text.length > MAX_WIDTH ? `${text.slice(0, MAX_WIDTH)}…` : text).replace(/ /g, "\u00a0");
}

function expanded(line: string, tabSize: number): string {
  return line.replace(/\t/g, " ".repeat(tabSize));
}
