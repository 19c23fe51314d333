/** Ghost text on its way from the server: where it is on, and what became of it. */

import * as vscode from "vscode";
import type { Middleware } from "vscode-languageclient/node";
import { follow, type Offered } from "./acceptance";
import { Notification } from "./protocol";
import { isEnabled, read } from "./settings";

type Notify = (method: string, params: object) => void;
type Provide = NonNullable<Middleware["provideInlineCompletionItems"]>;

export class Ghost implements vscode.Disposable {
  private offered: { document: vscode.TextDocument; first: Offered<object> } | undefined;
  private readonly subscription: vscode.Disposable;

  constructor(private readonly notify: Notify) {
    this.subscription = vscode.workspace.onDidChangeTextDocument((event) => { this.onChange(event); });
  }

  /** Between VS Code and the language client. */
  readonly middleware: Provide = async (document, position, context, token, next) => {
    if (!isEnabled(read(), document.languageId)) return undefined;
    const result = await next(document, position, context, token);
    if (token.isCancellationRequested || !result) return undefined;
    const items = Array.isArray(result) ? result : result.items;
    // Without a range LSP inserts at the cursor, but VS Code replaces the word there.
    for (const item of items) item.range ??= new vscode.Range(position, position);
    const first = items[0];
    if (first) this.onShown(document, position, first);
    return result;
  };

  private onShown(document: vscode.TextDocument, position: vscode.Position, item: vscode.InlineCompletionItem): void {
    if (typeof item.insertText !== "string") return;
    const start = document.offsetAt(item.range?.start ?? position);
    const wire = {
      insertText: item.insertText,
      ...(item.range && { range: { start: item.range.start, end: item.range.end } }),
      ...(item.command && { command: item.command }),
    };
    const taken = document.offsetAt(position) - start;
    this.offered = { document, first: { item: wire, insertText: item.insertText, start, taken } };
    this.notify(Notification.shown, { item: wire });
    void vscode.commands.executeCommand("setContext", "underkeel.suggested", true);
  }

  private onChange(event: vscode.TextDocumentChangeEvent): void {
    if (event.document !== this.offered?.document || event.contentChanges.length === 0) return;
    const change = event.contentChanges[0];
    const step =
      change && event.contentChanges.length === 1
        ? follow(this.offered.first, { offset: change.rangeOffset, removed: change.rangeLength, text: change.text })
        : ({ kind: "gone" } as const);
    if (step.kind === "gone") {
      this.offered = undefined;
      return;
    }
    this.offered.first = step.offered;
    if (step.kind === "part") {
      this.notify(Notification.partlyAccepted, { item: step.offered.item, acceptedLength: step.offered.taken });
    }
  }

  dispose(): void {
    this.subscription.dispose();
  }
}
