//! A PostgreSQL server of one's own, for tests and benchmarks: made from the installed binaries in a temporary
//! directory, reached by a socket there, and gone when its owner goes, even if that is killed.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Where Debian keeps the binaries, one directory a version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Names another directory of binaries.
const BIN_VARIABLE: &str = "AGENTRELAY_POSTGRES_BIN";
/// Who the server runs as where we are root, which it refuses to be: the first of these that exists.
const USERS: [&str; 2] = ["postgres", "nobody"];
const START_TIMEOUT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Runs the server and waits for a word. At the end of input, which is when the owner has gone, it stops the server and
/// removes the directory; the word `keep` leaves that.
const KEEPER: &str = r#"
trap '' INT TERM HUP
directory=$1; shift
"$@" >> "$directory/log" 2>&1 < /dev/null &
server=$!
read -r word
kill -INT "$server"
wait "$server"
[ "$word" = keep ] || rm -rf "$directory"
"#;

/// Why there is no server.
#[derive(Debug)]
pub enum Error {
    /// The binaries are not there.
    NotInstalled,
    /// The operating system says no.
    Io(io::Error),
    /// The server's own programs say no.
    Refused(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotInstalled => write!(
                f,
                "PostgreSQL is not installed: there is no {DEBIAN}/*/bin/initdb; install the package postgresql, \
                 or name the directory of its binaries in {BIN_VARIABLE}"
            ),
            Error::Io(cause) => write!(f, "PostgreSQL can't be run: {cause}"),
            Error::Refused(said) => write!(f, "PostgreSQL did not start: {said}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(cause: io::Error) -> Error {
        Error::Io(cause)
    }
}

/// The server. Dropping it stops it and removes all of it.
pub struct Throwaway {
    directory: TempDir,
    programs: PathBuf,
    account: Option<(u32, u32)>,
    databases: AtomicU32,
    keeper: Option<Child>,
}

impl Throwaway {
    /// Makes and starts one. Blocks for a second or two.
    pub fn start() -> Result<Throwaway, Error> {
        let programs = programs().ok_or(Error::NotInstalled)?;
        let directory = tempfile::Builder::new().prefix("agentrelay-pg-").tempdir()?;
        let account =
            if fs::metadata("/proc/self").is_ok_and(|me| owner(&me) == 0) { unprivileged()? } else { None };
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700))?;
        if let Some((user, group)) = account {
            chown(directory.path(), Some(user), Some(group))?;
        }
        let mut server =
            Throwaway { directory, programs, account, databases: AtomicU32::new(0), keeper: None };
        let made = server
            .command(&server.programs.join("initdb"))
            .args(["--username=ledger", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
            .arg("--pgdata")
            .arg(server.data())
            .stdin(Stdio::null())
            .output()?;
        if !made.status.success() {
            return Err(Error::Refused(String::from_utf8_lossy(&made.stderr).trim().to_owned()));
        }
        server.resume()?;
        Ok(server)
    }

    /// Starts it again after [`Throwaway::pause`], with all that it held.
    pub fn resume(&mut self) -> Result<(), Error> {
        let directory = self.directory.path();
        let mut keeper = self
            .command(Path::new("/bin/sh"))
            .args(["-c", KEEPER, "keeper"])
            .arg(directory)
            .arg(self.programs.join("postgres"))
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(directory)
            .args(["-c", "listen_addresses=", "-c", "max_connections=200"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal goes to the owner's group; the keeper stops the server in order then.
            .process_group(0)
            .spawn()?;
        let deadline = Instant::now().checked_add(START_TIMEOUT);
        loop {
            // The socket is there before the server answers, so it is asked.
            let Err(cause) = self.config("postgres").connect(postgres::NoTls) else { break };
            let ended = keeper.try_wait()?.is_some();
            if ended || deadline.is_none_or(|deadline| Instant::now() > deadline) {
                let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
                return Err(Error::Refused(format!("{cause}\n{log}")));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        self.keeper = Some(keeper);
        Ok(())
    }

    /// Stops it, as a database goes away; its data stays.
    #[cfg(test)]
    pub fn pause(&mut self) {
        self.end(b"keep\n");
    }

    /// Makes an empty database and returns its URL.
    pub fn database(&self) -> Result<String, Error> {
        let name = format!("ledger_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let refused = |cause: postgres::Error| Error::Refused(cause.to_string());
        let mut client = self.config("postgres").connect(postgres::NoTls).map_err(refused)?;
        client.batch_execute(&format!("CREATE DATABASE {name}")).map_err(refused)?;
        let socket = self.directory.path().display().to_string().replace('/', "%2F");
        Ok(format!("postgres://ledger@{socket}/{name}"))
    }

    fn config(&self, database: &str) -> postgres::Config {
        let mut config = postgres::Config::new();
        config.host_path(self.directory.path()).user("ledger").dbname(database);
        config
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.directory.path()).env_remove("PGDATA");
        if let Some((user, group)) = self.account {
            command.uid(user).gid(group);
        }
        command
    }

    fn end(&mut self, word: &[u8]) {
        if let Some(mut keeper) = self.keeper.take() {
            if let Some(mut stdin) = keeper.stdin.take() {
                // A keeper that has gone has nothing left to be told.
                let _ = stdin.write_all(word);
            }
            let _ = keeper.wait();
        }
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        self.end(b"");
    }
}

fn owner(file: &fs::Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::uid(file)
}

/// User and group to run as.
fn unprivileged() -> io::Result<Option<(u32, u32)>> {
    let accounts = fs::read_to_string("/etc/passwd")?;
    let account = |wanted: &str| {
        accounts.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(wanted)).then_some(())?;
            let user = fields.nth(1)?.parse().ok()?;
            Some((user, fields.next()?.parse().ok()?))
        })
    };
    Ok(USERS.into_iter().find_map(account))
}

/// The directory of the newest installed version's binaries.
fn programs() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(BIN_VARIABLE).map(PathBuf::from) {
        return Some(named);
    }
    let version = |name: OsString| name.to_str()?.parse::<u32>().ok();
    let versions = fs::read_dir(DEBIAN).ok()?.filter_map(|entry| version(entry.ok()?.file_name()));
    let directory = Path::new(DEBIAN).join(versions.max()?.to_string()).join("bin");
    directory.join("initdb").exists().then_some(directory)
}
