import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

interface Setting {
  default: unknown;
  scope: string;
  description?: string;
  markdownDescription?: string;
}

interface Manifest {
  dependencies: Record<string, string>;
  capabilities: { untrustedWorkspaces: { supported: string; restrictedConfigurations: string[] } };
  contributes: {
    commands: { command: string; title: string }[];
    configuration: { properties: Record<string, Setting> };
    walkthroughs: { steps: { description: string; media: { markdown: string } }[] }[];
  };
}

const manifest = JSON.parse(readFileSync("package.json", "utf8")) as Manifest;
const { commands, configuration, walkthroughs } = manifest.contributes;
const settings = Object.entries(configuration.properties);
const sources = readFileSync("src/common/commands.ts", "utf8");

test("every setting says what it does", () => {
  for (const [name, setting] of settings) {
    assert.ok((setting.description ?? setting.markdownDescription ?? "").length > 30, name);
    assert.notEqual(setting.default, undefined, name);
  }
});

test("a workspace sets nothing that starts a program, reaches the server or writes code into a log (T11, T20)", () => {
  const machine = settings.filter(([, setting]) => setting.scope === "machine").map(([name]) => name);
  assert.deepEqual(settings.map(([name]) => name).filter((name) => !machine.includes(name)), [
    "underkeel.enable",
    "underkeel.languages",
    "underkeel.nextEdits",
    "underkeel.explainLenses",
  ]);
});

test("an untrusted workspace cannot change the languages", () => {
  assert.equal(manifest.capabilities.untrustedWorkspaces.supported, "limited");
  const restricted = manifest.capabilities.untrustedWorkspaces.restrictedConfigurations;
  const known = settings.map(([name]) => name);
  assert.deepEqual(restricted, ["underkeel.languages"]);
  assert.deepEqual(restricted.filter((name) => !known.includes(name)), []);
});

test("links above code are off unless asked for", () => {
  assert.equal(configuration.properties["underkeel.explainLenses"]?.default, false);
});

test("every command of the palette and of the walkthrough is there", () => {
  const names = commands.map(({ command }) => command.replace("underkeel.", ""));
  for (const name of names) assert.match(sources, new RegExp(`^ {4}${name}:`, "m"), name);
  for (const { description } of walkthroughs.flatMap(({ steps }) => steps)) {
    for (const [, name] of description.matchAll(/command:underkeel\.(\w+)/g)) assert.ok(names.includes(name ?? ""), name);
  }
});

test("every page of the walkthrough is there", () => {
  for (const { media } of walkthroughs.flatMap(({ steps }) => steps)) assert.ok(readFileSync(media.markdown).length > 0);
});

test("nothing but the language client is shipped", () => {
  assert.deepEqual(Object.keys(manifest.dependencies), ["vscode-languageclient"]);
});
