//! MCP as servers really speak it: what no specification asks for, and none forbids, passes the gate and escapes no rule.

#[path = "mcp_servers/away.rs"]
mod away;
#[path = "mcp_servers/browsers.rs"]
mod browsers;
#[path = "mcp_servers/endpoints.rs"]
mod endpoints;
#[path = "mcp_servers/events.rs"]
mod events;
#[path = "mcp_servers/names.rs"]
mod names;
