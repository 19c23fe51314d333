/** The commands of the palette, as one table. */

import * as vscode from "vscode";
import type { Client } from "./client";
import type { AgentPanel } from "./agent";
import { editActive } from "./edit";
import type { Explanations } from "./explain";
import type { Ghost } from "./ghost";
import { install } from "./install";
import { pickModel } from "./models";
import { showOutput } from "./output";
import type { NextEdits } from "./nextEdit";
import type { Previews } from "./preview";
import type { ExplainArgument } from "./protocol";
import { isEnabled, read, setEnabled, setLanguage } from "./settings";

export interface Parts {
  agent: AgentPanel;
  client: Client;
  explanations: Explanations;
  ghost: Ghost;
  nextEdits: NextEdits;
  previews: Previews;
  log: vscode.LogOutputChannel;
}

type Handler = (...args: never[]) => unknown;

export function register({ agent, client, explanations, ghost, nextEdits, previews, log }: Parts): vscode.Disposable {
  const withProgram = async (use: (program: string) => Promise<unknown>): Promise<void> => {
    const program = await client.find();
    if (program) await use(program.path);
    else void vscode.window.showWarningMessage("Underkeel: the program `underkeel` was not found.");
  };
  const table: Record<string, Handler> = {
    toggle: () => setEnabled(!read().enable),
    toggleLanguage: toggleLanguage,
    explainSelection: () => explanations.explainActive("selection"),
    explainFile: () => explanations.explainActive("file"),
    explainArgument: (argument: ExplainArgument) => explanations.explain(argument),
    fix: () => act("quickfix.underkeel.fix"),
    document: () => act("refactor.rewrite.underkeel.document"),
    writeTests: () => act("refactor.rewrite.underkeel.tests"),
    editSelection: () => editActive(client.running),
    applyEdit: () => { previews.answer(true); },
    discardEdit: () => { previews.answer(false); },
    dismiss: () => { ghost.dismiss(); },
    nextEdit: () => nextEdits.jumpOrAccept(),
    dismissNextEdit: () => nextEdits.reject(),
    openAgent: () => agent.open(),
    agentAttach: () => agent.attach("selection"),
    agentAttachFile: () => agent.attach("file"),
    agentAllow: () => { agent.approve("once"); },
    agentReject: () => { agent.approve("reject"); },
    agentStop: () => { agent.stop(); },
    agentNewSession: () => { agent.newSession(); },
    agentHistory: () => agent.history(),
    agentUndo: () => agent.undo(),
    restart: () => client.restart(),
    showLog: () => { log.show(); },
    showPlan: () => withProgram((program) => showOutput(program, ["plan"])),
    showStatistics: () => withProgram((program) => showOutput(program, ["stats"])),
    showDaemonLog: () => withProgram((program) => showOutput(program, ["logs"])),
    pickModel: () =>
      withProgram(async (program) => {
        if (await pickModel(program)) await client.restart();
      }),
    getStarted: () => client.getStarted(),
    findProgram: async () => {
      const program = await client.find();
      if (program) {
        void vscode.window.showInformationMessage(`Underkeel: found ${program.path} (${program.from}).`);
        if (!client.running) await client.restart();
      } else await vscode.commands.executeCommand("workbench.action.openSettings", "underkeel.program");
    },
    installProgram: async () => {
      if (await install(client.managedEnvironment, client.bundledProgram, read().installFrom)) await client.restart();
    },
  };
  const registered = Object.entries(table).map(([name, handler]) =>
    vscode.commands.registerCommand(`underkeel.${name}`, handler as (...args: unknown[]) => unknown),
  );
  return vscode.Disposable.from(...registered);
}

/** Run the server's code action of a kind at the cursor; VS Code lets the user choose among several, and reports if there is none. */
function act(kind: string): Thenable<unknown> {
  return vscode.commands.executeCommand("editor.action.codeAction", { kind, apply: "ifSingle" });
}

async function toggleLanguage(): Promise<void> {
  const language = vscode.window.activeTextEditor?.document.languageId;
  if (language === undefined) return;
  const settings = read();
  const on = !isEnabled({ ...settings, enable: true }, language);
  await setLanguage(language, on);
}
