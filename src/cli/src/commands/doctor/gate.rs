//! The gate, asked as agents ask it: without a key, with a key that no ledger knows, and with a real one.

use super::Finding;
use crate::commands::connection::Connection;
use crate::mcp;
use policy::Policy;
use policy::rules::ServiceKind;
use protocol::admin::{CreateKey, Reason};
use protocol::api_key::{self, Kind};
use protocol::{KeyId, TenantId, Timestamp};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{StatusCode, Url};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CHECK: &str = "gate";
const TRIP: &str = "round trip";
/// How long the key of a round trip lives if it can't be revoked.
const KEY_LIFE: Duration = Duration::from_secs(60);

pub(super) async fn check(
    gate: &Url,
    policy: Option<&Policy>,
    connection: &Connection,
    tenant: Option<&TenantId>,
) -> Vec<Finding> {
    let Some(policy) = policy else {
        return vec![Finding::warning(
            CHECK,
            "was not asked: its policy is not known",
            "mend what is said of the ledger",
        )];
    };
    let Some(service) = policy.services().first() else { return Vec::new() };
    let url = match gate.join(service.path()) {
        Ok(url) => url,
        Err(error) => return vec![Finding::wrong(CHECK, format!("{gate}: {error}"), "correct --gate")],
    };
    let mut findings = Vec::new();
    match status(&url, None).await {
        Err(cause) => {
            let remedy = "start Envoy with the filter (`agentrelay up`), or say where the gate is: --gate";
            return vec![Finding::wrong(CHECK, format!("{gate}: {cause}"), remedy)];
        }
        Ok((StatusCode::UNAUTHORIZED, _)) => {
            findings.push(Finding::ok(CHECK, format!("{gate} refuses a call without a key")));
        }
        Ok((status, said)) => {
            return vec![Finding::wrong(
                CHECK,
                format!("{url} answered {status} to a call without a key, and not 401: {said}"),
                "is this the gate? If so, the filter is not in its HTTP filters, or its service is disabled on this route",
            )];
        }
    }
    match status(&url, Some(&unknown_key())).await {
        Ok((StatusCode::UNAUTHORIZED, _)) => {
            findings.push(Finding::ok(TRIP, "the gate asks the ledger: a key that it does not know is refused"));
        }
        Ok((status, said)) => findings.push(Finding::wrong(
            TRIP,
            format!("the gate answered {status} to an unknown key, and not 401: {said}"),
            "the filter does not reach its ledger, or its credential is refused: see the cluster agentrelay_ledger, \
             AGENTRELAY_FILTER_KEY in Envoy's environment, `agentrelay filter-keys list` and Envoy's log",
        )),
        Err(cause) => findings.push(Finding::wrong(TRIP, cause, "look into Envoy's log")),
    }
    match tenant {
        None => findings.push(Finding::warning(
            TRIP,
            "no call with a real key was made",
            "--tenant ten_... makes one, with a key that lives a minute",
        )),
        Some(tenant) => findings.push(trip(gate, policy, connection, tenant).await),
    }
    findings
}

/// What the gate answers to a request, and its words.
async fn status(url: &Url, key: Option<&str>) -> Result<(StatusCode, String), String> {
    let http = client::http()
        .no_proxy()
        .timeout(Duration::from_secs(15))
        .build()
        .map_err(|error| error.to_string())?;
    let request = http.get(url.clone());
    let request = key.map_or_else(|| http.get(url.clone()), |key| request.bearer_auth(key));
    let answer = request.send().await.map_err(|error| client::in_words(&error, url))?;
    let status = answer.status();
    let said: String = answer.text().await.unwrap_or_default().chars().take(200).collect();
    Ok((status, said))
}

/// A well-formed key that no ledger has, another each time: the gate keeps its refusals for a while.
fn unknown_key() -> String {
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos()) | 1;
    api_key::mint(Kind::Agent, || {
        // xorshift; nothing depends on its quality.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[0]
    })
}

/// Lists the tools of the first MCP service through the gate, with a key that is revoked at once.
async fn trip(gate: &Url, policy: &Policy, connection: &Connection, tenant: &TenantId) -> Finding {
    let mut services = policy.services().iter();
    let found = services.find_map(|service| match &service.kind {
        ServiceKind::Mcp(tools) => Some((service, tools)),
        ServiceKind::Http(_) => None,
    });
    let Some((service, tools)) = found else {
        return Finding::warning(
            TRIP,
            "the policy has no MCP service to list",
            "call an HTTP tool with a key of your own",
        );
    };
    let scopes: BTreeSet<String> =
        tools.values().flat_map(|tool| tool.scope.scopes.iter().cloned()).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let end = now.saturating_add(KEY_LIFE).as_millis();
    let create = CreateKey {
        tenant_id: tenant.clone(),
        name: "agentrelay doctor".into(),
        scopes: scopes.into_iter().collect(),
        services: None,
        tools: None,
        resources: None,
        limits: None,
        concurrency: None,
        expires_at: u64::try_from(end).ok().map(Timestamp::from_millis),
        agent_id: None,
        budget: None,
    };
    let asked = async {
        let ledger = connection.open()?;
        let key = ledger.create_key(&create).await?;
        let listed = list(gate, service.path(), &key.secret).await;
        let because = Reason { reason: "made by `agentrelay doctor` for one call".into() };
        let id: &KeyId = &key.key.id;
        ledger.revoke_key(id, &because).await?;
        listed
    };
    match asked.await {
        Ok(listed) => Finding::ok(
            TRIP,
            format!("a key of {tenant} lists {listed} tools of {} through the gate", service.name),
        ),
        Err(error) => Finding::wrong(
            TRIP,
            format!("a key of {tenant} can't list the tools of {} through the gate: {error:#}", service.name),
            "503: the upstream is away; 404: the route or the service's path is another; 403: see the key's scopes",
        ),
    }
}

async fn list(gate: &Url, path: &str, secret: &str) -> anyhow::Result<usize> {
    let mut credential = HeaderValue::from_str(&format!("Bearer {secret}"))?;
    credential.set_sensitive(true);
    let headers = HeaderMap::from_iter([(AUTHORIZATION, credential)]);
    Ok(mcp::ask(&gate.join(path)?, &headers).await?.tools.len())
}
