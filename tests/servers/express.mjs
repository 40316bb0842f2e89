// Servers of JavaScript for tests/servers.rs: Express 5 alone at /mcp, and with the MCP SDK at /sdk.
//
// Says its port in one line of JSON on stdout, {"port": N}. GET /ran tells what was carried out, in order.
import { McpServer, ResourceTemplate } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import express from "express";
import methodOverride from "method-override";
import qs from "qs";
import { z } from "zod";

const ran = [];
const run = (what) => {
  ran.push(what.trim());
  return { content: [{ type: "text", text: what }] };
};

function studio() {
  const server = new McpServer({ name: "studio", version: "1" });
  server.registerTool("search", { inputSchema: { depth: z.string().optional() } }, ({ depth }) => run(`search ${depth ?? ""}`));
  server.registerTool("image_generate", { inputSchema: {} }, () => run("image_generate"));
  const template = new ResourceTemplate("docs://{area}/{name}", { list: undefined });
  server.registerResource("docs", template, {}, (uri, { area, name }) => {
    ran.push(`read ${area}/${name}`);
    return { contents: [{ uri: uri.href, text: "text" }] };
  });
  server.registerResource("private", "docs://private/one", {}, (uri) => {
    ran.push("read private/one");
    return { contents: [{ uri: uri.href, text: "text" }] };
  });
  return server;
}

const app = express();
app.get("/ran", (_, response) => response.json(ran));
// What the SDK's own examples do: the body is read by Express.
app.use(express.json());
app.post("/sdk", async (request, response) => {
  const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined, enableJsonResponse: true });
  await studio().connect(transport);
  await transport.handleRequest(request, response, request.body);
});
// A server without an SDK, which takes defaults and what it was sent together as many do.
app.post("/mcp", (request, response) => {
  const { id, method, params } = request.body ?? {};
  const given = Object.assign({}, params?.arguments);
  if (method === "tools/call") run(`${params?.name} ${given.depth ?? ""}`);
  response.json({ jsonrpc: "2.0", id: id ?? null, result: {} });
});
app.post("/api/projects/:project/trigger", (request, response) => {
  run(`trigger ${request.params.project}`);
  response.json({});
});
// Routes behind the middleware that lets a client replace the method, as its documentation sets it up.
app.use("/forms", methodOverride("X-HTTP-Method-Override"), methodOverride("_method"));
app.post("/forms/:project", (request, response) => {
  run(`change ${request.params.project}`);
  response.json({});
});
app.delete("/forms/:project", (request, response) => {
  run(`remove ${request.params.project}`);
  response.json({});
});
// What servers read of arguments, by the ways that are usual: the plain and the extended parser of queries, the platform's own,
// bodies of JSON and of forms, and all together.
app.all("/draw/:what", express.urlencoded({ extended: true }), (request, response) => {
  const url = new URL(request.originalUrl, "http://localhost");
  const { query, body } = request;
  const sources = [query, qs.parse(url.search.slice(1)), body, Object.assign({}, query, body)];
  const read = (name) =>
    [sources.map((source) => source?.[name]), url.searchParams.getAll(name)]
      .flat(Infinity)
      .filter((value) => value !== undefined && value !== null && typeof value !== "object");
  const numbers = read("pages").flatMap((value) => [Number(value), parseInt(value, 10), parseFloat(value)]);
  response.json({
    texts: read("size").map(String),
    numbers: numbers.filter(Number.isFinite),
    flags: read("deep").map((value) => ["true", "1", "yes", "on"].includes(String(value).toLowerCase())),
  });
});
app.use((_, response) => response.status(404).json({}));
const listener = app.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: listener.address().port })));
