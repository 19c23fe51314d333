/** Installs the program into an environment of its own, when the user requests it. */

import { mkdir, readdir } from "node:fs/promises";
import { dirname } from "node:path";
import * as vscode from "vscode";
import { CliError, run } from "./cli";
import { pipEnvironment, pipSteps, pythonIn } from "./program";

const OLDEST_PYTHON = "(3, 11)";
const PYTHONS = process.platform === "win32" ? ["py", "python"] : ["python3", "python3.13", "python3.12", "python3.11", "python"];

/**
 * Create the environment and install the program in it; true when it is installed.
 *
 * @param bundled the folder of the extension that holds the program, if this extension was built with one
 * @param setting `underkeel.installFrom`: another such folder; empty for the bundled one
 */
export async function install(environment: string, bundled: string, setting: string): Promise<boolean> {
  const source = setting === "" ? bundled : setting;
  const files = await readdir(source).catch(() => []);
  const steps = pipSteps(source, files);
  if (typeof steps === "string") {
    void vscode.window.showErrorMessage(`Underkeel: ${steps}`);
    return false;
  }
  const python = await findPython();
  if (python === undefined) {
    void vscode.window.showErrorMessage("Underkeel: Python 3.11 or later is required, and none was found on the PATH.");
    return false;
  }
  const answer = await vscode.window.showInformationMessage(
    "Install Underkeel?",
    {
      modal: true,
      detail: `This installs the program from ${source} into an environment of its own, ${environment}. pip downloads the packages that it needs and checks each against a pinned hash. llama.cpp is built from source, which requires a C compiler and takes some minutes.`,
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
      for (const step of steps) {
        const options = { token, onLine, environment: pipEnvironment(source, files, process.env) };
        await run(pythonIn(environment), ["-m", "pip", "install", ...step], options);
      }
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
      const answer = await run(python, ["-c", `import sys; print(sys.version_info >= ${OLDEST_PYTHON})`]);
      if (answer.trim() === "True") return python;
    } catch {
      // Not installed; try the next one.
    }
  }
  return undefined;
}
