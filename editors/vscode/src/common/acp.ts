/** A client of the Agent Client Protocol: a process, and JSON-RPC messages, one on each line. No editor is needed here. */

import { spawn } from "node:child_process";
import { homedir } from "node:os";

export class AcpError extends Error {
  constructor(
    readonly code: number,
    message: string,
  ) {
    super(message);
  }
}

export const METHOD_NOT_FOUND = -32601;
export const NOT_FOUND = -32002;
const ENDED = -32000;
const MOST_LINE_CHARS = 50 * 1024 * 1024;

export interface Listener {
  /** A request of the agent; an AcpError that it throws is the answer. */
  onRequest: (method: string, params: never) => Promise<unknown>;
  onNotification: (method: string, params: never) => void;
  onExit: (message: string) => void;
}

interface Message {
  id?: number | string | null;
  method?: string;
  params?: unknown;
  result?: unknown;
  error?: { code: number; message: string };
}

export interface Agent {
  request: <Result>(method: string, params: object) => Promise<Result>;
  notify: (method: string, params: object) => void;
  stop: () => void;
}

/** Start an agent, in the user's home folder: the workspace's files must not influence the program. */
export function start(program: string, args: readonly string[], listener: Listener): Agent {
  const child = spawn(program, args, { cwd: homedir(), stdio: ["pipe", "pipe", "pipe"] });
  const pending = new Map<number, { resolve: (value: never) => void; reject: (error: AcpError) => void }>();
  let nextId = 1;
  let errors = "";
  let ended = false;

  const send = (message: Message): void => {
    if (!ended) child.stdin.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
  };
  const answer = async (id: number | string, method: string, params: unknown): Promise<void> => {
    try {
      send({ id, result: await listener.onRequest(method, params as never) });
    } catch (error) {
      const code = error instanceof AcpError ? error.code : -32603;
      send({ id, error: { code, message: error instanceof Error ? error.message : String(error) } });
    }
  };
  const receive = (line: string): void => {
    const message = parsed(line);
    if (message?.method !== undefined && message.id !== undefined && message.id !== null) {
      void answer(message.id, message.method, message.params ?? {});
    } else if (message?.method !== undefined) listener.onNotification(message.method, (message.params ?? {}) as never);
    else if (typeof message?.id === "number") {
      const waiting = pending.get(message.id);
      pending.delete(message.id);
      if (message.error) waiting?.reject(new AcpError(message.error.code, message.error.message));
      else waiting?.resolve(message.result as never);
    }
  };
  const exit = (why: string): void => {
    if (ended) return;
    ended = true;
    for (const { reject } of pending.values()) reject(new AcpError(ENDED, "The agent has ended."));
    pending.clear();
    listener.onExit(why);
  };

  child.stdin.on("error", () => { /* it has ended; `close` says so */ });
  child.stdout.setEncoding("utf8").on("data", lines(receive));
  child.stderr.setEncoding("utf8").on("data", (text: string) => (errors = (errors + text).slice(-2000)));
  child.on("error", (error) => { exit(`Cannot run ${program}: ${error.message}`); });
  child.on("close", (code) => { exit(code === 0 ? "" : errors.trim().split("\n").at(-1) || `exit code ${code ?? "none"}`); });

  return {
    request: (method, params) =>
      new Promise((resolve, reject) => {
        if (ended) {
          reject(new AcpError(ENDED, "The agent has ended."));
          return;
        }
        const id = nextId++;
        pending.set(id, { resolve, reject });
        send({ id, method, params });
      }),
    notify: (method, params) => { send({ method, params }); },
    stop: () => child.kill(),
  };
}

interface McpServer {
  command?: unknown;
  args?: unknown;
  env?: unknown;
  url?: unknown;
  headers?: unknown;
}

/** The setting's MCP servers as the protocol has them; what is neither a program nor a URL is left out. */
export function mcpServers(setting: unknown): object[] {
  return entries<McpServer | null>(setting).flatMap(([name, server]): object[] => {
    if (typeof server?.url === "string") return [{ type: "http", name, url: server.url, headers: pairs(server.headers) }];
    if (typeof server?.command !== "string") return [];
    const args = Array.isArray(server.args) ? server.args.map(String) : [];
    return [{ name, command: server.command, args, env: pairs(server.env) }];
  });
}

function pairs(table: unknown): object[] {
  return entries(table).map(([name, value]) => ({ name, value: String(value) }));
}

function entries<Value>(table: unknown): [string, Value][] {
  return typeof table === "object" && table !== null ? (Object.entries(table) as [string, Value][]) : [];
}

function parsed(line: string): Message | undefined {
  try {
    const message: unknown = JSON.parse(line);
    return typeof message === "object" && message !== null ? message : undefined;
  } catch {
    return undefined;
  }
}

/** A function that takes pieces of output and passes on each line that is complete by then; longer lines are dropped. */
export function lines(receive: (line: string) => void, most = MOST_LINE_CHARS): (piece: string) => void {
  let parts: string[] = [];
  let size = 0;
  return (piece) => {
    const [first = "", ...more] = piece.split("\n");
    const add = (part: string): void => {
      size += part.length;
      if (size <= most) parts.push(part);
    };
    add(first);
    for (const part of more) {
      if (size <= most) receive(parts.join(""));
      parts = [];
      size = 0;
      add(part);
    }
  };
}
