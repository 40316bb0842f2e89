//! Output: results to stdout, as JSON or aligned columns; notes and progress to stderr.

use client::Tagged;
use serde::Serialize;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Prints one line of result.
pub fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Prints one result as indented JSON.
pub fn json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    Ok(line(&serde_json::to_string_pretty(value)?)?)
}

/// Prints one result as JSON on one line, for lists of any length.
pub fn json_line<T: Serialize>(value: &T) -> anyhow::Result<()> {
    Ok(line(&serde_json::to_string(value)?)?)
}

/// Prints a note that is not a result. A closed stderr is ignored.
pub fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Shows progress on one line of a terminal, which [`done`] clears.
pub fn progress(text: &str) {
    let mut stderr = io::stderr().lock();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K{text}");
        let _ = stderr.flush();
    }
}

/// Clears what [`progress`] left.
pub fn done() {
    progress("");
}

/// Prints one line, with invisible characters made visible.
pub fn shown(text: &str) -> io::Result<()> {
    line(&protocol::text::shown(text))
}

/// Prints a heading and rows in columns as wide as their widest cell.
pub fn table<const COLUMNS: usize>(heading: [&str; COLUMNS], rows: &[[String; COLUMNS]]) -> io::Result<()> {
    let heading = heading.map(|title| title.to_uppercase());
    // Earlier releases accepted names with characters that change the direction of the rest of the line.
    let rows: Vec<[String; COLUMNS]> =
        rows.iter().map(|row| row.each_ref().map(|cell| protocol::text::shown(cell))).collect();
    let mut widths = [0_usize; COLUMNS];
    for row in std::iter::once(&heading).chain(&rows) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut stdout = io::stdout().lock();
    for row in std::iter::once(&heading).chain(&rows) {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(stdout, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// Prints names and values, one pair a line.
pub fn fields(pairs: &[(&str, String)]) -> io::Result<()> {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut stdout = io::stdout().lock();
    for (name, value) in pairs {
        writeln!(stdout, "{name:<width$}  {}", protocol::text::shown(value))?;
    }
    Ok(())
}

/// Prints a resource with the version that `--if-match` takes.
pub fn versioned<T: Serialize>(
    tagged: &Tagged<T>,
    described: fn(&T) -> Vec<(&'static str, String)>,
    as_json: bool,
) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        #[serde(flatten)]
        thing: &'a T,
        version: Option<&'a str>,
    }
    let (thing, version) = (&tagged.value, tagged.version());
    if as_json {
        return json(&Versioned { thing, version });
    }
    let mut pairs = described(thing);
    pairs.push(("version", or_dash(version)));
    Ok(fields(&pairs)?)
}

/// Fails if a secret can't be printed; to be called before one is created. Rust opens `/dev/null` for a closed standard
/// output.
pub fn check_can_print_secrets() -> anyhow::Result<()> {
    let stdout = std::fs::File::from(io::stdout().as_fd().try_clone_to_owned()?).metadata()?;
    let nowhere = std::fs::metadata("/dev/null")?;
    if stdout.file_type().is_char_device() && stdout.rdev() == nowhere.rdev() {
        anyhow::bail!(
            "the secret is shown only once, and standard output is closed or /dev/null; redirect it to where you can read it"
        );
    }
    Ok(())
}

/// Prints what was created with its secret. If that fails, says how to get rid of the unknown secret.
pub fn made(print: impl FnOnce() -> anyhow::Result<()>, undo: &str) -> anyhow::Result<()> {
    // The cause as text, not as a source: `main` ignores errors with a closed pipe among their sources.
    print().map_err(|cause| {
        anyhow::anyhow!("the secret was created but can't be written out ({cause}), so nobody has it. {undo}")
    })
}

/// Prints a new secret, with a note that it is shown only once.
pub fn secret(secret: String) -> io::Result<()> {
    fields(&[("secret", secret)])?;
    note("Keep the secret now: it is stored nowhere and can't be shown again.");
    Ok(())
}

/// The value, or a dash.
pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
