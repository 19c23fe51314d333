/**
 * Infers that a part of a suggestion was accepted.
 *
 * VS Code runs an item's command only when the whole item is accepted; it reports words and lines only in a proposed
 * API. But it inserts a part as one change, and that change is the beginning of what was left of the item.
 */

/** A suggestion as it was given, `insertText` counted in UTF-16 code units as VS Code does. */
export interface Offered<Item> {
  item: Item;
  insertText: string;
  /** Offset in the document at which `insertText` would begin. */
  start: number;
  /** Code units of `insertText` that are in the document. */
  taken: number;
}

export interface Change {
  offset: number;
  removed: number;
  text: string;
}

export type Step<Item> =
  | { kind: "part"; offered: Offered<Item> }
  | { kind: "typed"; offered: Offered<Item> }
  | { kind: "gone" };

/** Follow the suggestion through a change. One character as a user sees it counts as typed, more as accepted. */
export function follow<Item>(offered: Offered<Item>, change: Change): Step<Item> {
  const at = offered.start + offered.taken;
  const text = change.text.replace(/\r\n/g, "\n");
  const rest = offered.insertText.slice(offered.taken);
  // Accepting a part may replace what stands between the start of the item and the cursor by itself.
  const again = at - change.offset;
  if (change.offset < offered.start || again < 0 || again > offered.taken || change.removed < again) {
    return { kind: "gone" };
  }
  const repeated = offered.insertText.slice(offered.taken - again, offered.taken);
  if (!text.startsWith(repeated)) return { kind: "gone" };
  const added = text.slice(again);
  if (added === "" || added === rest || !rest.startsWith(added)) return { kind: "gone" };
  const next = { ...offered, taken: offered.taken + added.length };
  return { kind: characters(added) > 1 ? "part" : "typed", offered: next };
}

/** Grapheme clusters: an emoji with joiners or a letter with accents is one character (C23). */
function characters(text: string): number {
  return Array.from(new Intl.Segmenter().segment(text)).length;
}
