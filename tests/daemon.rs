//! `agentrelay serve` as a service: renewed certificates, signals, a database that is unavailable at first, the systemd
//! unit.

use harness::clock::{apart, eventually};
use harness::ledger::{directory, embedded};
use harness::{files, run};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use throwaway::Throwaway;
use tokio::process::{Child, Command};

/// A running `serve`, with its output in a file.
struct Daemon {
    process: Child,
    directory: PathBuf,
}

async fn agentrelay(arguments: &[&str]) -> Output {
    Command::new(files::program()).args(arguments).stdin(Stdio::null()).output().await.unwrap()
}

impl Daemon {
    fn start(directory: &Path, database: &str, more: &[&str]) -> Daemon {
        fs::copy(files::shipped_policy(), directory.join("policy.yaml")).unwrap();
        let log = fs::File::create(directory.join("log")).unwrap();
        let process = Command::new(files::program())
            .args(["serve", "--listen", "127.0.0.1:0", "--database", database, "--policy", "policy.yaml"])
            .args(["--address-file", "address", "--audit-key", "audit-key"])
            .args(more)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Daemon { process, directory: directory.to_owned() }
    }

    async fn address(&self) -> SocketAddr {
        eventually("it listens", async || {
            let text = fs::read_to_string(self.directory.join("address")).unwrap_or_default();
            text.trim().parse::<SocketAddr>().map_err(|_| self.log())
        })
        .await
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap()
    }

    async fn wait_for_log(&self, words: &str) {
        eventually(words, async || if self.log().contains(words) { Ok(()) } else { Err(self.log()) }).await;
    }

    async fn hang_up(&self) {
        let id = self.process.id().expect("it runs").to_string();
        assert!(Command::new("kill").args(["-s", "HUP", &id]).status().await.unwrap().success());
    }
}

/// A certificate for localhost and its key, both in PEM.
fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// A client that trusts only these certificates, and opens a connection for each request.
fn trusting(certificates: &[&str]) -> reqwest::Client {
    let certificates = certificates.iter().map(|pem| reqwest::Certificate::from_pem(pem.as_bytes()).unwrap());
    client::http().no_proxy().pool_max_idle_per_host(0).tls_certs_only(certificates).build().unwrap()
}

async fn serves(client: &reqwest::Client, address: SocketAddr) -> Result<(), String> {
    let answer = client.get(format!("https://localhost:{}/readyz", address.port())).send().await;
    answer
        .map_err(|error| format!("{error:?}"))?
        .error_for_status()
        .map(drop)
        .map_err(|error| error.to_string())
}

#[test]
fn a_renewed_certificate_is_served_without_a_restart_or_a_lost_request() {
    run(async {
        let here = directory("certificates");
        // As Kubernetes mounts a secret: links through a directory that is swapped.
        let secret = here.join("secret");
        fs::create_dir(&secret).unwrap();
        let deliver = |name: &str, (certificate, key): &(String, String)| {
            fs::create_dir(secret.join(name)).unwrap();
            fs::write(secret.join(name).join("tls.crt"), certificate).unwrap();
            fs::write(secret.join(name).join("tls.key"), key).unwrap();
            std::os::unix::fs::symlink(name, secret.join("new")).unwrap();
            fs::rename(secret.join("new"), secret.join("data")).unwrap();
        };
        let pairs = [pair(), pair(), pair()];
        deliver("first", &pairs[0]);
        for name in ["tls.crt", "tls.key"] {
            std::os::unix::fs::symlink(format!("data/{name}"), secret.join(name)).unwrap();
        }
        let database = embedded(&here);
        assert!(agentrelay(&["init", "--database", &database]).await.status.success());
        let mut daemon =
            Daemon::start(&here, &database, &["--tls-cert", "secret/tls.crt", "--tls-key", "secret/tls.key"]);
        let address = daemon.address().await;
        let only = pairs.each_ref().map(|(certificate, _)| trusting(&[certificate]));
        serves(&only[0], address).await.unwrap();

        // One client sends requests all the time and trusts all certificates.
        let all = trusting(&pairs.each_ref().map(|(certificate, _)| certificate.as_str()));
        let stop = Arc::new(AtomicBool::new(false));
        let calling = tokio::spawn({
            let stop = Arc::clone(&stop);
            async move {
                let mut calls = 0;
                while !stop.load(Ordering::Relaxed) {
                    serves(&all, address).await.unwrap();
                    calls += 1;
                }
                calls
            }
        });
        deliver("second", &pairs[1]);
        eventually("the second is served", async || serves(&only[1], address).await).await;
        assert!(serves(&only[0], address).await.is_err(), "the first is served too");

        // A certificate without its key, and a text, are not valid certificates.
        deliver("half", &(pairs[2].0.clone(), pairs[0].1.clone()));
        daemon.wait_for_log("the changed certificate can't be used").await;
        serves(&only[1], address).await.unwrap();
        deliver("text", &("certificate".to_owned(), pairs[2].1.clone()));
        daemon.hang_up().await;
        eventually("it is said again", async || {
            let count = daemon.log().matches("the changed certificate can't be used").count();
            if count == 2 { Ok(()) } else { Err(daemon.log()) }
        })
        .await;
        serves(&only[1], address).await.unwrap();

        // A missing key is not valid either.
        deliver("without", &pairs[2]);
        fs::remove_file(secret.join("without/tls.key")).unwrap();
        daemon.wait_for_log("No such file").await;
        serves(&only[1], address).await.unwrap();

        deliver("third", &pairs[2]);
        daemon.hang_up().await;
        eventually("the third is served", async || serves(&only[2], address).await).await;
        stop.store(true, Ordering::Relaxed);
        assert!(calling.await.unwrap() > 10);
        assert!(daemon.process.try_wait().unwrap().is_none(), "{}", daemon.log());
    });
}

#[test]
fn a_hangup_signal_ends_no_service() {
    run(async {
        let here = directory("signals");
        let database = embedded(&here);
        assert!(agentrelay(&["init", "--database", &database]).await.status.success());
        let mut daemon = Daemon::start(&here, &database, &[]);
        let address = daemon.address().await;
        let ready = async || {
            let answer = client::http().build().unwrap().get(format!("http://{address}/readyz")).send().await;
            answer.map_err(|error| error.to_string())?.error_for_status().map_err(|error| error.to_string())
        };
        for _ in 0..3 {
            daemon.hang_up().await;
            eventually("it serves", async || ready().await.map(drop)).await;
        }
        assert!(daemon.process.try_wait().unwrap().is_none(), "{}", daemon.log());
    });
}

#[test]
fn start_waits_for_an_unavailable_database() {
    run(async {
        let mut server = apart(|| Throwaway::start().unwrap());
        let [database, empty] = apart(|| [(); 2].map(|()| server.database().unwrap()));
        let here = directory("waits");
        assert!(agentrelay(&["init", "--database", &database]).await.status.success());
        apart(|| server.pause());
        let mut daemon = Daemon::start(&here, &database, &[]);
        daemon.wait_for_log("trying again in 2 s").await;
        // There are no files to reload yet, and the signal must not end the process.
        daemon.hang_up().await;
        daemon.wait_for_log("trying again in 4 s").await;
        assert!(daemon.process.try_wait().unwrap().is_none(), "{}", daemon.log());
        apart(|| server.resume().unwrap());
        daemon.address().await;

        // An error that does not pass by itself ends the process at once, with the reason.
        let mut daemon = Daemon::start(&directory("never-initialised"), &empty, &[]);
        let status = tokio::time::timeout(Duration::from_secs(30), daemon.process.wait()).await.unwrap();
        assert!(!status.unwrap().success());
        assert!(daemon.log().contains("run `agentrelay init` first"), "{}", daemon.log());
    });
}

/// The lines of the unit's header that are commands, and what it runs.
fn unit() -> (Vec<String>, String) {
    let unit = fs::read_to_string(files::root().join("envoy/agentrelay.service")).unwrap();
    let commands = unit.lines().filter_map(|line| line.strip_prefix("#   ")).map(str::to_owned).collect();
    let starts = unit.lines().filter_map(|line| line.strip_prefix("ExecStart=/usr/bin/agentrelay "));
    (commands, starts.map(str::to_owned).next().unwrap())
}

#[test]
fn the_units_commands_run_in_their_order() {
    run(async {
        let (commands, start) = unit();
        let [user, enable, init] = &commands[..] else { panic!("{commands:?}") };
        assert!(user.starts_with("useradd --system agentrelay"), "{user}");
        assert!(enable.starts_with("systemctl enable --now agentrelay"), "{enable}");
        let init = init.split("agentrelay agentrelay ").nth(1).expect("it runs as the service's user");

        // The unit has created its empty directory, and is restarted until there is a database.
        let here = directory("unit");
        let state = here.join("state");
        fs::create_dir(&state).unwrap();
        let policy = files::shipped_policy();
        let within = |command: &str| -> Vec<String> {
            let command = command
                .replace("/var/lib/agentrelay", state.to_str().unwrap())
                .replace("/etc/agentrelay/policy.yaml", policy.to_str().unwrap())
                .replace(":7420", ":0");
            command.split_whitespace().map(str::to_owned).collect()
        };
        let early = Command::new(files::program()).args(within(&start)).output().await.unwrap();
        assert!(!early.status.success());
        let said = String::from_utf8_lossy(&early.stderr);
        assert!(said.contains("run `agentrelay init` first"), "{said}");
        let made = Command::new(files::program()).args(within(init)).output().await.unwrap();
        assert!(made.status.success(), "{made:?}");
        let address = here.join("address");
        let served = Command::new(files::program())
            .args(within(&start))
            .args(["--address-file", address.to_str().unwrap()])
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        eventually("it listens", async || if address.exists() { Ok(()) } else { Err(String::new()) }).await;
        drop(served);
    });
}

#[test]
fn systemd_takes_the_unit() {
    run(async {
        let verified = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(files::root().join("envoy/agentrelay.service"))
            .output()
            .await;
        let Ok(verified) = verified else {
            return eprintln!("there is no systemd-analyze here: not verified");
        };
        let said = String::from_utf8_lossy(&verified.stderr);
        let about_unit: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("agentrelay.service"))
            // The program and its user are not installed where this is tested.
            .filter(|line| !line.contains("/usr/bin/agentrelay") && !line.contains("kill"))
            .collect();
        assert!(about_unit.is_empty(), "{said}");
    });
}
