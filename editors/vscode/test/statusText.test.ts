import assert from "node:assert/strict";
import test from "node:test";
import type { Status } from "../src/common/protocol";
import { view } from "../src/common/statusText";

const LINKS_LINE =
  "[Memory plan](command:underkeel.showPlan) · [Pick model](command:underkeel.pickModel) · " +
  "[On or off for this language](command:underkeel.toggleLanguage) · [Log](command:underkeel.showLog)";

const full: Status = {
  state: "ready",
  message: "",
  model: "starter-moe",
  budget: { tokens: 512, level: 2, reason: "VRAM is short | 0.5 GiB" },
  vram: { usedBytes: 3 * 2 ** 30, freeBytes: 2 ** 29 },
  kv: { usedTokens: 900, totalTokens: 8192 },
  tokensPerSecond: 21.53,
  cacheHits: 0.873,
  ladder: { rung: "smaller context", gaveUp: "half of the context", reason: "VRAM was short" },
  prompt: { tokens: 498, budgetTokens: 512, cut: ["repository context", "far prefix"] },
};

test("a cut budget shows in the bar, and why in the tooltip", () => {
  const shown = view(full, true);
  assert.equal(shown.text, "$(telescope) Underkeel: 512 tokens");
  assert.equal(shown.severity, "warning");
  assert.equal(
    shown.tooltip,
    [
      "**Underkeel** · ready",
      "",
      "| | |",
      "|:--|:--|",
      "| Model | starter-moe |",
      "| Prompt budget | 512 tokens (level 2) |",
      "| Reason | VRAM is short \\| 0.5 GiB |",
      "| Last prompt | 498 of 512 tokens |",
      "| Omitted | repository context, far prefix |",
      "| Reduced | half of the context: VRAM was short |",
      "| VRAM | 3.0 GiB used, 0.5 GiB free |",
      "| KV cache | 900 of 8192 tokens |",
      "| From cache | 87 % of prompt tokens |",
      "| Speed | 21.5 tokens/s |",
      "",
      LINKS_LINE,
    ].join("\n"),
  );
});

test("what is not known is not shown", () => {
  const shown = view({ state: "ready", message: "", vram: null, budget: null, progress: null }, true);
  assert.deepEqual(shown, {
    text: "$(telescope) Underkeel",
    severity: "none",
    busy: false,
    tooltip: `**Underkeel** · ready\n\n${LINKS_LINE}`,
  });
});

const bars: [Status, boolean, string][] = [
  [{ state: "loading", message: "starter-moe", progress: 0.43 }, true, "$(loading~spin) Underkeel: 43 %"],
  [{ state: "loading", message: "" }, true, "$(loading~spin) Underkeel: loading"],
  [{ state: "starting", message: "" }, true, "$(loading~spin) Underkeel"],
  [{ state: "idle", message: "" }, true, "$(telescope) Underkeel"],
  [{ state: "error", message: "no model" }, false, "$(telescope) Underkeel: error"],
  [full, false, "$(telescope) Underkeel: off"],
  [{ state: "off", message: "" }, true, "$(telescope) Underkeel: off"],
];
for (const [status, enabled, text] of bars) {
  test(`the bar says ${text}`, () => {
    assert.equal(view(status, enabled).text, text);
  });
}

test("foreign text cannot make a link, a table cell or a line", () => {
  const reason = "a|b\n[press](command:workbench.action.quit) <b>";
  const shown = view({ state: "error", message: reason, model: "`m`", budget: { tokens: 1, level: 1, reason } }, true);
  const escaped = "a\\|b \\[press\\](command:workbench.action.quit) \\<b\\>";
  assert.ok(shown.tooltip.includes(`\n\n${escaped}\n\n`));
  assert.ok(shown.tooltip.includes(`| Reason | ${escaped} |`));
  assert.ok(shown.tooltip.includes("| Model | \\`m\\` |"));
});
