import assert from "node:assert/strict";
import test from "node:test";
import { AcpError, lines, mcpServers, start } from "../src/common/acp";

const AGENT = `
  const lines = require("node:readline").createInterface({ input: process.stdin });
  const send = (message) => console.log(JSON.stringify({ jsonrpc: "2.0", ...message }));
  lines.on("line", (line) => {
    const { id, method, params, result, error } = JSON.parse(line);
    if (method === "ask") send({ id: 7, method: "fs/read_text_file", params: { path: params.path } });
    if (method === "die") process.exit(3);
    if (method === "wrong") { console.log("no JSON"); send({ id, error: { code: -32602, message: "no" } }); }
    if (id === 7) send({ method: "answered", params: { result, error } });
    else if (method === "ask") send({ id, result: { done: true } });
  });`;

test("requests, requests of the agent, errors, and an end", async () => {
  const heard: unknown[] = [];
  let ended: (why: string) => void = () => undefined;
  const end = new Promise<string>((resolve) => (ended = resolve));
  const agent = start(process.execPath, ["-e", AGENT], {
    onRequest: (_, { path }: { path: string }) =>
      path === "a" ? Promise.resolve({ content: "text" }) : Promise.reject(new AcpError(-32002, "none")),
    onNotification: (_, params: unknown) => heard.push(params),
    onExit: ended,
  });
  assert.deepEqual(await agent.request("ask", { path: "a" }), { done: true });
  assert.deepEqual(await agent.request("ask", { path: "b" }), { done: true });
  await assert.rejects(agent.request("wrong", {}), (error: AcpError) => error.code === -32602);
  const open = agent.request("die", {});
  await assert.rejects(open, /has ended/);
  await assert.rejects(agent.request("ask", { path: "a" }), /has ended/);
  assert.equal(await end, "exit code 3");
  assert.deepEqual(heard, [{ result: { content: "text" } }, { error: { code: -32002, message: "none" } }]);
});

test("a program that does not exist is an end with a reason", async () => {
  const why = await new Promise<string>((resolve) => {
    start("/no/such/underkeel", ["acp"], {
      onRequest: () => Promise.resolve({}), onNotification: () => undefined, onExit: resolve,
    });
  });
  assert.match(why, /^Cannot run \/no\/such\/underkeel/);
});

test("lines come whole, whatever the pieces, and none is longer than the limit", () => {
  const got: string[] = [];
  const take = lines((line) => got.push(line), 6);
  for (const piece of ["ab", "c\nd", "e\n\n", "too lo", "ng\nf\n"]) take(piece);
  assert.deepEqual(got, ["abc", "de", "", "f"]);
});

test("the setting's MCP servers as the protocol has them", () => {
  const setting = {
    files: { command: "files-server", args: ["--root", 7], env: { LEVEL: "1" } },
    docs: { url: "https://example.com/mcp", headers: { Authorization: "Bearer x" } },
    plain: { command: "plain" }, wrong: { args: ["x"] }, none: null, text: "x",
  };
  assert.deepEqual(mcpServers(setting), [
    { name: "files", command: "files-server", args: ["--root", "7"], env: [{ name: "LEVEL", value: "1" }] },
    { type: "http", name: "docs", url: "https://example.com/mcp", headers: [{ name: "Authorization", value: "Bearer x" }] },
    { name: "plain", command: "plain", args: [], env: [] },
  ]);
  assert.deepEqual([mcpServers(null), mcpServers("x"), mcpServers({})], [[], [], []]);
});
