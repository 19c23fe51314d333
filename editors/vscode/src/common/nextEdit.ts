/**
 * Next edits: requests the change that follows, shows it, jumps to it, and reports whether it was accepted.
 *
 * Requested when the user pauses and no ghost text is shown. Nothing moves by itself: Tab jumps to an edit that is off
 * the screen or in another file, and accepts one that is visible. Which key goes where is decided by the `when` clauses
 * in package.json, so that menus, ghost text, snippets and several cursors keep theirs.
 */

import { basename } from "node:path";
import * as vscode from "vscode";
import { ExecuteCommandRequest, type LanguageClient } from "vscode-languageclient/node";
import { hint, view } from "./nextEditView";
import { Command, type NextEdit, type NextEditResponse, Notification, type Range, Request, SCHEMES } from "./protocol";
import { isEnabled, read } from "./settings";

/** How long after the last change an edit is requested, in milliseconds. */
const PAUSE_MS = 300;

/** Diagnostics of so many lines before and after the cursor are sent. */
const NEAR_LINES = 40;

/** Set while a next edit is shown, for the keys. */
const SHOWN = "underkeel.nextEditShown";

/** New text: opaque, since the background of removed text before it reaches below it. */
const NEW = {
  color: new vscode.ThemeColor("charts.green"),
  backgroundColor: new vscode.ThemeColor("editor.background"),
  border: "1px solid",
};

interface Shown {
  edit: NextEdit;
  client: LanguageClient;
  /** The document that the user changed. */
  origin: vscode.TextDocument;
  /** The document that the edit changes, often the same. */
  target: vscode.TextDocument;
  range: vscode.Range;
}

export class NextEdits implements vscode.Disposable {
  private shown: Shown | undefined;
  private timer: NodeJS.Timeout | undefined;
  private pending: vscode.CancellationTokenSource | undefined;
  private readonly bar = vscode.window.createStatusBarItem("nextEdit", vscode.StatusBarAlignment.Right, 101);
  private readonly removed = vscode.window.createTextEditorDecorationType({
    backgroundColor: new vscode.ThemeColor("diffEditor.removedTextBackground"),
  });
  private readonly added = vscode.window.createTextEditorDecorationType({});
  private readonly subscriptions: vscode.Disposable[];

  constructor(
    private readonly running: () => LanguageClient | undefined,
    private readonly hasGhostText: (document: vscode.TextDocument) => boolean,
  ) {
    this.bar.name = "Underkeel: Next Edit";
    this.bar.command = "underkeel.nextEdit";
    this.subscriptions = [
      vscode.workspace.onDidChangeTextDocument((event) => { this.onChange(event); }),
      vscode.workspace.onDidCloseTextDocument((document) => {
        if (document === this.shown?.target || document === this.shown?.origin) this.clear();
      }),
      vscode.window.onDidChangeActiveTextEditor((editor) => {
        this.cancel();
        const { shown } = this;
        if (editor && shown && editor.document !== shown.origin && editor.document !== shown.target) this.clear();
        else this.draw();
      }),
      vscode.window.onDidChangeTextEditorVisibleRanges(() => { this.draw(); }),
      vscode.window.onDidChangeTextEditorSelection(() => { this.draw(); }),
      vscode.workspace.onDidChangeConfiguration((event) => {
        if (event.affectsConfiguration("underkeel")) this.clear();
      }),
    ];
  }

  /** Jump to an edit that is not visible; apply one that is, as one undo step. */
  async jumpOrAccept(): Promise<void> {
    const { shown } = this;
    const editor = vscode.window.activeTextEditor;
    if (!shown || !editor) return;
    if (!isVisible(shown, editor)) {
      await jump(shown);
      this.draw();
      return;
    }
    this.clear();
    const cursors = editor.selections;
    const applied = await editor.edit((edit) => { edit.replace(shown.range, shown.edit.text); });
    if (!applied) return;
    // VS Code selects what is inserted at a cursor.
    editor.selections = editor.selections.map((now, index) =>
      cursors[index]?.isEmpty === true ? new vscode.Selection(now.active, now.active) : now,
    );
    await report(shown, Command.acceptNextEdit);
  }

  /** Remove the edit; the server does not offer it again. */
  async reject(): Promise<void> {
    const { shown } = this;
    this.clear();
    if (shown) await report(shown, Command.rejectNextEdit);
  }

  /** Remove the edit, and forget a request for one. */
  clear(): void {
    this.cancel();
    if (!this.shown) return;
    this.shown = undefined;
    void vscode.commands.executeCommand("setContext", SHOWN, false);
    this.bar.hide();
    for (const editor of vscode.window.visibleTextEditors) this.erase(editor);
  }

  /** The edit that is shown no longer fits, and another may follow. */
  private onChange({ document, contentChanges }: vscode.TextDocumentChangeEvent): void {
    if (contentChanges.length === 0) return;
    const active = document === vscode.window.activeTextEditor?.document;
    if (active || document === this.shown?.target || document === this.shown?.origin) this.clear();
    if (active) this.timer = setTimeout(() => void this.request(), PAUSE_MS);
  }

  private cancel(): void {
    clearTimeout(this.timer);
    this.pending?.cancel();
    this.pending = undefined;
  }

  private async request(): Promise<void> {
    const editor = vscode.window.activeTextEditor;
    const client = this.running();
    if (!editor || !client || !offersEdits(client) || !this.mayShow(editor)) return;
    const { document } = editor;
    const { version } = document;
    const pending = new vscode.CancellationTokenSource();
    this.pending = pending;
    const { token } = pending;
    try {
      const params = {
        textDocument: { uri: client.code2ProtocolConverter.asUri(document.uri), version },
        position: client.code2ProtocolConverter.asPosition(editor.selection.active),
        context: { diagnostics: problems(document, editor.selection.active.line) },
      };
      const response = await client.sendRequest<NextEditResponse | null>(Request.nextEdit, params, token);
      const edit = response?.edits[0];
      if (!edit) return;
      const target = await vscode.workspace.openTextDocument(client.protocol2CodeConverter.asUri(edit.textDocument.uri));
      if (token.isCancellationRequested || document.version !== version || !this.mayShow(editor)) return;
      if (edit.textDocument.version != null && edit.textDocument.version !== target.version) return;
      const range = target.validateRange(client.protocol2CodeConverter.asRange(edit.range));
      await this.show({ edit, client, origin: document, target, range });
    } catch {
      // The client has logged it; a next edit that does not come is no reason to interrupt.
    } finally {
      pending.dispose();
      if (this.pending === pending) this.pending = undefined;
    }
  }

  private mayShow(editor: vscode.TextEditor): boolean {
    const { document } = editor;
    const settings = read();
    return (
      vscode.window.activeTextEditor === editor &&
      SCHEMES.includes(document.uri.scheme) &&
      settings.nextEdits &&
      isEnabled(settings, document.languageId) &&
      editor.selections.length === 1 &&
      !this.hasGhostText(document)
    );
  }

  private async show(shown: Shown): Promise<void> {
    this.shown = shown;
    // The keys first, so that Tab never does something else while the edit is on the screen.
    await vscode.commands.executeCommand("setContext", SHOWN, true);
    if (this.shown !== shown) return;
    this.draw();
    void shown.client.sendNotification(Notification.nextEditShown, { item: { command: shown.edit.command } });
  }

  /** A small change inside its line, a larger one beside its lines, and a hint where it is off the screen. */
  private draw(): void {
    const { shown } = this;
    if (!shown) return;
    const active = vscode.window.activeTextEditor;
    for (const editor of vscode.window.visibleTextEditors) {
      if (editor.document === shown.target && (editor !== active || isVisible(shown, editor))) this.drawEdit(shown, editor);
      else if (editor === active && editor.document === shown.origin) this.drawHint(shown, editor);
      else this.erase(editor);
    }
    if (!active || isVisible(shown, active)) {
      this.bar.hide();
      return;
    }
    this.bar.text = `$(arrow-swap) ${hintOf(shown, active)}`;
    this.bar.tooltip = "Jump to the next edit";
    this.bar.show();
  }

  private drawEdit({ target, range, edit }: Shown, editor: vscode.TextEditor): void {
    const lineAt = (line: number): string | undefined => (line < target.lineCount ? target.lineAt(line).text : undefined);
    const { tabSize } = editor.options;
    const { inline, rows } = view(lineAt, range, edit.text, typeof tabSize === "number" ? tabSize : 4);
    const added: vscode.DecorationOptions[] = rows.map(({ line, margin, text }) => ({
      range: endOfLine(target, line),
      renderOptions: { after: { ...NEW, contentText: text, margin: `0 0 0 ${margin}ch` } },
    }));
    if (inline !== "") {
      // Drawn before what follows, so that it is at the end of the range even where that is empty.
      const at = new vscode.Range(range.end, range.end);
      added.push({ range: at, renderOptions: { before: { ...NEW, contentText: inline } } });
    }
    editor.setDecorations(this.removed, range.isEmpty ? [] : [range]);
    editor.setDecorations(this.added, added);
  }

  private drawHint(shown: Shown, editor: vscode.TextEditor): void {
    const color = new vscode.ThemeColor("editorCodeLens.foreground");
    const contentText = `Tab: ${hintOf(shown, editor)}`.replace(/ /g, "\u00a0");
    const range = endOfLine(editor.document, editor.selection.active.line);
    editor.setDecorations(this.removed, []);
    editor.setDecorations(this.added, [{ range, renderOptions: { after: { contentText, color, margin: "0 0 0 4ch" } } }]);
  }

  private erase(editor: vscode.TextEditor): void {
    editor.setDecorations(this.removed, []);
    editor.setDecorations(this.added, []);
  }

  dispose(): void {
    this.clear();
    vscode.Disposable.from(this.bar, this.removed, this.added, ...this.subscriptions).dispose();
  }
}

/** What is shown as wrong near a line, as hints for a model. */
function problems(document: vscode.TextDocument, line: number): { range: Range; message: string }[] {
  return vscode.languages
    .getDiagnostics(document.uri)
    .filter(({ range }) => Math.abs(range.start.line - line) <= NEAR_LINES)
    .slice(0, 20)
    .map(({ range: { start, end }, message }) => ({
      range: {
        start: { line: start.line, character: start.character },
        end: { line: end.line, character: end.character },
      },
      message,
    }));
}

function offersEdits(client: LanguageClient): boolean {
  const commands = client.initializeResult?.capabilities.executeCommandProvider?.commands;
  return commands?.includes(Command.acceptNextEdit) === true;
}

function isVisible({ target, range }: Shown, editor: vscode.TextEditor): boolean {
  const { line } = range.start;
  return (
    editor.document === target && editor.visibleRanges.some(({ start, end }) => start.line <= line && line <= end.line)
  );
}

function hintOf({ target, range }: Shown, editor: vscode.TextEditor): string {
  return hint(range.start.line, editor.document === target ? undefined : basename(target.uri.path));
}

/** Go to the edit. VS Code keeps the old position for "Go Back". */
async function jump({ target, range }: Shown): Promise<void> {
  const active = vscode.window.activeTextEditor;
  const editor = active?.document === target ? active : await vscode.window.showTextDocument(target);
  editor.selection = new vscode.Selection(range.start, range.start);
  editor.revealRange(range, vscode.TextEditorRevealType.InCenterIfOutsideViewport);
}

/** Report with the edit's own arguments what became of it. */
async function report({ client, edit }: Shown, command: string): Promise<void> {
  try {
    await client.sendRequest(ExecuteCommandRequest.type, { command, arguments: edit.command.arguments });
  } catch {
    // The client has logged it.
  }
}

function endOfLine(document: vscode.TextDocument, line: number): vscode.Range {
  const { end } = document.lineAt(line).range;
  return new vscode.Range(end, end);
}
