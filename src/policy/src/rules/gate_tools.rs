//! The gate's own tools, as a policy turns them on: by rules like those of a service's tools.

use super::compile::Compiler;
use super::{ServiceKind, Tier};
use crate::document;
use crate::tool::Tool;
use std::collections::BTreeMap;

/// One of them, and on which terms it is there.
#[derive(Debug)]
pub struct GateTool {
    /// Which.
    pub kind: Kind,
    /// The scopes and limits that the policy gives it.
    pub rule: Tool,
}

/// The tools that a gate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Which services the key may use.
    ListServices,
    /// A key that may do no more than the one that asks.
    RequestKey,
}

impl Kind {
    /// The name by which it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::ListServices => "list_services",
            Kind::RequestKey => "request_key",
        }
    }

    /// The tool of this name.
    pub fn of(name: &str) -> Option<Kind> {
        [Kind::ListServices, Kind::RequestKey].into_iter().find(|kind| kind.name() == name)
    }
}

impl Compiler {
    pub(super) fn gate_tools(
        &mut self,
        path: &str,
        service: &mut document::Service,
        kind: &ServiceKind,
        risks: &document::Risks,
        tiers: &BTreeMap<String, Tier>,
    ) -> Vec<GateTool> {
        let rules = std::mem::take(&mut service.gate_tools);
        let ServiceKind::Mcp(own) = kind else {
            for (is_there, name) in [(!rules.is_empty(), "gate_tools"), (service.show_terms, "show_terms")] {
                if is_there {
                    self.fault(
                        &format!("{path}.{name}"),
                        "only MCP services have lists of tools; leave it out",
                    );
                }
            }
            return Vec::new();
        };
        let mut tools = Vec::new();
        for (name, rule) in rules {
            if own.contains_key(&name) {
                let fault = "is also the name of one of the gate's own tools; leave one of them out";
                self.fault(&format!("{path}.tools.{name}"), fault);
            }
            let path = format!("{path}.gate_tools.{name}");
            let Some(kind) = Kind::of(&name) else {
                self.fault(&path, "the gate's own tools are list_services and request_key");
                continue;
            };
            if rule.price.is_some() {
                self.fault(&format!("{path}.price"), "the gate's own tools are free; leave it out");
            }
            let rule = self.tool(&path, name, rule, document::ServiceKind::Mcp, risks, tiers);
            tools.push(GateTool { kind, rule });
        }
        tools
    }
}
