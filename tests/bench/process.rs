//! Other processes: their usage as the kernel accounts it, and the cores they may use.

use anyhow::{Context, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The assignment of cores.
#[derive(Debug, Clone, Copy)]
pub struct Cores {
    /// For Envoy only.
    pub envoy: usize,
    /// For the load and the tools. Services share it with them if there are only two cores.
    pub load: usize,
    /// Envoys may use every core, because they have several workers.
    pub envoy_roams: bool,
    services: CpuSet,
    all: CpuSet,
}

impl Cores {
    /// The last core for Envoy, the first for the load, all but Envoy's for services.
    pub fn choose() -> anyhow::Result<Cores> {
        let all = sched_getaffinity(None)?;
        let mut services = all;
        let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| services.is_set(*core)).collect();
        ensure!(usable.len() >= 2, "two cores are needed: one for Envoy, one for everything else");
        let (load, envoy) = (usable[0], usable[usable.len() - 1]);
        services.unset(envoy);
        Ok(Cores { envoy, load, envoy_roams: false, services, all })
    }

    /// Keeps this thread and the processes that it starts off Envoy's core.
    pub fn avoid_envoy_core(&self) -> anyhow::Result<()> {
        Ok(sched_setaffinity(None, &self.services)?)
    }

    /// Pins this thread to the core of the load.
    pub fn stay(&self) -> anyhow::Result<()> {
        Ok(sched_setaffinity(None, &only(self.load))?)
    }

    /// Starts an Envoy.
    pub fn spawn_envoy(&self, command: &mut Command, log: &Path) -> anyhow::Result<Running> {
        let cores = if self.envoy_roams { self.all } else { only(self.envoy) };
        self.on(&cores, || spawn(command, log))
    }

    /// Starts a process that does not use Envoy's core.
    pub fn spawn_service(&self, command: &mut Command, log: &Path) -> anyhow::Result<Running> {
        self.on(&self.services, || spawn(command, log))
    }

    /// Runs something whose child processes inherit these cores: a child gets the cores of the thread that starts it.
    fn on<Answer>(
        &self,
        cores: &CpuSet,
        act: impl FnOnce() -> anyhow::Result<Answer>,
    ) -> anyhow::Result<Answer> {
        let before = sched_getaffinity(None)?;
        sched_setaffinity(None, cores)?;
        let answer = act();
        sched_setaffinity(None, &before)?;
        answer
    }
}

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
}

/// A command that the kernel kills when this program ends in any way. Otherwise a killed run would leave processes that
/// disturb the next one.
pub fn tied(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// A script that starts a program as [`tied`] does, for callers that accept only a path.
pub fn tied_program(program: &Path, directory: &Path) -> anyhow::Result<PathBuf> {
    let script = directory.join("program");
    let program = fs::canonicalize(program)?;
    fs::write(&script, format!("#!/bin/sh\nexec setpriv --pdeathsig KILL '{}' \"$@\"\n", program.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

fn spawn(command: &mut Command, log: &Path) -> anyhow::Result<Running> {
    let out = File::options().create(true).append(true).open(log)?;
    let err = out.try_clone()?;
    let name = format!("{command:?}");
    let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
    Ok(Running(child.with_context(|| format!("starting {name}"))?))
}

/// A child process. Dropping it kills it.
pub struct Running(Child);

impl Running {
    /// Its id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// An error with the end of its log if it has ended.
    pub fn check(&mut self, log: &Path) -> anyhow::Result<()> {
        let Some(status) = self.0.try_wait()? else { return Ok(()) };
        let text = fs::read_to_string(log).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(12).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        anyhow::bail!("it ended ({status}), see {}:\n{}", log.display(), tail.join("\n"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU time so far, of all threads, user and system, in nanoseconds. `/proc/PID/stat` has the same in ticks of 10 ms
/// and is used if the kernel has no finer accounting.
pub fn cpu_ns(process: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        match fs::read_to_string(task?.path().join("schedstat")) {
            Ok(text) => sum += text.split(' ').next().unwrap_or_default().parse::<u64>()?,
            Err(_) => return ticks_ns(process),
        }
    }
    Ok(sum)
}

fn ticks_ns(process: u32) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field is the name in parentheses, which may contain anything.
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    Ok(ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second()))
}

/// Resident memory in KiB.
pub fn rss_kib(process: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
