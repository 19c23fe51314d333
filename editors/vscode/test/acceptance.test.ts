import assert from "node:assert/strict";
import test from "node:test";
import { follow, type Offered } from "../src/common/acceptance";

const offered: Offered<string> = { item: "item", insertText: "return a + b\n    # done", start: 10, taken: 7 };

const change = (offset: number, text: string, removed = 0) => ({ offset, removed, text });

test("a word that was inserted at the cursor is a part", () => {
  assert.deepEqual(follow(offered, change(17, "a + ")), { kind: "part", offered: { ...offered, taken: 11 } });
});

test("a part may repeat what stands before the cursor", () => {
  const step = follow(offered, change(10, "return a + ", 7));
  assert.deepEqual(step, { kind: "part", offered: { ...offered, taken: 11 } });
});

test("one character is typing, even one outside the basic plane", () => {
  const boats: Offered<string> = { ...offered, insertText: "🚢🚢 go", start: 0, taken: 0 };
  assert.equal(follow(boats, change(0, "🚢")).kind, "typed");
  assert.equal(follow(boats, change(0, "🚢🚢")).kind, "part");
});

test("one character as a user sees it is typing, whatever its length (C23)", () => {
  for (const character of ["👩‍🚀", "é", "🇩🇪", "👍🏽"]) {
    const step = follow({ ...offered, insertText: `${character} go`, start: 0, taken: 0 }, change(0, character));
    assert.deepEqual([step.kind, "offered" in step && step.offered.taken], ["typed", character.length]);
  }
});

test("accepting the whole is no part: the command of the item reports it", () => {
  assert.equal(follow(offered, change(17, "a + b\n    # done")).kind, "gone");
});

test("Windows line ends count as one, as in what was offered", () => {
  const rest = { ...offered, taken: 12 };
  assert.deepEqual(follow(rest, change(22, "\r\n    # ")), { kind: "part", offered: { ...rest, taken: 19 } });
});

for (const [name, other] of [
  ["other text", change(17, "xyz")],
  ["text elsewhere", change(3, "a + ")],
  ["text after the cursor", change(30, "a + ")],
  ["a deletion", change(15, "", 2)],
  ["a change that begins before the item", change(9, "return a + ", 8)],
] as const) {
  test(`${name} ends it`, () => {
    assert.equal(follow(offered, other).kind, "gone");
  });
}
