//! `agentrelay serve`: the ledger as a service.

use super::database;
use crate::output;
use anyhow::Context;
use clap::{Args, ValueEnum};
use cli::signals::Signals;
use protocol::Timestamp;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;
use tracing_subscriber::EnvFilter;

/// In a terminal, the terminal was closed. Otherwise a request to read the certificate again.
const HANG_UP: &str = "SIGHUP";
/// The longest pause between two tries to reach the database.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Run the ledger until Ctrl-C
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay serve --listen 127.0.0.1:7420 --database sqlite:agentrelay.db --policy policy.yaml
  agentrelay serve --listen 0.0.0.0:7420 --policy policy.yaml --tls-cert chain.pem --tls-key key.pem
  agentrelay serve --policy policy.yaml --audit-key /etc/agentrelay/audit-key --audit-retention-days 400

The API is described at /openapi.json and /docs; /healthz, /readyz and /metrics need no key.
AGENTRELAY_LOG sets what is logged, such as info (the default), debug, or warn,ledger=debug.")]
pub struct Arguments {
    /// Address and port; port 0 selects a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7420")]
    listen: SocketAddr,
    #[command(flatten)]
    at: database::Argument,
    /// The policy, YAML or JSON; changes take effect while it runs
    ///
    /// On PostgreSQL all ledgers use the policy that was put in force last, by `policy apply` or by an edit of any ledger's
    /// file. A file whose content was in force before is an old copy, and is ignored at the start.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// The key that signs the audit trail, created if it is missing [default: PATH.audit-key for sqlite:PATH, and
    /// agentrelay.audit-key in the working directory for PostgreSQL]
    #[arg(long, value_name = "FILE")]
    audit_key: Option<PathBuf>,
    /// Remove rows of the audit trail after this many days; export them first
    #[arg(long, value_name = "DAYS")]
    audit_retention_days: Option<u32>,
    /// Confirm the clock, and remove rows that were kept because it was in doubt: today's date in UTC, such as 2026-11-27; no
    /// effect on any other day
    #[arg(long, value_name = "DAY", value_parser = Timestamp::of_day, requires = "audit_retention_days")]
    audit_retention_confirm: Option<Timestamp>,
    /// Most connections of this ledger to the database
    #[arg(long, value_name = "NUMBER", default_value_t = ledger::CONNECTIONS,
        value_parser = clap::value_parser!(u16).range(i64::from(ledger::CONNECTIONS_MIN)..=200))]
    database_connections: u16,
    /// Serve TLS with this certificate chain in PEM; both files are read again when they change, and on SIGHUP
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Write address and port to this file once it listens
    #[arg(long, value_name = "FILE")]
    address_file: Option<PathBuf>,
    /// Print the URL as one line of JSON when it listens
    #[arg(long)]
    json: bool,
    /// Format of log lines
    #[arg(long, value_enum, default_value = "json")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Json,
    Text,
}

impl Arguments {
    pub async fn run(self) -> anyhow::Result<()> {
        self.log()?;
        let mut signals = Signals::listen().context("signals can't be received")?;
        let in_terminal = io::stdin().is_terminal();
        let scheme = if self.tls_cert.is_some() { "https" } else { "http" };
        let config = ledger::Config {
            listen: self.listen,
            database: self.at.database,
            policy: self.policy,
            audit_key: self.audit_key,
            audit_retention_days: self.audit_retention_days,
            audit_retention_confirmed: self.audit_retention_confirm,
            connections: self.database_connections,
            tls: self.tls_cert.zip(self.tls_key).map(|(certificate, key)| ledger::Tls { certificate, key }),
        };
        let Some(running) = start(config, &mut signals, in_terminal).await? else { return Ok(()) };
        let address = running.address;
        if let Some(file) = &self.address_file {
            // Renamed into place, so that nobody reads an incomplete address.
            let unfinished = file.with_added_extension("new");
            fs::write(&unfinished, format!("{address}\n"))
                .and_then(|()| fs::rename(&unfinished, file))
                .with_context(|| format!("{} can't be written", file.display()))?;
        }
        output::note(&format!("the ledger listens on {scheme}://{address}"));
        if self.json {
            output::json_line(&serde_json::json!({"ledger": format!("{scheme}://{address}")}))?;
        }
        let name = loop {
            match signals.next().await {
                HANG_UP if !in_terminal => running.reload(),
                name => break name,
            }
        };
        output::note(&format!("{name}: stopping"));
        running.shutdown().await;
        Ok(())
    }

    fn log(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::builder()
            .with_env_var("AGENTRELAY_LOG")
            .with_default_directive(tracing_subscriber::filter::LevelFilter::INFO.into())
            .from_env()
            .context("AGENTRELAY_LOG is not a log filter such as info or warn,ledger=debug")?;
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
        match self.log_format {
            LogFormat::Json => log.json().init(),
            LogFormat::Text => log.init(),
        }
        Ok(())
    }
}

/// Starts the ledger, and retries with growing pauses while the database can't be reached. `None` if a signal stops it.
async fn start(
    config: ledger::Config,
    signals: &mut Signals,
    in_terminal: bool,
) -> anyhow::Result<Option<ledger::Running>> {
    let mut pause = Duration::from_secs(1);
    loop {
        let cause = match ledger::start(config.clone()).await {
            Err(cause) if cause.is_database_away() => cause,
            started => return Ok(Some(started?)),
        };
        output::note(&format!("{cause}; trying again in {} s", pause.as_secs()));
        match timeout(pause, signals.next()).await {
            // Nothing to read again yet; try the database now.
            Ok(HANG_UP) if !in_terminal => {}
            Ok(name) => {
                output::note(&format!("{name}: stopping"));
                return Ok(None);
            }
            Err(_) => pause = pause.saturating_mul(2).min(PAUSE_MAX),
        }
    }
}
