//! One child process in its own process group, with a log file. Killed when dropped.

use super::Error;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs::{self, File};
use std::future::Future;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The interval between two probes.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How many bytes of a log an error shows.
const TAIL_LINES: usize = 12;

/// A running or exited child process.
pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with stdout and stderr appended to `log`.
    pub(super) fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Process, Error> {
        let out = File::options().create(true).append(true).open(log).map_err(Error::file(log))?;
        let err = out.try_clone().map_err(Error::file(log))?;
        // Its own group, so that Ctrl-C in a terminal signals only this process, which then stops the parts in order.
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Spawn { name: name.to_owned(), source })?;
        Ok(Process { name: name.to_owned(), child, log: log.to_owned() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Its exit status, if it ended.
    fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// An error if it ended unexpectedly.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        match self.exited() {
            Ok(Some(status)) if status.success() => {
                Err(self.not_ready("ended by itself and reported no error".to_owned()))
            }
            Ok(Some(status)) => Err(self.not_ready(format!("ended with {status}"))),
            _ => Ok(()),
        }
    }

    /// Repeats `probe` until it succeeds, the deadline passes or the process ends.
    pub(super) async fn ready<Answer, Probe>(
        &mut self,
        deadline: Duration,
        mut probe: impl FnMut() -> Probe,
    ) -> Result<Answer, Error>
    where
        Probe: Future<Output = Result<Answer, String>>,
    {
        let started = Instant::now();
        loop {
            let missing = match probe().await {
                Ok(answer) => return Ok(answer),
                Err(missing) => missing,
            };
            self.check()?;
            if started.elapsed() >= deadline {
                return Err(
                    self.not_ready(format!("was not ready within {} s: {missing}", deadline.as_secs()))
                );
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    fn not_ready(&self, reason: String) -> Error {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        // Of Envoy's own log what is wrong, if it says that.
        let is_error = |line: &&str| line.contains("][error]") || line.contains("][critical]");
        let wrong: Vec<&str> = text.lines().filter(|line| is_error(line) || !line.starts_with('[')).collect();
        let lines = if wrong.is_empty() { text.lines().collect() } else { wrong };
        let lines = lines.split_at(lines.len().saturating_sub(TAIL_LINES)).1;
        let tail = lines.iter().map(|line| format!("  {line}\n")).collect();
        Error::NotReady { name: self.name.clone(), reason, log: self.log.clone(), tail }
    }

    /// Sends SIGTERM, and SIGKILL to the whole group if it still runs after `grace`.
    pub(super) async fn stop(mut self, grace: Duration) {
        let started = Instant::now();
        // To the leader only: func-e forwards the signal to its Envoy.
        if let Some(pid) = self.pid() {
            let _ = kill_process(pid, Signal::TERM);
        }
        while matches!(self.exited(), Ok(None)) && started.elapsed() < grace {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Sends SIGKILL to the whole group, and reaps the process.
    pub(super) fn kill(&mut self) {
        if let Some(pid) = self.pid() {
            // The group may have ended already.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
