//! MCP as real servers speak it: behaviour that no specification requires or forbids passes the gate and bypasses no
//! rule.

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
