/** The daemon's models in VS Code's own model picker: answers, tool calls and token counts through the language server. */

import { randomUUID } from "node:crypto";
import * as vscode from "vscode";
import type { LanguageClient } from "vscode-languageclient/node";
import { ExecuteCommandRequest } from "vscode-languageclient/node";
import { type EditorMessage, toMessages, toTools } from "./chatMessages";
import { languageModelApi, type ModelInformation, type Provider, type ResponseOptions } from "./languageModels";
import { type ChatEvent, type ChatModel, Command, type Status } from "./protocol";

const VENDOR = "underkeel";
const NOT_RUNNING = "The language server of Underkeel is not running. Use “Underkeel: Restart Language Server”.";

export class ChatModels implements Provider, vscode.Disposable {
  private readonly changed = new vscode.EventEmitter<void>();
  private readonly answers = new Map<string, vscode.Progress<object>>();
  private readonly api = languageModelApi(vscode);
  private readonly registration: vscode.Disposable | undefined;
  private known = "";

  readonly onDidChangeLanguageModelChatInformation = this.changed.event;

  constructor(private readonly running: () => LanguageClient | undefined) {
    this.registration = this.api?.register(VENDOR, this);
  }

  async provideLanguageModelChatInformation(
    options: { silent: boolean },
    token: vscode.CancellationToken,
  ): Promise<ModelInformation[]> {
    if (options.silent && !this.running()) return [];
    const models = (await this.execute(Command.models, { urgent: !options.silent }, token)) as ChatModel[] | null;
    return (models ?? []).map(({ tools, ...model }) => ({
      ...model,
      tooltip: "Runs on this machine",
      capabilities: { toolCalling: tools, imageInput: false },
      isUserSelectable: true,
    }));
  }

  async provideLanguageModelChatResponse(
    _model: ModelInformation,
    messages: readonly EditorMessage[],
    { modelOptions, tools = [], toolMode }: ResponseOptions,
    progress: vscode.Progress<object>,
    token: vscode.CancellationToken,
  ): Promise<void> {
    const id = randomUUID();
    this.answers.set(id, progress);
    try {
      const request = { id, messages: messages.flatMap(toMessages), tools: toTools(tools), options: modelOptions ?? {} };
      const choice = tools.length > 0 ? { tool_choice: toolMode === 2 ? "required" : "auto" } : {};
      await this.execute(Command.chat, { ...request, ...choice }, token);
    } catch (error) {
      if (!token.isCancellationRequested) throw error;
    } finally {
      this.answers.delete(id);
    }
  }

  async provideTokenCount(
    _model: ModelInformation,
    text: string | EditorMessage,
    token: vscode.CancellationToken,
  ): Promise<number> {
    const given = typeof text === "string" ? [{ text }] : toMessages(text).map((message) => ({ message }));
    const counts = await Promise.all(given.map(async (one) => (await this.execute(Command.countTokens, one, token)) as number));
    return counts.reduce((sum, count) => sum + count, 0);
  }

  /** A part of an answer has come. Reasoning is not shown: the stable API has no part for it. */
  onEvent(event: ChatEvent): void {
    const progress = this.answers.get(event.id);
    if (event.kind === "text") progress?.report(this.api?.text(event.text) ?? {});
    else if (event.kind === "call") {
      progress?.report(this.api?.call(event.call.id, event.call.name, event.call.arguments) ?? {});
    }
  }

  /** Another model, or another level of its budget: VS Code asks for the models again. */
  onStatus({ state, model, budget }: Status): void {
    const known = `${model ?? ""} ${String(budget?.level ?? 0)}`;
    if ((state !== "ready" && state !== "busy") || known === this.known) return;
    this.known = known;
    this.changed.fire();
  }

  private async execute(command: string, argument: object, token: vscode.CancellationToken): Promise<unknown> {
    const client = this.running();
    if (!client) throw new Error(NOT_RUNNING);
    return client.sendRequest(ExecuteCommandRequest.type, { command, arguments: [argument] }, token);
  }

  dispose(): void {
    this.registration?.dispose();
    this.changed.dispose();
  }
}
