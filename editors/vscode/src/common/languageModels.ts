/**
 * The part of VS Code's API for language models that `chatModels.ts` uses (VS Code 1.104, `vscode.d.ts`).
 *
 * The types of the oldest supported version, which this extension is checked against, do not have it: so it is looked
 * up at run time, and older versions show no models.
 */

import type * as vscode from "vscode";
import type { EditorMessage, EditorTool } from "./chatMessages";

export interface ModelInformation {
  id: string;
  name: string;
  family: string;
  version: string;
  tooltip: string;
  maxInputTokens: number;
  maxOutputTokens: number;
  capabilities: { toolCalling: boolean; imageInput: boolean };
  /** Shown in the picker without a step of the user's. */
  isUserSelectable: boolean;
}

export interface ResponseOptions {
  modelOptions?: Readonly<Record<string, unknown>>;
  tools?: readonly EditorTool[];
  /** 2: a tool must be called. */
  toolMode?: number;
}

export interface Provider {
  onDidChangeLanguageModelChatInformation: vscode.Event<void>;
  provideLanguageModelChatInformation: (
    options: { silent: boolean },
    token: vscode.CancellationToken,
  ) => Promise<ModelInformation[]>;
  provideLanguageModelChatResponse: (
    model: ModelInformation,
    messages: readonly EditorMessage[],
    options: ResponseOptions,
    progress: vscode.Progress<object>,
    token: vscode.CancellationToken,
  ) => Promise<void>;
  provideTokenCount: (
    model: ModelInformation,
    text: string | EditorMessage,
    token: vscode.CancellationToken,
  ) => Promise<number>;
}

interface LanguageModelApi {
  register: (vendor: string, provider: Provider) => vscode.Disposable;
  text: (value: string) => object;
  call: (id: string, name: string, input: object) => object;
}

/** The API of a version of VS Code, or undefined where it has none. */
export function languageModelApi(api: unknown): LanguageModelApi | undefined {
  const { lm, LanguageModelTextPart: Text, LanguageModelToolCallPart: Call } = api as {
    lm?: { registerLanguageModelChatProvider?: LanguageModelApi["register"] };
    LanguageModelTextPart?: new (value: string) => object;
    LanguageModelToolCallPart?: new (id: string, name: string, input: object) => object;
  };
  const register = lm?.registerLanguageModelChatProvider;
  if (register === undefined || Text === undefined || Call === undefined) return undefined;
  return {
    register: (vendor, provider) => register(vendor, provider),
    text: (value) => new Text(value),
    call: (id, name, input) => new Call(id, name, input),
  };
}
