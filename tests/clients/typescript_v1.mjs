// A real MCP client for the tests: npm @modelcontextprotocol/sdk 1.x, which speaks the legacy era only.
//
//     typescript_v1.mjs URL ERA STEP...
//
// The api key is in AGENTRELAY_API_KEY. A step is JSON, ["list"] or ["call", NAME, ARGUMENTS]. Prints one JSON list: the
// protocol version, then an answer for each step, which is what the server sent, or {"error": ...} as the user sees it.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, , ...steps] = process.argv.slice(1);
const headers = { authorization: `Bearer ${process.env.AGENTRELAY_API_KEY}` };
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
const client = new Client({ name: "test", version: "1" });

const shown = (error) => ({
  error: { type: error.constructor.name, code: error.code, message: error.message, data: error.data },
});
const answers = [];
try {
  await client.connect(transport);
  answers.push({ protocolVersion: transport.protocolVersion });
  for (const [what, name, args] of steps.map((step) => JSON.parse(step))) {
    const asked = what === "list" ? client.listTools() : client.callTool({ name, arguments: args });
    answers.push(await asked.catch(shown));
  }
  await client.close();
} catch (error) {
  answers.push(shown(error));
}
console.log(JSON.stringify(answers));
