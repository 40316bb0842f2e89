//! The ledger: does it answer, is it ready, is its clock right, does it take the credential, what policy is in force.

use super::{Finding, State};
use crate::commands::connection::Connection;
use policy::Policy;
use protocol::Timestamp;
use reqwest::{Response, Url};
use std::net::TcpListener;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const CHECK: &str = "ledger";
/// How far clocks may differ. Expiries and the audit trail go by them, limits do not.
const DRIFT_MAX: Duration = Duration::from_secs(5);

pub(super) async fn check(connection: &Connection, gate: &Url) -> (Vec<Finding>, Option<Policy>) {
    let address = connection.address().to_owned();
    let mut findings = Vec::new();
    let (ready, url) = match ask(connection).await {
        Ok(asked) => asked,
        Err(cause) => {
            findings.push(Finding::wrong(
                CHECK,
                format!("{address}: {cause}"),
                "if it runs, correct --ledger (AGENTRELAY_LEDGER) or --ca-cert (AGENTRELAY_CA_CERT); otherwise start it: \
                 `agentrelay up`, or `agentrelay serve`",
            ));
            // What listens there was asked, and is not the ledger.
            findings.extend(port(&address, "the ledger").filter(|port| port.state == State::Ok));
            findings.extend(port(gate.as_str(), "the gate"));
            return (findings, None);
        }
    };
    let status = ready.status();
    let version = ready.headers().get("x-agentrelay-ledger").and_then(|version| version.to_str().ok());
    match version {
        None => {
            findings.push(Finding::wrong(
                CHECK,
                format!("{url} answers, and is no ledger"),
                "say where the ledger is: --ledger, AGENTRELAY_LEDGER; agents call the gate, administrators the ledger",
            ));
            return (findings, None);
        }
        Some(version) if version != env!("CARGO_PKG_VERSION") => findings.push(Finding::warning(
            CHECK,
            format!("{url} is of release {version}, this program of {}", env!("CARGO_PKG_VERSION")),
            "run the same release of both; ledger first, then the Envoys with the filter",
        )),
        Some(version) => findings.push(Finding::ok(CHECK, format!("{url}, release {version}"))),
    }
    if !status.is_success() {
        findings.push(Finding::wrong(
            CHECK,
            format!("{url}/readyz says {status}"),
            "look into its log; it is not ready while its database does not answer",
        ));
    }
    findings.extend(clock(&ready));
    let (finding, policy) = credential(connection).await;
    findings.push(finding);
    (findings, policy)
}

async fn ask(connection: &Connection) -> Result<(Response, Url), String> {
    let url: Url =
        connection.address().parse().map_err(|_| "is not a URL such as http://127.0.0.1:7420".to_owned())?;
    let ready = url.join("/readyz").map_err(|error| error.to_string())?;
    let http = connection.http().map_err(|error| error.to_string())?;
    let answer = http.get(ready).timeout(Duration::from_secs(10)).send().await;
    answer.map(|answer| (answer, url.clone())).map_err(|error| client::in_words(&error, &url))
}

/// Compares the ledger's clock with this machine's, by the `Date` of its answer.
fn clock(answer: &Response) -> Option<Finding> {
    let date = answer.headers().get(reqwest::header::DATE)?.to_str().ok()?;
    let theirs = http_date(date)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let drift = now.abs_diff(Duration::from_millis(theirs.as_millis()));
    // The date has whole seconds.
    Some(if drift <= DRIFT_MAX {
        Finding::ok("clock", "the ledger's and this machine's differ by less than 5 s")
    } else {
        Finding::wrong(
            "clock",
            format!("the ledger's and this machine's differ by {} s", drift.as_secs()),
            "set both by NTP: keys expire, and the audit trail is dated, by the ledger's",
        )
    })
}

/// `Sat, 28 Nov 2026 05:51:04 GMT` (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut parts = text.split(' ').skip(1);
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)?.checked_add(1)?;
    Timestamp::parse(&format!("{year}-{month:02}-{day}T{time}Z")).ok()
}

async fn credential(connection: &Connection) -> (Finding, Option<Policy>) {
    const CHECK: &str = "credential";
    let ledger = match connection.open() {
        Ok(ledger) => ledger,
        Err(error) => {
            return (Finding::wrong(CHECK, error.to_string(), "give the admin key of this ledger"), None);
        }
    };
    match ledger.policy().await {
        Err(error) => {
            let remedy =
                "take the admin key that `agentrelay init` showed, or one of `agentrelay admin-keys create`";
            (Finding::wrong(CHECK, error.to_string(), remedy), None)
        }
        Ok(in_force) => {
            let policy = Policy::from_json(in_force.document.to_string().as_bytes());
            let found = format!("the admin key works; policy {} is in force", in_force.version);
            (Finding::ok(CHECK, found), policy.ok())
        }
    }
}

/// Whether a port of this machine is free, where nothing answered as it should.
fn port(url: &str, whose: &str) -> Option<Finding> {
    let url: Url = url.parse().ok()?;
    let port = url.port_or_known_default()?;
    if !matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]")) {
        return None;
    }
    Some(match TcpListener::bind(("127.0.0.1", port)) {
        Ok(_) => Finding::ok("ports", format!("{port}, for {whose}, is free")),
        Err(error) => Finding::warning(
            "ports",
            format!("{port}, for {whose}, is in use or not allowed ({})", error.kind()),
            "another program has it, or a ledger or gate that was not asked; choose another port, or stop that one",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_of_an_answer_is_read() {
        let read = http_date("Sat, 28 Nov 2026 05:51:04 GMT");
        assert_eq!(read, Timestamp::parse("2026-11-28T05:51:04Z").ok());
        assert_eq!(http_date("yesterday"), None);
    }
}
