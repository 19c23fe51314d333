// Drives a real VS Code in a real browser through one session, and prints what it saw as JSON.
//
// usage: node drive.mjs PLAN.json
//
// The plan names the installation, the folders, and the steps; see `steps` below for what a step can be. Each step's
// observation is printed under the step's name. A step that fails ends the session: the error and a picture of the
// screen are what is left.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { join } from "node:path";

const plan = JSON.parse(readFileSync(process.argv[2], "utf8"));
const { chromium } = createRequire(join(plan.installation, "package.json"))("playwright-core");
const PATIENCE_MS = Number(process.env.PATIENCE_MS ?? 120_000);

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

function serverArguments(...more) {
  const main = join(plan.installation, "node_modules/code-server/lib/vscode/out/server-main.js");
  const folders = ["extensions", "user-data", "server-data"].flatMap((kind) => [`--${kind}-dir`, join(plan.home, kind)]);
  return [main, "--accept-server-license-terms", ...folders, ...more];
}

/** Run VS Code's server once for a job of its command line. */
async function serverJob(...args) {
  const child = spawn(process.execPath, serverArguments(...args), { env: plan.environment, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  child.stdout.on("data", (text) => (output += text));
  child.stderr.on("data", (text) => (output += text));
  const code = await new Promise((resolve) => child.once("close", resolve));
  if (code !== 0) throw new Error(`VS Code's server ended with ${code}: ${output}`);
  return output.trim();
}

async function startServer() {
  const port = await freePort();
  const trust = plan.trusted ? ["--disable-workspace-trust"] : [];
  const child = spawn(
    process.execPath,
    serverArguments("--host", "127.0.0.1", "--port", String(port), "--without-connection-token", ...trust),
    { env: plan.environment, stdio: ["ignore", "pipe", "pipe"], detached: true },
  );
  await new Promise((resolve, reject) => {
    let output = "";
    const onData = (text) => {
      output += text;
      if (/listening on/i.test(output)) resolve();
    };
    child.stdout.on("data", onData);
    child.stderr.on("data", onData);
    child.once("close", (code) => reject(new Error(`VS Code's server ended with ${code}: ${output}`)));
  });
  return { child, url: `http://127.0.0.1:${port}/?folder=${encodeURIComponent(plan.workspace)}` };
}

/** What a step can be; each takes the page and the step's arguments and returns its observation. */
const steps = {
  open: async (page, { file }) => {
    await command(page, file, "Control+P");
    await page.locator(`.tab[data-resource-name="${file}"]`).waitFor();
    await page.locator(".view-lines").first().click();
  },
  keys: async (page, { keys }) => {
    for (const key of keys) await page.keyboard.press(key);
  },
  type: async (page, { text }) => page.keyboard.type(text, { delay: 40 }),
  /** Take the last key back and press it again, now and then, until an element shows: the server may still start. */
  insist: async (page, { key, selector }) => {
    const end = Date.now() + PATIENCE_MS;
    const found = page.locator(selector).first();
    while (!(await found.waitFor({ timeout: 15_000 }).then(() => true, () => false))) {
      if (Date.now() > end) throw new Error(`insisted in vain on ${selector}`);
      await page.keyboard.press("Backspace");
      await page.keyboard.press(key);
    }
  },
  command: (page, { title }) => command(page, `>${title}`),
  click: async (page, { selector }) => page.locator(selector).first().click(),
  hover: async (page, { selector, shows }) => {
    await page.locator(selector).first().hover();
    const hover = page.locator(shows).first();
    await hover.waitFor();
    return (await hover.innerText()).split("\n").filter((line) => line.trim() !== "");
  },
  /** Wait for an element with this text, and return the whole of it. */
  see: async (page, { selector, text }) => {
    const found = page.locator(selector).filter(text ? { hasText: text } : {}).first();
    await found.waitFor();
    return clean(await found.innerText());
  },
  gone: async (page, { selector }) => page.locator(selector).first().waitFor({ state: "detached" }),
  /** Wait until the language server has got messages of a method, the last of them with this text in it. */
  heard: async (page, { method, text = "", times = 1 }) => {
    await until(`${times} ${method} with ${text}`, () => {
      const heard = log().filter((message) => message.method === method);
      return heard.length >= times && JSON.stringify(heard.at(-1)).includes(text);
    });
  },
  /** Wait until the document that was changed last holds exactly this text. */
  document: async (page, { text }) => {
    let now;
    await until(`the document ${JSON.stringify(text)}`, () => {
      const changes = log().filter(({ method }) => method === "textDocument/didChange");
      now = changes.at(-1)?.params.contentChanges.at(-1).text;
      return now === text;
    }, () => `it is ${JSON.stringify(now)}`);
  },
  /** Wait until the workspace has a file, and return what it holds as JSON. */
  file: async (page, { file }) => {
    const path = join(plan.workspace, file);
    await until(`the file ${file}`, () => existsSync(path));
    return JSON.parse(readFileSync(path, "utf8"));
  },
  /** Make an empty file, which something waits for. */
  touch: async (page, { file }) => writeFileSync(join(plan.home, file), ""),
  /** Wait until the user's settings say so. */
  setting: async (page, { name, value }) => {
    const path = join(plan.home, "user-data", "User", "settings.json");
    await until(`${name} = ${value}`, () => JSON.parse(readFileSync(path, "utf8"))[name] === value);
  },
  /** Wait for a notification with this text, press one of its buttons if asked to, and return what it says. */
  toast: async (page, { text, button }) => {
    const toast = page.locator(".notification-toast", { hasText: text }).first();
    await toast.waitFor();
    const said = clean(await toast.innerText());
    if (button !== undefined) await toast.locator(".monaco-button", { hasText: button }).click();
    return said;
  },
  /** Press a button of the dialog that is open. */
  dialog: async (page, { text, button }) => {
    const dialog = page.locator(".monaco-dialog-box", { hasText: text });
    await dialog.waitFor();
    const said = clean(await dialog.innerText());
    await dialog.locator(".monaco-button", { hasText: button }).first().click();
    return said;
  },
  /** Wait for a row of the quick pick, and choose it; returns all rows. */
  pick: async (page, { text }) => {
    const row = page.locator(".quick-input-list .monaco-list-row", { hasText: text }).first();
    await row.waitFor();
    const rows = await page.locator(".quick-input-list .monaco-list-row").allInnerTexts();
    await row.click();
    return rows.map(clean);
  },
  /** Fill the input box that is open. */
  answer: async (page, { text }) => {
    const input = page.locator(".quick-input-widget input").first();
    await input.waitFor();
    await input.fill(text);
    await input.press("Enter");
  },
  /** How many elements a webview's page has of this kind. */
  countInWebview: async (page, { selector }) => webview(page).locator(selector).count(),
  drag: async (page, { from, to }) => {
    await page.mouse.move(...from);
    await page.mouse.down();
    await page.mouse.move(...to, { steps: 5 });
    await page.mouse.up();
  },
  count: async (page, { selector }) => page.locator(selector).count(),
  /** The lines of the first editor, once it has done painting. */
  lines: async (page) => {
    let lines, before;
    await until("the lines to stand still", async () => {
      await page.waitForTimeout(150);
      before = JSON.stringify(lines);
      lines = await page.locator(".editor-instance .view-line").evaluateAll((found) =>
        found.map((line) => [line.getBoundingClientRect().top, line.textContent]),
      );
      return JSON.stringify(lines) === before;
    });
    return lines.sort((a, b) => a[0] - b[0]).map(([, text]) => clean(text));
  },
  /** Wait for text inside a webview, and return its page's main text. */
  webview: async (page, { text, selector = "main" }) => {
    const found = webview(page).locator(selector, { hasText: text }).first();
    await found.waitFor();
    return clean(await found.innerText());
  },
  inWebview: async (page, { selector, fill, press }) => {
    const found = webview(page).locator(selector);
    if (fill !== undefined) await found.fill(fill);
    if (press !== undefined) await found.press(press);
    if (fill === undefined && press === undefined) await found.click();
  },
  /** Wait for an element with this text, and return the text of all like it. */
  all: async (page, { selector, text }) => {
    await page.locator(selector).filter({ hasText: text }).first().waitFor();
    return clean((await page.locator(selector).allInnerTexts()).join(""));
  },
  /** Wait for the text of decorations beside the code, and return the text of all of them. */
  beside: async (page, { text }) => {
    let now = [];
    await until(`${text} beside the code`, async () => {
      now = await page.locator(".editor-instance .view-line span[class*=ced-]").evaluateAll((found) =>
        found.flatMap((one) => ["::before", "::after"].map((side) => getComputedStyle(one, side).content)),
      );
      now = now.filter((content) => content.startsWith('"')).map((content) => clean(content.slice(1, -1)));
      return now.some((content) => content.includes(text));
    }, () => JSON.stringify(now));
    return now;
  },
  /** Save, and wait until the file in the workspace holds exactly this text. */
  saved: async (page, { file, text }) => {
    let now;
    await page.keyboard.press("Control+s");
    await until(`${file} to be ${JSON.stringify(text)}`, () => {
      now = readFileSync(join(plan.workspace, file), "utf8");
      return now === text;
    }, () => `it is ${JSON.stringify(now)}`);
  },
  /** Let time pass, longer than what must not come would take. */
  pass: async (page, { ms }) => page.waitForTimeout(ms),
  picture: async (page, { file, hovering }) => {
    if (!hovering) await page.mouse.move(700, 1);
    await page.waitForTimeout(300);
    await page.screenshot({ path: join(plan.home, "pictures", file) });
  },
};

const webview = (page) => page.frameLocator("iframe.webview.ready").frameLocator("iframe#active-frame");

/** What the scripted language server has got so far. */
function log() {
  const path = plan.environment.SCRIPTED_LOG;
  if (!existsSync(path)) return [];
  const lines = readFileSync(path, "utf8").split("\n");
  return lines.slice(0, -1).map((line) => JSON.parse(line)); // the last is empty, or not yet whole
}

async function until(what, holds, why = () => "") {
  const end = Date.now() + PATIENCE_MS;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`waited in vain for ${what}; ${why()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const clean = (text) => text.replace(/[\u00a0\u00b7]/g, " ").replace(/[\u200b\u200c]/g, "");

/** Choose what the palette offers for a text. What takes the focus meanwhile closes it: it is opened again then. */
async function command(page, text, key = "F1") {
  const input = page.locator(".quick-input-widget input").first();
  const row = page.locator(".quick-input-list .monaco-list-row", { hasText: text.replace(/^>/, "") }).first();
  for (let left = 8; ; left--) {
    try {
      await page.keyboard.press(key);
      await input.fill(text, { timeout: 5000 });
      await row.click({ timeout: 10_000 }); // Enter would go to whatever has the focus by then
      return;
    } catch (error) {
      if (!left) throw error;
    }
  }
}

async function session() {
  mkdirSync(join(plan.home, "pictures"), { recursive: true });
  const seen = { installed: await serverJob(...plan.extensions.flatMap((path) => ["--install-extension", path])) };
  const { child, url } = await startServer();
  const browser = await chromium.launch({
    executablePath: plan.chromium,
    args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--force-color-profile=srgb"],
  });
  try {
    const page = await browser.newPage({ viewport: { width: 1180, height: 640 } });
    page.setDefaultTimeout(PATIENCE_MS);
    await page.goto(url);
    await page.locator(".monaco-workbench .part.statusbar").waitFor();
    for (const [name, kind, args] of plan.steps) {
      try {
        const value = await steps[kind](page, args ?? {});
        if (value !== undefined) seen[name] = value;
      } catch (error) {
        seen.failed = `${name}: ${error.message}`;
        await page.screenshot({ path: join(plan.home, "pictures", "failed.png") });
        break;
      }
    }
  } finally {
    await browser.close();
    process.kill(-child.pid, "SIGTERM");
  }
  return seen;
}

console.log(JSON.stringify(await session(), null, 1));
process.exit(0);
