// What is done in the browser. See main.rs.
import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import assert from "node:assert/strict";

const plan = JSON.parse(fs.readFileSync(process.argv[2], "utf8"));
const require = createRequire(path.join(process.env.MODULES, "package.json"));
const { chromium } = require("playwright-core");
const axe = fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const base = plan.url.replace(/\/$/, "");
const point = (name) => `${base}/r/default/vms/web01/points/${name}`;
const files = (of, where) => `${point(of)}/files?path=${encodeURIComponent(where)}`;
const bytes = (hex) => Buffer.from(hex, "hex");
const percent = (name) => [...name].map((byte) => `%${byte.toString(16).padStart(2, "0")}`).join("");
fs.mkdirSync(plan.downloads, { recursive: true });

const browser = await chromium.launch({
  executablePath: plan.browser,
  headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const problems = [];
const said = (text) => console.log(`  ${text}`);

// A browser of its own, in which nothing may go wrong but what is named in `page.expected`.
async function open(options = {}) {
  const context = await browser.newContext({ ignoreHTTPSErrors: plan.part === "tls", acceptDownloads: true, ...options });
  await context.grantPermissions(["clipboard-read", "clipboard-write"]).catch(() => {});
  await context.addInitScript(() => {
    addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective} ${event.blockedURI}`));
  });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  page.expected = [];
  const note = (text) => {
    if (!page.expected.some((expected) => text.includes(expected))) problems.push(`${page.url()}: ${text}`);
  };
  page.on("console", (message) => { if (["error", "warning"].includes(message.type())) note(message.text()); });
  page.on("pageerror", (error) => note(`error: ${error.message}`));
  page.on("dialog", (dialog) => { note(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on("response", (response) => {
    const host = new URL(response.url()).host;
    if (host && host !== new URL(base).host) note(`a foreign host: ${response.url()}`);
    if (response.status() >= 400) note(`status ${response.status()} of ${response.url()}`);
  });
  page.on("requestfailed", (request) => {
    const failure = request.failure()?.errorText ?? "";
    // A page that is left ends its events and what it was fetching; a download leaves the page.
    if (failure !== "net::ERR_ABORTED") note(`failed: ${request.url()} ${failure}`);
  });
  return page;
}

// What axe-core finds.
async function judge(page, name) {
  await page.evaluate(axe);
  const result = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  for (const violation of result.violations) {
    const where = violation.nodes.slice(0, 3).map((node) => `${node.target} ${node.failureSummary}`).join("; ");
    problems.push(`${name}: axe: ${violation.id}: ${violation.help}: ${where}`);
  }
}

// A page as it is: by the rules of accessibility, and never wider than its window.
async function check(page, name, { rules = true } = {}) {
  if (rules) await judge(page, name);
  const wide = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  if (wide[0] > wide[1]) problems.push(`${name}: scrolls to the side: ${wide}`);
  if (plan.shots) {
    fs.mkdirSync(plan.shots, { recursive: true });
    await page.screenshot({ path: path.join(plan.shots, `${name}.png`), fullPage: true });
  }
}

async function enter(page, secret) {
  await page.goto(`${base}/login`);
  await page.getByLabel("Code or token").fill(secret);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.waitForURL(`${base}/`);
}

async function save(page, act) {
  const [download] = await Promise.all([page.waitForEvent("download"), act()]);
  const to = path.join(plan.downloads, `${Math.random().toString(16).slice(2)}-${download.suggestedFilename()}`);
  await download.saveAs(to);
  return { to, name: download.suggestedFilename() };
}

const run = (program, ...words) => execFileSync(program, words, { encoding: "buffer", maxBuffer: 1 << 28 });
function restorefs(...words) {
  const env = { ...process.env, RESTOREFS_REPO: path.join(plan.directory, "repo"), RESTOREFS_RUNTIME_DIR: plan.directory, RESTOREFS_CONFIG_DIR: plan.directory };
  return execFileSync(plan.program, words, { cwd: plan.directory, env, encoding: "utf8" });
}

// Names and contents in an archive are those of the guest, byte for byte.
function same(to, format) {
  const into = fs.mkdtempSync(path.join(plan.downloads, "out-"));
  if (format === "zip") {
    run("unzip", "-tqq", to);
    return;
  }
  run("tar", "--zstd", "-xf", to, "-C", into);
  const found = fs.readdirSync(into, { recursive: true, encoding: "buffer", withFileTypes: true });
  for (const { hex, content } of plan.names) {
    const one = found.find((entry) => entry.name.equals(bytes(hex)));
    assert.ok(one, `the archive lacks ${hex}`);
    const parent = Buffer.isBuffer(one.parentPath) ? one.parentPath : Buffer.from(one.parentPath);
    assert.ok(fs.readFileSync(Buffer.concat([parent, Buffer.from("/"), one.name])).equals(bytes(content)), hex);
  }
}

// The rules look at each page once in light and narrow, once in dark and wide.
const looks = [];
for (const scheme of ["light", "dark"]) {
  for (const width of [320, 800, 1400]) looks.push({ scheme, width, rules: width === (scheme === "light" ? 320 : 1400) });
}

// Every page in every look.
async function everything(page, name) {
  const pages = {
    overview: `${base}/`,
    vm: `${base}/r/default/vms/web01`,
    bare: `${base}/r/default/vms/bare`,
    point: point("monday"),
    files: files("monday", "/files"),
    names: files("monday", "/files/srv/names"),
    many: `${files("monday", "/files/srv/many")}&page=2&sort=size&order=desc`,
    text: files("monday", "/files/etc/passwd"),
    picture: files("monday", "/files/srv/pictures/dot.png"),
    jobs: `${base}/jobs`,
  };
  for (const { scheme, width, rules } of looks) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize({ width, height: 900 });
    for (const [which, address] of Object.entries(pages)) {
      await page.goto(address);
      assert.equal(await page.locator("h1").count(), 1, `${which}: one heading of the first level`);
      await check(page, `${name}-${which}-${width}-${scheme}`, { rules });
    }
  }
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1200, height: 900 });
}

const steps = {
  plain: {
    "a page leads to the login, and the login back": async () => {
      const page = await open();
      await page.goto(`${base}/r/default/vms/web01?month=2026-01`);
      assert.ok(page.url().startsWith(`${base}/login?next=`), page.url());
      for (const { scheme, width, rules } of looks) {
        await page.emulateMedia({ colorScheme: scheme });
        await page.setViewportSize({ width, height: 700 });
        await check(page, `login-${width}-${scheme}`, { rules });
      }
      page.expected = ["status 401", "status of 401"];
      await page.getByLabel("Code or token").fill("this is none");
      await page.getByRole("button", { name: "Log in" }).click();
      await page.getByRole("alert").waitFor();
      await check(page, "login-refused");
      await page.getByLabel("Code or token").fill(plan.token);
      await page.getByRole("button", { name: "Log in" }).click();
      await page.waitForURL(`${base}/r/default/vms/web01?month=2026-01`);
      await page.getByRole("button", { name: "Log out" }).click();
      await page.waitForURL(`${base}/login`);
      await page.goto(`${base}/jobs`);
      assert.ok(page.url().includes("/login?next="), "the session has ended");
      await page.context().close();
    },
    "a code behind the # logs in once": async (state) => {
      const page = await open();
      await page.goto(plan.login);
      await page.waitForURL(`${base}/`);
      await page.getByRole("heading", { name: "Overview" }).waitFor();
      const cookie = (await page.context().cookies()).find((one) => one.name === "restorefs");
      assert.ok(cookie.httpOnly && cookie.sameSite === "Strict", JSON.stringify(cookie));
      const other = await open();
      other.expected = ["status 401", "status of 401"];
      await other.goto(plan.login);
      await other.getByRole("alert").waitFor();
      await other.context().close();
      state.page = page;
    },
    "every page is well in every look": async ({ page }) => {
      await everything(page, "page");
      page.expected = ["status 404", "status of 404"];
      await page.goto(`${base}/r/default/vms/nobody`);
      await page.getByText("there is no VM nobody").waitFor();
      await check(page, "failure");
      page.expected = [];
    },
    "from the overview to a file by links": async ({ page }) => {
      await page.goto(base);
      await page.getByRole("link", { name: "web01", exact: true }).first().click();
      await page.getByRole("table", { name: "Restore points" }).getByRole("link", { name: "monday" }).click();
      await page.getByText("reason=before the move").waitFor();
      assert.equal((await save(page, () => page.getByRole("link", { name: "domain.xml" }).click())).name, "domain.xml");
      await page.getByRole("link", { name: "Browse files" }).click();
      await page.getByRole("link", { name: "etc/" }).click();
      await page.getByRole("link", { name: "passwd", exact: true }).click();
      await page.getByText("root:x:0:0:root:/root:/bin/sh").waitFor();
      const { to, name } = await save(page, () => page.getByRole("link", { name: "Download", exact: true }).click());
      assert.equal(name, "passwd");
      assert.equal(fs.readFileSync(to, "utf8"), "root:x:0:0:root:/root:/bin/sh\n");
    },
    "pictures are shown, what pretends to be one is not": async ({ page }) => {
      await page.goto(files("monday", "/files/srv/pictures/dot.png"));
      const picture = page.locator("img.preview");
      await picture.waitFor();
      assert.equal(await picture.evaluate((image) => image.decode().then(() => image.naturalWidth)), 2);
      await page.goto(files("monday", "/files/srv/pictures/lie.png"));
      assert.equal(await page.locator("img.preview").count(), 0);
      await page.getByText("<svg onload=alert(1)>").waitFor();
      const answer = await page.request.get(`${point("monday")}/preview?path=${encodeURIComponent("/files/srv/pictures/dot.png")}`);
      const headers = answer.headers();
      assert.equal(headers["content-type"], "image/png");
      assert.equal(headers["x-content-type-options"], "nosniff");
      assert.ok(headers["content-security-policy"].includes("sandbox"));
      const lie = await page.request.get(`${point("monday")}/preview?path=${encodeURIComponent("/files/srv/names/x.html")}`);
      assert.ok(lie.headers()["content-type"].startsWith("text/plain"));
    },
    "hostile names are shown and lead to their files": async ({ page }) => {
      await page.goto(files("monday", "/files/srv/names"));
      const html = await page.content();
      assert.ok(!html.includes("\u202e") && !html.includes("\x1b"), "what cannot be seen is spelled");
      for (const spelled of ["U+202E", "\\x1b", "\\xff", "\\x0d"]) await page.locator("span.strange", { hasText: spelled }).first().waitFor();
      for (const { hex, content } of plan.names) {
        await page.goto(files("monday", "/files/srv/names"));
        const address = await page.locator("a[data-name]").evaluateAll((links) => links.map((link) => link.getAttribute("href")));
        const wanted = percent(bytes(hex)).toLowerCase();
        const href = address.find((one) => percent(decode(one.split("path=")[1])).endsWith(wanted));
        assert.ok(href, `no link for ${hex}`);
        await page.goto(base + href);
        const { to } = await save(page, () => page.getByRole("link", { name: "Download", exact: true }).click());
        assert.ok(fs.readFileSync(to).equals(bytes(content)), hex);
      }
    },
    "the same place in another point": async ({ page }) => {
      await page.goto(files("monday", "/files/srv/old/inner"));
      await page.getByLabel("Restore point").selectOption("tuesday");
      await page.getByRole("button", { name: "Show this path there" }).click();
      await page.getByRole("heading", { name: "inner" }).waitFor();
      assert.equal(page.url().split("/files?")[0], point("tuesday"));
      await page.getByLabel("Restore point").selectOption("wednesday");
      await page.getByRole("button", { name: "Show this path there" }).click();
      await page.getByText("does not exist in this restore point").waitFor();
      await page.getByRole("heading", { name: "srv" }).waitFor();
      await check(page, "switched");
    },
    "archives have progress and every byte": async ({ page }) => {
      for (const format of ["zip", "tar.zst"]) {
        await page.goto(files("monday", "/files/srv/names"));
        const boxes = await page.getByRole("checkbox").all();
        assert.equal(boxes.length, plan.names.length);
        for (const box of boxes) await box.check();
        const { to, name } = await save(page, () => page.getByRole("button", { name: format, exact: true }).click());
        assert.equal(name, `web01-monday.${format}`);
        same(to, format);
        await page.locator("[data-told]", { hasText: "whole" }).waitFor();
      }
      await page.goto(files("monday", "/files/srv"));
      await page.getByLabel("Select old", { exact: true }).check();
      const { to } = await save(page, () => page.getByRole("button", { name: "zip", exact: true }).click());
      assert.ok(run("unzip", "-l", to).toString().includes("old/inner/file"));
      assert.ok(!run("unzip", "-l", to).toString().includes("names/"));
    },
    "keys": async ({ page }) => {
      await page.goto(files("monday", "/files"));
      await page.keyboard.press("ArrowDown");
      assert.equal(await page.evaluate(() => document.activeElement.textContent), "etc/");
      await page.keyboard.press("Space");
      assert.ok(await page.getByLabel("Select etc").isChecked());
      await page.keyboard.press("Enter");
      await page.getByRole("heading", { name: "etc" }).waitFor();
      await page.keyboard.press("Backspace");
      await page.getByRole("heading", { name: "files" }).waitFor();
      await page.keyboard.press("/");
      await page.keyboard.type("SR");
      assert.equal(await page.locator("a[data-name]:visible").count(), 1);
      await page.keyboard.press("ArrowDown");
      await page.keyboard.press("Enter");
      await page.getByRole("heading", { name: "srv" }).waitFor();
      // The first stop of the keyboard is the way past the navigation.
      await page.goto(base);
      await page.keyboard.press("Tab");
      await page.keyboard.press("Enter");
      assert.equal(await page.evaluate(() => document.activeElement.id), "content");
    },
    "large directories have pages, orders and a filter": async ({ page }) => {
      await page.goto(files("monday", "/files/srv/many"));
      await page.getByText("1203 entries, page 1 of 3").waitFor();
      await page.getByRole("link", { name: "Next page" }).click();
      await page.getByText("page 2 of 3").waitFor();
      assert.equal(await page.locator("a[data-name]").first().textContent(), "entry-00500");
      await page.getByRole("columnheader", { name: "Name" }).getByRole("link").click();
      await page.getByText("page 1 of 3").waitFor();
      assert.equal(await page.locator("a[data-name]").first().textContent(), "entry-01202");
      await page.getByLabel("Name has").fill("120");
      await page.getByRole("button", { name: "Filter" }).click();
      await page.getByText("5 entries").waitFor();
    },
    "commands are copied": async ({ page }) => {
      await page.goto(point("monday"));
      await page.getByRole("button", { name: /Copy: .*restore web01@monday vda vda.raw/ }).click();
      await page.getByText("Copied").waitFor();
      assert.ok((await page.evaluate(() => navigator.clipboard.readText())).endsWith("restore web01@monday vda vda.raw"));
    },
    "a job appears by itself, and may not be cancelled here": async ({ page }) => {
      await page.goto(`${base}/jobs`);
      await page.getByText("Nothing is running.").waitFor();
      restorefs("begin", "db01", "vda=64M");
      await page.getByRole("link", { name: "db01" }).first().waitFor();
      assert.equal(await page.getByRole("button", { name: /Cancel/ }).count(), 0);
      await page.locator("[data-live-told]", { hasText: "1 job" }).waitFor({ state: "attached" });
      await check(page, "jobs-live");
    },
    "too many downloads at once are refused politely": async ({ page }) => {
      const [{ name, value }] = await page.context().cookies();
      // Two that take nothing hold their places.
      const hold = () => new Promise((resolve) => {
        http.get(`${base}/r/default/vms/large/points/only/disks/vda`, { headers: { Cookie: `${name}=${value}` } }, (answer) => resolve(answer.pause()));
      });
      const held = [await hold(), await hold()];
      assert.deepEqual(held.map((one) => one.statusCode), [200, 200]);
      page.expected = ["status 429", "status of 429"];
      // A file that the browser does not have yet: asking whether it is still the same takes no place.
      const answer = await page.goto(`${point("monday")}/download?path=${encodeURIComponent("/files/etc/os-release")}`);
      assert.equal(answer.status(), 429);
      await page.getByText("has 2 downloads already").waitFor();
      await check(page, "limit");
      // The script of a directory reports it where the archive was asked for.
      await page.goto(files("monday", "/files/etc"));
      await page.getByRole("button", { name: "zip", exact: true }).click();
      await page.locator("[data-told]", { hasText: "has 2 downloads already" }).waitFor();
      page.expected = [];
      for (const one of held) one.destroy();
    },
    "who may only read sees names": async () => {
      const page = await open();
      await enter(page, plan.reader);
      await page.goto(files("monday", "/files/etc/passwd"));
      await page.getByText("You may see names here").waitFor();
      assert.equal(await page.getByRole("link", { name: "Download" }).count(), 0);
      await page.goto(files("monday", "/files/etc"));
      assert.equal(await page.getByRole("checkbox").count(), 0);
      await check(page, "reader");
      await page.context().close();
    },
    "everything without a script": async () => {
      const page = await open({ javaScriptEnabled: false, viewport: { width: 1000, height: 800 } });
      await enter(page, plan.token);
      await page.getByRole("link", { name: "web01", exact: true }).first().click();
      await page.getByRole("table", { name: "Restore points" }).getByRole("link", { name: "monday" }).click();
      await page.getByRole("link", { name: "Browse files" }).click();
      await page.getByRole("link", { name: "srv/" }).click();
      await page.getByRole("link", { name: "names/" }).click();
      await page.getByText("U+202E").first().waitFor();
      for (const format of ["zip", "tar.zst"]) {
        for (const box of await page.getByRole("checkbox").all()) await box.check();
        const { to } = await save(page, () => page.getByRole("button", { name: format, exact: true }).click());
        same(to, format);
      }
      await page.getByLabel("Name has").fill("plus + and");
      await page.getByRole("button", { name: "Filter" }).click();
      await page.getByText("1 entry").waitFor();
      await page.getByLabel("Restore point").selectOption("tuesday");
      await page.getByRole("button", { name: "Show this path there" }).click();
      await page.getByRole("heading", { name: "names" }).waitFor();
      await page.goto(files("monday", "/files/etc/passwd"));
      await page.getByText("root:x:0:0").waitFor();
      await page.goto(files("monday", "/files/srv/pictures/dot.png"));
      await page.locator("img.preview").waitFor();
      await page.goto(`${base}/jobs?state=failed`);
      await page.getByRole("table").getByRole("link", { name: "restore" }).first().click();
      await page.getByRole("heading", { name: "Log" }).waitFor();
      await page.getByRole("button", { name: "Log out" }).click();
      await page.waitForURL(`${base}/login`);
      await page.context().close();
    },
  },
  tls: {
    "a job is cancelled": async () => {
      const page = await open();
      await enter(page, plan.token);
      const cookie = (await page.context().cookies()).find((one) => one.name === "__Host-restorefs");
      assert.ok(cookie.secure && cookie.httpOnly, JSON.stringify(cookie));
      restorefs("begin", "db02", "vda=64M");
      await page.goto(`${base}/jobs`);
      await check(page, "tls-jobs");
      await page.getByRole("listitem").filter({ hasText: "db02" }).getByRole("button", { name: /Cancel/ }).click();
      await page.getByText("cancelled").first().waitFor();
      await check(page, "tls-cancelled");
      assert.ok(!restorefs("sessions").includes("db02"));
      await page.context().close();
    },
    "a job is cancelled without a script": async () => {
      const page = await open({ javaScriptEnabled: false });
      await enter(page, plan.token);
      restorefs("begin", "db03", "vda=64M");
      await page.goto(`${base}/jobs`);
      await page.getByRole("listitem").filter({ hasText: "db03" }).getByRole("button", { name: /Cancel/ }).click();
      await page.getByRole("heading", { name: "Job: ingest" }).waitFor();
      await page.reload();
      await page.getByText("cancelled").first().waitFor();
      await page.context().close();
    },
  },
};

function decode(text) {
  const whole = [];
  for (let at = 0; at < text.length && text[at] !== "&"; at += 1) {
    if (text[at] === "%") {
      whole.push(Number.parseInt(text.slice(at + 1, at + 3), 16));
      at += 2;
    } else whole.push(text.charCodeAt(at));
  }
  return Buffer.from(whole);
}

let failed = false;
let told = 0;
const state = {};
try {
  for (const [name, step] of Object.entries(steps[plan.part])) {
    if (process.env.ONLY && !name.includes(process.env.ONLY) && !name.includes("logs in once")) continue;
    const before = problems.length;
    const begun = Date.now();
    await step(state);
    const own = problems.slice(before);
    told = problems.length;
    for (const problem of own) said(problem);
    said(`${own.length ? "NOT WELL" : "well"}: ${name} (${Date.now() - begun} ms)`);
  }
} catch (error) {
  failed = true;
  for (const problem of problems.slice(told)) said(problem);
  console.log(error);
  if (state.page && plan.shots) await state.page.screenshot({ path: path.join(plan.shots, "failed.png"), fullPage: true }).catch(() => {});
} finally {
  await browser.close();
}
process.exit(failed || problems.length ? 1 : 0);
