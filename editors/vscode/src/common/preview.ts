/** Shows the model's edits as a diff. Nothing changes before the user accepts. */

import { basename } from "node:path";
import * as vscode from "vscode";
import type { LanguageClient, WorkspaceEdit } from "vscode-languageclient/node";
import { changesOf, type DocumentChange, spliced, withoutAnnotations, notesOf } from "./edits";

const SCHEME = "underkeel-edit";

interface Offer {
  answer: (apply: boolean) => void;
  proposed: ReadonlySet<string>;
}

export class Previews implements vscode.TextDocumentContentProvider, vscode.Disposable {
  private readonly texts = new Map<string, string>();
  private readonly subscriptions: vscode.Disposable[];
  private offered: Offer | undefined;
  private count = 0;

  constructor() {
    this.subscriptions = [
      vscode.workspace.registerTextDocumentContentProvider(SCHEME, this),
      vscode.window.tabGroups.onDidChangeTabs(({ closed }) => {
        if (closed.some((tab) => this.isOffered(tab))) this.answer(false);
      }),
    ];
  }

  provideTextDocumentContent(uri: vscode.Uri): string {
    return this.texts.get(uri.toString()) ?? "";
  }

  /** Answer the offer that is open. */
  answer(apply: boolean): void {
    this.offered?.answer(apply);
  }

  /** Show an edit and wait for the user; true when it was applied. An earlier offer is discarded. */
  async offer(client: LanguageClient, edit: WorkspaceEdit, title: string): Promise<boolean> {
    this.answer(false);
    const changes = changesOf(edit);
    if (changes.length === 0) {
      void vscode.window.showInformationMessage("Underkeel: the model proposes no change.");
      return false;
    }
    if (isOutdated(changes)) return false;
    const sides = await Promise.all(changes.map((change) => this.sides(client, change)));
    const decided = new Promise<boolean>((answer) => {
      this.offered = { answer, proposed: new Set(sides.map(({ right }) => right.toString())) };
      // A notification may outlive its edit; the promise is settled by then.
      void ask(title, notesOf(edit)).then((apply) => {
        if (apply !== undefined) answer(apply);
      });
    });
    await open(sides, title);
    const apply = await decided;
    await this.close();
    if (!apply || isOutdated(changes)) return false;
    return vscode.workspace.applyEdit(await client.protocol2CodeConverter.asWorkspaceEdit(withoutAnnotations(edit)));
  }

  /** The text before and after the edit, as two documents. */
  private async sides(client: LanguageClient, change: DocumentChange): Promise<Sides> {
    const uri = client.protocol2CodeConverter.asUri(change.uri);
    const right = uri.with({ scheme: SCHEME, query: String(++this.count) });
    if (change.created) {
      this.texts.set(right.toString(), spliced("", change.edits.map(({ newText }) => ({ start: 0, end: 0, newText }))));
      return { uri, left: right.with({ query: "empty" }), right };
    }
    const document = await vscode.workspace.openTextDocument(uri);
    const offsets = change.edits.map(({ range, newText }) => ({
      start: document.offsetAt(client.protocol2CodeConverter.asPosition(range.start)),
      end: document.offsetAt(client.protocol2CodeConverter.asPosition(range.end)),
      newText,
    }));
    this.texts.set(right.toString(), spliced(document.getText(), offsets));
    return { uri, left: uri, right };
  }

  private isOffered(tab: vscode.Tab): boolean {
    const input = tab.input;
    return input instanceof vscode.TabInputTextDiff && this.offered?.proposed.has(input.modified.toString()) === true;
  }

  private async close(): Promise<void> {
    const tabs = vscode.window.tabGroups.all.flatMap((group) => group.tabs).filter((tab) => this.isOffered(tab));
    this.offered = undefined;
    this.texts.clear();
    await vscode.window.tabGroups.close(tabs);
  }

  dispose(): void {
    this.answer(false);
    vscode.Disposable.from(...this.subscriptions).dispose();
  }
}

interface Sides {
  uri: vscode.Uri;
  left: vscode.Uri;
  right: vscode.Uri;
}

async function open(sides: Sides[], title: string): Promise<void> {
  const [only] = sides;
  if (sides.length === 1 && only) {
    const name = `${title}: ${basename(only.uri.path)}`;
    await vscode.commands.executeCommand("vscode.diff", only.left, only.right, name, { preview: true });
  } else {
    await vscode.commands.executeCommand("vscode.changes", title, sides.map(({ uri, left, right }) => [uri, left, right]));
  }
}

async function ask(title: string, notes: string): Promise<boolean | undefined> {
  const broken = notes.includes("BREAKS THE SYNTAX");
  const show = broken ? vscode.window.showWarningMessage : vscode.window.showInformationMessage;
  const answer = await show(`Underkeel: ${title}. ${notes}`.trim(), "Apply", "Discard");
  return answer === undefined ? undefined : answer === "Apply";
}

/** Whether a document has changed since its edit was written; warns if so. */
function isOutdated(changes: DocumentChange[]): boolean {
  for (const { uri, version } of changes) {
    const document = vscode.workspace.textDocuments.find((open) => open.uri.toString() === vscode.Uri.parse(uri).toString());
    if (document && version !== undefined && document.version !== version) {
      const name = basename(document.uri.path);
      void vscode.window.showWarningMessage(`Underkeel: ${name} has changed since the edit was written; request it again.`);
      return true;
    }
  }
  return false;
}
