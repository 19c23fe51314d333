/** Files and diagnostics for the agent: it sees unsaved documents and makes its changes in them. */

import { realpathSync } from "node:fs";
import * as vscode from "vscode";
import { AcpError, METHOD_NOT_FOUND, NOT_FOUND } from "./acp";

const MOST_DIAGNOSTICS = 100;
const SCHEME = "underkeel-agent";

interface FileRequest {
  path: string;
  line?: number | null;
  limit?: number | null;
  content?: string;
}

/** Answer a request of the agent for a file. */
export async function answer(method: string, params: FileRequest): Promise<unknown> {
  switch (method) {
    case "fs/read_text_file":
      return { content: read(params) };
    case "fs/write_text_file":
      await write(params.path, params.content ?? "");
      return {};
    case "_underkeel/unsaved":
      return { paths: files().filter((one) => one.isDirty).map((one) => one.uri.fsPath) };
    case "_underkeel/diagnostics":
      return diagnostics(params.path);
    default:
      throw new AcpError(METHOD_NOT_FOUND, `This client has no ${method}.`);
  }
}

function read({ path, line, limit }: FileRequest): string {
  const document = find(path);
  // Saved text is on disk, where another program may have changed it since.
  if (document?.isDirty !== true) throw new AcpError(NOT_FOUND, "No document has unsaved text of this file.");
  const text = document.getText();
  if ((line ?? null) === null && (limit ?? null) === null) return text;
  const first = Math.max((line ?? 1) - 1, 0);
  return text.split("\n").slice(first, first + (limit ?? Infinity)).join("\n");
}

/** Change what differs, as one step of undo, and save the document. */
async function write(path: string, content: string): Promise<void> {
  const document = find(path);
  if (document === undefined) throw new AcpError(NOT_FOUND, "No document has this file.");
  const old = document.getText();
  const text = document.eol === vscode.EndOfLine.CRLF ? content.replace(/\r?\n/g, "\r\n") : content;
  const { start, end, added } = difference(old, text);
  const edit = new vscode.WorkspaceEdit();
  edit.replace(document.uri, new vscode.Range(document.positionAt(start), document.positionAt(end)), added);
  if (!(await vscode.workspace.applyEdit(edit))) throw new Error("The document cannot be changed.");
  await document.save();
}

/** The one range that turns a text into another; it never splits a line end or a character. */
export function difference(old: string, text: string): { start: number; end: number; added: string } {
  const shorter = Math.min(old.length, text.length);
  let start = 0;
  while (start < shorter && old[start] === text[start]) start++;
  start = old.lastIndexOf("\n", start - 1) + 1;
  let same = 0;
  while (same < shorter - start && old[old.length - 1 - same] === text[text.length - 1 - same]) same++;
  const line = old.indexOf("\n", old.length - same);
  same = same === 0 || line < 0 ? 0 : old.length - line - 1;
  return { start, end: old.length - same, added: text.slice(start, text.length - same) };
}

function diagnostics(path: string | null): { text?: string } {
  const document = path === null ? undefined : find(path);
  if (path !== null && document === undefined) return {};
  const found = document
    ? [[document.uri, vscode.languages.getDiagnostics(document.uri)] as const]
    : vscode.languages.getDiagnostics();
  const rows = found.flatMap(([uri, all]) =>
    all.map((one) => {
      const severity = vscode.DiagnosticSeverity[one.severity].toLowerCase();
      return `${vscode.workspace.asRelativePath(uri)}:${one.range.start.line + 1}: ${severity}: ${one.message.replace(/\s*\n\s*/g, " ")}`;
    }),
  );
  return { text: rows.slice(0, MOST_DIAGNOSTICS).join("\n") || "No diagnostics." };
}

function files(): readonly vscode.TextDocument[] {
  return vscode.workspace.textDocuments.filter((one) => one.uri.scheme === "file" && !one.isClosed);
}

function find(path: string): vscode.TextDocument | undefined {
  const wanted = real(path);
  return files().find((one) => real(one.uri.fsPath) === wanted);
}

function real(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

export interface Diff {
  path: string;
  oldText?: string | null;
  newText: string;
}

/** Shows the changes of a call, before and after, as documents that only this extension has. */
export class Diffs implements vscode.TextDocumentContentProvider, vscode.Disposable {
  private readonly texts = new Map<string, string>();
  private readonly registered = vscode.workspace.registerTextDocumentContentProvider(SCHEME, this);
  private count = 0;

  provideTextDocumentContent(uri: vscode.Uri): string {
    return this.texts.get(uri.toString()) ?? "";
  }

  async show(diffs: readonly Diff[]): Promise<void> {
    for (const diff of diffs) {
      const name = vscode.workspace.asRelativePath(diff.path);
      const [left, right] = [this.put(diff.path, diff.oldText ?? ""), this.put(diff.path, diff.newText)];
      await vscode.commands.executeCommand("vscode.diff", left, right, `${name} (proposed)`, {
        preview: diffs.length === 1,
        preserveFocus: true,
        viewColumn: vscode.ViewColumn.Active,
      });
    }
  }

  async close(): Promise<void> {
    const tabs = vscode.window.tabGroups.all.flatMap((group) => group.tabs).filter(({ input }) =>
      input instanceof vscode.TabInputTextDiff && input.modified.scheme === SCHEME);
    this.texts.clear();
    await vscode.window.tabGroups.close(tabs);
  }

  private put(path: string, text: string): vscode.Uri {
    const uri = vscode.Uri.file(path).with({ scheme: SCHEME, query: String(++this.count) });
    this.texts.set(uri.toString(), text);
    return uri;
  }

  dispose(): void {
    this.registered.dispose();
  }
}
