// The page that browser.mjs opens: npm @modelcontextprotocol/client in a browser, straight at the gate.

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const [url, key, ...steps] = JSON.parse(decodeURIComponent(location.hash.slice(1)));
const headers = { authorization: `Bearer ${key}` };
const shown = (error) => ({ error: { type: error.constructor.name, status: error.status, message: error.message } });
// What a script can read of an answer is what the browser lets it.
const read = async (key, message) => {
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json", accept: "application/json, text/event-stream", "mcp-param-x": "1" };
  const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(message) });
  return { status: answer.status, headers: Object.fromEntries(answer.headers), body: await answer.json() };
};
const answers = [];
try {
  const client = new Client({ name: "browser", version: "1" });
  await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }));
  for (const [what, name, args] of steps) {
    const asked = what === "list" ? client.listTools() : client.callTool({ name, arguments: args });
    answers.push(await asked.catch(shown));
  }
  await client.close();
  const call = { jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: "search", arguments: { query: "x" } } };
  answers.push(await read("wrong", call), await read(key, call));
  let last;
  do last = await read(key, call);
  while (last.status === 200);
  answers.push(last);
} catch (error) {
  answers.push(shown(error));
}
await fetch("/result", { method: "POST", body: JSON.stringify(answers) });
