/** The agent's panel: a client of `underkeel acp`. agentView.ts draws; agentFiles.ts gives it the documents. */

import { basename } from "node:path";
import * as vscode from "vscode";
import { type Agent, AcpError, mcpServers, start } from "./acp";
import { answer, type Diff, Diffs } from "./agentFiles";
import { type Call, type FromView, View } from "./agentView";
import { read } from "./settings";

interface Mode {
  id: string;
  name: string;
  description?: string | null;
}

interface Session {
  sessionId?: string;
  modes: { currentModeId: string; availableModes: Mode[] };
}

interface Permission {
  options: { optionId: string; name: string }[];
  toolCall: Call;
}

interface Asked {
  call: string;
  title: string;
  options: { id: string; name: string }[];
  reply: (outcome: object) => void;
}

interface Update {
  sessionUpdate: string;
  content?: { type: string; text?: string };
  entries?: { content: string; status: string }[];
  used?: number;
  size?: number;
  currentModeId?: string;
}

interface Attachment {
  name: string;
  block: object;
}

export class AgentPanel implements vscode.Disposable {
  private readonly diffs = new Diffs();
  private readonly view: View;
  private agent: Agent | undefined;
  private opened: Promise<string> | undefined;
  private session: string | undefined;
  private asked: Asked | undefined;
  private working = false;
  private attached: Attachment[] = [];
  private modes: Mode[] = [];

  constructor(extension: vscode.Uri, private readonly program: () => Promise<string | undefined>) {
    this.view = new View(extension, (message) => this.onMessage(message));
  }

  /** Show the panel, with the cursor in its text field. */
  async open(): Promise<void> {
    await vscode.commands.executeCommand("underkeel.agent.focus");
    this.view.post({ kind: "focus" });
  }

  /** Attach the selection, or else the file of the active editor. */
  async attach(what: "selection" | "file"): Promise<void> {
    const editor = vscode.window.activeTextEditor;
    if (editor?.document.uri.scheme !== "file") return;
    const { document, selection } = editor;
    const name = basename(document.uri.path);
    if (what === "selection" && !selection.isEmpty) {
      const [first, last] = [selection.start.line + 1, selection.end.line + 1];
      const uri = `${document.uri.toString()}#L${first}-L${last}`;
      const resource = { uri, text: document.getText(selection), mimeType: "text/plain" };
      this.attached.push({ name: `${name}:${first}-${last}`, block: { type: "resource", resource } });
    } else {
      this.attached.push({ name, block: { type: "resource_link", uri: document.uri.toString(), name } });
    }
    this.showState();
    await this.open();
  }

  /** Start a session; the one before is kept. */
  newSession(): void {
    this.stop();
    this.session = this.opened = undefined;
    this.view.clear();
    this.showState();
  }

  /** Choose an earlier session of this folder, and show it. */
  async history(): Promise<void> {
    const folder = folders()[0];
    if (folder === undefined) return;
    try {
      const agent = await this.started();
      const { sessions } = await agent.request<{ sessions: { sessionId: string; title?: string | null; updatedAt?: string | null }[] }>(
        "session/list", { cwd: folder });
      const rows = sessions.filter(({ sessionId }) => sessionId !== this.session).map((one) => ({
        label: one.title ?? "untitled", description: (one.updatedAt ?? "").slice(0, 16).replace("T", " "), id: one.sessionId,
      }));
      const chosen = await vscode.window.showQuickPick(rows, { title: "Earlier Sessions", placeHolder: "Choose a session to continue" });
      if (chosen === undefined) return;
      this.stop();
      this.view.clear();
      this.session = chosen.id;
      await this.openSession("session/load");
    } catch (error) {
      this.fail(error);
    }
  }

  /** Undo all changes of the session. */
  async undo(): Promise<void> {
    if (this.session === undefined) return;
    try {
      const agent = await this.started();
      const { message } = await agent.request<{ message: string }>("_underkeel/undo", { sessionId: this.session });
      this.view.add("note", message);
    } catch (error) {
      this.fail(error);
    }
  }

  /** Stop the turn that runs. */
  stop(): void {
    this.answered({ outcome: "cancelled" }, "failed");
    if (this.session !== undefined && this.working) this.agent?.notify("session/cancel", { sessionId: this.session });
  }

  /** Answer the open request for permission. */
  approve(option: string): void {
    if (this.asked?.options.some(({ id }) => id === option) !== true) return;
    this.answered({ outcome: "selected", optionId: option }, option === "reject" ? "failed" : "in_progress");
  }

  private answered(outcome: object, status: string): void {
    const asked = this.asked;
    if (asked === undefined) return;
    this.asked = undefined;
    asked.reply({ outcome });
    this.view.update({ toolCallId: asked.call, status });
    void this.diffs.close();
    this.showState();
  }

  private async onMessage(message: FromView): Promise<void> {
    switch (message.kind) {
      case "ready": this.showState(); break;
      case "send": await this.send(message.text); break;
      case "stop": this.stop(); break;
      case "answer": this.approve(message.option); break;
      case "attach": await this.attach("selection"); break;
      case "mode": await this.setMode(message.mode); break;
      case "diff": await this.diffs.show(diffsOf(this.view.call(message.id))); break;
      case "detach":
        this.attached.splice(message.index, 1);
        this.showState();
    }
  }

  private async send(text: string): Promise<void> {
    if (text.trim() === "" || this.working) return;
    const names = this.attached.map(({ name }) => `@${name}`).join(" ");
    const prompt = [{ type: "text", text }, ...this.attached.map(({ block }) => block)];
    this.attached = [];
    this.view.add("user", names === "" ? text : `${text}\n${names}`);
    this.working = true;
    this.showState();
    try {
      const agent = await this.started();
      const sessionId = await (this.opened ??= this.openSession(this.session === undefined ? "session/new" : "session/resume"));
      const { stopReason } = await agent.request<{ stopReason: string }>("session/prompt", { sessionId, prompt });
      if (stopReason !== "end_turn") this.view.add("note", `Stopped: ${stopReason.replaceAll("_", " ")}.`);
    } catch (error) {
      this.fail(error);
    }
    this.working = false;
    this.asked = undefined;
    this.showState();
  }

  private async setMode(modeId: string): Promise<void> {
    if (this.session !== undefined) {
      try {
        await (await this.started()).request("session/set_mode", { sessionId: this.session, modeId });
        this.view.state({ mode: modeId });
      } catch (error) {
        this.fail(error);
      }
    }
  }

  private async started(): Promise<Agent> {
    if (this.agent) return this.agent;
    if (!vscode.workspace.isTrusted) throw new Error("The agent works only in a workspace that you trust.");
    const program = await this.program();
    if (program === undefined) throw new Error("The program `underkeel` was not found. Use “Underkeel: Get Started”.");
    const agent = start(program, ["acp"], {
      onRequest: (method, params: never) =>
        method === "session/request_permission" ? this.permission(params) : answer(method, params),
      onNotification: (method, params: { sessionId: string; update: Update }) => {
        if (method === "session/update" && params.sessionId === this.session) this.onUpdate(params.update);
      },
      onExit: (why) => {
        this.agent = this.opened = undefined;
        this.asked = undefined;
        if (why !== "") this.view.add("error", `The agent ended: ${why} The next task continues the session.`);
        this.showState();
      },
    });
    this.agent = agent;
    await agent.request("initialize", {
      protocolVersion: 1,
      clientCapabilities: {
        fs: { readTextFile: true, writeTextFile: true },
        _meta: { underkeel: { diagnostics: true, unsaved: true } },
      },
      clientInfo: { name: "underkeel.vscode", title: "VS Code", version: vscode.version },
    });
    return agent;
  }

  /** Open a session, and return its id. */
  private async openSession(method: "session/new" | "session/load" | "session/resume"): Promise<string> {
    const [cwd, ...additionalDirectories] = folders();
    if (cwd === undefined) throw new Error("Open a folder first: the agent works in it.");
    const known = method === "session/new" ? {} : { sessionId: this.session };
    const params = { ...known, cwd, mcpServers: mcpServers(read().mcpServers), ...(additionalDirectories.length > 0 ? { additionalDirectories } : {}) };
    const agent = await this.started();
    try {
      const made = await agent.request<Session>(method, params);
      this.session = made.sessionId ?? this.session;
      this.modes = made.modes.availableModes;
      this.opened = Promise.resolve(this.session ?? "");
      this.view.state({ mode: made.modes.currentModeId });
    } catch (error) {
      this.session = this.opened = undefined;
      throw error;
    }
    this.showState();
    return this.session ?? "";
  }

  private permission({ options, toolCall }: Permission): Promise<unknown> {
    return new Promise((reply) => {
      this.view.update(toolCall);
      const title = this.view.call(toolCall.toolCallId)?.title ?? "this call";
      this.asked = { call: toolCall.toolCallId, title, options: options.map(({ optionId, name }) => ({ id: optionId, name })), reply };
      this.showState();
      void this.diffs.show(diffsOf(this.view.call(toolCall.toolCallId)));
    });
  }

  private onUpdate(update: Update): void {
    const text = update.content?.text ?? "";
    switch (update.sessionUpdate) {
      case "user_message_chunk": this.view.add("user", text); break;
      case "agent_message_chunk": this.view.stream("text", text); break;
      case "agent_thought_chunk": this.view.stream("thought", text); break;
      case "tool_call":
      case "tool_call_update": this.view.update(update as unknown as Call); break;
      case "plan": this.view.plan(update.entries ?? []); break;
      case "usage_update": this.view.state({ used: update.used ?? 0, size: update.size ?? 0 }); break;
      case "current_mode_update": this.view.state({ mode: update.currentModeId ?? "" }); break;
    }
  }

  private showState(): void {
    void vscode.commands.executeCommand("setContext", "underkeel.agentAsks", this.asked !== undefined);
    void vscode.commands.executeCommand("setContext", "underkeel.agentWorks", this.working);
    this.view.state({
      working: this.working,
      attached: this.attached.map(({ name }) => name),
      modes: this.modes.map(({ id, name, description }) => ({ id, name, description: description ?? "" })),
      asked: this.asked ? { title: this.asked.title, options: this.asked.options } : null,
    });
  }

  private fail(error: unknown): void {
    this.view.add("error", error instanceof AcpError || error instanceof Error ? error.message : String(error));
  }

  dispose(): void {
    this.agent?.stop();
    this.diffs.dispose();
    this.view.dispose();
  }
}

function folders(): string[] {
  return (vscode.workspace.workspaceFolders ?? []).filter(({ uri }) => uri.scheme === "file").map(({ uri }) => uri.fsPath);
}

function diffsOf(call: Call | undefined): Diff[] {
  return (call?.content ?? []).flatMap((one) => (one.type === "diff" ? [one as unknown as Diff] : []));
}
