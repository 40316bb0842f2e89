//! The OpenAPI 3.1 document of `/v1`, made from the endpoints, their types and recorded examples.

use super::Endpoint;
use crate::http::caller::Reach;
use crate::http::check;
use axum::http::Method;
use protocol::admin::Role;
use protocol::problem::{MEDIA_TYPE, Problem};
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What an operation was sent and what it answered. `http::tests::described` records it from the running API.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Example {
    /// The body of a request that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::http) body: Option<Value>,
    /// Its answer.
    pub(in crate::http) answer: Value,
    /// The answer to another request, which was refused.
    pub(in crate::http) problem: Value,
}

/// By method and path, as in `GET /v1/keys`.
pub(in crate::http) type Examples = BTreeMap<String, Example>;

/// The recorded examples. A test asks that every operation has one, so an unreadable file can't be released.
pub(in crate::http) fn examples() -> Examples {
    serde_json::from_str(include_str!("../../../../../tests/golden/examples.json")).unwrap_or_default()
}

/// The document, without what depends on the policy in force.
pub(in crate::http) fn of(endpoints: &[Endpoint], examples: &Examples) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<Problem>();
    let mut paths = Map::new();
    for endpoint in endpoints {
        let example = examples.get(&format!("{} {}", endpoint.method, endpoint.path));
        let described = operation(endpoint, example, &problem, &mut generator);
        let path = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(endpoint.method.as_str().to_ascii_lowercase(), described);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "AgentRelay ledger",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Keys, money and audit. Every error is an RFC 9457 problem whose `type` is stable. \
                Every POST takes an `Idempotency-Key`: the same key with the same body gives the same answer and \
                changes nothing more. Lists have pages: ask again with `cursor` set to `next_cursor`. Ids, times, hashes \
                and secrets in examples are made up.",
        },
        "servers": [{"url": "/"}],
        "security": [{"admin_key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "admin_key": {"type": "http", "scheme": "bearer", "description": "An admin key, `ara_...`"},
            },
            "schemas": bounded(generator.take_definitions(true)),
        },
    })
}

/// The document with the names of the tiers that the policy in force has, in the schemas and in the examples.
pub(in crate::http) fn with_tiers(mut document: Value, tiers: &[String]) -> Value {
    for (schema, operation, null) in [
        ("CreateTenant", "/paths/~1v1~1tenants/post", None),
        ("UpdateTenant", "/paths/~1v1~1tenants~1{id}/patch", Some(Value::Null)),
    ] {
        let tier = document.pointer_mut(&format!("/components/schemas/{schema}/properties/tier"));
        if let Some(tier) = tier.and_then(Value::as_object_mut) {
            let names = tiers.iter().map(|name| json!(name)).chain(null);
            tier.insert("enum".to_owned(), names.collect());
        }
        let body = "requestBody/content/application~1json/example/tier";
        if let (Some(example), Some(first)) =
            (document.pointer_mut(&format!("{operation}/{body}")), tiers.first())
            && tiers.iter().all(|tier| example != tier)
        {
            *example = json!(first);
        }
    }
    document
}

/// The schemas with the bounds that are checked. Only what is sent has bounds, and only that refuses unknown fields.
fn bounded(mut schemas: Map<String, Value>) -> Map<String, Value> {
    for (name, schema) in &mut schemas {
        // A grant is a bare name, or an object with one.
        if name == "Grant" {
            let forms = schema.get_mut("anyOf").and_then(Value::as_array_mut).into_iter().flatten();
            forms
                .filter(|form| form.get("type").is_some_and(|kind| kind == "string"))
                .for_each(|form| bound(form, "name"));
        }
        if schema.get("additionalProperties") == Some(&json!(false))
            && let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut)
        {
            fields.iter_mut().for_each(|(name, field)| bound(field, name));
        }
    }
    schemas
}

fn bound(field: &mut Value, name: &str) {
    if let (Some(Value::Object(bounds)), Some(field)) = (check::bounds(name), field.as_object_mut()) {
        field.extend(bounds);
    }
}

fn operation(
    endpoint: &Endpoint,
    example: Option<&Example>,
    problem: &Schema,
    generator: &mut SchemaGenerator,
) -> Value {
    let reach = match endpoint.reach {
        Reach::OwnTenant => "",
        Reach::AllTenants => " of all tenants",
    };
    let schema = endpoint.answer.map_or_else(|| json!({}), |schema| json!(schema(generator)));
    let mut answer = json!({
        "description": "Done",
        "content": {endpoint.media_type: content(schema, example.map(|example| &example.answer))},
    });
    if endpoint.has_etag
        && let Some(answer) = answer.as_object_mut()
    {
        let etag = json!({"ETag": {"description": "For If-Match", "schema": {"type": "string"}}});
        answer.insert("headers".to_owned(), etag);
    }
    let mut described = json!({
        "summary": endpoint.summary,
        "operationId": operation_id(endpoint),
        "description": format!("Needs role `{}`{reach}.", endpoint.needs),
        "tags": [endpoint.path.split('/').nth(2).unwrap_or_default()],
        "parameters": parameters(endpoint, generator),
        "responses": {
            endpoint.status.to_string(): answer,
            "default": {
                "description": "It was not done, and why",
                "content": {MEDIA_TYPE: content(json!(problem), example.map(|example| &example.problem))},
            },
        },
    });
    if let (Some(body), Some(described)) = (endpoint.body, described.as_object_mut()) {
        let content = content(json!(body(generator)), example.and_then(|example| example.body.as_ref()));
        let content: Map<String, Value> =
            endpoint.accepts.iter().map(|media_type| ((*media_type).to_owned(), content.clone())).collect();
        described.insert("requestBody".to_owned(), json!({"required": true, "content": content}));
    }
    described
}

fn content(schema: Value, example: Option<&Value>) -> Value {
    // Both allow everything, and not every tool knows the first.
    let schema = if schema == json!(true) { json!({}) } else { schema };
    match example {
        Some(example) => json!({"schema": schema, "example": example}),
        None => json!({"schema": schema}),
    }
}

fn operation_id(endpoint: &Endpoint) -> String {
    let path = endpoint.path.trim_start_matches("/v1/").replace(['{', '}'], "").replace(['/', '-'], "_");
    format!("{}_{path}", endpoint.method.as_str().to_ascii_lowercase())
}

fn parameters(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Vec<Value> {
    let mut parameters = Vec::new();
    for name in endpoint.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        let id = json!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"});
        parameters.push(json!({"name": name, "in": "path", "required": true, "schema": id}));
    }
    if let Some(query) = endpoint.query {
        parameters.extend(query_parameters(query(generator)));
    }
    // A POST that an auditor may send changes nothing, so repeating it is harmless.
    if endpoint.method == Method::POST && endpoint.needs != Role::Auditor {
        parameters.push(header("Idempotency-Key", "Makes a repeated request one", "^[!-~]{1,255}$"));
    }
    if endpoint.has_etag && matches!(endpoint.method, Method::PATCH | Method::PUT) {
        let pattern = r#"^(\*|(W/)?"[0-9a-z]{1,64}"(, ?(W/)?"[0-9a-z]{1,64}")*)$"#;
        parameters.push(header("If-Match", "Only if one of these is still its ETag", pattern));
    }
    parameters
}

fn header(name: &str, description: &str, pattern: &str) -> Value {
    json!({
        "name": name, "in": "header", "required": false, "description": description,
        "schema": {"type": "string", "pattern": pattern},
    })
}

/// Each property of a query's type as a parameter.
fn query_parameters(query: Schema) -> Vec<Value> {
    let properties = query.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    properties
        .into_iter()
        .map(|(name, mut schema)| {
            let described = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            // A parameter is there or not, but never null.
            json!({
                "name": name, "in": "query", "required": false, "description": described.unwrap_or_default(),
                "schema": without_null(schema),
            })
        })
        .collect()
}

/// The same schema, of which `null` is no value.
fn without_null(mut schema: Value) -> Value {
    let Some(object) = schema.as_object_mut() else { return schema };
    object.remove("default");
    if let Some(kinds) = object.get_mut("type") {
        *kinds = one_of(kinds, |kind| kind != "null");
    }
    let Some(choices) = object.get_mut("anyOf") else { return schema };
    match one_of(choices, |choice| choice.get("type").is_none_or(|kind| kind != "null")) {
        only @ Value::Object(_) => only,
        several => {
            *choices = several;
            schema
        }
    }
}

/// The items of a list that are kept; if that is one, the item itself.
fn one_of(list: &Value, is_kept: impl Fn(&Value) -> bool) -> Value {
    let Value::Array(items) = list else { return list.clone() };
    let kept: Vec<&Value> = items.iter().filter(|item| is_kept(item)).collect();
    match kept.as_slice() {
        [only] => (*only).clone(),
        several => json!(several),
    }
}
