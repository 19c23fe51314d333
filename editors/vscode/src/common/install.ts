/** Installs the program into an environment of its own, when the user asks for it. */

import { dirname } from "node:path";
import { mkdir } from "node:fs/promises";
import * as vscode from "vscode";
import { CliError, run } from "./cli";
import { inEnvironment } from "./program";

const LEAST_PYTHON = "(3, 11)";
const PYTHONS = process.platform === "win32" ? ["py", "python"] : ["python3", "python3.13", "python3.12", "python3.11", "python"];

/**
 * Make the environment and install the program in it; true when it is there.
 *
 * @param what a package's name, or the path of a wheel or a clone
 */
export async function install(environment: string, what: string): Promise<boolean> {
  const python = await findPython();
  if (python === undefined) {
    void vscode.window.showErrorMessage("Underkeel: Python 3.11 or later is needed, and none is on the PATH.");
    return false;
  }
  const answer = await vscode.window.showInformationMessage(
    "Install Underkeel?",
    {
      modal: true,
      detail: `This runs “pip install ${what}” in an environment of its own, ${environment}. llama.cpp is built from source, which needs a C compiler and takes some minutes.`,
    },
    "Install",
  );
  if (answer !== "Install") return false;
  const options = { location: vscode.ProgressLocation.Notification, title: "Installing Underkeel", cancellable: true };
  try {
    await vscode.window.withProgress(options, async (progress, token) => {
      const onLine = (message: string): void => { progress.report({ message: message.slice(0, 100) }); };
      await mkdir(dirname(environment), { recursive: true });
      await run(python, ["-m", "venv", environment], { token, onLine });
      const pip = inEnvironment(environment).replace(/underkeel(\.exe)?$/, "python$1");
      await run(pip, ["-m", "pip", "install", "--upgrade", what], { token, onLine });
    });
    return true;
  } catch (error) {
    if (!(error instanceof CliError)) throw error;
    void vscode.window.showErrorMessage(`Underkeel was not installed: ${error.message}`);
    return false;
  }
}

async function findPython(): Promise<string | undefined> {
  for (const python of PYTHONS) {
    try {
      const answer = await run(python, ["-c", `import sys; print(sys.version_info >= ${LEAST_PYTHON})`]);
      if (answer.trim() === "True") return python;
    } catch {
      // Not there; the next one may be.
    }
  }
  return undefined;
}
