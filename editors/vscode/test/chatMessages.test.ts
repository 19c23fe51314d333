import assert from "node:assert/strict";
import test from "node:test";
import { toMessages, toTools } from "../src/common/chatMessages";
import { languageModelApi } from "../src/common/languageModels";

const call = { callId: "c1", name: "weather", input: { city: "Paris" } };
const result = { callId: "c1", content: [{ value: "18 degrees" }, { value: { rain: true } }] };

test("texts, instructions and names of roles", () => {
  assert.deepEqual(toMessages({ role: 1, content: "Hello." }), [{ role: "user", content: "Hello." }]);
  assert.deepEqual(toMessages({ role: 2, content: [{ value: "a" }, { value: "b" }] }), [{ role: "assistant", content: "ab" }]);
  assert.deepEqual(toMessages({ role: 3, content: "Be short." }), [{ role: "system", content: "Be short." }]);
  assert.deepEqual(toMessages({ role: 9, content: [] }), [{ role: "user", content: "" }]);
});

test("a call keeps its id, and its input becomes JSON text", () => {
  assert.deepEqual(toMessages({ role: 2, content: [{ value: "Let me see." }, call] }), [
    {
      role: "assistant",
      content: "Let me see.",
      tool_calls: [{ id: "c1", type: "function", function: { name: "weather", arguments: '{"city":"Paris"}' } }],
    },
  ]);
});

test("each result is a message of its own, before the text beside it", () => {
  const answer = { role: "tool", tool_call_id: "c1", content: '18 degrees{"rain":true}' };
  assert.deepEqual(toMessages({ role: 1, content: [result] }), [answer]);
  assert.deepEqual(toMessages({ role: 1, content: [{ value: "And?" }, result, { ...result, callId: "c2" }] }), [
    answer,
    { ...answer, tool_call_id: "c2" },
    { role: "user", content: "And?" },
  ]);
});

test("data is read where it is text, and marked where it is not", () => {
  const bytes = new TextEncoder().encode('{"a":1}');
  const content = [{ mimeType: "application/json", data: bytes }, { mimeType: "image/png", data: bytes }, {}];
  assert.equal(toMessages({ role: 1, content })[0]?.content, '{"a":1}[image/png, not shown to this model]');
});

test("a tool without a schema takes no arguments", () => {
  assert.deepEqual(toTools([{ name: "now", description: "The time" }]), [
    { type: "function", function: { name: "now", description: "The time", parameters: { type: "object", properties: {} } } },
  ]);
});

test("a version of VS Code without the API, or with a part of it, shows no models", () => {
  const lm = { registerLanguageModelChatProvider: () => ({ dispose: () => undefined }) };
  class Part {
    constructor(readonly value: unknown) {}
  }
  for (const api of [{}, { lm: {} }, { lm }, { lm, LanguageModelTextPart: Part }]) assert.equal(languageModelApi(api), undefined);
  const found = languageModelApi({ lm, LanguageModelTextPart: Part, LanguageModelToolCallPart: Part });
  assert.deepEqual(found?.text("a"), new Part("a"));
});
