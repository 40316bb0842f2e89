//! The gate's own tools, as a policy turns them on: by rules like those of a service's tools.

use super::compile::Compiler;
use super::{ServiceKind, Tier};
use crate::document;
use crate::gate_tools::{GateTool, Kind};
use std::collections::BTreeMap;

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
