//! A ledger that serves TLS, with a certificate of an authority of its own, and what it serves instead after a mistake.

use crate::clock::{self, eventually};
use crate::files;
use crate::reaper::Reaper;
use cli::stack::Credentials;
use client::Client;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A root certificate, and the key that signs in its name.
pub struct Authority {
    /// In PEM.
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one.
    pub fn make() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        // By default every certificate has the same name, and would pass as its own issuer.
        params.distinguished_name.push(DnType::CommonName, "authority of tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Authority { certificate, issuer: Issuer::new(params, key) }
    }

    /// Writes a certificate for these names, and its key.
    pub fn certify(&self, names: &[&str], chain: &Path, key: &Path) {
        let pair = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).expect("names");
        let certificate = params.signed_by(&pair, &self.issuer).expect("a certificate");
        fs::write(chain, certificate.pem()).expect("it can be written");
        fs::write(key, pair.serialize_pem()).expect("it can be written");
    }
}

/// What a ledger serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serves {
    /// TLS, with the certificate in its directory.
    Tls,
    /// HTTP without TLS.
    Plain,
}

/// The ledger, `agentrelay serve`. Ends when it is dropped.
pub struct TlsLedger {
    /// With `ca.pem`, `chain.pem`, `key.pem` and the logs.
    pub directory: PathBuf,
    /// Who certified it.
    pub authority: Authority,
    /// The first credentials of its database.
    pub credentials: Credentials,
    /// The port on 127.0.0.1.
    pub port: u16,
    database: String,
    child: Option<Child>,
    reaper: Reaper,
}

impl TlsLedger {
    /// Starts it with a certificate for these names. The shipped policy is in force.
    pub async fn start(directory: &Path, names: &[&str]) -> TlsLedger {
        let authority = Authority::make();
        let database = format!("sqlite:{}", directory.join("tls.db").display());
        let credentials = {
            let (program, database, directory) = (files::program(), database.clone(), directory.join("tls"));
            let open = move || Credentials::open(&program, &database, &directory);
            tokio::task::spawn_blocking(open).await.expect("opening does not panic")
        };
        let mut ledger = TlsLedger {
            directory: directory.to_owned(),
            authority,
            credentials: credentials.unwrap_or_else(|error| panic!("init: {error}")),
            port: 0,
            database,
            child: None,
            reaper: Reaper::start(),
        };
        fs::write(ledger.file("ca.pem"), &ledger.authority.certificate).expect("it can be written");
        ledger.authority.certify(names, &ledger.file("chain.pem"), &ledger.file("key.pem"));
        ledger.run(Serves::Tls).await;
        ledger
    }

    /// A file of its directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Starts it again, on the same port, with the certificate that is in its directory now.
    pub async fn run(&mut self, serves: Serves) {
        self.kill();
        let address_file = self.file("tls-address");
        let _ = fs::remove_file(&address_file);
        let log = File::options().create(true).append(true).open(self.file("tls.log")).expect("a log");
        let mut command = Command::new(files::program());
        command.args([
            "serve",
            "--listen",
            &format!("127.0.0.1:{}", self.port),
            "--database",
            &self.database,
        ]);
        command.arg("--address-file").arg(&address_file).arg("--policy").arg(files::shipped_policy());
        if serves == Serves::Tls {
            command.arg("--tls-cert").arg(self.file("chain.pem")).arg("--tls-key").arg(self.file("key.pem"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        let child = clock::apart(|| command.spawn().expect("the program can be run"));
        self.reaper.watch(child.id());
        self.child = Some(child);
        self.port = eventually("the ledger listens", async || {
            let address = fs::read_to_string(&address_file).map_err(|error| error.to_string())?;
            address.trim().rsplit(':').next().and_then(|port| port.parse().ok()).ok_or(address)
        })
        .await;
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Its admin API, by the name `localhost`, which its certificate needs then.
    pub fn admin(&self) -> Client {
        let url = format!("https://localhost:{}", self.port);
        let authority = self.authority.certificate.as_bytes();
        Client::trusting(&url, &self.credentials.admin_key, Some(authority)).expect("the key is well formed")
    }
}

impl Drop for TlsLedger {
    fn drop(&mut self) {
        self.kill();
    }
}
