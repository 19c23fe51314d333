/** Shows the output of the command line program. */

import * as vscode from "vscode";
import { CliError, run } from "./cli";

/** Run the program and show its output beside the code, in a read-only editor. */
export async function showOutput(program: string, args: readonly string[]): Promise<void> {
  const title = `Underkeel: ${args.join(" ")}`;
  try {
    const content = await vscode.window.withProgress({ location: vscode.ProgressLocation.Window, title }, () =>
      run(program, args),
    );
    const document = await vscode.workspace.openTextDocument(outputs.put(args.join("-"), content));
    await vscode.window.showTextDocument(document, { preview: true, viewColumn: vscode.ViewColumn.Beside });
  } catch (error) {
    showError(error);
  }
}

/** Show an error of the command line program; any other is a bug and is thrown again. */
export function showError(error: unknown): void {
  if (!(error instanceof CliError || error instanceof SyntaxError)) throw error;
  void vscode.window.showErrorMessage(`Underkeel: ${error.message}`);
}

/** Read-only documents, one for each command, updated when it is run again. */
class Outputs implements vscode.TextDocumentContentProvider {
  private readonly contents = new Map<string, string>();
  private readonly changed = new vscode.EventEmitter<vscode.Uri>();
  readonly onDidChange = this.changed.event;

  put(name: string, content: string): vscode.Uri {
    const uri = vscode.Uri.from({ scheme: SCHEME, path: `${name}.txt` });
    this.contents.set(uri.path, content);
    this.changed.fire(uri);
    return uri;
  }

  provideTextDocumentContent(uri: vscode.Uri): string {
    return this.contents.get(uri.path) ?? "";
  }
}

const SCHEME = "underkeel";
const outputs = new Outputs();

export function registerOutputs(): vscode.Disposable {
  return vscode.workspace.registerTextDocumentContentProvider(SCHEME, outputs);
}
