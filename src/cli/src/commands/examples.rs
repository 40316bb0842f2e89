//! Examples are written once, at a group of commands; each command also shows its own.

use clap::Command;

/// Adds to each command its examples from the group.
pub fn distribute(program: Command) -> Command {
    let name = program.get_name().to_owned();
    program.mut_subcommands(|group| of_group(group, &name))
}

fn of_group(group: Command, program: &str) -> Command {
    let place = format!("{program} {}", group.get_name());
    let help = group.get_after_help().map(ToString::to_string).unwrap_or_default();
    let examples: Vec<String> = help.lines().map(str::to_owned).collect();
    group.mut_subcommands(|command| {
        let begin = format!("  {place} {}", command.get_name());
        let is_own = |line: &&String| {
            line.strip_prefix(begin.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        let own: Vec<&str> = examples.iter().filter(is_own).map(String::as_str).collect();
        if own.is_empty() { command } else { command.after_help(format!("Examples:\n{}", own.join("\n"))) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::Cli;
    use clap::CommandFactory;

    /// Every command that does something, with the words that call it.
    fn leaves(command: &Command, words: &str, found: &mut Vec<(String, String)>) {
        let mut children = command.get_subcommands().filter(|child| child.get_name() != "help").peekable();
        if children.peek().is_none() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            found.push((words.to_owned(), help));
        }
        for child in children {
            leaves(child, &format!("{words} {}", child.get_name()), found);
        }
    }

    /// As a shell reads a line of an example.
    fn words(line: &str) -> Vec<String> {
        let line = line.split_once("  #").map_or(line, |(command, _)| command);
        let line = line.split_once(" > ").map_or(line, |(command, _)| command);
        let quoted = line.split('\'').enumerate();
        quoted
            .flat_map(|(place, part)| match place % 2 {
                0 => part.split_whitespace().map(str::to_owned).collect(),
                _ => vec![part.to_owned()],
            })
            // Ids and hashes are cut short in examples.
            .map(|word| word.replace("...", "1"))
            .collect()
    }

    #[test]
    fn every_command_has_examples_and_every_example_is_a_command() {
        let program = distribute(Cli::command());
        let mut found = Vec::new();
        leaves(&program, "agentrelay", &mut found);
        assert!(found.len() > 40, "{}", found.len());
        for (command, help) in found {
            let examples: Vec<&str> =
                help.lines().map(str::trim).filter(|line| line.starts_with("agentrelay ")).collect();
            assert!(!examples.is_empty(), "`{command} --help` has no example");
            for example in examples {
                assert!(example.starts_with(&command), "`{command} --help` shows `{example}`");
                let read = program.clone().try_get_matches_from(words(example));
                assert!(
                    read.is_ok(),
                    "{example}: {}",
                    read.err().map(|error| error.to_string()).unwrap_or_default()
                );
            }
        }
    }
}
