// A real MCP client for the tests: npm @modelcontextprotocol/client 2.x, either era.
//
//     typescript_v2.mjs URL ERA STEP...
//
// ERA is `legacy`, `auto` or a protocol version; the rest is as in typescript_v1.mjs.

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const [url, era, ...steps] = process.argv.slice(1);
const headers = { authorization: `Bearer ${process.env.AGENTRELAY_API_KEY}` };
const transport = new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } });
const mode = ["legacy", "auto"].includes(era) ? era : { pin: era };
const client = new Client({ name: "test", version: "1" }, { versionNegotiation: { mode } });

const shown = (error) => ({
  error: {
    type: error.constructor.name,
    code: error.code,
    status: error.status,
    message: error.message,
    text: error.data?.text,
    data: error.data,
  },
});
const answers = [];
try {
  await client.connect(transport);
  answers.push({ protocolVersion: client.getNegotiatedProtocolVersion() });
  for (const [what, name, args] of steps.map((step) => JSON.parse(step))) {
    const asked = what === "list" ? client.listTools() : client.callTool({ name, arguments: args });
    answers.push(await asked.catch(shown));
  }
  await client.close();
} catch (error) {
  answers.push(shown(error));
}
console.log(JSON.stringify(answers));
