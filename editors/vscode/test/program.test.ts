import assert from "node:assert/strict";
import { delimiter } from "node:path";
import test from "node:test";
import { candidates, find, type Places } from "../src/common/program";

const places: Places = {
  setting: "",
  path: ["/usr/bin", "", "/opt/bin"].join(delimiter),
  managed: "/storage/environment",
  folders: ["/project"],
};

const ALL = [
  "/usr/bin/underkeel",
  "/opt/bin/underkeel",
  "/storage/environment/bin/underkeel",
  "/project/.venv/bin/underkeel",
  "/project/venv/bin/underkeel",
];

test("the PATH comes first, the workspace last", () => {
  assert.deepEqual(candidates(places).map(({ path }) => path), ALL);
});

test("a setting is final, even where it leads nowhere", async () => {
  const set = { ...places, setting: "/mine/underkeel" };
  assert.deepEqual(candidates(set), [{ path: "/mine/underkeel", from: "setting" }]);
  assert.equal(await find(set, () => Promise.resolve(false)), undefined);
});

test("the first that can be run is taken", async () => {
  const there = (path: string) => Promise.resolve(path.includes("venv") || path.includes("storage"));
  assert.equal((await find(places, there))?.from, "own environment");
});

test("an untrusted workspace is not looked into", () => {
  const untrusted = candidates({ ...places, folders: [] });
  assert.ok(untrusted.every(({ from }) => from !== "workspace"));
});
