//! An own MCP server that nobody prepared: a policy from what it lists, the gate in front of it, and the policy against it later.

use super::said;
use harness::servers::Server;
use harness::{files, run};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn agentrelay(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(files::program())
        .args(arguments)
        .current_dir(directory)
        .env_remove("AGENTRELAY_ADMIN_KEY")
        .output()
        .expect("the program can be run")
}

#[test]
fn a_policy_is_proposed_for_what_any_server_lists() {
    run(async {
        let directory = files::gate_directory();
        let sessions = Server::upstream("mcp_server.py", &["--sse", "--sessions"]).await;
        let (python, express, go) = (Server::python().await, Server::express().await, Server::go().await);
        for (name, url) in [
            ("python", format!("{}/mcp", python.url())),
            ("sessions", format!("{}/mcp", sessions.url())),
            ("typescript", format!("{}/sdk", express.url())),
            ("go", format!("{}/sdk", go.url())),
        ] {
            let file = format!("{name}.yaml");
            let made =
                agentrelay(&directory, &["policy", "init", "--from", &url, "--service", name, "--to", &file]);
            assert!(made.status.success(), "{name}: {}", said(&made));
            let text = fs::read_to_string(directory.join(&file)).unwrap();
            assert!(
                text.contains("image_generate:\n        risk: ") && text.contains("search:\n"),
                "{name}: {text}"
            );
            let checked = agentrelay(&directory, &["policy", "check", &file, "--against", &url]);
            assert!(checked.status.success(), "{name}: {}", said(&checked));
            let again = agentrelay(&directory, &["policy", "init", "--from", &url, "--to", &file]);
            assert!(!again.status.success() && said(&again).contains("exists already"), "{}", said(&again));
        }
        let shown = agentrelay(&directory, &["policy", "init", "--from", &format!("{}/mcp", python.url())]);
        assert!(String::from_utf8_lossy(&shown.stdout).contains("# Draws an image."), "{}", said(&shown));
        for (url, expected) in [
            (python.url(), "is this the path of its MCP endpoint"),
            ("http://127.0.0.1:1/mcp".to_owned(), "nothing listens there"),
        ] {
            let refused = agentrelay(&directory, &["policy", "init", "--from", &url]);
            assert!(!refused.status.success() && said(&refused).contains(expected), "{}", said(&refused));
        }
    });
}

#[test]
fn a_policy_is_compared_with_what_a_server_lists() {
    run(async {
        let directory = files::gate_directory();
        let server = Server::python().await;
        let url = format!("{}/mcp", server.url());
        // The shipped policy: this server has no `summarize`, and its `image_generate` no argument `quality`.
        let shipped = fs::read_to_string(files::shipped_policy()).unwrap();
        let check = |text: &str, against: &str| {
            fs::write(directory.join("policy.yaml"), text).unwrap();
            let output = agentrelay(&directory, &["policy", "check", "policy.yaml", "--against", against]);
            (output.status.success(), said(&output))
        };
        let (ok, text) = check(&shipped, &url);
        assert!(
            !ok && text.contains("services.studio.tools.summarize: the server has no such tool"),
            "{text}"
        );
        assert!(text.contains("the tool has no argument `quality`"), "{text}");
        let line = shipped.lines().position(|line| line.trim() == "summarize:").unwrap() + 1;
        assert!(text.contains(&format!("policy.yaml:{line}:7: ")), "{text}");
        let (ok, text) =
            check(&shipped.replace("      search:\n", "      find:\n"), &format!("studio={url}"));
        assert!(!ok && text.contains("the server has `search`, which is missing here"), "{text}");
        let (ok, text) = check(&shipped, &format!("stduio={url}"));
        assert!(!ok && text.contains("did you mean `studio`?"), "{text}");
    });
}

#[test]
fn risks_follow_from_annotations_and_texts_with_other_prices_are_found() {
    run(async {
        let directory = files::gate_directory();
        let server = Server::upstream("own_server.py", &[]).await;
        let url = format!("{}/mcp", server.url());
        let made = agentrelay(&directory, &["policy", "init", "--from", &url, "--to", "policy.yaml"]);
        assert!(made.status.success(), "{}", said(&made));
        assert!(said(&made).contains("--scope admin,generate,read"), "{}", said(&made));
        let text = fs::read_to_string(directory.join("policy.yaml")).unwrap();
        assert!(text.contains("  office-tools:\n    kind: mcp\n    path: /mcp\n"), "{text}");
        for (tool, risk) in [
            ("add", "read_only"),
            ("report", "local_mutation"),
            ("wipe", "destructive"),
            ("notify", "external_mutation"),
        ] {
            assert!(text.contains(&format!("      {tool}:\n        risk: {risk} ")), "{text}");
        }
        let check = || said(&agentrelay(&directory, &["policy", "check", "policy.yaml", "--against", &url]));
        let free = check();
        assert!(
            free.contains("tools.report: the server's text says \"5 credits\", the policy that it is free"),
            "{free}"
        );
        assert!(free.contains("the server's instructions say \"1-20 credits\""), "{free}");
        let priced = text
            .replace("risk: local_mutation ", "price: {credits: 5}\n        risk: local_mutation ")
            .replace("risk: destructive ", "price: {credits: 20}\n        risk: destructive ")
            .replace("risk: read_only ", "price: {credits: 1}\n        risk: read_only ")
            .replace("risk: external_mutation ", "price: {credits: 2}\n        risk: external_mutation ");
        fs::write(directory.join("policy.yaml"), priced).unwrap();
        assert!(check().contains("policy.yaml is valid"), "{}", check());
    });
}
