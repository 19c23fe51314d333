// Draws a page into a PNG: the element #terminal, on nothing.
//
// usage: node shoot.mjs PLAN.json
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const plan = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { chromium } = createRequire(join(plan.installation, "package.json"))("playwright-core");

const browser = await chromium.launch({
  executablePath: plan.chromium,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--force-color-profile=srgb"],
});
try {
  const page = await browser.newPage({ viewport: { width: 1600, height: 1200 }, deviceScaleFactor: 1.25 });
  await page.setContent(plan.html);
  await page.locator("#terminal").screenshot({ path: plan.path, omitBackground: true });
} finally {
  await browser.close();
}
