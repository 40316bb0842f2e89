// A real MCP server for the tests: npm @modelcontextprotocol/sdk 1.x, with sessions whose streams can be resumed.
//
//     typescript_server.mjs [json] [stateless] [plain] [shared]
//
// The SDK refuses ids that JavaScript can't hold; with `plain` what answers is a server without it, which holds them as it can.
// Each session has its own store of events; with `shared` all have one.
// Listens on a free port of 127.0.0.1 and says which in one line of JSON, {"port": N}. Answers are events; with `json` they
// are not. image_generate of "hold" waits until search of "release" is called, whose answer comes after that one's. In the same
// way both tools wait for search of "release:NAME" if they are called with "wait:NAME" or "fail:NAME", and then the latter
// fails; search of "waiting" says which do.

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { InMemoryEventStore } from "@modelcontextprotocol/sdk/examples/shared/inMemoryEventStore.js";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { z } from "zod";

const words = process.argv.slice(1);
const sessions = new Map();
const text = (text) => ({ content: [{ type: "text", text }] });
const waiting = new Map();
const store = new InMemoryEventStore();

// Waits if the words say so.
async function obey(words) {
  const [what, name] = words.split(":");
  if (what === "release" && name) waiting.get(name)();
  if (what !== "wait" && what !== "fail") return;
  await new Promise((resolve) => waiting.set(name, resolve));
  waiting.delete(name);
  if (what === "fail") throw new Error("it failed");
}

async function open() {
  const server = new McpServer({ name: "studio", version: "1" });
  let release;
  const released = new Promise((resolve) => (release = resolve));
  server.registerTool("image_generate", { inputSchema: { prompt: z.string().optional() } }, async ({ prompt }) => {
    if (prompt === "hold") await released;
    await obey(prompt ?? "");
    return text("an image");
  });
  server.registerTool("search", { inputSchema: { query: z.string() } }, async ({ query }) => {
    if (query === "release") release();
    if (query === "waiting") return text(`waiting: ${[...waiting.keys()].join()}.`);
    await obey(query);
    for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate);
    return text("found");
  });
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: words.includes("stateless") ? undefined : randomUUID,
    enableJsonResponse: words.includes("json"),
    eventStore: words.includes("shared") ? store : new InMemoryEventStore(),
    onsessioninitialized: (id) => sessions.set(id, transport),
  });
  await server.connect(transport);
  return transport;
}

async function answerPlainly(request, response) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const { id, method } = JSON.parse(Buffer.concat(chunks));
  const result = method === "tools/call" ? text("an image") : { protocolVersion: "2025-11-25", capabilities: {} };
  response.writeHead(id === undefined ? 202 : 200, { "content-type": "application/json" });
  response.end(id === undefined ? "" : JSON.stringify({ jsonrpc: "2.0", id, result }));
}

const http = createServer(async (request, response) => {
  if (words.includes("plain")) return answerPlainly(request, response);
  const transport = sessions.get(request.headers["mcp-session-id"]) ?? (await open());
  await transport.handleRequest(request, response);
});
http.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: http.address().port })));
