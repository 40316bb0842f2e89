//! What an endpoint of `/v1` is. The router, the check of credentials and the OpenAPI document are made from the same
//! [`Endpoint`]s, so they can't contradict each other. Which endpoints there are is in `admin`.

pub(super) mod document;

use super::Service;
use super::authenticate;
use super::caller::Reach;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, MethodRouter, on};
use protocol::admin::Role;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use std::sync::Arc;

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// One operation: a method of a path.
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

    /// Reads. Needs [`Role::Auditor`].
    pub(super) fn get<H: Handler<T, Arc<Service>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
        Endpoint::new(Method::GET, MethodFilter::GET, path, handler)
    }

    /// Creates or acts. Needs [`Role::Operator`].
    pub(super) fn post<H: Handler<T, Arc<Service>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
        Endpoint::new(Method::POST, MethodFilter::POST, path, handler)
    }

    /// Changes fields. Needs [`Role::Operator`].
    pub(super) fn patch<H: Handler<T, Arc<Service>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
        Endpoint::new(Method::PATCH, MethodFilter::PATCH, path, handler)
    }

    /// Replaces the whole. Needs [`Role::Operator`].
    pub(super) fn put<H: Handler<T, Arc<Service>>, T: 'static>(path: &'static str, handler: H) -> Endpoint {
        Endpoint::new(Method::PUT, MethodFilter::PUT, path, handler)
    }

    /// Its summary in the document.
    pub(super) fn summary(mut self, summary: &'static str) -> Endpoint {
        self.summary = summary;
        self
    }

    /// Needs this role and not the usual one of its method.
    pub(super) fn needs(mut self, role: Role) -> Endpoint {
        self.needs = role;
        self
    }

    /// Only a credential for all tenants may use it.
    pub(super) fn for_all_tenants(mut self) -> Endpoint {
        self.reach = Reach::AllTenants;
        self
    }

    /// Takes the fields of `T` as query parameters.
    pub(super) fn query<T: JsonSchema>(mut self) -> Endpoint {
        self.query = Some(T::json_schema);
        self
    }

    /// Takes a `T` as body.
    pub(super) fn body<T: JsonSchema>(mut self) -> Endpoint {
        self.body = Some(SchemaGenerator::subschema_for::<T>);
        self
    }

    /// Takes its body as YAML too.
    pub(super) fn or_yaml(mut self) -> Endpoint {
        self.accepts = &["application/json", "application/yaml"];
        self
    }

    /// Takes a body of up to so many bytes; the default is [`super::BODY_BYTES_MAX`].
    pub(super) fn body_bytes_max(mut self, bytes: usize) -> Endpoint {
        self.handler = self.handler.layer(DefaultBodyLimit::max(bytes));
        self
    }

    /// Answers with this status and a `T`.
    pub(super) fn answers<T: JsonSchema>(mut self, status: u16) -> Endpoint {
        self.status = status;
        self.answer = Some(SchemaGenerator::subschema_for::<T>);
        self
    }

    /// Answers in another media type than JSON.
    pub(super) fn media_type(mut self, media_type: &'static str) -> Endpoint {
        self.media_type = media_type;
        self
    }

    /// Answers with an ETag. PATCH and PUT then take `If-Match`.
    pub(super) fn with_etag(mut self) -> Endpoint {
        self.has_etag = true;
        self
    }
}

/// Routes each endpoint behind its check of the credential.
pub(super) fn router(service: &Arc<Service>, endpoints: Vec<Endpoint>) -> Router<Arc<Service>> {
    endpoints.into_iter().fold(Router::new(), |router, endpoint| {
        let Endpoint { path, handler, needs, reach, .. } = endpoint;
        let check = from_fn_with_state((Arc::clone(service), needs, reach), authenticate::admin);
        router.route(path, handler.route_layer(check))
    })
}
