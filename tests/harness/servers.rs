//! The real servers that tests ask how they parse requests: in JavaScript, Python, Go, Rust and Java, and lighttpd with
//! CGI. Each reports in JSON what it executed, except lighttpd, whose program reports its environment.

use crate::clock::{self, in_time};
use crate::http1::Request;
use crate::reaper::Reaper;
use crate::{files, node, rust_server};
use serde_json::Value;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// A running server. Ends when it is dropped.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    _child: Option<Child>,
    _reaper: Reaper,
}

fn source(name: &str) -> PathBuf {
    files::root().join("tests/servers").join(name)
}

impl Server {
    /// Express 5 at `/mcp`, and the MCP SDK for TypeScript at `/sdk`.
    pub async fn express() -> Server {
        let script = fs::read_to_string(source("express.mjs")).expect("the server can be read");
        let mut command = Command::new(node::program());
        // Given as text, the program finds packages from the working directory.
        command.args(["--input-type=module", "--eval", &script]).current_dir(node::packages());
        Server::start("express", command).await
    }

    /// PyPI `aiohttp` at `/mcp`.
    pub async fn aiohttp() -> Server {
        let python = files::environment().with_file_name("servers").join("bin/python");
        let mut command = Command::new(python);
        command.arg(source("aiohttp_server.py"));
        Server::start("aiohttp", command).await
    }

    /// PyPI `mcp` at `/mcp`.
    pub async fn python() -> Server {
        let mut command = Command::new(files::environment().join("bin/python"));
        command.arg(source("mcp_server.py"));
        Server::start("python-mcp", command).await
    }

    /// Go's `net/http` and `encoding/json` at `/mcp`, and the MCP SDK for Go at `/sdk`.
    pub async fn go() -> Server {
        let program = files::environment().with_file_name("servers").join("go-servers");
        Server::start("go", Command::new(program)).await
    }

    /// Servlets with Jackson in Tomcat at `/mcp`, and the MCP SDK for Java at `/sdk`. `None` on a machine without Java.
    pub async fn java() -> Option<Server> {
        let classes = files::environment().with_file_name("servers").join("java");
        if !classes.exists() {
            println!("no Java here: scripts/setup-servers found no mvn and javac");
            return None;
        }
        let mut command = Command::new("java");
        command.arg("-cp").arg(format!("{0}:{0}/*", classes.display())).arg("Servers");
        command.arg(files::process_directory().join("tomcat"));
        Some(Server::start("java", command).await)
    }

    /// axum and serde at `/mcp`, and the MCP SDK for Rust at `/sdk`, in this process.
    pub async fn rust() -> Server {
        Server { address: rust_server::start().await, _child: None, _reaper: Reaper::start() }
    }

    /// A server of PyPI `mcp` in `tests/upstreams`, at `/mcp`.
    pub async fn upstream(script: &str, arguments: &[&str]) -> Server {
        let mut command = Command::new(files::environment().join("bin/python"));
        command.arg(files::root().join("tests/upstreams").join(script)).args(arguments);
        Server::start(script, command).await
    }

    async fn start(name: &str, mut command: Command) -> Server {
        let log = files::process_directory().join(format!("{name}.log"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = command
            .stderr(File::create(log).expect("logs can be written"))
            .spawn()
            .unwrap_or_else(|error| panic!("{name} can be started: {error}: run scripts/test"));
        let mut reaper = Reaper::start();
        child.id().into_iter().for_each(|id| reaper.watch(id));
        let output = child.stdout.take().expect("stdout is piped");
        let line = in_time("the server's port", BufReader::new(output).lines().next_line()).await;
        let line = line.expect("in time").expect("its output can be read");
        let line = line.unwrap_or_else(|| panic!("{name} says its port"));
        let said: Value = serde_json::from_str(&line).expect("a line of JSON");
        let port = said["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Server { address, _child: Some(child), _reaper: reaper }
    }

    /// lighttpd, which runs `tests/servers/cgi.py` for every request. It can't report which free port it took, so the
    /// test listens and lighttpd serves one connection each.
    pub async fn lighttpd() -> Server {
        let python = files::environment().join("bin/python");
        Server::lighttpd_with(&format!(
            "server.document-root = {:?}\nserver.modules = (\"mod_rewrite\", \"mod_cgi\")\n\
             url.rewrite-once = (\"^[^?]*(\\?.*)?$\" => \"/cgi.py$1\")\ncgi.assign = (\".py\" => {python:?})\n",
            source(""),
        ))
        .await
    }

    /// The same program as `index.php`, to which lighttpd sends every path, as servers of PHP applications are set up.
    pub async fn front_controller() -> Server {
        let root = files::process_directory().join("front");
        fs::create_dir_all(&root).expect("a directory can be created");
        fs::copy(source("cgi.py"), root.join("index.php")).expect("the program can be copied");
        let python = files::environment().join("bin/python");
        Server::lighttpd_with(&format!(
            "server.document-root = {root:?}\nserver.modules = (\"mod_rewrite\", \"mod_cgi\")\n\
             url.rewrite-once = (\"^/(?!index\\.php/)(.*)\" => \"/index.php/$1\")\ncgi.assign = (\".php\" => {python:?})\n",
        ))
        .await
    }

    async fn lighttpd_with(text: &str) -> Server {
        static CONFIGURATIONS: AtomicUsize = AtomicUsize::new(0);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let number = CONFIGURATIONS.fetch_add(1, Ordering::Relaxed);
        let configuration = files::process_directory().join(format!("lighttpd{number}.conf"));
        fs::write(&configuration, format!("server.max-keep-alive-requests = 0\n{text}"))
            .expect("the configuration can be written");
        clock::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let socket = OwnedFd::from(stream.into_std().expect("a socket"));
                let mut command = Command::new("/usr/sbin/lighttpd");
                command.arg("-1").arg("-f").arg(&configuration).stdin(Stdio::from(socket));
                let mut child = command.spawn().expect("lighttpd can be started: run scripts/test");
                tokio::spawn(async move { child.wait().await });
            }
        });
        Server { address, _child: None, _reaper: Reaper::start() }
    }

    /// Base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The calls executed so far, in order.
    pub async fn executed(&self) -> Vec<String> {
        let answer = Request::get("/ran").header("host", "localhost:1").send(self.address).await;
        serde_json::from_value(answer.json()).expect("a list of texts")
    }
}
