//! The endpoints of `/v1` as one table. The router, what each endpoint needs of a credential, and the OpenAPI document
//! are all made from it, so none can say something else than the others.

use super::Service;
use super::admin::check;
use super::authenticate;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter, on};
use protocol::admin::Role;
use protocol::problem::{MEDIA_TYPE, Problem};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// How far an endpoint reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// An administrator who is held to a tenant may ask, and its handler shows and touches that tenant's things alone.
    OwnTenant,
    /// Only for administrators of all tenants.
    AllTenants,
}

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One method of one path.
pub(crate) struct Endpoint {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) needs: Role,
    pub(crate) reach: Reach,
    handler: MethodRouter<Arc<Service>>,
    summary: &'static str,
    query: Option<SchemaOf>,
    body: Option<SchemaOf>,
    accepts: &'static [&'static str],
    status: u16,
    answer: Option<SchemaOf>,
    media_type: &'static str,
    has_etag: bool,
}

impl Endpoint {
    fn new<H, T>(method: Method, filter: MethodFilter, path: &'static str, handler: H) -> Endpoint
    where
        H: Handler<T, Arc<Service>>,
        T: 'static,
    {
        Endpoint {
            needs: if method == Method::GET { Role::Auditor } else { Role::Operator },
            method,
            path,
            reach: Reach::OwnTenant,
            handler: on(filter, handler),
            summary: "",
            query: None,
            body: None,
            accepts: &["application/json"],
            status: 200,
            answer: None,
            media_type: "application/json",
            has_etag: false,
        }
    }

    /// Reads. An auditor may.
    pub(super) fn get<H: Handler<T, Arc<Service>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
        Endpoint::new(Method::GET, MethodFilter::GET, path, handler)
    }

    /// Does. An operator may.
    pub(super) fn post<H: Handler<T, Arc<Service>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
        Endpoint::new(Method::POST, MethodFilter::POST, path, handler)
    }

    /// Changes. An operator may.
    pub(super) fn patch<H: Handler<T, Arc<Service>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
        Endpoint::new(Method::PATCH, MethodFilter::PATCH, path, handler)
    }

    /// Replaces. An operator may.
    pub(super) fn put<H: Handler<T, Arc<Service>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
        Endpoint::new(Method::PUT, MethodFilter::PUT, path, handler)
    }

    /// What it does, in the document.
    pub(super) fn says(mut self, summary: &'static str) -> Endpoint {
        self.summary = summary;
        self
    }

    /// Who may.
    pub(super) fn needs(mut self, role: Role) -> Endpoint {
        self.needs = role;
        self
    }

    /// Only administrators of all tenants may.
    pub(super) fn for_all_tenants(mut self) -> Endpoint {
        self.reach = Reach::AllTenants;
        self
    }

    /// Its query.
    pub(super) fn query<T: JsonSchema>(mut self) -> Endpoint {
        self.query = Some(T::json_schema);
        self
    }

    /// Its body.
    pub(super) fn body<T: JsonSchema>(mut self) -> Endpoint {
        self.body = Some(SchemaGenerator::subschema_for::<T>);
        self
    }

    /// Its body may be YAML as well.
    pub(super) fn or_yaml(mut self) -> Endpoint {
        self.accepts = &["application/json", "application/yaml"];
        self
    }

    /// Its body may be larger than those of others.
    pub(super) fn body_bytes_max(mut self, bytes: usize) -> Endpoint {
        self.handler = self.handler.layer(DefaultBodyLimit::max(bytes));
        self
    }

    /// Its answer.
    pub(super) fn answers<T: JsonSchema>(mut self, status: u16) -> Endpoint {
        self.status = status;
        self.answer = Some(SchemaGenerator::subschema_for::<T>);
        self
    }

    /// Its answer is of another type.
    pub(super) fn media_type(mut self, media_type: &'static str) -> Endpoint {
        self.media_type = media_type;
        self
    }

    /// Its answer has an ETag, to which PATCH and PUT can be tied by If-Match.
    pub(super) fn with_etag(mut self) -> Endpoint {
        self.has_etag = true;
        self
    }
}

/// Every endpoint behind its own door.
pub(super) fn router(service: &Arc<Service>, endpoints: Vec<Endpoint>) -> Router<Arc<Service>> {
    endpoints.into_iter().fold(Router::new(), |router, endpoint| {
        let Endpoint { path, handler, needs, reach, .. } = endpoint;
        let door = (Arc::clone(service), needs, reach);
        router.route(path, handler.route_layer(from_fn_with_state(door, authenticate::admin)))
    })
}

/// The OpenAPI 3.1 document.
pub(super) fn document(endpoints: &[Endpoint]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let problem = generator.subschema_for::<Problem>();
    let mut paths = Map::new();
    for endpoint in endpoints {
        let described = operation(endpoint, &mut generator);
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
                changes nothing more. Lists have pages: ask again with `cursor` set to `next_cursor`.",
        },
        "security": [{"admin_key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "admin_key": {"type": "http", "scheme": "bearer", "description": "An admin key, `ara_...`"},
            },
            "responses": {
                "Problem": {
                    "description": "It was not done, and why",
                    "content": {MEDIA_TYPE: {"schema": problem}},
                },
            },
            "schemas": bounded(generator.take_definitions(true)),
        },
    })
}

/// The document with the names of the tiers that the policy in force has.
pub(super) fn with_tiers(mut document: Value, tiers: Vec<String>) -> Value {
    for (schema, nothing) in [("CreateTenant", None), ("UpdateTenant", Some(Value::Null))] {
        let tier = document.pointer_mut(&format!("/components/schemas/{schema}/properties/tier"));
        if let Some(tier) = tier.and_then(Value::as_object_mut) {
            let names = tiers.iter().map(|name| json!(name)).chain(nothing);
            tier.insert("enum".to_owned(), names.collect());
        }
    }
    document
}

/// The schemas with the bounds that are checked. Only what is sent has bounds, and only that refuses unknown fields.
fn bounded(mut schemas: Map<String, Value>) -> Map<String, Value> {
    for (name, schema) in &mut schemas {
        // A grant is a bare name, or an object with one.
        if name == "GrantForm" || name == "Grant" {
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

fn operation(endpoint: &Endpoint, generator: &mut SchemaGenerator) -> Value {
    let mut parameters = Vec::new();
    for name in endpoint.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        let id = json!({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"});
        parameters.push(json!({"name": name, "in": "path", "required": true, "schema": id}));
    }
    if let Some(query) = endpoint.query {
        parameters.extend(query_parameters(query(generator)));
    }
    let header = |name: &str, description: &str, schema: Value| json!({"name": name, "in": "header", "required": false, "description": description, "schema": schema});
    // What an auditor may ask changes nothing, however often it comes.
    if endpoint.method == Method::POST && endpoint.needs != Role::Auditor {
        let schema = json!({"type": "string", "pattern": "^[!-~]{1,255}$"});
        parameters.push(header("Idempotency-Key", "Makes a repeated request one", schema));
    }
    if endpoint.has_etag && matches!(endpoint.method, Method::PATCH | Method::PUT) {
        let pattern = r#"^(\*|(W/)?"[0-9a-z]{1,64}"(, ?(W/)?"[0-9a-z]{1,64}")*)$"#;
        let schema = json!({"type": "string", "pattern": pattern});
        parameters.push(header("If-Match", "Only if one of these is still its ETag", schema));
    }
    let schema = endpoint.answer.map_or_else(|| json!(true), |schema| json!(schema(generator)));
    let mut answer = json!({
        "description": "Done",
        "content": {endpoint.media_type: {"schema": schema}},
    });
    if endpoint.has_etag
        && let Some(answer) = answer.as_object_mut()
    {
        let etag = json!({"ETag": {"description": "For If-Match", "schema": {"type": "string"}}});
        answer.insert("headers".to_owned(), etag);
    }
    let reach = match endpoint.reach {
        Reach::OwnTenant => "",
        Reach::AllTenants => " of all tenants",
    };
    let mut described = json!({
        "summary": endpoint.summary,
        "operationId": operation_id(endpoint),
        "description": format!("Needs role `{}`{reach}.", endpoint.needs),
        "tags": [endpoint.path.split('/').nth(2).unwrap_or_default()],
        "parameters": parameters,
        "responses": {
            endpoint.status.to_string(): answer,
            "default": {"$ref": "#/components/responses/Problem"},
        },
    });
    if let (Some(body), Some(described)) = (endpoint.body, described.as_object_mut()) {
        let schema = json!({"schema": body(generator)});
        let content: Map<String, Value> =
            endpoint.accepts.iter().map(|media_type| ((*media_type).to_owned(), schema.clone())).collect();
        described.insert("requestBody".to_owned(), json!({"required": true, "content": content}));
    }
    described
}

fn operation_id(endpoint: &Endpoint) -> String {
    let path = endpoint.path.trim_start_matches("/v1/").replace(['{', '}'], "").replace(['/', '-'], "_");
    format!("{}_{path}", endpoint.method.as_str().to_ascii_lowercase())
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

fn without_null(mut schema: Value) -> Value {
    let Some(object) = schema.as_object_mut() else { return schema };
    object.remove("default");
    if let Some(types) = object.get_mut("type").and_then(Value::as_array_mut) {
        types.retain(|kind| kind != "null");
    }
    if let Some(choices) = object.get_mut("anyOf").and_then(Value::as_array_mut) {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
    }
    schema
}
