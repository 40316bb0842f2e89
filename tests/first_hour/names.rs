//! Names that the policy does not know, on the command line, and what `policy check` finds in a file.

use super::{said, served};
use harness::clock::{self, eventually};
use harness::ledger::operator;
use harness::{Gate, NewKey, files, mcp, run};
use protocol::admin::LeaseState;
use serde_json::{Value, json};
use std::fs;

#[test]
fn a_mistyped_name_is_refused_with_the_nearest_that_the_policy_has() {
    run(async {
        let served = served("names").await;
        let (tenant, key) = served.payer(10).await;
        let create = ["keys", "create", "--tenant", tenant.as_str(), "--name", "ci"];
        let update = ["keys", "update", key.key.id.as_str(), "--reason", "test"];
        for command in [&create[..], &update[..]] {
            for (flag, typed, meant) in [
                ("--scope", "raed", "did you mean `read`?"),
                ("--service", "stduio", "did you mean `studio`?"),
                ("--tool", "image_generat", "did you mean `image_generate`?"),
                ("--service", "billing", "it has `ci`, `studio`"),
            ] {
                let refused = served.operator(&[command, &[flag, typed]].concat());
                let text = said(&refused);
                assert!(!refused.status.success() && text.contains(typed) && text.contains(meant), "{text}");
                assert!(text.contains("--allow-unknown"), "{text}");
                let taken = served.operator(&[command, &[flag, typed, "--allow-unknown"]].concat());
                assert!(taken.status.success(), "{}", said(&taken));
                // What a key has already it keeps.
                let again = served.operator(&[&update[..], &[flag, typed]].concat());
                assert_eq!(again.status.success(), command == update, "{}", said(&again));
            }
        }
        let refused = served.operator(&["tenants", "create", "--name", "A", "--tier", "enterprize"]);
        assert!(said(&refused).contains("did you mean `enterprise`?"), "{}", said(&refused));
        let listed = said(&served.operator(&["keys", "list"]));
        assert!(listed.lines().next().is_some_and(|heading| heading.contains("SOURCE")), "{listed}");
        assert!(listed.contains("  admin  "), "{listed}");
        let claimed = served.operator(&[&create[..], &["--source", "mcp"]].concat());
        assert!(!claimed.status.success(), "{}", said(&claimed));
    });
}

#[test]
fn a_check_says_where_in_the_file_a_fault_is_and_which_rules_do_nothing() {
    run(async {
        let served = served("check").await;
        let file = served.directory.join("other.yaml");
        let path = file.to_str().unwrap();
        let shipped = include_str!("sample.yaml");
        let check = |text: &str| {
            fs::write(&file, text).unwrap();
            let output = served.operator(&["policy", "check", path]);
            (output.status.success(), said(&output))
        };
        let line_of = |text: &str, part: &str| {
            let before = text.split_once(part).unwrap_or_else(|| panic!("no {part}")).0;
            before.lines().count()
        };
        let (ok, text) = check(shipped);
        assert!(ok, "{text}");

        // Faults, by line and column.
        for (from, to, fault) in [
            ("rank: 2\n", "rank: 2\n    colour: red\n", "tiers.pro.colour"),
            ("{permits: 300, window: 60s}]", "{permits: 300, window: 60x}]", "tiers.pro.limits[0].window"),
            (
                "{argument: quality, value: ultra_plus, tier: pro}",
                "{argument: quality, value: ultra_plus, tier: por}",
                "services.studio.tools.image_generate.requires[0].tier",
            ),
            ("  studio:\n", "  studio:\n    kind: mpc\n", "services"),
        ] {
            let faulty = shipped.replacen(from, to, 1);
            assert_ne!(faulty, shipped, "{from}");
            let (ok, text) = check(&faulty);
            assert!(!ok && text.contains(fault), "{text}");
            let line =
                line_of(&faulty, to.lines().next_back().unwrap()) + usize::from(to.lines().count() > 1);
            let is_placed = text.contains(&format!("{path}:{line}:"))
                || text.contains(&format!("line {line}"))
                || to.contains("mpc") && text.contains("at line");
            assert!(is_placed, "line {line}: {text}");
        }

        // Findings: valid, but without effect.
        let shadowed = shipped.replacen(
            "services:\n",
            "services:\n  zz:\n    kind: mcp\n    path: /mcp\n    tools: {search: {risk: read_only}}\n",
            1,
        );
        let (ok, text) = check(&shadowed);
        let line = line_of(&shadowed, "    path: /mcp\n") + 1;
        assert!(!ok && text.contains("services.zz.path: the service `studio` has the same path"), "{text}");
        assert!(text.contains(&format!("{path}:{line}:5:")), "{text}");

        // Names in use, of the ledger that is given.
        let gold = shipped.replacen("  free:\n", "  gold: {rank: 9}\n  free:\n", 1);
        fs::write(&file, &gold).unwrap();
        assert!(served.operator(&["policy", "apply", path]).status.success());
        let made = served.operator(&["tenants", "create", "--name", "G", "--tier", "gold", "--json"]);
        let tenant: Value = serde_json::from_slice(&made.stdout).unwrap();
        for _ in 0..2 {
            let (ok, text) = check(shipped);
            let lacks = format!("tier gold is used by 1 tenants: {}", tenant["id"].as_str().unwrap());
            assert!(!ok && text.contains(&lacks), "{text}");
            // Also where the policy in force lacks it already.
            assert!(served.operator(&["policy", "apply", path, "--force"]).status.success());
        }
        let output = served.operator(&["policy", "check", path, "--json"]);
        let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&checked["valid"], &checked["findings"][0]["line"]),
            (&json!(true), &json!(line_of(shipped, "tiers:\n") + 1))
        );
    });
}

#[test]
fn a_check_names_tools_that_go_while_money_is_on_its_way_and_what_happens_to_it() {
    run(async {
        // A policy file of its own, which `policy apply` replaces.
        let gate = Gate::options().policy(|_| {}).start().await;
        let agent =
            gate.agent_with("pro", 1000, NewKey::default().tools(&["image_generate", "summarize"])).await;
        // A call in progress, whose credits are reserved, and an open lease.
        let call = agent.post(&mcp::image("standard")).upstream("hang");
        let address = gate.address;
        let in_progress = clock::spawn(async move { call.try_send(address).await });
        eventually("credits are leased", async || {
            agent.call(&mcp::call("summarize", json!({"text": "x"}))).await;
            let open = gate.admin.leases(Some(&agent.tenant), Some(LeaseState::Open), None).await;
            let open = open.map_err(|error| error.to_string())?.items.len();
            if open > 0 { Ok(()) } else { Err("no lease is open".to_owned()) }
        })
        .await;
        let file = gate.directory().join("renamed.yaml");
        let path = file.to_str().unwrap();
        let (url, key) = (format!("http://{}", gate.ledger_address), gate.credentials().admin_key.clone());
        let check = |text: &str| {
            fs::write(&file, text).unwrap();
            let output = operator(&url, &key, &["policy", "check", path]);
            (output.status.success(), said(&output))
        };
        let shipped = fs::read_to_string(files::shipped_policy()).unwrap();
        assert!(check(&shipped).0);
        let renamed = shipped.replace("      image_generate:\n", "      image_generator:\n");
        let renamed = renamed.replace("      summarize:\n", "      condense:\n");
        let (ok, text) = check(&renamed);
        assert!(!ok, "{text}");
        let line = |tool: &str| {
            let found = text.lines().find(|line| line.contains(&format!("`{tool}` goes")));
            found.unwrap_or_else(|| panic!("{tool}: {text}")).to_owned()
        };
        let image = line("image_generate");
        for part in [
            "services.studio.tools: `image_generate` goes; was it renamed to `image_generator`, which is new? In force: ",
            "new calls are refused with 404",
            "grants of 1 keys name it, and allow nothing",
            "1 of its calls are reserved and in progress, and are settled as they were reserved",
        ] {
            assert!(image.contains(part), "{part}: {image}");
        }
        assert!(!image.contains("leases"), "{image}");
        let summary = line("summarize");
        assert!(
            summary.contains("leases are open, which name no tool: its calls in progress are paid from them"),
            "{summary}"
        );
        assert!(!summary.contains("was it renamed"), "two tools are new, and neither is like it: {summary}");

        // It happens as it was said.
        assert!(operator(&url, &key, &["policy", "apply", path, "--force"]).status.success());
        eventually("the new policy is in force", async || {
            let answer = agent.call(&mcp::image("standard")).await;
            if answer.status == 404 { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
        in_progress.abort();
        let settled = gate.settled(&agent).await;
        assert!(settled.posted.get() >= 5, "{settled:?}");
    });
}
