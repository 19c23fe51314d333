/** The messages of ../../PROTOCOL.md, as far as this extension uses them. */

export interface Budget {
  tokens: number;
  level: number;
  reason: string;
}

export interface Status {
  /** `idle` is the extension's own: the server runs, and has reported nothing yet. */
  state: "starting" | "loading" | "ready" | "busy" | "error" | "off" | "idle";
  message: string;
  progress?: number | null;
  model?: string | null;
  budget?: Budget | null;
  vram?: { usedBytes: number; freeBytes: number } | null;
  kv?: { usedTokens: number; totalTokens: number } | null;
  tokensPerSecond?: number | null;
  cacheHits?: number | null;
  ladder?: { rung: string; gaveUp: string; reason: string } | null;
  prompt?: { tokens: number; budgetTokens: number; cut: string[] } | null;
}

export interface Position {
  line: number;
  character: number;
}

export interface Range {
  start: Position;
  end: Position;
}

export interface ExplainArgument {
  id?: string;
  textDocument?: { uri: string };
  range?: Range;
  kind?: "selection" | "symbol" | "file" | "diagnostic";
  diagnostic?: unknown;
  followUp?: { of: string; question: string };
  continue?: string;
}

/** A longer form of the first item of the response to the last request that returned it. */
export interface CompletionUpdate {
  textDocument: { uri: string; version: number };
  position: Position;
  item: { insertText: string; command?: { arguments?: unknown[] } };
  complete: boolean;
}

export type StopReason = "end" | "limit" | "cancelled";

export interface ExplanationEvent {
  id: string;
  kind: "delta" | "done" | "error";
  text?: string;
  stopReason?: StopReason;
}

/** A part of an answer to `underkeel.chat`. */
export type ChatEvent =
  | { id: string; kind: "text" | "thought"; text: string }
  | { id: string; kind: "call"; call: { id: string; name: string; arguments: object } };

/** A model that answers `underkeel.chat`. */
export interface ChatModel {
  id: string;
  name: string;
  family: string;
  version: string;
  maxInputTokens: number;
  maxOutputTokens: number;
  tools: boolean;
}

export interface EditArgument {
  textDocument: { uri: string };
  range: Range;
  instruction?: string;
}

/** The change that follows from the last ones: `text` takes the place of the range. */
export interface NextEdit {
  text: string;
  range: Range;
  /** The version is null for a document that is not open. */
  textDocument: { uri: string; version?: number | null };
  command: { title: string; command: string; arguments: unknown[] };
}

export interface NextEditResponse {
  edits: NextEdit[];
}

export const Command = {
  explain: "underkeel.explain",
  edit: "underkeel.edit",
  models: "underkeel.models",
  chat: "underkeel.chat",
  countTokens: "underkeel.countTokens",
  acceptNextEdit: "underkeel.acceptNextEdit",
  rejectNextEdit: "underkeel.rejectNextEdit",
} as const;

export const Request = {
  nextEdit: "textDocument/copilotInlineEdit",
} as const;

export const Notification = {
  status: "underkeel/status",
  explanation: "underkeel/explanation",
  chat: "underkeel/chat",
  completionUpdate: "underkeel/completionUpdate",
  shown: "textDocument/didShowCompletion",
  partlyAccepted: "textDocument/didPartiallyAcceptCompletion",
  nextEditShown: "textDocument/didShowInlineEdit",
} as const;

/** What the client supports: in `initialize`, under `experimental`. */
export const OFFERED = { underkeel: { status: true, explanation: true, completionUpdate: true } };

/** Files, new files, and the cells of notebooks, each of which is a document of its own. */
export const SCHEMES = ["file", "untitled", "vscode-notebook-cell"];
