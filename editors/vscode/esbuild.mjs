// Bundles the extension (or, with --test, each unit test) into out/.
import { readdirSync } from "node:fs";
import { build } from "esbuild";

const production = process.argv.includes("--production");
const testing = process.argv.includes("--test");

await build({
  entryPoints: testing
    ? readdirSync("test").filter((name) => name.endsWith(".test.ts")).map((name) => `test/${name}`)
    : ["src/extension.ts"],
  outdir: testing ? "out/test" : "out",
  bundle: true,
  platform: "node",
  target: "node20",
  format: "cjs",
  external: ["vscode"],
  minify: production,
  sourcemap: production ? false : "linked",
  legalComments: "eof",
  logLevel: "warning",
});
