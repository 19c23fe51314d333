/** Runs the command line program, for what needs no editor: plans, models, logs. */

import { spawn } from "node:child_process";
import { homedir } from "node:os";
import type { CancellationToken } from "vscode";

export class CliError extends Error {}

/**
 * Run a program and return its standard output.
 *
 * @param onLine receives each line of standard error: progress, in the programs run here.
 * @throws CliError with the program's error output.
 */
export async function run(
  program: string,
  args: readonly string[],
  options: {
    token?: CancellationToken;
    onLine?: (line: string) => void;
    environment?: Readonly<Record<string, string>>;
  } = {},
): Promise<string> {
  return new Promise((resolve, reject) => {
    // Not in the workspace, whose files must not influence the program.
    const env = { ...process.env, NO_COLOR: "1", COLUMNS: "100", ...options.environment };
    const child = spawn(program, args, { cwd: homedir(), env });
    const cancelled = options.token?.onCancellationRequested(() => child.kill());
    let output = "";
    let errors = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      errors = (errors + text).slice(-4000);
      for (const line of text.split(/[\r\n]+/)) {
        if (line.trim() !== "") options.onLine?.(line.trim());
      }
    });
    child.on("error", (error) => {
      cancelled?.dispose();
      reject(new CliError(`Cannot run ${program}: ${error.message}`));
    });
    child.on("close", (code, signal) => {
      cancelled?.dispose();
      if (code === 0) resolve(output);
      else reject(new CliError(errors.trim() || `${program} exited with ${code ?? signal ?? "an error"}`));
    });
  });
}
