/** Picks the model from those that the command line program lists, and downloads it if needed. */

import * as vscode from "vscode";
import { run } from "./cli";
import { showError } from "./output";

/** A row of `underkeel models list --json`, as far as it is used. */
interface Model {
  name: string;
  parameters: string;
  type: string;
  size_bytes: number;
  here: boolean;
  used: boolean;
  title: string;
}

/** Let the user pick a model; true if one was picked. */
export async function pickModel(program: string): Promise<boolean> {
  try {
    const models = JSON.parse(await run(program, ["models", "list", "--json"])) as Model[];
    const picked = await vscode.window.showQuickPick(models.map(row), {
      title: "Underkeel: Pick a Model",
      placeHolder: "A model that is not on this machine is downloaded first",
      matchOnDescription: true,
    });
    if (!picked) return false;
    if (!picked.model.here && !(await pull(program, picked.model.name))) return false;
    await run(program, ["models", "use", picked.model.name]);
    await vscode.commands.executeCommand("setContext", "underkeel.modelReady", true);
    return true;
  } catch (error) {
    showError(error);
    return false;
  }
}

function row(model: Model): vscode.QuickPickItem & { model: Model } {
  const size = `${(model.size_bytes / 2 ** 30).toFixed(1)} GiB`;
  return {
    model,
    label: `$(${model.used ? "check" : model.here ? "circle-outline" : "cloud-download"}) ${model.name}`,
    description: [model.parameters, model.type, size].filter(Boolean).join(", "),
    detail: model.title,
  };
}

async function pull(program: string, name: string): Promise<boolean> {
  const title = `Underkeel: downloading ${name}`;
  const options = { location: vscode.ProgressLocation.Notification, title, cancellable: true };
  return vscode.window.withProgress(options, async (progress, token) => {
    await run(program, ["models", "pull", name, "--yes"], { token, onLine: (message) => { progress.report({ message }); } });
    return !token.isCancellationRequested;
  });
}
