//! `agentrelay completions` and `agentrelay man`: what shells and `man` read, made from the command line itself.

use super::program;
use anyhow::Context;
use clap::Args;
use clap_complete::Shell;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

/// Print completions for a shell
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay completions bash > /etc/bash_completion.d/agentrelay
  agentrelay completions zsh > ~/.zfunc/_agentrelay
  agentrelay completions fish > ~/.config/fish/completions/agentrelay.fish")]
pub struct Completions {
    /// The shell
    shell: Shell,
}

/// Print the manual page, or write the pages of all commands
#[derive(Args)]
#[command(after_help = "Examples:
  agentrelay man > agentrelay.1
  agentrelay man --to /usr/local/share/man/man1")]
pub struct Man {
    /// Write a page for each command to this directory, which is created if it is missing
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

impl Completions {
    pub fn run(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program(), "agentrelay", &mut script);
        Ok(io::stdout().lock().write_all(&script)?)
    }
}

impl Man {
    pub fn run(self) -> anyhow::Result<()> {
        let Some(directory) = self.to else {
            return Ok(clap_mangen::Man::new(program()).render(&mut io::stdout().lock())?);
        };
        let written =
            fs::create_dir_all(&directory).and_then(|()| clap_mangen::generate_to(program(), &directory));
        written.with_context(|| format!("{} can't be written", directory.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_completed_and_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let to = Some(directory.path().join("man1"));
        Man { to: to.clone() }.run().unwrap();
        let page = |name: &str| fs::read_to_string(to.as_ref().unwrap().join(name)).unwrap();
        assert!(page("agentrelay.1").contains("keys"));
        assert!(page("agentrelay-keys-create.1").contains("agentrelay keys create \\-\\-tenant ten_"));
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut program(), "agentrelay", &mut script);
            let script = String::from_utf8(script).unwrap();
            for word in ["keys", "doctor", "allow-unknown"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
