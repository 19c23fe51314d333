import assert from "node:assert/strict";
import { delimiter } from "node:path";
import test from "node:test";
import { candidates, find, pipEnvironment, pipSteps, type Places } from "../src/common/program";

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

test("a relative entry of the PATH is skipped: it would be looked up in the folder of the process (T21)", () => {
  const found = candidates({ ...places, path: [".", "bin", "/usr/bin"].join(delimiter), folders: [] });
  assert.deepEqual(found.map(({ path }) => path), ["/usr/bin/underkeel", "/storage/environment/bin/underkeel"]);
});

const WHEEL = "underkeel-1.0-py3-none-any.whl";
const PINS = "underkeel-1.0-requirements.txt";

test("every package that is installed is pinned by hash (T21)", () => {
  const steps = pipSteps("/extension/program", [WHEEL, PINS, "build-requirements.txt"]);
  assert.ok(Array.isArray(steps));
  assert.equal(steps.length, 2);
  for (const step of steps) assert.ok(step.includes("--require-hashes") && step.includes("-r"), step.join(" "));
  assert.ok(!steps.flat().includes("underkeel"), "never a bare name, which somebody else may own");
});

test("the build of llama.cpp is limited to what is used, and keeps the user's own arguments", () => {
  const files = [WHEEL, PINS, "llama_cpp.cmake"];
  assert.deepEqual(pipEnvironment("/a b/program", files, {}), {
    CMAKE_ARGS: "'-DCMAKE_PROJECT_llama_cpp_INCLUDE=/a b/program/llama_cpp.cmake'",
  });
  const given = pipEnvironment("/it's", files, { CMAKE_ARGS: "-DGGML_CUDA=ON" });
  assert.equal(given["CMAKE_ARGS"], `-DGGML_CUDA=ON '-DCMAKE_PROJECT_llama_cpp_INCLUDE=/it'"'"'s/llama_cpp.cmake'`);
  assert.deepEqual(pipEnvironment("/dist", [WHEEL, PINS], {}), {});
});

for (const [what, folder, files] of [
  ["a name from an index", "underkeel", [WHEEL, PINS]],
  ["a relative path", "./dist", [WHEEL, PINS]],
  ["an address", "https://example.org/underkeel", [WHEEL, PINS]],
  ["an extension without the program", "/extension/program", []],
  ["a wheel without hashes", "/dist", [WHEEL]],
  ["hashes without the wheel", "/dist", [PINS]],
  ["several versions", "/dist", [WHEEL, PINS, "underkeel-2.0-requirements.txt"]],
] as const) {
  test(`${what} is refused with advice (T21)`, () => {
    const refusal = pipSteps(folder, files);
    assert.ok(typeof refusal === "string" && refusal.includes("uv tool install ."));
  });
}
