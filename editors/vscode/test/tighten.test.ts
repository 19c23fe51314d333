import assert from "node:assert/strict";
import test from "node:test";
import { levelToChange, tightenFlag, tightenFlags } from "../src/common/tighten";

const VALUES = [undefined, true, false];

test("a workspace turns ghost text off, never on (T11)", () => {
  for (const user of VALUES) {
    for (const workspace of VALUES) {
      assert.equal(tightenFlag({ user, workspace }), user !== false && workspace !== false);
    }
  }
  const languages = tightenFlags({ user: { python: false, go: true }, workspace: { python: true, go: false, css: false } });
  assert.deepEqual(languages, { python: false, go: false, css: false });
});

test("a switch takes effect where it is written, after at most two presses", () => {
  for (const user of VALUES) {
    for (const workspace of VALUES) {
      for (const on of [true, false]) {
        const levels = { user, workspace };
        for (let press = 0; press < 2; press++) levels[levelToChange(levels, on)] = on;
        assert.equal(tightenFlag(levels), on, JSON.stringify({ user, workspace, on }));
      }
    }
  }
});
