/** Edits by instruction: asks for the words, lets the server propose the change. */

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

/** Run `underkeel.edit`, asking for the instruction where it is missing. */
export async function edit(client: LanguageClient | undefined, argument: EditArgument): Promise<void> {
  const instruction =
    argument.instruction ??
    (await vscode.window.showInputBox({ prompt: "Change these lines so that …", placeHolder: "errors are handled" }));
  if (!instruction) return;
  if (!client) {
    void vscode.window.showWarningMessage("Underkeel: the language server does not run; see the log.");
    return;
  }
  const params = { command: Command.edit, arguments: [{ ...argument, instruction }] };
  const work = async (_: unknown, token: vscode.CancellationToken): Promise<void> => {
    const result = (await client.sendRequest(ExecuteCommandRequest.type, params, token)) as { message?: string } | null;
    if (result?.message) void vscode.window.showInformationMessage(`Underkeel: ${result.message}`);
  };
  const title = "Underkeel: writing the change";
  try {
    await vscode.window.withProgress({ location: vscode.ProgressLocation.Notification, title, cancellable: true }, work);
  } catch (error) {
    if (!(error instanceof vscode.CancellationError)) {
      void vscode.window.showErrorMessage(`Underkeel: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
}
