/** A link "Explain" above functions and classes; off by default. */

import * as vscode from "vscode";
import { rangeOf } from "./explain";
import type { ExplainArgument } from "./protocol";
import { read } from "./settings";

const KINDS = new Set([
  vscode.SymbolKind.Class,
  vscode.SymbolKind.Constructor,
  vscode.SymbolKind.Function,
  vscode.SymbolKind.Interface,
  vscode.SymbolKind.Method,
  vscode.SymbolKind.Struct,
]);

/** When to look for symbols again: a language's extension may start late, and VS Code has no event for it. */
const RETRY_MS = [1000, 2000, 4000, 8000, 16000];

export class ExplainLenses implements vscode.CodeLensProvider, vscode.Disposable {
  private readonly changed = new vscode.EventEmitter<void>();
  private readonly tries = new Map<string, number>();
  private timer: NodeJS.Timeout | undefined;
  readonly onDidChangeCodeLenses = this.changed.event;

  refresh(): void {
    this.tries.clear();
    this.changed.fire();
  }

  async provideCodeLenses(document: vscode.TextDocument): Promise<vscode.CodeLens[]> {
    if (!read().explainLenses) return [];
    const symbols = await vscode.commands.executeCommand<vscode.DocumentSymbol[] | undefined>(
      "vscode.executeDocumentSymbolProvider",
      document.uri,
    );
    if (symbols === undefined || symbols.length === 0) this.retryLater(document.uri.toString());
    return flatten(symbols ?? [])
      .filter((symbol) => KINDS.has(symbol.kind))
      .map((symbol) => lens(document, symbol));
  }

  private retryLater(uri: string): void {
    const tries = this.tries.get(uri) ?? 0;
    const delay = RETRY_MS[tries];
    if (delay === undefined) return;
    this.tries.set(uri, tries + 1);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => { this.changed.fire(); }, delay);
  }

  dispose(): void {
    clearTimeout(this.timer);
    this.changed.dispose();
  }
}

function flatten(symbols: vscode.DocumentSymbol[]): vscode.DocumentSymbol[] {
  return symbols.flatMap((symbol) => [symbol, ...flatten(symbol.children)]);
}

function lens(document: vscode.TextDocument, symbol: vscode.DocumentSymbol): vscode.CodeLens {
  const argument: ExplainArgument = {
    textDocument: { uri: document.uri.toString() },
    kind: "selection",
    range: rangeOf(symbol.range),
  };
  return new vscode.CodeLens(symbol.selectionRange, {
    title: "Explain",
    command: "underkeel.explainArgument",
    arguments: [argument],
  });
}
