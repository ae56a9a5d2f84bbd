//! The OpenAPI document: made of the declarations of all endpoints, and of nothing else.
//!
//! Tests check the answers of a daemon against it, and the docs against its calls.

use hyper::Method;
use serde_json::{Map, Value, json};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{RefOr, Response};

use super::auth::Access;
use super::endpoint::{Api, BodyLimit, Endpoint, Methods, Whose};
use super::error::HttpError;
use super::operation::{Operation, Schemas, form, form_of, initial};
use super::path::Template;
use super::response::{Door, JSON, PROBLEM, ProblemBody, RefusalBody, XML};
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

/// The refusals of our own calls: the status, its name in the document, and when it comes.
const PROBLEMS: [(&str, &str, &str); 14] = [
    ("400", "BadRequest", "The call is wrong; detail says where, and what would be right."),
    ("401", "Unauthorized", "A token is missing, or counts no more."),
    ("403", "Forbidden", "The token is not for this call, or for this client."),
    ("404", "NotFound", "There is no such client, batch, visitor or token."),
    ("408", "BodyTimeout", "The body came too slowly, or stopped."),
    ("409", "Conflict", "What the call names is not in the state that the call needs."),
    ("410", "Gone", "What the call asks for is kept no more."),
    ("413", "TooLarge", "The body is larger than it may be; limit names the limit."),
    ("415", "MediaTypeNotTaken", "The call does not take a body of this media type or encoding."),
    ("422", "KeyTaken", "The Idempotency-Key came before, with another body."),
    ("429", "TooOften", "Your address calls too often, or fails too often to be let in."),
    ("500", "ServerError", "Something failed inside; the daemon's log says more."),
    ("503", "NotNow", "The daemon is not ready, or too many do the same: try again after Retry-After."),
    ("507", "NoRoom", "The disk has no room."),
];

/// The groups of calls, each with what it is for.
const GROUPS: [(&str, &str); 13] = [
    ("adobe", "Adobe Target's profile APIs, as Adobe documents them."),
    ("batches", "Batches: accepted, followed, reported, repaired."),
    ("profiles", "One visitor: looked up, changed, erased."),
    ("erasures", "Many visitors, erased by one call."),
    ("changes", "Every write, in order."),
    ("live", "Calls as they come in."),
    ("export", "All visitors of a client."),
    ("clients", "The clients."),
    ("statistics", "Counts."),
    ("tokens", "Who may do what."),
    ("cluster", "Several nodes."),
    ("upkeep", "Compaction, backups, settings that are read again."),
    ("operations", "Health, metrics, this document."),
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
    let mut problems = Map::new();
    for (_, name, when) in PROBLEMS {
        let (answer, its_schemas) = refusal_when(when);
        schemas.extend(its_schemas);
        problems.insert(name.to_owned(), value(&answer)?);
    }
    let tags: Vec<Value> =
        GROUPS.iter().map(|(name, what)| json!({"name": name, "description": what})).collect();
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
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": value(&schemas)?,
            "responses": problems,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description":
                "A token from `profiled token new`. It may have several scopes. A daemon without tokens asks for none."}},
        },
        // Sites' calls take none, and neither does a daemon without tokens.
        "security": [{}, {"token": []}],
    }))
}

/// Whether a call of ours may be refused with this status, by what it declares.
fn comes_to(endpoint: &Endpoint, status: &str) -> bool {
    let Endpoint { api, access, client, limits, methods, path, .. } = endpoint;
    let asks_for_a_token = !matches!(access, Access::Open | Access::OpenInPart | Access::Page);
    let has_body = limits.body != BodyLimit::None;
    matches!(api, Api::Native)
        && match status {
            "400" | "500" | "503" => true,
            "401" | "403" | "429" => asks_for_a_token,
            "404" => *client != Whose::Nobody || path.contains('{'),
            "408" | "413" | "415" => has_body,
            "507" => methods.write(),
            _ => false,
        }
}

/// The group of a call.
fn group_of(path: &str) -> &str {
    match path.strip_prefix("/api/v1/") {
        Some(own) => match own.split('/').next().unwrap_or_default() {
            "compact" | "backup" | "reload" => "upkeep",
            "status" => "operations",
            group => group,
        },
        None if path.starts_with("/m2/") || path.starts_with("/rest/") => "adobe",
        None => "operations",
    }
}

/// The name of a call in generated clients: of `GET /api/v1/batches/{id}/outcomes` it is `getBatchOutcomes`. What a parameter
/// follows, and what is posted to, is one of several. Adobe has several paths for the same, so theirs also name a last parameter.
fn name_by_path(method: &Method, path: &str) -> String {
    let adobes = ["/m2/{client}", "/rest/v1", "/rest/v2"].iter().find_map(|prefix| path.strip_prefix(prefix));
    let path = adobes.or(path.strip_prefix("/api/v1")).unwrap_or(path);
    let parts: Vec<&str> = path.split(['/', '.']).filter(|part| !part.is_empty()).collect();
    let mut name = method.as_str().to_ascii_lowercase();
    for (at, part) in parts.iter().enumerate().filter(|(_, part)| !part.starts_with('{')) {
        let one = match parts.get(at + 1) {
            Some(next) => next.starts_with('{'),
            None => *method == Method::POST,
        };
        let singular = part.strip_suffix("es").filter(|stem| stem.ends_with("ch")).or(part.strip_suffix('s'));
        name += &initial(singular.filter(|_| one).unwrap_or(part));
    }
    if let (Some(_), Some(last)) = (adobes, parts.last().and_then(|part| part.strip_prefix('{'))) {
        let words = last.trim_end_matches(['}', '+']).split('_').map(initial);
        name += &words.fold("By".to_owned(), |name, word| name + &word);
    }
    name
}

/// A refusal that several calls share.
fn refusal_when(description: &str) -> (Response, Schemas) {
    let operation =
        Operation::new(Method::GET).answers("default", description, [form_of::<ProblemBody>(PROBLEM)]);
    let headers = EVERY.iter().chain(&REFUSALS).chain(&KEPT);
    let operation = headers.fold(operation, |operation, (name, what)| operation.bears("default", name, what));
    let (described, schemas) = operation.into_parts();
    let answer = described.responses.responses.into_values().find_map(|answer| match answer {
        RefOr::T(answer) => Some(answer),
        RefOr::Ref(_) => None,
    });
    (answer.unwrap_or_default(), schemas)
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
            Api::Native => operation.refuses([form_of::<ProblemBody>(PROBLEM)]),
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
    let described = operation.statuses();
    for (status, name, _) in PROBLEMS {
        let comes = comes_to(endpoint, status) || operation.refusals().contains(&status);
        if comes && !described.iter().any(|other| other == status) {
            operation = operation.answers_as(status, name);
        }
    }
    let name = name_by_path(operation.method(), endpoint.path);
    operation = operation.named_in(endpoint.methods == Methods::GetOrPost, name, group_of(endpoint.path));
    let token = |scopes: Vec<String>| SecurityRequirement::new("token", scopes);
    operation.security(match endpoint.access {
        Access::Open | Access::OpenInPart | Access::Page => None,
        Access::Any => Some(token(vec![])),
        Access::Of(scope) | Access::Everywhere(scope) => Some(token(vec![scope.to_string()])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_named_by_their_paths() {
        let check = |method, path, name| assert_eq!(name_by_path(&method, path), name);
        check(Method::GET, "/api/v1/batches", "getBatches");
        check(Method::POST, "/api/v1/batches", "postBatch");
        check(Method::GET, "/api/v1/batches/{id}/outcomes", "getBatchOutcomes");
        check(Method::DELETE, "/api/v1/profiles/{id}/attributes/{name}", "deleteProfileAttribute");
        check(Method::POST, "/api/v1/compact", "postCompact");
        check(Method::GET, "/api/v1/status", "getStatus");
        check(Method::GET, "/openapi.json", "getOpenapiJson");
        check(Method::GET, "/m2/{client}/v2/profile/batchStatus", "getV2ProfileBatchStatus");
        check(Method::POST, "/rest/v1/mbox/{session_id+}", "postMboxBySessionId");
    }
}
