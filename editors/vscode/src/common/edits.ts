/** What a WorkspaceEdit changes; pure, so that it can be tested apart from VS Code. */

import type { AnnotatedTextEdit, TextDocumentEdit, TextEdit, WorkspaceEdit } from "vscode-languageclient/node";

export interface DocumentChange {
  uri: string;
  /** The version that the edits were made for; undefined where that does not matter. */
  version: number | undefined;
  /** Whether the edit creates the document. */
  created: boolean;
  edits: TextEdit[];
}

export interface Splice {
  start: number;
  end: number;
  newText: string;
}

/** Every document whose text changes. */
export function changesOf(edit: WorkspaceEdit): DocumentChange[] {
  const created = new Set<string>();
  const changes: DocumentChange[] = [];
  for (const change of edit.documentChanges ?? []) {
    if ("textDocument" in change) {
      const { uri, version } = change.textDocument;
      const edits = change.edits.filter((one): one is AnnotatedTextEdit => "newText" in one);
      changes.push({ uri, version: version ?? undefined, created: created.has(uri), edits });
    } else if (change.kind === "create") created.add(change.uri);
  }
  for (const [uri, edits] of Object.entries(edit.changes ?? {})) {
    changes.push({ uri, version: undefined, created: false, edits });
  }
  return changes;
}

/** A text with splices applied. All offsets are in the original text; splices at one offset keep their order. */
export function spliced(text: string, splices: readonly Splice[]): string {
  const ordered = splices.map((splice, index) => ({ ...splice, index })).sort((a, b) => a.start - b.start || a.index - b.index);
  let done = "";
  let at = 0;
  for (const { start, end, newText } of ordered) {
    done += text.slice(at, start) + newText;
    at = Math.max(at, end);
  }
  return done + text.slice(at);
}

/** The server's notes on the edit, such as that it breaks the syntax. */
export function notesOf(edit: WorkspaceEdit): string {
  return Object.values(edit.changeAnnotations ?? {})
    .map(({ description }) => description ?? "")
    .filter((description) => description !== "")
    .map((description) => `This ${description}.`)
    .join(" ");
}

/** The same edit without annotations: the user has confirmed it, and VS Code must not ask again. */
export function withoutAnnotations(edit: WorkspaceEdit): WorkspaceEdit {
  const { changeAnnotations, ...rest } = edit;
  if (!rest.documentChanges) return rest;
  const plain = rest.documentChanges.map((change) => {
    if ("textDocument" in change) {
      const edits = change.edits.map((one) => ("newText" in one ? { range: one.range, newText: one.newText } : one));
      return { ...change, edits } satisfies TextDocumentEdit;
    }
    const { annotationId, ...bare } = change;
    return bare;
  });
  return { ...rest, documentChanges: plain };
}
