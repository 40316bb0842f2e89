//! `--upstream`: which service of the policy has which server.

use crate::commands::policy::hosts;
use anyhow::{anyhow, bail};
use cli::stack::{Route, Upstream, Upstreams};
use policy::{Policy, plain};
use serde_json::Value;
use std::collections::BTreeMap;

/// One `--upstream`.
#[derive(Debug, Clone)]
pub(super) struct Named {
    service: Option<String>,
    upstream: Upstream,
}

/// `URL`, or `SERVICE=URL`.
pub(super) fn named(text: &str) -> Result<Named, String> {
    let (service, url) = match text.split_once('=') {
        Some((service, url)) if !service.contains(':') => (Some(service.to_owned()), url),
        _ => (None, text),
    };
    let upstream = url.parse().map_err(|error: cli::stack::Error| error.to_string())?;
    Ok(Named { service, upstream })
}

/// Each service's upstream. Every service must have one.
pub(super) fn routed(given: Vec<Named>, policy: &Policy, document: &Value) -> anyhow::Result<Upstreams> {
    let mut default = None;
    let mut own = BTreeMap::new();
    for Named { service, upstream } in given {
        let twice = match &service {
            None => default.replace(upstream).is_some(),
            Some(service) => own.insert(service.clone(), upstream).is_some(),
        };
        if twice {
            let whose =
                service.map_or_else(|| "without a service".to_owned(), |service| format!("of {service}"));
            bail!("--upstream {whose} is given twice; write --upstream SERVICE=URL for each service");
        }
    }
    let names: Vec<&str> = policy.services().iter().map(|service| service.name.as_str()).collect();
    if let Some(name) = own.keys().find(|name| !names.contains(&name.as_str())) {
        let instead = plain::nearest(name, &names)
            .map_or_else(|| format!("it has {}", names.join(", ")), |near| format!("did you mean `{near}`?"));
        return Err(anyhow!("--upstream {name}=...: the policy has no service `{name}`; {instead}"));
    }
    if let Some(name) = names.iter().find(|name| default.is_none() && !own.contains_key(**name)) {
        bail!(
            "the service `{name}` has no upstream: add --upstream {name}=URL, or --upstream URL for all that have none"
        );
    }
    let routes = policy.services().iter().filter_map(|service| {
        let upstream = own.remove(&service.name)?;
        Some(Route {
            service: service.name.clone(),
            path: service.path().to_owned(),
            hosts: hosts(document, &service.name),
            upstream,
        })
    });
    let mut routes: Vec<Route> = routes.collect();
    if let (Some(upstream), false) = (&default, routes.is_empty()) {
        // Between the routes of others, a service without its own has a route as well: another's may begin with the same path.
        routes = policy
            .services()
            .iter()
            .map(|service| {
                let found = routes.iter().find(|route| route.service == service.name).cloned();
                found.unwrap_or_else(|| Route {
                    service: service.name.clone(),
                    path: service.path().to_owned(),
                    hosts: hosts(document, &service.name),
                    upstream: upstream.clone(),
                })
            })
            .collect();
    }
    Ok(Upstreams { default, routes })
}
