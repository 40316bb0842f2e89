//! Ends the processes of a gate when the test process ends in any way. Shared gates are never dropped, and a test
//! process may be killed. A shell that reads from a pipe notices this: the kernel closes the pipe with the process that
//! held it.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Reads process groups, one a line; at the end of input, kills them all.
const SCRIPT: &str =
    "groups=; while read -r group; do groups=\"$groups -$group\"; done; kill -s KILL -- $groups";

/// Watches this process for one gate.
pub struct Reaper {
    child: Child,
    groups: ChildStdin,
}

impl Reaper {
    /// Starts watching.
    pub fn start() -> Reaper {
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C in a terminal signals the test's process group; this process must survive it.
            .process_group(0)
            .spawn()
            .expect("sh can be run");
        let groups = child.stdin.take().expect("stdin is piped");
        Reaper { child, groups }
    }

    /// Ends this process group too.
    pub fn watch(&mut self, group: u32) {
        writeln!(self.groups, "{group}").expect("the reaper reads");
    }
}

impl Drop for Reaper {
    /// The gate was dropped and has ended its processes. Their ids may soon belong to other processes.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
