//! The plugin's configuration, and the filter's credential from the environment.

use protocol::api_key::{self, Kind};
use serde::Deserialize;

/// The VM's environment variable that holds the filter's credential for the ledger. The credential is not part of the
/// configuration, so that no configuration dump shows it.
const CREDENTIAL_VARIABLE: &str = "AGENTRELAY_FILTER_KEY";

/// The address of the ledger, and how long to wait for it.
#[derive(Debug, Default, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the ledger's Envoy cluster.
    #[serde(default = "ledger_cluster")]
    pub ledger_cluster: String,
    /// The `:authority` header of ledger calls.
    #[serde(default = "ledger_authority")]
    pub ledger_authority: String,
    /// How long a request waits for the ledger, in milliseconds.
    #[serde(default = "ledger_timeout_ms")]
    pub ledger_timeout_ms: u32,
    /// The `authorization` header of ledger calls, `Bearer <credential>`.
    #[serde(skip)]
    pub authorization: String,
}

fn ledger_cluster() -> String {
    "agentrelay_ledger".to_owned()
}

fn ledger_authority() -> String {
    "agentrelay-ledger".to_owned()
}

fn ledger_timeout_ms() -> u32 {
    2000
}

impl Config {
    /// Reads the configuration. The error goes to Envoy's log: it says what to change and contains no secret.
    pub fn read(bytes: &[u8]) -> Result<Config, String> {
        let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
        let config: Config = policy::json::read(bytes)
            .map_err(|error| format!("the filter's `configuration` is invalid: {error}"))?;
        if !(10..=60_000).contains(&config.ledger_timeout_ms) {
            return Err("`configuration.ledger_timeout_ms` must be from 10 to 60000".to_owned());
        }
        let credential = std::env::var(CREDENTIAL_VARIABLE).unwrap_or_default();
        if !api_key::is_well_formed(Kind::Filter, credential.as_bytes()) {
            return Err(format!(
                "{CREDENTIAL_VARIABLE} must be a filter credential (`arf_...`, printed by `agentrelay init`); set it in \
                 Envoy's environment and name it in vm_config.environment_variables.host_env_keys"
            ));
        }
        Ok(Config { authorization: format!("Bearer {credential}"), ..config })
    }
}
