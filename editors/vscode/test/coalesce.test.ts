import assert from "node:assert/strict";
import test from "node:test";
import { coalesced } from "../src/common/coalesce";

/** Work whose end the test decides. */
function gate() {
  const ends: (() => void)[] = [];
  let most = 0;
  let now = 0;
  const work = async (): Promise<void> => {
    most = Math.max(most, ++now);
    await new Promise<void>((resolve) => ends.push(resolve));
    now--;
  };
  return { work, ends, most: () => most };
}

const turn = () => new Promise((resolve) => setImmediate(resolve));

test("calls during a run make one more run, after it", async () => {
  const { work, ends, most } = gate();
  const restart = coalesced(work);
  const calls = [restart(), restart(), restart(), restart()];
  await turn();
  assert.equal(ends.length, 1);
  ends[0]?.();
  await turn();
  assert.equal(ends.length, 2);
  ends[1]?.();
  await Promise.all(calls);
  assert.equal(ends.length, 2);
  assert.equal(most(), 1);
});

test("a call after the end runs at once", async () => {
  const { work, ends } = gate();
  const restart = coalesced(work);
  for (const expected of [1, 2]) {
    const call = restart();
    assert.equal(ends.length, expected);
    ends[expected - 1]?.();
    await call;
  }
});

test("a failure is reported to its callers and stops nothing", async () => {
  let runs = 0;
  const restart = coalesced(() => (++runs === 1 ? Promise.reject(new Error("no")) : Promise.resolve()));
  const [first, second] = [restart(), restart()];
  await assert.rejects(first, /no/);
  await second;
  assert.equal(runs, 2);
});
