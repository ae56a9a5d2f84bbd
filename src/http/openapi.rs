//! The OpenAPI document: made of the declarations of all endpoints, and of nothing else.
//!
//! Tests check the answers of a daemon against it, and the docs against its calls.

use hyper::Method;
use serde_json::{Map, Value, json};
use utoipa::openapi::security::SecurityRequirement;

use super::auth::Access;
use super::endpoint::{Api, Endpoint};
use super::error::HttpError;
use super::operation::{Operation, Schemas, form, form_of};
use super::path::Template;
use super::response::{Door, JSON, RefusalBody, XML};
use super::shapes;

/// The headers that each answer may bear.
const EVERY: [(&str, &str); 5] = [
    ("X-Request-Id", "The request's own, or a new one. The log has it."),
    ("Cache-Control", "no-store."),
    ("Content-Security-Policy", "An answer that a browser shows as a page may do nothing."),
    ("X-Content-Type-Options", "nosniff."),
    ("Connection", "close, if this is the last answer on its connection."),
];
/// Those that say more of a refusal.
const REFUSALS: [(&str, &str); 4] = [
    ("Retry-After", "With 429, 503 and 507: the seconds to wait before you try again."),
    ("WWW-Authenticate", "With 401: what is wrong with the token."),
    ("Allow", "With 405: the methods of the path."),
    ("Accept-Encoding", "With 415: the encodings that the call takes."),
];
/// Those of an answer that shows what the daemon keeps.
const KEPT: [(&str, &str); 1] = [(
    "Profiled-Behind-Ms",
    "On a node of several that is cut off from the order or behind it: how old what the answer shows may be.",
)];
/// Those that let pages of other origins read an answer.
const PAGES: [(&str, &str); 5] = [
    ("Access-Control-Allow-Origin", "The page's origin, or *."),
    ("Access-Control-Allow-Credentials", "true, if the origin is named."),
    ("Access-Control-Expose-Headers", "What the page's script may read."),
    ("Cross-Origin-Resource-Policy", "cross-origin: any page may load the answer."),
    ("Vary", "Origin, if the origin is named."),
];

/// The document of these endpoints, in their order.
pub(super) fn document(endpoints: impl Iterator<Item = &'static Endpoint>) -> Result<Value, HttpError> {
    let mut schemas = Schemas::new();
    let mut paths = Map::new();
    for endpoint in endpoints {
        let Some(describe) = endpoint.describe else { continue };
        let template = Template::new(endpoint.path);
        // A HEAD is answered as its GET is.
        for method in endpoint.methods.all().iter().filter(|method| *method != Method::HEAD) {
            let described = describe(prepared(method, &template));
            let (operation, its_schemas) = completed(described, endpoint).into_parts();
            for (name, schema) in its_schemas {
                if schemas.get(&name).is_some_and(|other| *other != schema) {
                    return Err(HttpError::Inside(format!(
                        "the OpenAPI document: two schemas are called {name}"
                    )));
                }
                schemas.insert(name, schema);
            }
            let path = paths.entry(template.in_openapi()).or_insert_with(|| json!({}));
            if let Value::Object(methods) = path {
                methods.insert(method.as_str().to_ascii_lowercase(), value(&operation)?);
            }
        }
    }
    Ok(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "profiled",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "A visitor-profile store that speaks Adobe Target's profile APIs. The calls under /api/v1 are \
                            its own. A seq is a write's place in the one order of all writes, printed as a string. Adobe's paths may \
                            end in a slash.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": value(&schemas)?,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description":
                "A token from `profiled token new`. It may have several scopes. A daemon without tokens asks for none."}},
        },
        // Sites' calls take none, and neither does a daemon without tokens.
        "security": [{}, {"token": []}],
    }))
}

fn value(part: &impl serde::Serialize) -> Result<Value, HttpError> {
    serde_json::to_value(part).map_err(|error| HttpError::Inside(format!("the OpenAPI document: {error}")))
}

/// The description that an endpoint begins with: the parameters of its path.
fn prepared(method: &Method, template: &Template) -> Operation {
    template.parameters().fold(Operation::new(method.clone()), |operation, (name, values)| {
        let schema = match (name, values) {
            (_, Some(values)) => shapes::one_of(&values),
            ("client", None) => shapes::client(),
            ("session_id", None) => shapes::session_id(),
            (_, None) => shapes::not_empty(),
        };
        operation.path(name, schema, None)
    })
}

/// The description with what the declaration says beside it.
fn completed(mut operation: Operation, endpoint: &Endpoint) -> Operation {
    operation = operation.says(&format!("It takes {}.", endpoint.access));
    let limits = endpoint.limits.to_string();
    if !limits.is_empty() {
        operation = operation.says(&limits);
    }
    if !operation.has_refusals() {
        operation = match endpoint.api {
            Api::Profile(Door::Batch | Door::Update) => operation.refuses([form(XML, shapes::text())]),
            _ => operation.refuses([form_of::<RefusalBody>(JSON)]),
        };
    }
    for status in operation.statuses() {
        let refusals = REFUSALS.iter().filter(|_| status == "default");
        let pages = PAGES.iter().filter(|_| endpoint.api.is_for_pages());
        let kept = KEPT.iter().filter(|_| endpoint.shows_what_is_kept());
        for (name, description) in EVERY.iter().chain(refusals).chain(pages).chain(kept) {
            operation = operation.bears(&status, name, description);
        }
    }
    let token = |scopes: Vec<String>| SecurityRequirement::new("token", scopes);
    operation.security(match endpoint.access {
        Access::Open | Access::OpenInPart | Access::Page => None,
        Access::Any => Some(token(vec![])),
        Access::Of(scope) | Access::Everywhere(scope) => Some(token(vec![scope.to_string()])),
    })
}
