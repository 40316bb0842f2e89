//! The gate's own tools, as a policy turns them on.

use super::{Compiler, ScopeRule, ServiceKind, Tool};
use crate::document::{self, Risk};
use crate::gate_tools::{GateTool, Kind};
use std::collections::BTreeMap;

impl Compiler {
    pub(super) fn gate_tools(
        &mut self,
        path: &str,
        tools: BTreeMap<Kind, document::GateTool>,
        show_terms: bool,
        kind: &ServiceKind,
    ) -> Vec<GateTool> {
        let ServiceKind::Mcp(own) = kind else {
            if !tools.is_empty() {
                self.fault(&format!("{path}.gate_tools"), "only MCP services have them; leave it out");
            }
            if show_terms {
                self.fault(&format!("{path}.show_terms"), "only MCP services have lists; leave it out");
            }
            return Vec::new();
        };
        let tools = tools.into_iter().map(|(kind, tool)| {
            let name = kind.name();
            if own.contains_key(name) {
                let fault = "is the name of a tool of the gate's own; leave one of them out";
                self.fault(&format!("{path}.tools.{name}"), fault);
            }
            let path = format!("{path}.gate_tools.{name}");
            if tool.scopes.iter().any(String::is_empty) {
                self.fault(&format!("{path}.scopes"), "a scope is not empty");
            }
            let rule = Tool {
                name: name.to_owned(),
                risk: Risk::ReadOnly,
                scope: ScopeRule { scopes: tool.scopes, shadow: false },
                resource: None,
                limits: self.limits(&path, name, tool.limits),
                price: None,
                requires: Vec::new(),
            };
            GateTool { kind, rule }
        });
        tools.collect()
    }
}
