/** The settings, typed and resolved in one place. Descriptions and defaults are in package.json. */

import * as vscode from "vscode";
import { type Levels, levelToChange, tightenFlag, tightenFlags } from "./tighten";

export const SECTION = "underkeel";

export interface Settings {
  enable: boolean;
  nextEdits: boolean;
  languages: Readonly<Record<string, boolean>>;
  program: string;
  installFrom: string;
  explainLenses: boolean;
  /** As the user wrote them; see acp.ts. */
  mcpServers: unknown;
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
    enable: tightenFlag(levels<boolean>(section, "enable")),
    nextEdits: tightenFlag(levels<boolean>(section, "nextEdits")),
    languages: tightenFlags(levels<Record<string, boolean>>(section, "languages")),
    program: section.get("program", ""),
    installFrom: section.get("installFrom", ""),
    explainLenses: section.get("explainLenses", false),
    mcpServers: section.get("agent.mcpServers", {}),
    completion,
  };
}

export function isEnabled(settings: Settings, language: string): boolean {
  return settings.enable && settings.languages[language] !== false;
}

/** As `initializationOptions` and as the settings of `workspace/didChangeConfiguration`. */
export function forServer(settings: Settings): object {
  const nextEdits = settings.nextEdits ? {} : { next_edits: { enabled: false } };
  return { [SECTION]: { completion: settings.completion, ...nextEdits } };
}

/** Turn ghost text on or off, at the level that decides. */
export async function setEnabled(on: boolean): Promise<void> {
  const section = vscode.workspace.getConfiguration(SECTION);
  const level = levelToChange(levels<boolean>(section, "enable"), on);
  await section.update("enable", on, TARGET[level]);
}

/** Turn ghost text on or off for one language, at the level that decides. */
export async function setLanguage(language: string, on: boolean): Promise<void> {
  const section = vscode.workspace.getConfiguration(SECTION);
  const set = levels<Record<string, boolean>>(section, "languages");
  const level = levelToChange({ user: set.user?.[language], workspace: set.workspace?.[language] }, on);
  await section.update("languages", { ...set[level], [language]: on }, TARGET[level]);
}

const TARGET = { user: vscode.ConfigurationTarget.Global, workspace: vscode.ConfigurationTarget.Workspace };

/** What the user and the workspace set; VS Code leaves out the values of an untrusted workspace where they are restricted. */
function levels<Value>(section: vscode.WorkspaceConfiguration, name: string): Levels<Value> {
  const set = section.inspect<Value>(name);
  const workspace = vscode.workspace.isTrusted || name !== "languages" ? set?.workspaceValue : undefined;
  return { user: set?.globalValue, workspace };
}
