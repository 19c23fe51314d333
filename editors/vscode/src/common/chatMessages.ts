/** Between VS Code's chat messages and those of OpenAI's chat completions, which the server takes. No editor needed. */

/** The parts of VS Code's messages, told apart by their fields: newer versions add kinds that are not known here. */
interface AnyPart {
  value?: unknown;
  callId?: unknown;
  name?: unknown;
  input?: unknown;
  content?: unknown;
  mimeType?: unknown;
  data?: unknown;
}

export interface EditorMessage {
  /** 1 for the user, 2 for the assistant; 3 for instructions in newer versions. */
  role: number;
  content: string | readonly unknown[];
  name?: string | undefined;
}

export interface EditorTool {
  name: string;
  description: string;
  inputSchema?: object | undefined;
}

export interface ToolCall {
  id: string;
  type: "function";
  function: { name: string; arguments: string };
}

export interface Message {
  role: "system" | "user" | "assistant" | "tool";
  content: string;
  tool_calls?: ToolCall[];
  tool_call_id?: string;
}

const ROLES: Readonly<Record<number, Message["role"]>> = { 1: "user", 2: "assistant", 3: "system" };

/** One message of the editor as one or more: each tool result becomes a message of its own, before the user's text. */
export function toMessages({ role, content }: EditorMessage): Message[] {
  const parts: readonly unknown[] = typeof content === "string" ? [{ value: content }] : content;
  const calls: ToolCall[] = [];
  const results: Message[] = [];
  let text = "";
  for (const part of parts as AnyPart[]) {
    if (typeof part.callId === "string" && typeof part.name === "string") {
      const call = { name: part.name, arguments: JSON.stringify(part.input ?? {}) };
      calls.push({ id: part.callId, type: "function", function: call });
    } else if (typeof part.callId === "string") {
      results.push({ role: "tool", tool_call_id: part.callId, content: textOf(part.content) });
    } else text += textOf([part]);
  }
  const said: Message = { role: ROLES[role] ?? "user", content: text };
  if (calls.length > 0) said.tool_calls = calls;
  return text === "" && calls.length === 0 && results.length > 0 ? results : [...results, said];
}

/** What the parts of a message or a tool result say. Images cannot be read by the model: their place is marked. */
function textOf(content: unknown): string {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return content === undefined ? "" : JSON.stringify(content);
  return (content as AnyPart[]).map(partText).join("");
}

function partText(part: AnyPart | string): string {
  if (typeof part === "string") return part;
  if (typeof part.value === "string") return part.value;
  if (typeof part.mimeType !== "string" || !(part.data instanceof Uint8Array)) {
    return part.value === undefined ? "" : JSON.stringify(part.value);
  }
  const readable = part.mimeType.startsWith("text/") || part.mimeType.includes("json");
  return readable ? new TextDecoder().decode(part.data) : `[${part.mimeType}, not shown to this model]`;
}

export function toTools(tools: readonly EditorTool[]): object[] {
  return tools.map(({ name, description, inputSchema }) => ({
    type: "function",
    function: { name, description, parameters: inputSchema ?? { type: "object", properties: {} } },
  }));
}
