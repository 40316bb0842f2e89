// A real browser as client: opens browser_page.mjs in Chromium, and prints what it says.
//
//     browser.mjs PAGE PROFILE URL STEP...
//
// PAGE is that file, PROFILE an empty directory for the browser; the rest is as in typescript_v1.mjs.

import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { rolldown } from "rolldown";

const [page, profile, url, ...steps] = process.argv.slice(1);
const entry = join(process.cwd(), "page.mjs");
const source = {
  name: "page",
  resolveId: (id) => (id === "page" ? entry : null),
  load: (id) => (id === entry ? readFileSync(page, "utf8") : null),
};
const bundle = await rolldown({ input: "page", plugins: [source], platform: "browser", logLevel: "silent" });
const { output } = await bundle.generate({ format: "esm" });
const script = output[0].code;

const server = createServer((request, response) => {
  if (request.url === "/result") {
    let said = "";
    request.on("data", (chunk) => (said += chunk)).on("end", () => finish(said));
  } else {
    const isScript = request.url === "/page.js";
    response.setHeader("content-type", isScript ? "text/javascript" : "text/html");
    response.end(isScript ? script : '<!doctype html><script type="module" src="/page.js"></script>');
  }
});
server.listen(0, "127.0.0.1", () => {
  const asked = encodeURIComponent(JSON.stringify([url, process.env.AGENTRELAY_API_KEY, ...steps.map((step) => JSON.parse(step))]));
  const options = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-proxy-server", `--user-data-dir=${profile}`,
  ];
  const address = `http://127.0.0.1:${server.address().port}/#${asked}`;
  browser = spawn(process.env.CHROMIUM ?? "chromium", [...options, address], { stdio: "ignore" });
  browser.on("error", (error) => finish(JSON.stringify([{ error: { message: error.message } }])));
});
let browser;
function finish(said) {
  console.log(said);
  browser.kill();
  process.exit();
}
