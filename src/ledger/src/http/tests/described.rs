//! The OpenAPI document: its golden file, the names of its schemas, and its examples.
//!
//! `UPDATE=1 cargo test --package ledger --lib http::tests::described` records the examples and rewrites
//! `tests/golden/examples.json` and `tests/golden/openapi.json`. The reader of the diff decides.

mod recorded;
mod recorder;
mod stable;

use super::operations::operations;
use crate::fixture::{Bench, is_on_postgresql};
use crate::http::admin;
use crate::http::api::document;
use protocol::api_key::{Kind, SECRET_BYTES, is_well_formed};
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;

/// Sorted by name, so that reordering fields in code does not change the API document.
fn pretty(value: &impl Serialize) -> String {
    let mut value = serde_json::to_value(value).unwrap();
    value.sort_all_objects();
    format!("{}\n", serde_json::to_string_pretty(&value).unwrap())
}

/// Compares with a file of `tests/golden`, or rewrites it.
fn assert_golden(name: &str, found: &impl Serialize) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
    let found = pretty(found);
    // The same tests may run on PostgreSQL at the same time; one of them writes.
    if std::env::var_os("UPDATE").is_some() && !is_on_postgresql() {
        std::fs::write(&path, &found).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let first = found.lines().zip(golden.lines()).position(|(found, golden)| found != golden);
    let line = first.unwrap_or_else(|| found.lines().count().min(golden.lines().count()));
    assert!(
        found == golden,
        "{name} differs from line {} on: it is\n{}\nand should be\n{}\nIf that is meant to be, rewrite the file with UPDATE=1.",
        line + 1,
        found.lines().nth(line).unwrap_or_default(),
        golden.lines().nth(line).unwrap_or_default(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_and_its_examples_are_the_golden_ones() {
    let bench = Bench::start().await;
    let examples = recorded::examples(&bench).await;
    assert_golden("examples.json", &examples);
    // Without the tiers of a policy, which are not part of the API.
    let document = document::of(&admin::endpoints(), &examples);
    assert_golden("openapi.json", &document);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_has_examples_and_each_fits_its_schema() {
    let bench = Bench::start().await;
    let document = bench.get("/openapi.json").await;
    let fits = |place: &str, content: &Value| {
        let example = content.get("example").unwrap_or_else(|| panic!("{place} has no example"));
        // Many tools do not accept `true` as a schema, though OpenAPI 3.1 does.
        assert!(content["schema"].is_object(), "{place} has no schema");
        // References point to the components, so these are added to the schema.
        let schema = json!({"allOf": [content["schema"]], "components": document["components"]});
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        let faults: Vec<String> = validator.iter_errors(example).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "{place}: {faults:?}: {example}");
    };
    for operation in operations(&bench).await {
        let place = operation.place();
        if let Some(body) = operation.described.get("requestBody") {
            for (media_type, content) in body["content"].as_object().unwrap() {
                fits(&format!("{place}, the body as {media_type}"), content);
            }
        }
        let responses = operation.described["responses"].as_object().unwrap();
        assert!(responses.len() == 2 && responses.contains_key("default"), "{place}: {responses:?}");
        for (status, response) in responses {
            for content in response["content"].as_object().unwrap().values() {
                fits(&format!("{place}, the answer {status}"), content);
            }
        }
    }
}

#[test]
fn schemas_have_names_of_their_own() {
    let document = document::of(&admin::endpoints(), &document::examples());
    let schemas = document["components"]["schemas"].as_object().unwrap();
    assert!(schemas.len() > 30, "{} schemas", schemas.len());
    for name in schemas.keys() {
        // A number would distinguish two types of the same name, and `_for_` two uses of a generic one; readers could
        // not.
        let is_plain = name.chars().all(|letter| letter.is_ascii_alphabetic());
        assert!(is_plain, "{name}: give the type a name by #[schemars(rename = \"...\")]");
    }
}

#[test]
fn secrets_in_examples_have_the_shape_of_one_and_open_nothing() {
    let text = pretty(&document::examples());
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let mut found = 0;
    for word in words.filter(|word| word.len() == SECRET_BYTES) {
        for (kind, prefix) in [(Kind::Agent, "ark_"), (Kind::Admin, "ara_"), (Kind::Filter, "arf_")] {
            if let Some(body) = word.strip_prefix(prefix) {
                assert!(body.starts_with("Example") && !is_well_formed(kind, word.as_bytes()), "{word}");
                found += 1;
            }
        }
    }
    assert!(found >= 5, "{found} secrets: every operation that makes one shows one");
}

#[test]
fn the_tiers_of_the_policy_in_force_are_in_the_document_as_it_is_served() {
    let document = document::of(&admin::endpoints(), &document::examples());
    let tier = |document: &Value| {
        let example = "/paths/~1v1~1tenants/post/requestBody/content/application~1json/example/tier";
        let schema = "/components/schemas/CreateTenant/properties/tier/enum";
        (document.pointer(schema).cloned(), document.pointer(example).cloned())
    };
    assert_eq!(tier(&document), (None, Some(json!("pro"))));
    for (tiers, example) in [(["free", "pro"], "pro"), (["silver", "gold"], "silver")] {
        let served = document::with_tiers(document.clone(), &tiers.map(str::to_owned));
        assert_eq!(tier(&served), (Some(json!(tiers)), Some(json!(example))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_describes_itself() {
    let bench = Bench::start().await;
    let url = |path: &str| format!("http://{}{path}", bench.running.address);
    let document: Value = bench.client.get(url("/openapi.json")).send().await.unwrap().json().await.unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let create = &document["paths"]["/v1/keys"]["post"];
    assert_eq!(create["parameters"][1]["name"], "Idempotency-Key");
    assert_eq!(
        create["requestBody"]["content"]["application/json"]["schema"]["$ref"],
        "#/components/schemas/CreateKey"
    );
    let schema = |pointer: &str| document.pointer(&format!("/components/schemas/{pointer}")).unwrap();
    let bounds = schema("CreateKey/properties/scopes");
    assert_eq!((&bounds["maxItems"], &bounds["items"]["maxLength"]), (&json!(64), &json!(200)));
    assert_eq!(schema("Reason/properties/reason")["maxLength"], 500);
    assert_eq!(schema("RotateKey/properties/grace_seconds")["maximum"], 2_592_000);
    assert_eq!(schema("CreateTenant/properties/tier")["enum"], json!(["free", "pro"]));
    // Every reference has a target.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
    let page = bench.client.get(url("/docs")).send().await.unwrap().text().await.unwrap();
    assert!(
        page.contains("/openapi.json") && !page.contains("https://"),
        "the page needs something from elsewhere"
    );
}
