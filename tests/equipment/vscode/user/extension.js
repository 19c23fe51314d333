// An extension that uses the language model of another one, and writes what it saw into the workspace.
const vscode = require("vscode");
const { writeFileSync, renameSync } = require("node:fs");
const { join } = require("node:path");

async function use() {
  let model;
  for (let left = 60; left && !model; left--) {
    [model] = await vscode.lm.selectChatModels({ vendor: "underkeel" });
    if (!model) await new Promise((resolve) => setTimeout(resolve, 500));
  }
  if (!model) {
    const models = vscode.commands.executeCommand("underkeel.models", { urgent: true });
    throw new Error(`No model; the server's are ${JSON.stringify(await models)}`);
  }
  const { name, vendor, maxInputTokens, capabilities } = model;
  const seen = { name, vendor, maxInputTokens, tools: capabilities?.supportsToolCalling };
  const { User, Assistant } = vscode.LanguageModelChatMessage;
  const question = User("What is the weather in Paris?");
  seen.count = [await model.countTokens("kiel"), await model.countTokens(question)];

  const pieces = [];
  for await (const piece of (await model.sendRequest([question])).text) pieces.push(piece);
  seen.text = pieces;

  const inputSchema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
  const tools = [{ name: "weather", description: "The weather of a city", inputSchema }];
  const calls = [];
  for await (const part of (await model.sendRequest([question], { tools })).stream) {
    if (part instanceof vscode.LanguageModelToolCallPart) calls.push(part);
  }
  seen.calls = calls.map(({ callId, name, input }) => ({ callId, name, input }));
  const weather = [new vscode.LanguageModelTextPart("18 degrees, rain")];
  const result = new vscode.LanguageModelToolResultPart(calls[0].callId, weather);
  const turns = [question, Assistant(calls), User([result])];
  seen.answer = "";
  for await (const piece of (await model.sendRequest(turns, { tools })).text) seen.answer += piece;

  try {
    for await (const _ of (await model.sendRequest([User("x".repeat(40000))])).text);
  } catch (error) {
    seen.refused = error.message;
  }
  // This version of VS Code passes a cancellation on until the answer has started, not later.
  const cancel = new vscode.CancellationTokenSource();
  const request = model.sendRequest([question], {}, cancel.token);
  cancel.cancel();
  seen.afterCancel = "";
  try {
    for await (const piece of (await request).text) seen.afterCancel += piece;
  } catch (error) {
    seen.cancelled = String(error);
  }
  return seen;
}

exports.activate = (context) => {
  context.subscriptions.push(vscode.commands.registerCommand("test.useModel", async () => {
    const seen = await use().catch((error) => ({ problem: String(error.stack) }));
    const folder = vscode.workspace.workspaceFolders[0].uri.fsPath;
    writeFileSync(join(folder, "seen.tmp"), JSON.stringify(seen));
    renameSync(join(folder, "seen.tmp"), join(folder, "seen.json"));
  }));
};
