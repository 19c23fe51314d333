/** The agent's view in the side bar: keeps what is shown, and draws it in a webview; see media/agent.js. */

import * as vscode from "vscode";
import { page, render } from "./panel";

/** A tool call, as in the protocol; an update has only what changes. */
export interface Call {
  toolCallId: string;
  title?: string | null;
  status?: string | null;
  rawInput?: unknown;
  content?: { type: string; content?: { type: string; text?: string } }[] | null;
}

export type FromView =
  | { kind: "ready" | "stop" | "attach" }
  | { kind: "send"; text: string }
  | { kind: "answer"; option: string }
  | { kind: "mode"; mode: string }
  | { kind: "diff"; id: string }
  | { kind: "detach"; index: number };

/** What is around the conversation. */
export interface State {
  working: boolean;
  mode: string;
  modes: { id: string; name: string; description: string }[];
  used: number;
  size: number;
  attached: string[];
  asked: { title: string; options: { id: string; name: string }[] } | null;
}

type Kind = "user" | "text" | "thought" | "call" | "plan" | "note" | "error";

interface Block {
  id: number;
  kind: Kind;
  text: string;
  entries?: { content: string; status: string }[];
  call?: Call;
}

const DRAW_EVERY_MS = 80;
const MOST_RESULT_CHARS = 4000;
const VIEW = "underkeel.agent";

export class View implements vscode.WebviewViewProvider, vscode.Disposable {
  private readonly registered: vscode.Disposable;
  private webview: vscode.Webview | undefined;
  private blocks: Block[] = [];
  private readonly changed = new Set<Block>();
  private drawing: NodeJS.Timeout | undefined;
  private count = 0;
  private now: State = { working: false, mode: "", modes: [], used: 0, size: 0, attached: [], asked: null };

  constructor(
    private readonly extension: vscode.Uri,
    private readonly onMessage: (message: FromView) => unknown,
  ) {
    this.registered = vscode.window.registerWebviewViewProvider(VIEW, this, {
      webviewOptions: { retainContextWhenHidden: true },
    });
  }

  resolveWebviewView(view: vscode.WebviewView): void {
    const media = vscode.Uri.joinPath(this.extension, "media");
    this.webview = view.webview;
    view.webview.options = { enableScripts: true, localResourceRoots: [media] };
    view.webview.html = page(view.webview, media, "Agent", ["panel.css", "agent.css", "agent.js"], BODY);
    view.webview.onDidReceiveMessage((message: FromView) => {
      if (message.kind === "ready") {
        for (const block of this.blocks) this.draw(block);
        this.post({ kind: "state", state: this.now });
      }
      void this.onMessage(message);
    });
    view.onDidDispose(() => (this.webview = undefined));
  }

  post(message: object): void {
    void this.webview?.postMessage(message);
  }

  /** Change what is around the conversation. */
  state(change: Partial<State>): void {
    this.now = { ...this.now, ...change };
    this.post({ kind: "state", state: this.now });
  }

  clear(): void {
    this.blocks = [];
    this.changed.clear();
    this.now = { ...this.now, used: 0, size: 0 };
    this.post({ kind: "clear" });
  }

  add(kind: Kind, text: string, more: Partial<Block> = {}): void {
    const block = { id: ++this.count, kind, text, ...more };
    this.blocks.push(block);
    this.draw(block);
  }

  /** Add text to the last block if it is of this kind, or else a new one. */
  stream(kind: Kind, text: string): void {
    const last = this.blocks.at(-1);
    if (last?.kind !== kind) this.add(kind, text);
    else {
      last.text += text;
      this.draw(last);
    }
  }

  call(id: string): Call | undefined {
    return this.blocks.find(({ call }) => call?.toolCallId === id)?.call;
  }

  /** Show a tool call, or what of it has changed. */
  update(change: Call): void {
    const block = this.blocks.find(({ call }) => call?.toolCallId === change.toolCallId);
    if (!block?.call) this.add("call", "", { call: change });
    else {
      const set = Object.entries(change).filter(([, value]) => value !== null && value !== undefined);
      block.call = { ...block.call, ...Object.fromEntries(set) };
      this.draw(block);
    }
  }

  /** Show a plan, in place of the one of this turn. */
  plan(entries: { content: string; status: string }[]): void {
    const turn = this.blocks.map(({ kind }) => kind).lastIndexOf("user");
    const block = this.blocks.slice(turn + 1).find(({ kind }) => kind === "plan");
    if (block) {
      block.entries = entries;
      this.draw(block);
    } else this.add("plan", "", { entries });
  }

  private draw(block: Block): void {
    this.changed.add(block);
    this.drawing ??= setTimeout(() => {
      this.drawing = undefined;
      const blocks = [...this.changed];
      this.changed.clear();
      void Promise.all(blocks.map(shown)).then((made) => { this.post({ kind: "blocks", blocks: made }); });
    }, DRAW_EVERY_MS);
  }

  dispose(): void {
    clearTimeout(this.drawing);
    this.registered.dispose();
  }
}

/** A block as the webview draws it; only the model's own words are Markdown. */
async function shown({ id, kind, text, entries, call }: Block): Promise<object> {
  if (kind === "text") return { id, kind, html: await render(text) };
  if (call === undefined) return { id, kind, text, entries };
  const results = (call.content ?? []).flatMap((one) => (one.type === "content" ? [one.content?.text ?? ""] : []));
  const input = call.rawInput as { command?: unknown } | null | undefined;
  return {
    id,
    kind,
    call: call.toolCallId,
    title: call.title ?? "",
    status: call.status ?? "pending",
    command: typeof input?.command === "string" ? input.command : "",
    hasDiff: (call.content ?? []).some(({ type }) => type === "diff"),
    result: results.join("\n").slice(0, MOST_RESULT_CHARS),
  };
}

const BODY = `
  <main id="talk" tabindex="0" role="log" aria-label="Conversation"></main>
  <section id="asked" role="alertdialog" aria-label="Permission" hidden>
    <p id="question"></p>
    <div id="answers"></div>
  </section>
  <form id="task">
    <ul id="attached"></ul>
    <textarea id="text" rows="3" placeholder="Task, or /plan, /review, /test, /commit" aria-label="Task"></textarea>
    <div id="controls">
      <button type="button" id="attach" class="quiet" title="Attach the selection or the file">+ Attach</button>
      <select id="mode" aria-label="Mode" hidden></select>
      <span class="space"></span>
      <button type="submit" id="send">Send</button>
      <button type="button" id="stop" hidden>Stop</button>
    </div>
    <div id="budget" hidden><meter id="used" min="0" max="1" high="0.85"></meter><span id="tokens"></span></div>
  </form>
`;
