//! A disk that is really full: a small file system, mounted where only this test sees it, with the database on it. This
//! program runs itself again in its own mount namespace (`unshare`), which needs root, or `sudo` if the user is not
//! root. The mount ends with the last process in the namespace.

use super::load::{Load, assert_kept};
use harness::clock::{eventually_within, run_within};
use harness::ledger::{Served, directory, embedded};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use throwaway::{Options, Throwaway};

/// Tells the process inside the namespace which test to run.
const INSIDE: &str = "DISK_INSIDE";
/// The size of the disk for an embedded database, and for a server, which itself needs some 40 MiB.
const EMBEDDED_MIB: u32 = 24;
const SERVER_MIB: u32 = 96;
/// The deadline for one step.
const DEADLINE: Duration = Duration::from_secs(60);
/// Free space when the load begins.
const LEFT_KIB: u64 = 4096;

#[test]
fn on_sqlite_a_full_disk_refuses_with_503_loses_nothing_and_recovers_by_itself() {
    on_a_disk(
        "on_sqlite_a_full_disk_refuses_with_503_loses_nothing_and_recovers_by_itself",
        EMBEDDED_MIB,
        |disk| {
            run_within(5 * DEADLINE, async {
                let mut served = Served::start(directory("full-sqlite"), &embedded(disk), 1).await;
                fill_and_free(&mut served, disk, None).await;
            });
        },
    );
}

#[test]
fn on_postgresql_a_full_disk_refuses_with_503_loses_nothing_and_recovers_by_itself() {
    let name = "on_postgresql_a_full_disk_refuses_with_503_loses_nothing_and_recovers_by_itself";
    on_a_disk(name, SERVER_MIB, |disk| {
        let options = Options { within: Some(disk.to_owned()), ..Options::default() };
        let server = Throwaway::with(&options).unwrap_or_else(|error| panic!("{error}"));
        let database = server.database().unwrap();
        run_within(5 * DEADLINE, async {
            let mut served = Served::start(directory("full-postgresql"), &database, 1).await;
            fill_and_free(&mut served, disk, Some(server)).await;
        });
    });
}

/// Runs the rest of a test on a disk of this size.
fn on_a_disk(test: &str, mib: u32, inside: impl FnOnce(&Path)) {
    if let Some(disk) = std::env::var_os(INSIDE) {
        return inside(Path::new(&disk));
    }
    let disk = tempfile::Builder::new().prefix("agentrelay-disk-").tempdir().expect("a directory");
    let mount = format!(
        "mount -t tmpfs -o size={mib}m,mode=0777 agentrelay-test \"$0\" && exec env {INSIDE}=\"$0\" \"$@\""
    );
    let is_root = fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let mut command = if is_root { Command::new("unshare") } else { Command::new("sudo") };
    if !is_root {
        command.args(["--non-interactive", "--preserve-env", "unshare"]);
    }
    let (_, module) = module_path!().split_once("::").expect("it is in a module");
    let output = command
        .args(["--mount", "--propagation", "private", "sh", "-c", &mount])
        .arg(disk.path())
        .arg(std::env::current_exe().expect("a test knows its own path"))
        .args(["--exact", &format!("{module}::{test}"), "--nocapture"])
        .output()
        .expect("unshare can be run");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success() && said(&output.stdout).contains("1 passed"),
        "on a small disk (it takes root, or sudo without a password): {}{}",
        said(&output.stdout),
        said(&output.stderr)
    );
    eprint!("{}", said(&output.stderr));
}

/// Fills the disk under load, checks, frees space, and checks again.
async fn fill_and_free(served: &mut Served, disk: &Path, mut server: Option<Throwaway>) {
    let (_, key) = served.payer(1_000_000_000).await;
    let filler = disk.join("filler");
    let load = Load::start(&[served.filter(0)], std::slice::from_ref(&key.key.id), 1);
    load.more(200).await;
    fill(&filler, free_kib(disk).saturating_sub(LEFT_KIB));
    let mut refused = load.refused();
    for round in 0..3 {
        // The rest is filled in small steps while the ledger writes.
        eventually_within(DEADLINE, "writes are refused, and readyz says no", async || {
            fill(&filler, 64);
            let (status, seen) = (served.ready(0).await, load.refused());
            if status == 503 && seen > refused + 20 {
                Ok(())
            } else {
                Err(format!("{status}, {seen} refused"))
            }
        })
        .await;
        let told = load.count();
        eprintln!("round {round}: full after {told} acknowledged writes, {} refused", load.refused());
        assert_eq!(served.filter(0).status("/healthz").await, 200);
        fs::remove_file(&filler).expect("the filler is there");
        eventually_within(DEADLINE, "it is ready again, by itself", async || {
            server = started_again(server.take()).await;
            match served.ready(0).await {
                200 => Ok(()),
                status => Err(format!("{status}")),
            }
        })
        .await;
        load.more(100).await;
        refused = load.refused();
        fill(&filler, free_kib(disk).saturating_sub(LEFT_KIB));
    }
    fs::remove_file(&filler).expect("the filler is there");
    load.more(100).await;
    let told = load.stop().await;
    assert_kept(served, &told, "after a full disk").await;
    let log = fs::read_to_string(served.directory.join("ledger-0.log")).expect("a log");
    assert!(log.contains("the database fails") && log.contains("the database answers again"), "{log}");
    eprintln!("{} writes were acknowledged around a full disk, and all are there", told.count());
}

/// PostgreSQL stops permanently if it can't write its log at a restart. Its unit would start it again.
async fn started_again(server: Option<Throwaway>) -> Option<Throwaway> {
    let mut server = server?;
    let start_again = tokio::task::spawn_blocking(move || server.start_again().map(|()| server));
    Some(start_again.await.expect("no panic").unwrap_or_else(|error| panic!("{error}")))
}

/// Appends so much to a file, or as much as fits.
fn fill(file: &Path, kib: u64) {
    use std::io::Write;
    let mut file = fs::File::options().create(true).append(true).open(file).expect("it can be opened");
    for _ in 0..kib {
        if file.write_all(&[1; 1024]).is_err() {
            return;
        }
    }
}

fn free_kib(disk: &Path) -> u64 {
    let output =
        Command::new("df").args(["--output=avail", "--block-size=1K"]).arg(disk).output().expect("df");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or_else(|| panic!("{text}"))
}
