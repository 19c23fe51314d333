/** A link "Explain" above functions and classes; off unless the setting asks for it. */

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

export class ExplainLenses implements vscode.CodeLensProvider {
  private readonly changed = new vscode.EventEmitter<void>();
  readonly onDidChangeCodeLenses = this.changed.event;

  refresh(): void {
    this.changed.fire();
  }

  async provideCodeLenses(document: vscode.TextDocument): Promise<vscode.CodeLens[]> {
    if (!read().explainLenses) return [];
    const symbols = await vscode.commands.executeCommand<vscode.DocumentSymbol[] | undefined>(
      "vscode.executeDocumentSymbolProvider",
      document.uri,
    );
    return flatten(symbols ?? [])
      .filter((symbol) => KINDS.has(symbol.kind))
      .map((symbol) => lens(document, symbol));
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
