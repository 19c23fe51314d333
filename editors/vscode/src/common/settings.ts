/** The settings, typed and resolved in one place. Descriptions and defaults are in package.json. */

import * as vscode from "vscode";

export const SECTION = "underkeel";

export interface Settings {
  enable: boolean;
  languages: Readonly<Record<string, boolean>>;
  program: string;
  installFrom: string;
  explainLenses: boolean;
  /** For the server: the table [completion] of its config.toml, only with what was set here. */
  completion: Readonly<Record<string, number>>;
}

const COMPLETION = { maxTokens: "max_tokens", budgetTokens: "budget_tokens", timeLimitMs: "time_limit_ms" };

export function read(): Settings {
  const section = vscode.workspace.getConfiguration(SECTION);
  const completion: Record<string, number> = {};
  for (const [name, field] of Object.entries(COMPLETION)) {
    const value = section.get<number | null>(`completion.${name}`);
    if (typeof value === "number") completion[field] = value;
  }
  return {
    enable: section.get("enable", true),
    languages: section.get("languages", {}),
    program: section.get("program", ""),
    installFrom: section.get("installFrom", "underkeel"),
    explainLenses: section.get("explainLenses", false),
    completion,
  };
}

export function isEnabled(settings: Settings, language: string): boolean {
  return settings.enable && settings.languages[language] !== false;
}

/** As `initializationOptions` and as the settings of `workspace/didChangeConfiguration`. */
export function forServer(settings: Settings): object {
  return { [SECTION]: { completion: settings.completion } };
}

/** Change a setting where it is set already, or else for the user. */
export async function update(name: string, value: unknown): Promise<void> {
  const section = vscode.workspace.getConfiguration(SECTION);
  const inspected = section.inspect(name);
  const target =
    inspected?.workspaceValue === undefined ? vscode.ConfigurationTarget.Global : vscode.ConfigurationTarget.Workspace;
  await section.update(name, value, target);
}
