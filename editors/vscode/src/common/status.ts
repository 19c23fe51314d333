/** The two status items: details beside the language, and a switch in the status bar. */

import * as vscode from "vscode";
import { SCHEMES, type Status } from "./protocol";
import { isEnabled, read } from "./settings";
import { LINKS, view } from "./statusText";

const SEVERITY = {
  none: vscode.LanguageStatusSeverity.Information,
  warning: vscode.LanguageStatusSeverity.Warning,
  error: vscode.LanguageStatusSeverity.Error,
};

export class StatusItems implements vscode.Disposable {
  private status: Status = { state: "off", message: "" };
  private readonly bar = vscode.window.createStatusBarItem("underkeel", vscode.StatusBarAlignment.Right, 100);
  private readonly detail = vscode.languages.createLanguageStatusItem("underkeel", SCHEMES.map((scheme) => ({ scheme })));
  private readonly subscriptions: vscode.Disposable[];

  constructor() {
    this.bar.name = "Underkeel";
    this.bar.command = "underkeel.toggle";
    this.detail.name = "Underkeel";
    this.detail.command = { title: "Show log", command: "underkeel.showLog" };
    this.subscriptions = [
      vscode.window.onDidChangeActiveTextEditor(() => { this.draw(); }),
      vscode.workspace.onDidChangeConfiguration((event) => {
        if (event.affectsConfiguration("underkeel")) this.draw();
      }),
    ];
    this.draw();
    this.bar.show();
  }

  /** Show a status; true if the model has become ready with it. */
  set(status: Status): boolean {
    if (status.state === "idle" && this.status.state !== "starting") return false; // the server has reported more
    const waited = this.status.state === "starting" || this.status.state === "loading";
    this.status = status;
    const serves = status.state === "ready" || status.state === "busy";
    if (serves && status.model) void vscode.commands.executeCommand("setContext", "underkeel.modelReady", true);
    this.draw();
    return waited && serves;
  }

  private draw(): void {
    const settings = read();
    const language = vscode.window.activeTextEditor?.document.languageId;
    const enabled = language === undefined ? settings.enable : isEnabled(settings, language);
    const shown = view(this.status, enabled);
    this.bar.text = shown.text;
    const tooltip = new vscode.MarkdownString(shown.tooltip);
    tooltip.isTrusted = { enabledCommands: Object.keys(LINKS) };
    this.bar.tooltip = tooltip;
    this.bar.accessibilityInformation = { label: shown.text.replace(/\$\([^)]*\)\s*/g, "") };
    this.bar.backgroundColor =
      shown.severity === "error" ? new vscode.ThemeColor("statusBarItem.errorBackground") : undefined;
    this.detail.text = shown.text.replace(/\$\([^)]*\)\s*/g, "");
    this.detail.detail = this.status.budget?.reason || this.status.message || (this.status.model ?? "");
    this.detail.severity = SEVERITY[shown.severity];
    this.detail.busy = shown.busy;
  }

  dispose(): void {
    vscode.Disposable.from(this.bar, this.detail, ...this.subscriptions).dispose();
  }
}
