//! What operators get wrong, and what they read then. `tests/golden/mistakes.txt` holds each with its text, for a person to go
//! through: it says what was wrong, where, and what to do. UPDATE=1 rewrites it, and the reader of the diff decides.

use super::{said, served};
use harness::ledger::Served;
use harness::tls_ledger::TlsLedger;
use harness::{Gate, files, run};
use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;

const GOLDEN: &str = "tests/golden/mistakes.txt";

/// Words that nobody should have to read: of Rust, of libraries, of the code.
const INNER: [&str; 22] = [
    "struct ",
    "enum ",
    "variant",
    "u16",
    "u32",
    "u64",
    "usize",
    "i64",
    "deserialize",
    "Deserialize",
    "InvalidContentType",
    "corrupt message",
    "os error",
    "ParseIntError",
    "Utf8Error",
    "unit value",
    "null,",
    "hyper",
    "reqwest",
    "tokio",
    "panicked",
    "There is no such thing",
];

/// The commands run in one directory, with one ledger and one gate.
struct Bench {
    directory: PathBuf,
    ledger: Served,
    names: Vec<(String, &'static str)>,
    text: String,
    count: usize,
}

impl Bench {
    /// Runs a command that must fail, and keeps what it says.
    fn mistake(&mut self, what: &str, arguments: &str, environment: &[(&str, &str)]) {
        let mut real = arguments.to_owned();
        for (name, stands_for) in &self.names {
            real = real.replace(stands_for, name);
        }
        let words = real.split('\'').enumerate().flat_map(|(place, part)| match place % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect(),
            _ => vec![part.to_owned()],
        });
        let mut command = Command::new(files::program());
        command.args(words).current_dir(&self.directory);
        command.env_remove("AGENTRELAY_DATABASE").env("AGENTRELAY_ENVIRONMENT", files::environment());
        command.env("AGENTRELAY_LEDGER", self.ledger.url(0)).env("AGENTRELAY_LOG", "off");
        command.env("AGENTRELAY_ADMIN_KEY", &self.ledger.credentials.admin_key);
        let mut shown = String::new();
        for (name, value) in environment {
            let mut real = (*value).to_owned();
            self.names.iter().for_each(|(name, stands_for)| real = real.replace(stands_for, name));
            if value.is_empty() {
                command.env_remove(name)
            } else {
                command.env(name, real)
            };
            write!(shown, "{name}={value} ").unwrap();
        }
        let output = command.output().expect("the program can be run");
        let mut said = said(&output);
        assert!(!output.status.success(), "{what}: {arguments}: {said}");
        for (name, stands_for) in &self.names {
            said = said.replace(name, stands_for);
        }
        let said = without_chance(&said);
        for word in INNER {
            assert!(!said.contains(word), "{what}: `{word}` is for the authors of the program:\n{said}");
        }
        self.count += 1;
        write!(self.text, "\n## {what}\n\n$ {shown}agentrelay {arguments}\n{}\n", said.trim_end()).unwrap();
    }

    /// `policy check` of this text.
    fn policy(&mut self, what: &str, text: impl AsRef<[u8]>) {
        fs::write(self.directory.join("policy.yaml"), text).unwrap();
        self.mistake(what, "policy check policy.yaml", &[("AGENTRELAY_ADMIN_KEY", "")]);
    }
}

/// Without what differs from run to run: request ids, process ids, temporary directories, seconds and addresses of the log.
fn without_chance(text: &str) -> String {
    let mut kept = String::new();
    for line in text.lines() {
        // Envoy's log.
        let line = line.split_once("][").map_or(line, |(time, rest)| {
            if time.trim_start().starts_with("[20") {
                rest.split_once(']').map_or(rest, |(_, rest)| rest)
            } else {
                line
            }
        });
        let mut words = line.split_inclusive([' ', '\n', '"', '\'', ',', ')', ']']).map(|word| {
            let bare = word.trim_end_matches([' ', '"', '\'', ',', ')', ']', '.']);
            let end = &word[bare.len()..];
            for prefix in ["req_", "key_0", "ten_0", "adm_0", "/tmp/agentrelay-"] {
                if bare.starts_with(prefix) {
                    return format!("{}...{end}", prefix.trim_end_matches('0'));
                }
            }
            // The time of the run.
            let is_now = bare.len() == 24 && bare.ends_with('Z') && !bare.starts_with("2026-11-01T");
            if is_now { format!("NOW{end}") } else { word.to_owned() }
        });
        kept.extend(words.by_ref());
        kept.push('\n');
    }
    kept
}

#[test]
fn each_mistake_says_what_was_wrong_where_and_what_to_do() {
    run(async {
        let ledger = served("mistakes").await;
        let (tenant, key) = ledger.payer(10).await;
        let gate = Gate::shared().await;
        let directory = ledger.directory.join("work");
        fs::create_dir_all(&directory).unwrap();
        let tls = TlsLedger::start(&directory, &["ledger.example", "localhost"]).await;
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = harness::servers::Server::python().await;
        let program = directory.join("not-envoy");
        fs::write(&program, "#!/bin/sh\nexit 0\n").unwrap();
        let may_run = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, may_run).unwrap();
        let names = vec![
            (format!("127.0.0.1:{}", tls.port), "TLS-LEDGER"),
            (format!("localhost:{}", tls.port), "TLS-LOCALHOST"),
            (ledger.url(0).trim_start_matches("http://").to_owned(), "LEDGER"),
            (gate.address.to_string(), "GATE"),
            (gate.envoy.admin.to_string(), "ENVOY-ADMIN"),
            (other.address.to_string(), "SERVER"),
            (taken.local_addr().unwrap().port().to_string(), "TAKEN"),
            (directory.display().to_string(), "DIR"),
            (ledger.directory.display().to_string(), "STATE"),
            (files::wasm().display().to_string(), "FILTER"),
            (ledger.credentials.filter_key.clone(), "FILTER-KEY"),
            (key.secret.clone(), "AGENTS-KEY"),
            (gate.credentials().admin_key.clone(), "OTHER-ADMIN-KEY"),
            (tenant.to_string(), "TENANT"),
            (key.key.id.to_string(), "KEY-ID"),
        ];
        let text = "# What operators get wrong, and what they read then. Rewritten by UPDATE=1, see tests/first_hour/mistakes.rs.\n"
            .to_owned();
        let mut bench = Bench { directory, ledger, names, text, count: 0 };
        policies(&mut bench);
        arguments(&mut bench);
        connections(&mut bench);
        services(&mut bench);
        let Bench { text, count, .. } = bench;
        assert!(count >= 60, "{count} mistakes");
        let path = files::root().join(GOLDEN);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &text).unwrap();
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        let first = text.lines().zip(golden.lines()).find(|(said, golden)| said != golden);
        assert!(
            text == golden,
            "{GOLDEN} differs, first at {first:?}; rewrite it with UPDATE=1 if that is meant"
        );
    });
}

fn policies(bench: &mut Bench) {
    let shipped = include_str!("sample.yaml");
    let mut changed = |what: &str, from: &str, to: &str| {
        let text = shipped.replacen(from, to, 1);
        assert_ne!(text, shipped, "{from}");
        bench.policy(what, text);
    };
    changed("A field is mistyped", "    limits: [{permits: 20", "    limit: [{permits: 20");
    changed("A field is missing", "    rank: 1\n", "");
    changed("A table is missing", "risks:\n", "risk:\n");
    changed("A number is in quotes", "permits: 20", "permits: \"20\"");
    changed("A number is negative", "permits: 20", "permits: -20");
    changed("A number is too large", "permits: 20", "permits: 20000000000");
    changed("A price has a fraction", "credits: 5", "credits: 1.5");
    changed("A price is nothing", "credits: 5", "credits: 0");
    changed("A price is no map", "price: {credits: 1, reserve: leased}", "price: 1");
    changed("A time has no unit", "permits: 20, window: 60s", "permits: 20, window: 60");
    changed("A time has a strange unit", "permits: 20, window: 60s", "permits: 20, window: 60x");
    changed("A kind is mistyped", "kind: mcp", "kind: mpc");
    changed("A risk is mistyped", "risk: read_only\n      summarize", "risk: readonly\n      summarize");
    changed("A switch is no switch", "unlisted: deny", "unlisted: allow");
    changed("A list is none", "limits: [{permits: 20, window: 60s}]", "limits: {permits: 20, window: 60s}");
    changed(
        "Tools are a list",
        "    tools:\n      image_generate:\n",
        "    tools:\n      - image_generate:\n",
    );
    changed("A tier is mistyped", "tier: pro}", "tier: por}");
    changed("A path has no slash", "path: /mcp", "path: mcp");
    changed("A name is there twice", "  hobby:\n", "  free:\n");
    changed("A factor has no default", "default: standard", "default: normal");
    changed(
        "A bracket is open",
        "limits: [{permits: 20, window: 60s}]",
        "limits: [{permits: 20, window: 60s}",
    );
    changed("A tab indents", "    rank: 0\n", "\trank: 0\n");
    bench.policy("The file is empty", "");
    bench.policy("The file has only comments", "# tiers:\n");
    bench.policy("The file is a list", "- tiers\n");
    bench.policy("The file is prose", "all may do everything\n");
    bench.policy("The file is no text", b"\xff\xfe\x00t");
    bench.mistake("The file is a directory", "policy check .", &[]);
    bench.mistake("The file is not there", "policy check polciy.yaml", &[]);
    fs::write(bench.directory.join("policy.yaml"), shipped.replacen("permits: 20", "permits: many", 1))
        .unwrap();
    bench.mistake("A faulty policy is applied", "policy apply policy.yaml", &[]);
}

fn arguments(bench: &mut Bench) {
    for (what, line) in [
        ("A command is mistyped", "key list"),
        ("A key has no tenant", "keys create --name ci --scope read"),
        ("A tenant is named, and not by its id", "keys create --tenant acme --name ci --scope read"),
        ("A scope is mistyped", "keys create --tenant TENANT --name ci --scope raed"),
        ("A service is unknown", "keys create --tenant TENANT --name ci --scope read --service billing"),
        ("A limit has no window", "keys create --tenant TENANT --name ci --scope read --limit 10"),
        ("A bound has one part", "keys create --tenant TENANT --name ci --scope read --concurrency 20"),
        ("An expiry is a word", "keys create --tenant TENANT --name ci --scope read --expires tomorrow"),
        ("An expiry is over", "keys create --tenant TENANT --name ci --scope read --expires 2020-01-01"),
        ("A day does not exist", "keys create --tenant TENANT --name ci --scope read --expires 2026-02-30"),
        ("A budget has a fraction", "keys create --tenant TENANT --name ci --scope read --budget 1.5"),
        ("A name is empty", "keys create --tenant TENANT --name '' --scope read"),
        ("A tenant does not exist", "keys create --tenant ten_unknown --name ci --scope read"),
        ("A key does not exist", "keys revoke key_unknown --reason leaked"),
        ("An id is of another kind", "keys show TENANT"),
        ("A secret stands for an id", "keys show AGENTS-KEY"),
        (
            "A key is changed over a version that was not seen",
            "keys update KEY-ID --scope read --if-match 99 --reason x",
        ),
        ("A tier is mistyped", "tenants create --name Acme --tier enterprize"),
        ("A tenant to read does not exist", "tenants balance ten_unknown"),
        ("Credits are written with a comma", "tenants credit TENANT 1,000 --reason top-up"),
        ("Nothing is granted", "tenants credit TENANT 0 --reason top-up"),
        ("A group is mistyped", "usage --group-by tol"),
        ("A time is a word", "usage --group-by tool --from yesterday"),
        ("A time is between hours", "usage --group-by tool --from 2026-11-01T10:30:00Z"),
        ("A trail is not there", "audit verify trail.jsonl"),
        ("A trail is something else", "audit verify chain.pem"),
    ] {
        bench.mistake(what, line, &[]);
    }
}

fn connections(bench: &mut Bench) {
    let list = "tenants list";
    for (what, environment) in [
        ("No admin key", ("AGENTRELAY_ADMIN_KEY", "")),
        ("The admin key lost a letter", ("AGENTRELAY_ADMIN_KEY", "ara_short")),
        ("The admin key is an agent's", ("AGENTRELAY_ADMIN_KEY", "AGENTS-KEY")),
        ("The admin key is a filter's", ("AGENTRELAY_ADMIN_KEY", "FILTER-KEY")),
        ("The admin key is another ledger's", ("AGENTRELAY_ADMIN_KEY", "OTHER-ADMIN-KEY")),
        ("Nothing listens", ("AGENTRELAY_LEDGER", "http://127.0.0.1:1")),
        ("The host does not exist", ("AGENTRELAY_LEDGER", "http://ledger.invalid:7420")),
        ("The URL has no scheme", ("AGENTRELAY_LEDGER", "LEDGER")),
        ("The URL is none", ("AGENTRELAY_LEDGER", "ledger")),
        ("The URL has a path", ("AGENTRELAY_LEDGER", "http://LEDGER/v1")),
        ("The URL is the gate's", ("AGENTRELAY_LEDGER", "http://GATE")),
        ("The URL is the gate's, with its path", ("AGENTRELAY_LEDGER", "http://GATE/mcp")),
        ("The URL is Envoy's admin", ("AGENTRELAY_LEDGER", "http://ENVOY-ADMIN")),
        ("The URL is an MCP server's", ("AGENTRELAY_LEDGER", "http://SERVER")),
        ("https:// to a ledger without TLS", ("AGENTRELAY_LEDGER", "https://LEDGER")),
        ("http:// to a ledger with TLS", ("AGENTRELAY_LEDGER", "http://TLS-LEDGER")),
        ("The ledger's certificate is not trusted", ("AGENTRELAY_LEDGER", "https://TLS-LEDGER")),
        ("The root certificate is not there", ("AGENTRELAY_CA_CERT", "nowhere.pem")),
    ] {
        bench.mistake(what, list, &[environment]);
    }
    let tls = ("AGENTRELAY_LEDGER", "https://TLS-LEDGER");
    bench.mistake(
        "The root certificate is something else",
        list,
        &[tls, ("AGENTRELAY_CA_CERT", "policy.yaml")],
    );
    let authority = ("AGENTRELAY_CA_CERT", "ca.pem");
    bench.mistake("The certificate is for another name", list, &[tls, authority]);
    // What `doctor` says of the same, and clients of the gate and of MCP servers.
    let doctor = "doctor --environment nowhere --gate http://gate.invalid";
    for (what, ledger, also) in [
        ("doctor: https:// to a ledger without TLS", "https://LEDGER", None),
        ("doctor: http:// to a ledger with TLS", "http://TLS-LOCALHOST", None),
        ("doctor: the ledger's certificate is not trusted", "https://TLS-LOCALHOST", None),
        ("doctor: the ledger's certificate is for another name", "https://TLS-LEDGER", Some(authority)),
    ] {
        let environment: Vec<_> = [("AGENTRELAY_LEDGER", ledger)].into_iter().chain(also).collect();
        bench.mistake(what, doctor, &environment);
    }
    let key = ("AGENTRELAY_KEY", "AGENTS-KEY");
    for (what, line) in [
        ("https:// to a gate without TLS", "call search --gate https://GATE/mcp"),
        ("http:// to a gate with TLS", "call search --gate http://TLS-LEDGER/mcp"),
        ("A server's certificate is not trusted", "policy init --from https://TLS-LOCALHOST/mcp"),
        ("https:// to a server without TLS", "policy init --from https://SERVER/mcp"),
    ] {
        bench.mistake(what, line, &[key]);
    }
}

fn services(bench: &mut Bench) {
    fs::copy(files::shipped_policy(), bench.directory.join("shipped.yaml")).unwrap();
    for (what, line) in [
        ("A database URL is a path", "serve --policy shipped.yaml --database ledger.db"),
        ("A database has no tables", "serve --policy shipped.yaml --database sqlite:new.db"),
        (
            "A database is in use",
            "serve --policy shipped.yaml --listen 127.0.0.1:0 --database sqlite:DIR/tls.db",
        ),
        ("A database is initialised twice", "init --database sqlite:DIR/tls.db"),
        (
            "The ledger's policy is faulty",
            "serve --policy policy.yaml --listen 127.0.0.1:0 --database sqlite:tls.db",
        ),
        (
            "The ledger's policy is not there",
            "serve --policy polciy.yaml --listen 127.0.0.1:0 --database sqlite:tls.db",
        ),
        ("A certificate has no key", "serve --policy shipped.yaml --tls-cert chain.pem"),
        ("A backup is not there", "restore --from nowhere.db --database sqlite:restored.db"),
    ] {
        bench.mistake(what, line, &[]);
    }
    let init = Command::new(files::program())
        .args(["init", "--database", "sqlite:free.db", "--state", "free"])
        .current_dir(&bench.directory)
        .output();
    assert!(init.unwrap().status.success());
    for (what, line) in [
        (
            "The ledger's port is in use",
            "serve --policy shipped.yaml --listen 127.0.0.1:TAKEN --database sqlite:free.db",
        ),
        (
            "A certificate is none",
            "serve --policy shipped.yaml --listen 127.0.0.1:0 --database sqlite:free.db --tls-cert shipped.yaml --tls-key key.pem",
        ),
    ] {
        bench.mistake(what, line, &[]);
    }
    for (what, line, environment) in [
        ("An upstream has no scheme", "up --policy shipped.yaml --upstream 127.0.0.1:1", vec![]),
        ("An upstream has a path", "up --policy shipped.yaml --upstream http://127.0.0.1:1/mcp", vec![]),
        (
            "The gate's port is in use",
            "up --policy shipped.yaml --upstream http://SERVER --wasm FILTER --port TAKEN",
            vec![],
        ),
        (
            "The filter is not there",
            "up --policy shipped.yaml --upstream http://SERVER --wasm nowhere.wasm",
            vec![],
        ),
        (
            "The filter is something else",
            "up --policy shipped.yaml --upstream http://SERVER --wasm key.pem --state up-1",
            vec![],
        ),
        (
            "The policy is not there",
            "up --policy polciy.yaml --upstream http://SERVER --wasm FILTER --state up-2",
            vec![],
        ),
        (
            "The policy is faulty",
            "up --policy policy.yaml --upstream http://SERVER --wasm FILTER --state up-3",
            vec![],
        ),
        (
            "ENVOY_PATH names nothing",
            "up --policy shipped.yaml --upstream http://SERVER --wasm FILTER",
            vec![("ENVOY_PATH", "nowhere")],
        ),
        (
            "ENVOY_PATH names another program",
            "up --policy shipped.yaml --upstream http://SERVER --wasm FILTER --state up-4",
            vec![("ENVOY_PATH", "DIR/not-envoy")],
        ),
        (
            "No Envoy is installed",
            "up --policy shipped.yaml --upstream http://SERVER --wasm FILTER --environment nowhere",
            vec![],
        ),
    ] {
        bench.mistake(what, line, &environment);
    }
}
