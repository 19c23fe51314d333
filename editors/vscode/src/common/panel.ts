/** The explanation panel: Markdown, drawn while it streams. See also media/panel.css and panel.js. */

import * as vscode from "vscode";

export interface PanelListener {
  ask: (question: string) => void;
  continue: () => void;
  cancel: () => void;
  closed: () => void;
}

/** Decides which buttons and which note are below the text. */
export type PanelState = "streaming" | "end" | "limit" | "cancelled" | "error";

interface FromPanel {
  kind: "ask" | "continue" | "cancel";
  question?: string;
}

const DRAW_EVERY_MS = 80;

export class Panel implements vscode.Disposable {
  private readonly panel: vscode.WebviewPanel;
  private text = "";
  private state: PanelState = "streaming";
  private drawing: NodeJS.Timeout | undefined;

  constructor(extension: vscode.Uri, title: string, listener: PanelListener) {
    const media = vscode.Uri.joinPath(extension, "media");
    this.panel = vscode.window.createWebviewPanel(
      "underkeel.explanation",
      title,
      { viewColumn: vscode.ViewColumn.Beside, preserveFocus: true },
      { enableScripts: true, localResourceRoots: [media], retainContextWhenHidden: true, enableFindWidget: true },
    );
    this.panel.webview.html = page(this.panel.webview, media, "Explanation", ["panel.css", "panel.js"], BODY);
    this.panel.webview.onDidReceiveMessage((message: FromPanel) => {
      if (message.kind === "ask") listener.ask(message.question ?? "");
      else listener[message.kind]();
    });
    this.panel.onDidDispose(() => {
      clearTimeout(this.drawing);
      this.drawing = undefined;
      listener.closed();
    });
  }

  /** Show another explanation in the same place. */
  reset(title: string): void {
    this.panel.title = title;
    this.panel.reveal(undefined, true);
    this.text = "";
    this.set("streaming");
  }

  append(markdown: string): void {
    this.text += markdown;
    this.drawSoon();
  }

  set(state: PanelState): void {
    this.state = state;
    this.drawSoon();
  }

  private drawSoon(): void {
    this.drawing ??= setTimeout(() => {
      this.drawing = undefined;
      void this.draw();
    }, DRAW_EVERY_MS);
  }

  private async draw(): Promise<void> {
    const html = await render(this.text);
    void this.panel.webview.postMessage({ html, state: this.state });
  }

  dispose(): void {
    this.panel.dispose();
  }
}

/** Render with VS Code's Markdown extension, or as plain text where it is disabled. */
export async function render(markdown: string): Promise<string> {
  try {
    return await vscode.commands.executeCommand<string>("markdown.api.render", markdown);
  } catch {
    return `<pre>${markdown.replace(/[<>&]/g, (char) => `&#${char.charCodeAt(0)};`)}</pre>`;
  }
}

/** A page of our own scripts and styles. Its text comes from a model, so its policy allows nothing else. */
export function page(webview: vscode.Webview, media: vscode.Uri, title: string, names: readonly string[], body: string): string {
  const file = (name: string): string => webview.asWebviewUri(vscode.Uri.joinPath(media, name)).toString();
  const tags = names.map((name) =>
    name.endsWith(".css") ? `<link rel="stylesheet" href="${file(name)}">` : `<script src="${file(name)}" defer></script>`);
  return `<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta http-equiv="Content-Security-Policy"
    content="default-src 'none'; form-action 'none'; base-uri 'none'; style-src ${webview.cspSource}; script-src ${webview.cspSource}">
  ${tags.join("\n  ")}
  <title>${title}</title>
</head>
<body>${body}</body>
</html>`;
}

const BODY = `
  <main id="text" aria-live="polite"></main>
  <footer>
    <span id="note"></span>
    <button id="cancel" hidden>Cancel</button>
    <button id="continue" hidden>Continue</button>
    <form id="ask" hidden><input id="question" placeholder="Ask a question" aria-label="Ask a question"></form>
  </footer>
`;
