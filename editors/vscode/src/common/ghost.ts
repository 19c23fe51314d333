/** Ghost text from the server: where it is on, the repeated request, updates, and what the user accepts. */

import * as vscode from "vscode";
import type { Middleware } from "vscode-languageclient/node";
import { follow, type Offered } from "./acceptance";
import { type CompletionUpdate, Notification } from "./protocol";
import { isEnabled, read } from "./settings";

type Notify = (method: string, params: object) => void;
type Provide = NonNullable<Middleware["provideInlineCompletionItems"]>;

/** How long after an empty response the same request is sent once more. */
const REPEAT_MS = 500;

/** Set while the suggestion that is shown may grow. */
const MAY_GROW = "underkeel.mayGrow";

/** The last response, whose first item may grow. */
interface Answer {
  document: vscode.TextDocument;
  version: number;
  position: vscode.Position;
  items: vscode.InlineCompletionItem[];
  /** The items are longer than those that VS Code has. */
  updated: boolean;
}

export class Ghost implements vscode.Disposable {
  private offered: { document: vscode.TextDocument; first: Offered<object> } | undefined;
  /** The last request with no suggestion, for when the model becomes ready. */
  private empty: { document: vscode.TextDocument; version: number; position: vscode.Position } | undefined;
  private answer: Answer | undefined;
  private readonly subscription: vscode.Disposable;

  constructor(
    private readonly notify: Notify,
    /** Called when there are items for the first time since the text changed. */
    private readonly onItems: () => void,
  ) {
    this.subscription = vscode.workspace.onDidChangeTextDocument((event) => { this.onChange(event); });
  }

  /** Between VS Code and the language client. VS Code cancels the token when the text or the cursor changes. */
  readonly middleware: Provide = async (document, position, context, token, next) => {
    if (!isEnabled(read(), document.languageId)) return undefined;
    const version = document.version;
    const { answer } = this;
    if (answer?.updated && answer.document === document && answer.version === version && answer.position.isEqual(position)) {
      answer.updated = false;
      return answer.items;
    }
    this.forget();
    let items = itemsOf(await next(document, position, context, token));
    if (items.length === 0) {
      this.empty = { document, version, position };
      await cancelledOrAfter(token, REPEAT_MS);
      if (token.isCancellationRequested || document.version !== version) return undefined;
      items = itemsOf(await next(document, position, context, token));
    }
    const first = items[0];
    if (token.isCancellationRequested || !first) return undefined;
    this.empty = undefined;
    this.onItems();
    // Without a range LSP inserts at the cursor, but VS Code replaces the word there.
    for (const item of items) item.range ??= new vscode.Range(position, position);
    this.onShown(document, position, first);
    this.answer = { document, version, position, items, updated: false };
    void vscode.commands.executeCommand("setContext", MAY_GROW, true);
    return items;
  };

  /** Whether ghost text was given for a document as it is now. */
  has(document: vscode.TextDocument): boolean {
    return this.answer?.document === document && this.answer.version === document.version;
  }

  /**
   * Show the longer form of the first item. VS Code has no call for that in its stable API: it requests the items
   * again, and gets these without a request to the server. Until then it shows the old ones, so nothing flickers.
   */
  onUpdate({ item, complete }: CompletionUpdate): void {
    const { answer } = this;
    const old = answer?.items[0];
    if (!answer || !old || idOf(old.command?.arguments) !== idOf(item.command?.arguments)) return;
    const editor = vscode.window.activeTextEditor;
    const there = editor?.document === answer.document && editor.selection.active.isEqual(answer.position);
    if (!there || answer.document.version !== answer.version) return;
    if (item.insertText !== old.insertText) {
      const longer = new vscode.InlineCompletionItem(item.insertText, old.range, old.command);
      answer.items = [longer, ...answer.items.slice(1)];
      answer.updated = true;
      if (this.offered) {
        const wire = { ...this.offered.first.item, insertText: item.insertText };
        this.offered.first = { ...this.offered.first, item: wire, insertText: item.insertText };
      }
      void vscode.commands.executeCommand("editor.action.inlineSuggest.trigger");
    }
    if (complete) void vscode.commands.executeCommand("setContext", MAY_GROW, false);
  }

  /** Hide the suggestion that may grow: no update shows it again. */
  dismiss(): void {
    this.forget();
    void vscode.commands.executeCommand("editor.action.inlineSuggest.hide");
  }

  private forget(): void {
    if (this.answer) void vscode.commands.executeCommand("setContext", MAY_GROW, false);
    this.answer = undefined;
  }

  /** Request again what had no suggestion while the model was not ready, if the user is still there. */
  onReady(): void {
    const { empty } = this;
    this.empty = undefined;
    const editor = vscode.window.activeTextEditor;
    if (!empty || editor?.document !== empty.document || empty.document.version !== empty.version) return;
    if (!editor.selection.active.isEqual(empty.position)) return;
    void vscode.commands.executeCommand("editor.action.inlineSuggest.trigger");
  }

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

function itemsOf(result: Awaited<ReturnType<Provide>>): vscode.InlineCompletionItem[] {
  if (!result) return [];
  return Array.isArray(result) ? result : result.items;
}

/** The id that identifies an item, in the argument of its command. */
function idOf(argument: unknown[] | undefined): unknown {
  const first = argument?.[0];
  return typeof first === "object" && first !== null && "id" in first ? first.id : undefined;
}

function cancelledOrAfter(token: vscode.CancellationToken, milliseconds: number): Promise<void> {
  return new Promise((resolve) => {
    const cancelled = token.onCancellationRequested(() => { finish(); });
    const timer = setTimeout(() => { finish(); }, milliseconds);
    const finish = (): void => {
      clearTimeout(timer);
      cancelled.dispose();
      resolve();
    };
  });
}
