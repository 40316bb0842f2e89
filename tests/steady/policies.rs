//! Names in use are removed from the policy only with force: by command, by API, by the file, at a start.

use super::on_both::Ledger;
use harness::{eventually, policy, run, stats};
use protocol::admin::CreateKey;
use serde_json::{Value, json};
use serde_yaml_ng::Value as Yaml;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

fn output_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(policy: &Yaml) -> String {
    serde_yaml_ng::to_string(policy).unwrap()
}

fn without(policy: &mut Yaml, path: &[&str]) {
    let (last, path) = path.split_last().unwrap();
    let mut at = policy;
    for part in path {
        at = at.get_mut(*part).unwrap_or_else(|| panic!("{part}"));
    }
    at.as_mapping_mut().unwrap().remove(*last).unwrap_or_else(|| panic!("{last}"));
}

fn mcp_service(policy: &Yaml) -> String {
    let mut services = policy["services"].as_mapping().unwrap().iter();
    let (name, _) = services.find(|(_, service)| service["kind"] == "mcp").unwrap();
    name.as_str().unwrap().to_owned()
}

/// The shipped policy with a tier, a service, a tool and a scope that nothing else in it needs.
fn extended() -> Yaml {
    let mut extended = policy::shipped();
    let mcp = mcp_service(&extended);
    let tool = json!({"risk": "read_only", "scopes": ["odd"]});
    extended["tiers"]["gold"] = policy::yaml("{rank: 9}");
    extended["services"][mcp.as_str()]["tools"]["rare"] = serde_yaml_ng::to_value(&tool).unwrap();
    let other = json!({"kind": "mcp", "path": "/other", "tools": {"plain": {"risk": "read_only"}}});
    extended["services"]["other"] = serde_yaml_ng::to_value(&other).unwrap();
    extended
}

/// That policy without one of them: its path, its name, and the row that uses it.
fn lacking(users: &Value) -> Vec<(String, String, String)> {
    let mcp = mcp_service(&policy::shipped());
    let mut found = Vec::new();
    let mut case = |path: &[&str], name: &str, user: &str| {
        let mut policy = extended();
        without(&mut policy, path);
        found.push((text(&policy), name.to_owned(), users[user].as_str().unwrap().to_owned()));
    };
    case(&["tiers", "gold"], "tier gold", "tenant");
    case(&["services", "other"], "service other", "service");
    case(&["services", &mcp, "tools", "rare"], "tool rare", "tool");
    case(&["services", &mcp, "tools", "rare", "scopes"], "scope odd", "scope");
    found
}

/// Rows that use each of them, and some that no longer do.
async fn users(ledger: &Ledger) -> Value {
    let admin = ledger.served.admin();
    let (tenant, _) = ledger.served.payer(10).await;
    let gold = ledger.served.operator(&["tenants", "create", "--name", "G", "--tier", "gold", "--json"]);
    assert!(gold.status.success(), "{}", output_text(&gold));
    let gold: Value = serde_json::from_slice(&gold.stdout).unwrap();
    let key = async |body: Value| {
        let mut create = json!({"tenant_id": tenant, "name": "k", "scopes": ["read"]});
        create.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let create: CreateKey = serde_json::from_value(create).unwrap();
        admin.allowing_unknown().create_key(&create).await.unwrap().key.id
    };
    let revoked = key(json!({"scopes": ["odd"], "services": ["other"], "tools": ["rare"]})).await;
    let done = ledger.served.operator(&["keys", "revoke", revoked.as_str(), "--reason", "x"]);
    assert!(done.status.success());
    json!({
        "tenant": gold["id"], "service": key(json!({"services": ["other"]})).await,
        "tool": key(json!({"tools": ["rare"]})).await, "scope": key(json!({"scopes": ["odd"]})).await,
    })
}

async fn in_force(ledger: &Ledger) -> String {
    ledger.served.admin().policy().await.unwrap().version.to_string()
}

async fn refused_so_far(ledger: &Ledger) -> u64 {
    let address = ledger.served.url(0).trim_start_matches("http://").parse().unwrap();
    let metrics = stats::ledger(address).await;
    let line = metrics.lines().find(|line| line.starts_with("agentrelay_ledger_policies_refused_total "));
    line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
}

async fn assert_stays_until_forced(ledger: &mut Ledger) {
    let file = ledger.served.directory.join("candidate.yaml");
    let candidate = file.display().to_string();
    fs::write(&file, text(&extended())).unwrap();
    let applied = ledger.served.operator(&["policy", "apply", &candidate]);
    assert!(applied.status.success(), "{}", output_text(&applied));
    let users = users(ledger).await;
    let own = ledger.served.directory.join("policy.yaml");
    let before = in_force(ledger).await;
    for (lacking, name, user) in lacking(&users) {
        fs::write(&file, &lacking).unwrap();
        let diff = ledger.served.operator(&["policy", "diff", &candidate]);
        let shown = String::from_utf8_lossy(&diff.stdout).into_owned();
        let is_named =
            shown.lines().any(|line| line.starts_with(&format!("! {name} ")) && line.contains(&user));
        assert!(diff.status.success() && is_named, "{shown}");
        let refused = ledger.served.operator(&["policy", "apply", &candidate]);
        let words = output_text(&refused);
        assert_eq!(refused.status.code(), Some(1), "{words}");
        for part in [name.as_str(), &user, "is used by 1 ", "--force"] {
            assert!(words.contains(part), "{part}: {words}");
        }
        // The same with the ledger's own file.
        let count = refused_so_far(ledger).await;
        fs::write(&own, &lacking).unwrap();
        eventually("the file is refused", async || match refused_so_far(ledger).await {
            found if found > count => Ok(()),
            found => Err(found.to_string()),
        })
        .await;
        assert_eq!(in_force(ledger).await, before, "{name}");
        let log = fs::read_to_string(ledger.served.directory.join("ledger-0.log")).unwrap();
        assert!(log.contains(&name) && log.contains(&user), "the log does not name {name}: {log}");
    }
    // Also if it was edited while no ledger ran.
    ledger.served.ledgers[0].take().unwrap().stop().await;
    ledger.served.run(0).await;
    assert_eq!((in_force(ledger).await, refused_so_far(ledger).await), (before, 1));

    // Unused names are removed without force.
    let mut unused = extended();
    without(&mut unused, &["tiers", "enterprise"]);
    fs::write(&file, text(&unused)).unwrap();
    let applied = ledger.served.operator(&["policy", "apply", &candidate]);
    assert!(applied.status.success(), "{}", output_text(&applied));
    let (lacking, ..) = lacking(&users).swap_remove(0);
    fs::write(&file, &lacking).unwrap();
    let forced = ledger.served.operator(&["policy", "apply", &candidate, "--force", "--json"]);
    assert!(forced.status.success(), "{}", output_text(&forced));
    let forced: Value = serde_json::from_slice(&forced.stdout).unwrap();
    assert_eq!(in_force(ledger).await, forced["version"]);
}

#[test]
fn names_in_use_are_removed_from_the_policy_only_with_force() {
    run(async {
        let mut ledger = Ledger::embedded("policies").await;
        assert_stays_until_forced(&mut ledger).await;
        ledger.end().await;
    });
}

#[test]
fn on_postgresql_names_in_use_are_removed_only_with_force() {
    run(async {
        let mut ledger = Ledger::on_postgresql("policies-postgresql").await;
        assert_stays_until_forced(&mut ledger).await;
        ledger.end().await;
    });
}

#[test]
fn a_policy_file_that_is_applied_stays_a_link_and_keeps_its_mode() {
    run(async {
        let mut ledger = Ledger::embedded("policy-link").await;
        ledger.served.ledgers[0].take().unwrap().stop().await;
        let place = ledger.served.directory.clone();
        let (own, kept) = (place.join("policy.yaml"), place.join("kept"));
        fs::create_dir(&kept).unwrap();
        let target = kept.join("real.yaml");
        fs::rename(&own, &target).unwrap();
        fs::set_permissions(&target, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("kept/real.yaml", &own).unwrap();
        ledger.served.run(0).await;
        let candidate = place.join("candidate.yaml");
        fs::write(&candidate, text(&extended())).unwrap();
        let applied = ledger.served.operator(&["policy", "apply", candidate.to_str().unwrap()]);
        assert!(applied.status.success(), "{}", output_text(&applied));
        assert_eq!(fs::read_link(&own).unwrap().to_str(), Some("kept/real.yaml"));
        assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(fs::read_to_string(&target).unwrap(), text(&extended()));
        assert_eq!(fs::read_dir(&kept).unwrap().count(), 1);
        ledger.end().await;
    });
}
