// A person with the Inspector's page (the one that calls servers from the browser itself) in a real Chromium:
// connects, lists the tools, runs some, and prints what the page shows.
//
//     inspector.mjs PROFILE URL STEP...
//
// PROFILE is an empty directory for the browser; a step is `["list"]` or `["call", NAME, ARGUMENTS]`.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { chromium } from "playwright-core";

const [profile, url, ...steps] = process.argv.slice(1);
const files = join(process.cwd(), "node_modules/@modelcontextprotocol/inspector-client/dist");
const types = { ".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml" };
const server = createServer(async (request, response) => {
  const path = normalize(new URL(request.url, "http://page").pathname);
  const file = join(files, path === "/" ? "index.html" : path);
  try {
    const body = await readFile(file);
    response.setHeader("content-type", types[extname(file)] ?? "application/octet-stream");
    response.end(body);
  } catch {
    response.writeHead(404).end();
  }
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));

const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-proxy-server",
  ],
});
// What a person chooses and types before the first click.
const chosen = {
  lastConnectionType: "direct",
  lastTransportType: "streamable-http",
  lastSseUrl: url,
  lastCustomHeaders: JSON.stringify([
    { name: "Authorization", value: `Bearer ${process.env.AGENTRELAY_API_KEY}`, enabled: true },
  ]),
};
await browser.addInitScript((chosen) => Object.entries(chosen).forEach(([name, value]) => localStorage.setItem(name, value)), chosen);
const page = browser.pages()[0] ?? (await browser.newPage());
page.setDefaultTimeout(20_000);
const shown = [];
try {
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  await page.getByRole("button", { name: "Connect", exact: true }).click();
  await page.getByText("Connected", { exact: true }).waitFor();
  await page.getByRole("tab", { name: "Tools" }).click();
  const panel = page.getByRole("tabpanel", { name: "Tools" });
  for (const [what, name, values] of steps.map((step) => JSON.parse(step))) {
    if (what === "list") {
      await panel.getByRole("button", { name: "List Tools" }).click();
      await panel.getByText("search", { exact: true }).waitFor();
    } else {
      await panel.getByText(name, { exact: true }).first().click();
      for (const [field, value] of Object.entries(values)) await panel.locator(`[id="${field}"]`).fill(value);
      await panel.getByRole("button", { name: "Run Tool" }).click();
      await panel.getByRole("heading", { name: /Tool Result/ }).or(page.getByText(/MCP error/).first()).first().waitFor();
    }
    shown.push(await panel.innerText());
  }
} catch (error) {
  shown.push(`${error}\n${await page.locator("body").innerText()}`);
}
console.log(JSON.stringify(shown));
await browser.close();
process.exit();
