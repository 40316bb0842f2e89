//! A temporary PostgreSQL server for tests and benchmarks: created from the installed binaries in a temporary
//! directory, reached through a socket there, and removed when its owner ends, even if that is killed. Tests can pause,
//! kill and freeze it, put it on a small disk, and add a standby.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
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
/// The user that runs the server if the owner is root, which the server refuses: the first of these that exists.
const USERS: [&str; 2] = ["postgres", "nobody"];
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long processes may take to notice that the server's main process has ended.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Runs the server and waits for input. At the end of input, when the owner has ended, it stops the server and removes
/// the directory; the word `keep` keeps the directory.
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
    /// The binaries are missing.
    NotInstalled,
    /// The operating system returned an error.
    Io(io::Error),
    /// One of the server's own programs failed.
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

/// Options of a server that differ from the defaults.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where its directory is created, which may be a small disk; otherwise in the directory for temporary files.
    pub within: Option<PathBuf>,
    /// Also listens on 127.0.0.1, with TLS only, with this certificate and its key in PEM.
    pub tls: Option<(String, String)>,
}

/// The server. Dropping it stops it and removes all of it.
pub struct Throwaway {
    directory: TempDir,
    port: Option<u16>,
    programs: PathBuf,
    account: Option<(u32, u32)>,
    databases: AtomicU32,
    keeper: Option<Child>,
    is_frozen: bool,
}

impl Throwaway {
    /// Creates and starts a server. Blocks for a second or two.
    pub fn start() -> Result<Throwaway, Error> {
        Throwaway::with(&Options::default())
    }

    /// The same with options.
    pub fn with(options: &Options) -> Result<Throwaway, Error> {
        let programs = programs().ok_or(Error::NotInstalled)?;
        let within = options.within.clone().unwrap_or_else(std::env::temp_dir);
        let directory = tempfile::Builder::new().prefix("agentrelay-pg-").tempdir_in(within)?;
        let account =
            if fs::metadata("/proc/self").is_ok_and(|me| owner(&me) == 0) { unprivileged()? } else { None };
        let mut server = Throwaway {
            directory,
            port: None,
            programs,
            account,
            databases: AtomicU32::new(0),
            keeper: None,
            is_frozen: false,
        };
        server.give_to_server_user(server.directory.path(), 0o700)?;
        let made = server
            .command(&server.programs.join("initdb"))
            .args(["--username=ledger", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
            // A small disk has no space for the usual segments of 16 MiB.
            .args(options.within.is_some().then_some("--wal-segsize=1"))
            .arg("--pgdata")
            .arg(server.data())
            .stdin(Stdio::null())
            .output()?;
        if !made.status.success() {
            return Err(Error::Refused(String::from_utf8_lossy(&made.stderr).trim().to_owned()));
        }
        if let Some((certificate, key)) = &options.tls {
            server.speak_tls(certificate, key)?;
        }
        server.resume()?;
        Ok(server)
    }

    /// A standby that follows this server by streaming replication, in its own directory.
    pub fn standby(&self) -> Result<Throwaway, Error> {
        let directory = tempfile::Builder::new().prefix("agentrelay-pg-").tempdir()?;
        let mut standby = Throwaway {
            directory,
            port: None,
            programs: self.programs.clone(),
            account: self.account,
            databases: AtomicU32::new(0),
            keeper: None,
            is_frozen: false,
        };
        standby.give_to_server_user(standby.directory.path(), 0o700)?;
        standby.follow(self)?;
        Ok(standby)
    }

    /// Deletes its data, if there is any, and follows that server from now on, at the same address.
    pub fn follow(&mut self, primary: &Throwaway) -> Result<(), Error> {
        self.end(b"keep\n");
        if self.data().exists() {
            fs::remove_dir_all(self.data())?;
        }
        let copied = self
            .command(&self.programs.join("pg_basebackup"))
            .args(["--username=ledger", "--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--host"])
            .arg(primary.directory.path())
            .arg("--pgdata")
            .arg(self.data())
            .stdin(Stdio::null())
            .output()?;
        if !copied.status.success() {
            return Err(Error::Refused(String::from_utf8_lossy(&copied.stderr).trim().to_owned()));
        }
        self.resume()
    }

    /// Promotes a standby, and waits until it accepts writes.
    pub fn promote(&self) -> Result<(), Error> {
        self.ask("SELECT pg_promote()::text").map(drop)
    }

    /// The first column of the first row, which is a text.
    pub fn ask(&self, select: &str) -> Result<String, Error> {
        let refused = |cause: postgres::Error| Error::Refused(cause.to_string());
        let mut client = self.config("postgres").connect(postgres::NoTls).map_err(refused)?;
        client.query_one(select, &[]).and_then(|row| row.try_get(0)).map_err(refused)
    }

    /// Changes a setting for all new and existing connections.
    pub fn set(&self, setting: &str, value: &str) -> Result<(), Error> {
        let refused = |cause: postgres::Error| Error::Refused(cause.to_string());
        let mut client = self.config("postgres").connect(postgres::NoTls).map_err(refused)?;
        client.batch_execute(&format!("ALTER SYSTEM SET {setting} = {value}")).map_err(refused)?;
        client.batch_execute("SELECT pg_reload_conf()").map_err(refused)
    }

    /// Stops all of its processes with SIGSTOP: its sockets stay open, and nobody answers. `false` resumes them.
    pub fn freeze(&mut self, is_frozen: bool) -> Result<(), Error> {
        let main = fs::read_to_string(self.data().join("postmaster.pid"))?;
        let main = main.lines().next().unwrap_or_default();
        let children = fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap_or_default();
        self.is_frozen = is_frozen;
        let name = if is_frozen { "STOP" } else { "CONT" };
        for process in std::iter::once(main).chain(children.split_whitespace()) {
            // A process that has ended meanwhile is stopped as well.
            let _ = signal(process, name);
        }
        Ok(())
    }

    /// The directory of its socket, as a host in a URL.
    pub fn host(&self) -> String {
        self.directory.path().display().to_string().replace('/', "%2F")
    }

    fn speak_tls(&mut self, certificate: &str, key: &str) -> Result<(), Error> {
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let file = self.data().join(name);
            fs::write(&file, text)?;
            self.give_to_server_user(&file, 0o600)?;
        }
        fs::write(
            self.data().join("pg_hba.conf"),
            "local all all trust\nhostssl all all 127.0.0.1/32 trust\n",
        )?;
        // Free now; if another process takes it meanwhile, the start fails with an error that says so.
        self.port = Some(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port());
        Ok(())
    }

    /// Gives a file to the user that runs the server.
    fn give_to_server_user(&self, path: &Path, mode: u32) -> io::Result<()> {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        if let Some((user, group)) = self.account {
            chown(path, Some(user), Some(group))?;
        }
        Ok(())
    }

    /// The TCP address, if it speaks TLS.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// One of the server's own programs, such as `pg_dump`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Its own log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// `kill -9` of the server, as when the machine is out of memory. [`Throwaway::resume`] starts it again.
    pub fn kill(&mut self) -> Result<(), Error> {
        let main = fs::read_to_string(self.data().join("postmaster.pid"))?;
        let main = main.lines().next().unwrap_or_default();
        let children = fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap_or_default();
        kill(main)?;
        self.end(b"keep\n");
        // They notice by themselves, and a new server does not start before that, except for a process that waits for
        // data from one that is gone.
        let data = fs::canonicalize(self.data())?;
        let is_there = |child: &&str| {
            let within = fs::read_link(Path::new("/proc").join(child).join("cwd"));
            within.is_ok_and(|within| within == data)
        };
        let deadline = Instant::now().checked_add(NOTICE_TIMEOUT);
        while children.split_whitespace().any(|child| is_there(&child))
            && deadline.is_some_and(|deadline| Instant::now() < deadline)
        {
            std::thread::sleep(POLL_INTERVAL);
        }
        for child in children.split_whitespace().filter(is_there) {
            // A process that ends meanwhile can't be killed.
            let _ = kill(child);
        }
        Ok(())
    }

    /// Starts the server if it has ended by itself, as its unit would: without space for its log it stops.
    pub fn start_again(&mut self) -> Result<(), Error> {
        let main = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        let is_running = main.lines().next().is_some_and(|main| Path::new("/proc").join(main).exists());
        if is_running {
            return Ok(());
        }
        self.end(b"keep\n");
        self.resume()
    }

    /// `kill -9` of a process that serves a ledger, after which PostgreSQL restarts by itself. False if there is none.
    pub fn kill_backend(&self, choice: u64) -> Result<bool, Error> {
        let refused = |cause: postgres::Error| Error::Refused(cause.to_string());
        let mut client = self.config("postgres").connect(postgres::NoTls).map_err(refused)?;
        let select = "SELECT pid FROM pg_stat_activity WHERE application_name = 'agentrelay' ORDER BY pid";
        let serving = client.query(select, &[]).map_err(refused)?;
        let count = u64::try_from(serving.len()).unwrap_or(u64::MAX);
        let choice = choice.checked_rem(count).and_then(|place| usize::try_from(place).ok());
        let Some(row) = choice.and_then(|place| serving.get(place)) else { return Ok(false) };
        let process: i32 = row.try_get(0).map_err(refused)?;
        kill(&process.to_string())?;
        Ok(true)
    }

    /// Starts it again after [`Throwaway::pause`], with all its data.
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
            .args(["-c", "max_connections=200"])
            .args(match self.port {
                Some(port) => {
                    let port = format!("port={port}");
                    ["-c", "listen_addresses=127.0.0.1", "-c", "ssl=on", "-c", &port]
                        .map(str::to_owned)
                        .to_vec()
                }
                None => vec!["-c".to_owned(), "listen_addresses=".to_owned()],
            })
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal signals the owner's group; the keeper then stops the server properly.
            .process_group(0)
            .spawn()?;
        let deadline = Instant::now().checked_add(START_TIMEOUT);
        loop {
            // The socket exists before the server answers, so a query is tried.
            let Err(cause) = self.config("postgres").connect(postgres::NoTls) else { break };
            let ended = keeper.try_wait()?.is_some();
            if ended || deadline.is_none_or(|deadline| Instant::now() > deadline) {
                let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
                return Err(Error::Refused(format!("{cause}\n{log}")));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        self.keeper = Some(keeper);
        Ok(())
    }

    /// Stops it, as an unavailable database; its data stays.
    pub fn pause(&mut self) {
        self.end(b"keep\n");
    }

    /// Makes an empty database and returns its URL.
    pub fn database(&self) -> Result<String, Error> {
        let name = format!("ledger_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let refused = |cause: postgres::Error| Error::Refused(cause.to_string());
        let mut client = self.config("postgres").connect(postgres::NoTls).map_err(refused)?;
        client.batch_execute(&format!("CREATE DATABASE {name}")).map_err(refused)?;
        let socket = self.host();
        let port = self.port.map_or_else(String::new, |port| format!(":{port}"));
        Ok(format!("postgres://ledger@{socket}{port}/{name}"))
    }

    fn config(&self, database: &str) -> postgres::Config {
        let mut config = postgres::Config::new();
        config.host_path(self.directory.path()).user("ledger").dbname(database);
        if let Some(port) = self.port {
            config.port(port);
        }
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
                // A keeper that has ended needs no message.
                let _ = stdin.write_all(word);
            }
            let _ = keeper.wait();
        }
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        if self.is_frozen {
            let _ = self.freeze(false);
        }
        self.end(b"");
    }
}

fn kill(process: &str) -> Result<(), Error> {
    signal(process, "KILL")
}

fn signal(process: &str, name: &str) -> Result<(), Error> {
    let status = Command::new("kill").args(["-s", name, process]).status()?;
    if status.success() { Ok(()) } else { Err(Error::Refused(format!("{process} can't be sent {name}"))) }
}

fn owner(file: &fs::Metadata) -> u32 {
    std::os::unix::fs::MetadataExt::uid(file)
}

/// The user and group to run as.
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
