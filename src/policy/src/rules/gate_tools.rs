//! The gate's own tools as a policy enables them, with the same kind of rules as a service's tools.

use super::compile::Compiler;
use super::{ServiceKind, Tier};
use crate::document;
use crate::tool::Tool;
use std::collections::BTreeMap;

/// One of the gate's own tools, with the rule under which it may be called.
#[derive(Debug)]
pub struct GateTool {
    /// Which tool it is.
    pub kind: Kind,
    /// The scopes and limits from the policy.
    pub rule: Tool,
}

/// The gate's own tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Lists the services that the key may use.
    ListServices,
    /// Issues a key that may do no more than the requesting key.
    RequestKey,
}

impl Kind {
    /// The name of the tool.
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
            for (is_there, name) in [
                (!rules.is_empty(), "gate_tools"),
                (service.show_terms, "show_terms"),
                (service.terms.is_some(), "terms"),
            ] {
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
