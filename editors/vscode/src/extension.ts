/** Creates the parts and connects them; each is in a file of its own. */

import * as vscode from "vscode";
import { AgentPanel } from "./common/agent";
import { ChatModels } from "./common/chatModels";
import { Client } from "./common/client";
import { register } from "./common/commands";
import { edit } from "./common/edit";
import { Explanations } from "./common/explain";
import { Ghost } from "./common/ghost";
import { ExplainLenses } from "./common/lenses";
import { NextEdits } from "./common/nextEdit";
import { registerOutputs } from "./common/output";
import { Previews } from "./common/preview";
import { Command, type EditArgument, type ExplainArgument } from "./common/protocol";
import { StatusItems } from "./common/status";

let client: Client | undefined;

export function activate(context: vscode.ExtensionContext): void {
  const log = vscode.window.createOutputChannel("Underkeel", { log: true });
  const status = new StatusItems();
  const lenses = new ExplainLenses();
  const ghost: Ghost = new Ghost(
    (method, params) => void client?.running?.sendNotification(method, params),
    () => { nextEdits.clear(); },
  );
  const nextEdits = new NextEdits(() => client?.running, (document) => ghost.has(document));
  const explanations = new Explanations(context.extensionUri, () => client?.running);
  const previews = new Previews();
  const chatModels = new ChatModels(() => client?.running);
  const started = new Client(context, log, ghost, previews, {
    onStatus: (now) => {
      if (status.set(now)) ghost.onReady();
      chatModels.onStatus(now);
    },
    onExplanation: (event) => { explanations.onEvent(event); },
    onChat: (event) => { chatModels.onEvent(event); },
    onCommand: (command, argument) => {
      if (command === Command.explain) return explanations.explain(argument as ExplainArgument);
      if (command === Command.edit) return edit(client?.running, argument as EditArgument);
      return undefined;
    },
  });
  client = started;
  const agent = new AgentPanel(context.extensionUri, async () => (await started.find())?.path);
  context.subscriptions.push(
    log,
    status,
    ghost,
    nextEdits,
    previews,
    explanations,
    chatModels,
    agent,
    lenses,
    register({ agent, client: started, explanations, ghost, nextEdits, previews, log }),
    registerOutputs(),
    vscode.languages.registerCodeLensProvider({ scheme: "file" }, lenses),
    vscode.workspace.onDidGrantWorkspaceTrust(() => started.restart()),
    vscode.workspace.onDidChangeConfiguration(async (event) => {
      if (event.affectsConfiguration("underkeel.program")) await started.restart();
      else if (event.affectsConfiguration("underkeel")) await started.configure();
      lenses.refresh();
    }),
  );
  // Not awaited: a server that starts slowly must not hold up the window.
  void started.restart();
}

export async function deactivate(): Promise<void> {
  await client?.stop();
}
