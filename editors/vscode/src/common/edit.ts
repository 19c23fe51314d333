/** Edits by instruction: asks the user for it, and lets the server propose the edit. */

import * as vscode from "vscode";
import type { LanguageClient } from "vscode-languageclient/node";
import { ExecuteCommandRequest } from "vscode-languageclient/node";
import { rangeOf } from "./explain";
import { Command, type EditArgument } from "./protocol";

/** Edit the selection, or the cursor's line, of the active editor. */
export async function editActive(client: LanguageClient | undefined): Promise<void> {
  const editor = vscode.window.activeTextEditor;
  if (!editor) return;
  const { document, selection } = editor;
  const range = selection.isEmpty ? document.lineAt(selection.active.line).range : selection;
  await edit(client, { textDocument: { uri: document.uri.toString() }, range: rangeOf(range) });
}

/** Run `underkeel.edit`; without an instruction, ask the user for one. */
export async function edit(client: LanguageClient | undefined, argument: EditArgument): Promise<void> {
  const instruction =
    argument.instruction ??
    (await vscode.window.showInputBox({ prompt: "Edit these lines: what should change?", placeHolder: "handle errors" }));
  if (!instruction) return;
  if (!client) {
    void vscode.window.showWarningMessage("Underkeel: the language server is not running; see the log.");
    return;
  }
  const params = { command: Command.edit, arguments: [{ ...argument, instruction }] };
  const work = async (_: unknown, token: vscode.CancellationToken): Promise<void> => {
    const result = (await client.sendRequest(ExecuteCommandRequest.type, params, token)) as { message?: string } | null;
    if (result?.message) void vscode.window.showInformationMessage(`Underkeel: ${result.message}`);
  };
  const title = "Underkeel: writing the edit";
  try {
    await vscode.window.withProgress({ location: vscode.ProgressLocation.Notification, title, cancellable: true }, work);
  } catch (error) {
    if (!(error instanceof vscode.CancellationError)) {
      void vscode.window.showErrorMessage(`Underkeel: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
}
