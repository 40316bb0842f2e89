//! Paths: the workspace, the built programs, and the directory of this test process with its logs.

use cli::stack::Filter;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

static KEEP: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicU32 = AtomicU32::new(1);

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository").to_owned()
}

/// The policy that users copy.
pub fn shipped_policy() -> PathBuf {
    root().join("envoy/policy.yaml")
}

/// The `agentrelay` binary.
pub fn program() -> PathBuf {
    built("AGENTRELAY_PROGRAM", &profile_directory().join("agentrelay"), "cargo build --package cli")
}

/// The filter.
pub fn wasm() -> PathBuf {
    let target = profile_directory().parent().expect("a profile is in target").to_owned();
    built("AGENTRELAY_WASM", &target.join("wasm32-wasip1/wasm/agentrelay.wasm"), "cargo wasm")
}

/// The filter in the host that this run tests: wasm, or the dynamic module that `AGENTRELAY_NATIVE` names.
pub fn filter() -> Filter {
    env::var_os("AGENTRELAY_NATIVE").map_or_else(|| Filter::Wasm(wasm()), |file| Filter::Native(file.into()))
}

/// The Python environment that `scripts/setup` fills.
pub fn environment() -> PathBuf {
    env::var_os("AGENTRELAY_ENVIRONMENT").map_or_else(|| root().join(".cache/venv"), PathBuf::from)
}

fn built(variable: &str, default: &Path, how: &str) -> PathBuf {
    let path = env::var_os(variable).map_or_else(|| default.to_owned(), PathBuf::from);
    assert!(
        path.is_file(),
        "{} is not there: run scripts/test, or `{how}` and set {variable}",
        path.display()
    );
    path
}

/// `target/debug`: this program is `target/debug/deps/NAME-HASH`.
fn profile_directory() -> PathBuf {
    let program = env::current_exe().expect("a test knows its own path");
    program.ancestors().nth(2).expect("a test is in target/PROFILE/deps").to_owned()
}

/// The directory of this test process. Directories of ended processes are removed first.
pub fn process_directory() -> &'static Path {
    static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
        let logs = profile_directory().join("test-logs");
        for old in fs::read_dir(&logs).into_iter().flatten().flatten() {
            let owner = old.file_name().to_string_lossy().rsplit('-').next().unwrap_or_default().to_owned();
            let is_kept = old.path().join("failed").exists() && is_recent(&old.path());
            if !Path::new("/proc").join(owner).exists() && !is_kept {
                let _ = fs::remove_dir_all(old.path());
            }
        }
        let program = env::current_exe().expect("a test knows its own path");
        let name = program.file_stem().expect("a test has a name").to_string_lossy();
        let name = name.split('-').next().unwrap_or_default();
        let directory = logs.join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("logs can be written to target");
        directory
    });
    &DIRECTORY
}

/// Logs of failures in the last hour are kept while other tests run.
fn is_recent(directory: &Path) -> bool {
    let modified = fs::metadata(directory).and_then(|metadata| metadata.modified()).ok();
    modified.and_then(|time| time.elapsed().ok()).is_some_and(|age| age.as_secs() < 3600)
}

/// A directory for one gate.
pub fn gate_directory() -> PathBuf {
    let directory = process_directory().join(format!("gate-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(&directory).expect("logs can be written to target");
    directory
}

/// Keeps the logs of this process, because a test failed.
pub fn keep() {
    KEEP.store(true, Ordering::Relaxed);
    let _ = fs::write(process_directory().join("failed"), "");
}

/// True if a test of this process failed.
pub fn is_kept() -> bool {
    KEEP.load(Ordering::Relaxed)
}
