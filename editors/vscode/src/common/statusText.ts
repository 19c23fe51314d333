/** The text of the status items; pure, so that it can be tested without VS Code. */

import type { Status } from "./protocol";

export interface StatusView {
  /** For the status bar, with a codicon. */
  text: string;
  severity: "none" | "warning" | "error";
  busy: boolean;
  /** Markdown: the details. */
  tooltip: string;
}

const ICON = "$(telescope)";
const GIB = 2 ** 30;

/** The commands of the tooltip's links; the Markdown string may run no others. */
export const LINKS = {
  "underkeel.showPlan": "Memory plan",
  "underkeel.pickModel": "Pick model",
  "underkeel.toggleLanguage": "On or off for this language",
  "underkeel.showLog": "Log",
} as const;

export function view(status: Status, enabled: boolean): StatusView {
  const busy = status.state === "starting" || status.state === "loading";
  return {
    text: `${busy ? "$(loading~spin)" : ICON} ${label(status, enabled)}`,
    severity: status.state === "error" ? "error" : cut(status) ? "warning" : "none",
    busy,
    tooltip: tooltip(status, enabled),
  };
}

function label(status: Status, enabled: boolean): string {
  if (status.state === "error") return "Underkeel: error";
  if (status.state === "loading") {
    return status.progress == null ? "Underkeel: loading" : `Underkeel: ${percent(status.progress)}`;
  }
  if (!enabled || status.state === "off") return "Underkeel: off";
  return status.budget && cut(status) ? `Underkeel: ${status.budget.tokens} tokens` : "Underkeel";
}

function cut(status: Status): boolean {
  return (status.budget?.level ?? 0) > 0;
}

function tooltip(status: Status, enabled: boolean): string {
  const rows: [string, string][] = [];
  if (status.model) rows.push(["Model", status.model]);
  if (status.budget) {
    const { tokens, level } = status.budget;
    rows.push(["Prompt budget", level > 0 ? `${tokens} tokens (level ${level})` : `${tokens} tokens`]);
  }
  if (status.budget?.reason) rows.push(["Reason", status.budget.reason]);
  if (status.prompt) {
    const { tokens, budgetTokens, cut } = status.prompt;
    rows.push(["Last prompt", `${tokens} of ${budgetTokens} tokens`]);
    if (cut.length > 0) rows.push(["Omitted", cut.join(", ")]);
  }
  if (status.ladder) rows.push(["Reduced", `${status.ladder.gaveUp}: ${status.ladder.reason}`]);
  if (status.vram) {
    const { usedBytes, freeBytes } = status.vram;
    rows.push(["VRAM", `${gib(usedBytes)} used, ${gib(freeBytes)} free`]);
  }
  if (status.kv) {
    const { usedTokens, totalTokens } = status.kv;
    rows.push(["KV cache", `${usedTokens} of ${totalTokens} tokens`]);
  }
  if (status.cacheHits != null) rows.push(["From cache", `${percent(status.cacheHits)} of prompt tokens`]);
  if (status.tokensPerSecond) rows.push(["Speed", `${status.tokensPerSecond.toFixed(1)} tokens/s`]);
  const lines = [`**Underkeel** · ${status.state}${enabled ? "" : ", ghost text is off here"}`];
  if (status.message) lines.push(plain(status.message));
  if (rows.length > 0) lines.push(["| | |", "|:--|:--|", ...rows.map(([name, value]) => `| ${name} | ${plain(value)} |`)].join("\n"));
  lines.push(Object.entries(LINKS).map(([command, title]) => `[${title}](command:${command})`).join(" · "));
  return lines.join("\n\n");
}

/** Foreign text, such as a model's name or an error, escaped for Markdown. */
function plain(text: string): string {
  return text.replace(/[\\`*_{}[\]#+!|<>~$]/g, "\\$&").replace(/\s*\n\s*/g, " ");
}

function gib(bytes: number): string {
  return `${(bytes / GIB).toFixed(1)} GiB`;
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}
