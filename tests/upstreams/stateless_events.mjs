// A server of npm @modelcontextprotocol/sdk without sessions that keeps the events of all its clients in one store.
//
// Listens on a free port of 127.0.0.1 and says which in one line of JSON on stdout, {"port": N}.

import http from "node:http";
import { McpServer } from "@modelcontextprotocol/sdk/server/mcp.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import { InMemoryEventStore } from "@modelcontextprotocol/sdk/examples/shared/inMemoryEventStore.js";
import { z } from "zod";

const eventStore = new InMemoryEventStore();

const gate = http.createServer(async (request, response) => {
  const server = new McpServer({ name: "studio", version: "1" });
  server.registerTool("search", { inputSchema: { query: z.string() } }, ({ query }) => ({
    content: [{ type: "text", text: `3 results for ${query}` }],
  }));
  const transport = new StreamableHTTPServerTransport({ sessionIdGenerator: undefined, eventStore });
  await server.connect(transport);
  await transport.handleRequest(request, response);
});

gate.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: gate.address().port })));
