/** Explanations: requests, follow-up questions, cancellation, and the panel that shows them. */

import { randomUUID } from "node:crypto";
import { basename } from "node:path";
import * as vscode from "vscode";
import type { LanguageClient } from "vscode-languageclient/node";
import { ExecuteCommandRequest } from "vscode-languageclient/node";
import { Panel } from "./panel";
import { Command, type ExplainArgument, type ExplanationEvent, type Range, type StopReason } from "./protocol";

type Running = () => LanguageClient | undefined;

interface Answer {
  id: string;
  cancel: vscode.CancellationTokenSource;
}

export class Explanations implements vscode.Disposable {
  private panel: Panel | undefined;
  private current: Answer | undefined;
  private last = "";

  constructor(
    private readonly extension: vscode.Uri,
    private readonly running: Running,
  ) {}

  /** Explain a selection, or else the symbol at the cursor, or the whole file of the active editor. */
  async explainActive(kind: "selection" | "file"): Promise<void> {
    const editor = vscode.window.activeTextEditor;
    if (!editor) return;
    const { document, selection } = editor;
    await this.explain({
      textDocument: { uri: document.uri.toString() },
      kind: kind === "selection" && selection.isEmpty ? "symbol" : kind,
      range: rangeOf(selection),
    });
  }

  /** Show the panel and fill it. An answer that is still being written is cancelled. */
  async explain(argument: ExplainArgument): Promise<void> {
    this.cancel();
    const title = `Explain ${titleOf(argument)}`;
    if (this.panel) this.panel.reset(title);
    else {
      this.panel = new Panel(this.extension, title, {
        ask: (question) => void this.ask(question),
        continue: () => void this.send({ continue: this.last }),
        cancel: () => { this.cancel(); },
        closed: () => {
          this.panel = undefined;
          this.cancel();
        },
      });
    }
    await this.send(argument);
  }

  onEvent(event: ExplanationEvent): void {
    if (event.id !== this.current?.id) return;
    if (event.kind === "delta") this.panel?.append(event.text ?? "");
    else if (event.kind === "error") this.fail(event.text ?? "The request failed.");
    else this.finish(event.stopReason ?? "end");
  }

  private async ask(question: string): Promise<void> {
    this.panel?.append(`\n\n---\n\n> ${question}\n\n`);
    await this.send({ followUp: { of: this.last, question } });
  }

  private async send(argument: ExplainArgument): Promise<void> {
    const client = this.running();
    if (!client) {
      this.fail("The language server is not running. Use *Underkeel: Restart Language Server*, or see the log.");
      return;
    }
    const answer: Answer = { id: randomUUID(), cancel: new vscode.CancellationTokenSource() };
    this.current = answer;
    this.last = answer.id;
    this.panel?.set("streaming");
    const params = { command: Command.explain, arguments: [{ ...argument, id: answer.id }] };
    try {
      const result = (await client.sendRequest(ExecuteCommandRequest.type, params, answer.cancel.token)) as {
        stopReason?: StopReason;
      } | null;
      if (this.current === answer) this.finish(result?.stopReason ?? "end");
    } catch (error) {
      if (this.current === answer) this.fail(error instanceof Error ? error.message : String(error));
    }
  }

  private cancel(): void {
    this.current?.cancel.cancel();
    if (this.current) this.finish("cancelled");
  }

  private fail(message: string): void {
    this.current = undefined;
    this.panel?.append(`\n\n**${message}**\n`);
    this.panel?.set("error");
  }

  private finish(reason: StopReason): void {
    this.current = undefined;
    this.panel?.set(reason);
  }

  dispose(): void {
    this.panel?.dispose();
  }
}

export function rangeOf(range: vscode.Range): Range {
  const { start, end } = range;
  return {
    start: { line: start.line, character: start.character },
    end: { line: end.line, character: end.character },
  };
}

function titleOf({ textDocument, range, kind }: ExplainArgument): string {
  if (!textDocument) return "";
  const name = basename(vscode.Uri.parse(textDocument.uri).path);
  return kind === "file" || !range ? name : `${name}:${range.start.line + 1}`;
}
