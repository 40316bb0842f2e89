//! House rules that the compiler does not check.

#[path = "tidy/rooms.rs"]
mod rooms;
#[path = "tidy/source.rs"]
mod source;
#[path = "tidy/wrong.rs"]
mod wrong;

use harness::files;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files of the repository by their paths in it: those that git knows, and new ones that it does not ignore.
fn repository() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(files::root())
        .output()
        .expect("git can be run");
    let listed = if output.status.success() {
        String::from_utf8(output.stdout).expect("paths are text")
    } else {
        walked()
    };
    let files: Vec<String> = listed.lines().map(str::to_owned).collect();
    let files: Vec<String> = files.into_iter().filter(|path| files::root().join(path).is_file()).collect();
    assert!(files.len() > 50, "the repository is not here: {files:?}");
    files
}

/// The same for a copy without git.
fn walked() -> String {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("the repository can be read").flatten() {
            let name = entry.file_name();
            let is_ignored = ["target", ".cache", ".git"].iter().any(|ignored| name == *ignored);
            match entry.path() {
                path if path.is_dir() && !is_ignored => walk(&path, found),
                path if path.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(&files::root(), &mut found);
    let relative = |path: &PathBuf| {
        path.strip_prefix(files::root()).expect("it is below").to_string_lossy().into_owned()
    };
    found.iter().map(relative).collect::<Vec<_>>().join("\n")
}

fn read(path: &str) -> String {
    String::from_utf8_lossy(&fs::read(files::root().join(path)).expect("it is there")).into_owned()
}

fn rust_files() -> Vec<(String, String)> {
    let paths = repository().into_iter().filter(|path| path.ends_with(".rs"));
    paths.map(|path| (path.clone(), read(&path))).collect()
}

/// The names in a crate's dependency tree, for the target of the filter.
fn tree(package: &str, depth: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--package", package, "--edges", "normal", "--prefix", "none"])
        .args(["--target", "wasm32-wasip1", "--depth", depth])
        .current_dir(files::root())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("names are text");
    let names = text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned);
    names.filter(|name| name != package).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn the_filter_depends_on_what_it_may_and_nothing_else() {
    let own = ["base64", "gate", "log", "policy", "protocol", "proxy-wasm", "serde", "serde_json", "sha2"];
    assert_eq!(tree("filter", "1"), set(&own));
    // Their own dependencies: small, pure, and without sockets, files or clocks.
    let pure = [
        "allocator-api2",
        "block-buffer",
        "cfg-if",
        "crypto-common",
        "deranged",
        "digest",
        "equivalent",
        "foldhash",
        "generic-array",
        "hmac",
        "hashbrown",
        "itoa",
        "memchr",
        "num-conv",
        "powerfmt",
        "proc-macro2",
        "quote",
        "serde_core",
        "serde_derive",
        "subtle",
        "syn",
        "time",
        "time-core",
        "typenum",
        "unicode-ident",
        "version_check",
        "zmij",
        "ryu",
    ];
    let allowed = set(&[&own[..], &pure[..]].concat());
    let all = tree("filter", "99");
    let strange: Vec<_> = all.difference(&allowed).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn arrows_between_crates_point_one_way() {
    for (package, allowed) in [
        ("protocol", vec![]),
        ("policy", vec!["protocol"]),
        ("gate", vec!["policy", "protocol"]),
        ("filter", vec!["gate", "policy", "protocol"]),
        ("native", vec!["gate", "policy", "protocol"]),
        ("client", vec!["protocol"]),
        ("ledger", vec!["policy", "protocol"]),
    ] {
        let own =
            set(&["protocol", "policy", "gate", "filter", "native", "client", "ledger", "cli", "tests"]);
        let used: BTreeSet<String> = tree(package, "1").intersection(&own).cloned().collect();
        let strange: Vec<_> = used.difference(&set(&allowed)).cloned().collect();
        assert!(strange.is_empty(), "{package} depends on {strange:?}");
    }
}

fn rooms(name: &str) -> source::Rooms {
    let directory = format!("src/{name}/src/");
    source::Rooms::read(
        name,
        &rust_files().into_iter().filter(|(path, _)| path.starts_with(&directory)).collect(),
    )
}

#[test]
fn rooms_use_what_the_table_says_and_form_no_circle() {
    let faults = rooms::TABLE.iter().flat_map(|(name, order)| rooms::faults(name, order, &rooms(name)));
    let faults: Vec<String> = faults.collect();
    assert!(faults.is_empty(), "tests/tidy/rooms.rs holds the table.\n{}", faults.join("\n"));
}

/// `UPDATE=1 cargo test --package tests --test tidy` draws it again.
#[test]
fn the_graph_of_the_rooms_is_drawn_as_it_is() {
    const BEGIN: &str =
        "<!-- rooms: drawn from the source text by `UPDATE=1 cargo test --package tests --test tidy` -->\n";
    const END: &str = "<!-- end of rooms -->";
    let crates = ["protocol", "policy", "gate", "filter", "native", "ledger", "client", "cli"];
    let drawn = crates.map(|name| rooms::diagram(name, rooms(name))).join("\n");
    let path = "docs/architecture.md";
    let text = read(path);
    let (before, rest) = text.split_once(BEGIN).expect("it has the mark at which the rooms begin");
    let (golden, after) = rest.split_once(END).expect("it has the mark at which the rooms end");
    if std::env::var_os("UPDATE").is_some() {
        let text = format!("{before}{BEGIN}{drawn}{END}{after}");
        fs::write(files::root().join(path), text).expect("it can be written");
    } else {
        assert!(
            drawn == golden,
            "{path} shows other rooms than there are; UPDATE=1 draws them anew:\n{drawn}"
        );
    }
}

#[test]
fn the_filter_is_small() {
    let bytes = fs::metadata(files::wasm()).expect("the filter is built").len();
    // Envoy compiles each byte on every worker when it starts.
    assert!(bytes < 768 * 1024, "{bytes} bytes");
}

#[test]
fn the_top_level_holds_only_what_it_should() {
    let allowed = set(&[
        ".cargo",
        ".ci",
        ".dockerignore",
        ".gitignore",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "SECURITY.md",
        "clippy.toml",
        "deny.toml",
        "docs",
        "envoy",
        "rust-toolchain.toml",
        "rustfmt.toml",
        "scripts",
        "src",
        "tests",
    ]);
    let there: BTreeSet<String> =
        repository().iter().filter_map(|path| path.split('/').next()).map(str::to_owned).collect();
    let strange: Vec<_> = there.difference(&allowed).collect();
    assert!(strange.is_empty(), "{strange:?}");
}

#[test]
fn no_signing_key_is_in_the_repository() {
    let keys: Vec<String> = repository().into_iter().filter(|path| path.ends_with(".audit-key")).collect();
    assert!(keys.is_empty(), "{keys:?}");
}

#[test]
fn every_module_says_what_it_owns() {
    for (path, text) in rust_files() {
        assert!(text.starts_with("//! "), "{path} does not open with its purpose");
        assert!(!path.ends_with("/mod.rs"), "{path}: name it after the module");
    }
}

#[test]
fn no_file_has_a_second_subject() {
    for (path, text) in rust_files() {
        let lines = text.lines().count();
        assert!(lines <= 600, "{path} has {lines} lines");
    }
    for path in repository().iter().filter(|path| path.starts_with("scripts/")) {
        let lines = read(path).lines().count();
        assert!(lines <= 50, "{path} has {lines} lines");
    }
}

#[test]
fn product_code_cannot_reach_a_panic() {
    for path in repository().iter().filter(|path| path.starts_with("src/") && path.ends_with("Cargo.toml")) {
        assert!(
            read(path).contains("[lints]\nworkspace = true"),
            "{path} does not take the workspace's lints"
        );
    }
    let manifest = read("Cargo.toml");
    for lint in ["unwrap_used", "expect_used", "panic", "indexing_slicing", "arithmetic_side_effects"] {
        assert!(manifest.contains(&format!("{lint} = \"deny\"")), "{lint} is not denied");
    }
    // Exceptions are allowed for one item, with a reason above it, and never for the lints about panics in the
    // crates that run inside Envoy.
    for (path, text) in rust_files() {
        let is_inside = ["src/filter/", "src/gate/", "src/native/", "src/policy/src"]
            .iter()
            .any(|part| path.starts_with(part))
            && !path.contains("tests");
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        for lint in ["unwrap_used", "expect_used", "clippy::panic"] {
            assert!(!(is_inside && product.contains(&format!("allow({lint}"))), "{path} allows {lint}");
        }
    }
}

#[test]
fn tests_wait_for_things_and_not_for_time() {
    let sleep = ["sle", "ep("].concat();
    for (path, text) in rust_files() {
        let is_test = path.starts_with("tests/") || path.contains("/tests");
        // The one place that may sleep, an upstream that is slow on request, and the code that runs PostgreSQL.
        let may = ["tests/harness/clock.rs", "tests/harness/upstream/answer.rs", "tests/throwaway/lib.rs"]
            .contains(&path.as_str());
        assert!(!is_test || may || !text.contains(&sleep), "{path} sleeps");
    }
}

#[test]
fn no_stubs_or_skipped_tests() {
    let words = [
        ["to", "do!("].concat(),
        ["unimpl", "emented!("].concat(),
        ["#[ign", "ore"].concat(),
        ["FIX", "ME"].concat(),
    ];
    for (path, text) in rust_files() {
        for word in &words {
            assert!(!text.contains(word.as_str()), "{path} has {word}");
        }
    }
}

#[test]
fn nothing_knows_this_machine_or_a_package_registry() {
    let words = [
        ["py", "pi.org"].concat(),
        ["python", "hosted"].concat(),
        ["npm", "js.org"].concat(),
        ["static.", "crates.io"].concat(),
        ["arti", "factory"].concat(),
        ["/ro", "ot/"].concat(),
        ["/ho", "me/"].concat(),
    ];
    for path in repository() {
        let text = read(&path);
        for word in &words {
            assert!(!text.contains(word.as_str()), "{path} names {word}");
        }
    }
}

/// Nothing relies on what a cache happens to contain: on a fresh machine there are no crates of targets that were never
/// built. `scripts/check --fresh` checks the rest.
#[test]
fn nothing_asks_for_a_cache_alone() {
    let word = ["--off", "line"].concat();
    let of_interest =
        |path: &String| path.starts_with("scripts/") || path.ends_with(".rs") || path.starts_with(".c");
    for path in repository().iter().filter(|path| of_interest(path)) {
        assert!(!read(path).contains(word.as_str()), "{path} has {word}");
    }
}

#[test]
fn every_manifest_is_yaml() {
    for path in repository().iter().filter(|path| path.ends_with(".yaml")) {
        for document in serde_yaml_ng::Deserializer::from_str(&read(path)) {
            let parsed: Result<serde_yaml_ng::Value, _> = serde::Deserialize::deserialize(document);
            assert!(parsed.is_ok(), "{path}: {parsed:?}");
        }
    }
}

#[test]
fn tests_take_free_ports() {
    let paths = repository().into_iter().filter(|path| path.starts_with("tests/"));
    for path in paths.filter(|path| path.ends_with(".rs") || path.ends_with(".py")) {
        let text = read(&path);
        for (number, line) in text.lines().enumerate() {
            for host in ["127.0.0.1:", "localhost:", "[::1]:"] {
                for rest in line.split(host).skip(1) {
                    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                    // Port 1 stands for a port on which nobody listens.
                    let is_free = matches!(port.as_str(), "" | "0" | "1");
                    assert!(is_free, "{path}:{}: port {port} may be taken", number + 1);
                }
            }
        }
    }
}

#[test]
fn only_qualified_words_are_used() {
    let bare = ["tok", "en"].concat();
    let known = [format!("invalid_{bare}"), format!("progress{}{}", bare[..1].to_uppercase(), &bare[1..])];
    for (path, text) in rust_files() {
        for (number, line) in text.lines().enumerate() {
            let line = known.iter().fold(line.to_owned(), |line, known| line.replace(known.as_str(), ""));
            let words = line.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            let strange: Vec<&str> = words.filter(|word| word.eq_ignore_ascii_case(&bare)).collect();
            assert!(
                strange.is_empty(),
                "{path}:{}: say api_key, usage_tokens, permits or call_id",
                number + 1
            );
        }
    }
}
