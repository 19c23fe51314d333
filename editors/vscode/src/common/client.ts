/** The language client: started, stopped and restarted one at a time. */

import { homedir } from "node:os";
import { join } from "node:path";
import * as vscode from "vscode";
import type { ClientCapabilities, StaticFeature } from "vscode-languageclient/node";
import {
  CodeActionResolveRequest,
  LanguageClient,
  RevealOutputChannelOn,
  State,
  TransportKind,
} from "vscode-languageclient/node";
import { coalesced } from "./coalesce";
import type { Ghost } from "./ghost";
import type { Previews } from "./preview";
import { find, type Found } from "./program";
import { type ChatEvent, type CompletionUpdate, type ExplanationEvent, Notification, OFFERED, SCHEMES, type Status } from "./protocol";
import { forServer, read } from "./settings";

export interface Listeners {
  onStatus: (status: Status) => void;
  onExplanation: (event: ExplanationEvent) => void;
  onChat: (event: ChatEvent) => void;
  /** A server command that needs this extension; undefined where it does not. */
  onCommand: (command: string, argument: unknown) => Promise<unknown> | undefined;
}

export class Client implements vscode.Disposable {
  private client: LanguageClient | undefined;
  private program: Found | undefined;
  private warnedMissing = false;
  readonly restart = coalesced(() => this.restartNow());

  constructor(
    private readonly context: vscode.ExtensionContext,
    private readonly log: vscode.LogOutputChannel,
    private readonly ghost: Ghost,
    private readonly previews: Previews,
    private readonly listeners: Listeners,
  ) {}

  /** The running client, if it runs. */
  get running(): LanguageClient | undefined {
    return this.client?.isRunning() === true ? this.client : undefined;
  }

  /** Look for the program again. */
  async find(): Promise<Found | undefined> {
    const trusted = vscode.workspace.isTrusted;
    this.program = await find({
      setting: read().program,
      path: process.env["PATH"] ?? "",
      managed: this.managedEnvironment,
      folders: trusted ? (vscode.workspace.workspaceFolders ?? []).map((folder) => folder.uri.fsPath) : [],
    });
    await vscode.commands.executeCommand("setContext", "underkeel.programFound", this.program !== undefined);
    return this.program;
  }

  get managedEnvironment(): string {
    return join(this.context.globalStorageUri.fsPath, "environment");
  }

  /** The folder of the extension that holds the program to install; it may not exist. */
  get bundledProgram(): string {
    return join(this.context.extensionPath, "program");
  }

  /** Send the server the current settings. */
  async configure(): Promise<void> {
    await this.running?.sendNotification("workspace/didChangeConfiguration", { settings: forServer(read()) });
  }

  private async restartNow(): Promise<void> {
    await this.stop();
    const program = await this.find();
    if (program === undefined) {
      this.listeners.onStatus({ state: "error", message: "The program `underkeel` was not found." });
      void this.warnMissing();
      return;
    }
    this.log.info(`starting ${program.path} (${program.from})`);
    this.listeners.onStatus({ state: "starting", message: "" });
    this.client = this.create(program.path);
    try {
      await this.client.start();
      this.listeners.onStatus({ state: "idle", message: "The model is loaded with the first request." });
    } catch (error) {
      this.log.error(`cannot start the language server: ${String(error)}`);
      this.listeners.onStatus({ state: "error", message: `Cannot start ${program.path}; see the log.` });
    }
  }

  private create(program: string): LanguageClient {
    const client: LanguageClient = new LanguageClient(
      "underkeel",
      "Underkeel",
      // Not in the workspace, whose files must not influence the program.
      { command: program, args: ["lsp"], transport: TransportKind.stdio, options: { cwd: homedir() } },
      {
        documentSelector: SCHEMES.map((scheme) => ({ scheme })),
        initializationOptions: forServer(read()),
        outputChannel: this.log,
        revealOutputChannelOn: RevealOutputChannelOn.Never,
        middleware: {
          provideInlineCompletionItems: this.ghost.middleware,
          executeCommand: (command, args: unknown[], next) =>
            this.listeners.onCommand(command, args[0]) ?? (next(command, args) as unknown),
          // Without the preview, VS Code would apply the edit at once, or list it with nothing selected.
          resolveCodeAction: async (action, token) => {
            const unresolved = await client.code2ProtocolConverter.asCodeAction(action, token);
            const { edit, title } = await client.sendRequest(CodeActionResolveRequest.type, unresolved, token);
            if (edit) void this.previews.offer(client, edit, title);
            return action;
          },
          workspace: {
            handleApplyEdit: async ({ edit, label }) => ({
              applied: await this.previews.offer(client, edit, label ?? "Apply the change"),
            }),
          },
        },
      },
    );
    client.registerFeature(new Offer());
    client.onNotification(Notification.status, this.listeners.onStatus);
    client.onNotification(Notification.explanation, this.listeners.onExplanation);
    client.onNotification(Notification.chat, this.listeners.onChat);
    client.onNotification(Notification.completionUpdate, (update: CompletionUpdate) => { this.ghost.onUpdate(update); });
    client.onDidChangeState(({ newState }) => {
      if (newState === State.Stopped && this.client === client) {
        this.listeners.onStatus({ state: "error", message: "The language server exited; see the log." });
      }
    });
    return client;
  }

  private async warnMissing(): Promise<void> {
    if (this.warnedMissing) return;
    this.warnedMissing = true;
    const choice = await vscode.window.showWarningMessage(
      "Underkeel: the program `underkeel` was not found on the PATH. Install it, or set underkeel.program.",
      "Get Started",
      "Open Setting",
    );
    if (choice === "Get Started") await this.getStarted();
    else if (choice === "Open Setting") {
      await vscode.commands.executeCommand("workbench.action.openSettings", "underkeel.program");
    }
  }

  /** Open the walkthrough. */
  async getStarted(): Promise<void> {
    await vscode.commands.executeCommand("workbench.action.openWalkthrough", `${this.context.extension.id}#start`);
  }

  async stop(): Promise<void> {
    const client = this.client;
    this.client = undefined;
    try {
      await client?.dispose();
    } catch (error) {
      this.log.warn(`the language server did not stop cleanly: ${String(error)}`);
    }
  }

  dispose(): void {
    void this.stop();
  }
}

/** Announces in `initialize` that this client supports PROTOCOL.md. */
class Offer implements StaticFeature {
  fillClientCapabilities(capabilities: ClientCapabilities): void {
    capabilities.experimental = { ...(capabilities.experimental as object | undefined), ...OFFERED };
  }
  getState(): { kind: "static" } {
    return { kind: "static" };
  }
  initialize(): void {
    /* nothing to set up */
  }
  clear(): void {
    /* nothing to take down */
  }
}
