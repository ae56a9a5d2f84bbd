//! Which endpoint a request leads to, and what happens before its handler runs: the method, the rate, the token, the client.
//!
//! Promises: no handler runs for who may not call it; every refusal has the form of the endpoint's API. What there is to say
//! about a call stands in its [`Endpoint`]; this module only reads it.

use std::sync::LazyLock;

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};

use super::auth::{self, Access, Bearer, Proof};
use super::endpoint::{Api, Call, CallLimits, Endpoint, Methods, RateLimit, Reply, Whose};
use super::error::{Allowed, HttpError};
use super::operation::form;
use super::path::{Path, Template};
use super::request::Request;
use super::response::{Answer, Door, JSON, json, refusal};
use super::{Front, adobe, cors, inspector, native, openapi, ops, seq, shapes};
use crate::engine::EngineError;
use crate::model::batch::BatchId;

/// All endpoints, as the files list them that declare them.
const ENDPOINTS: [&[&[Endpoint]]; 4] =
    [adobe::ENDPOINTS, native::ENDPOINTS, &[ops::ENDPOINTS, &[DOCUMENT]], inspector::ENDPOINTS];

/// `GET /openapi.json`: all calls, described. It stands here because only the router knows them all.
const DOCUMENT: Endpoint = Endpoint {
    methods: Methods::Read,
    path: "/openapi.json",
    name: "openapi",
    api: Api::Native,
    access: Access::Open,
    client: Whose::Nobody,
    limits: CallLimits::NONE,
    handler: |_| Box::pin(async { json(StatusCode::OK, &openapi::document(endpoints())?) }),
    describe: Some(|operation| {
        operation.summary("Describes all calls: this document.").answers(
            "200",
            "The document.",
            [form(JSON, shapes::object())],
        )
    }),
};

fn endpoints() -> impl Iterator<Item = &'static Endpoint> {
    ENDPOINTS.into_iter().flatten().copied().flatten()
}

/// The paths that there are, by how many parts they have.
static ROUTES: LazyLock<Vec<Vec<Route>>> = LazyLock::new(|| {
    let mut routes: Vec<Vec<Route>> = vec![];
    for endpoint in endpoints() {
        let template = Template::new(endpoint.path);
        if routes.len() <= template.len() {
            routes.resize_with(template.len() + 1, Vec::new);
        }
        let Some(same) = routes.get_mut(template.len()) else { continue };
        let at = same.iter().position(|route| route.template.text() == endpoint.path).unwrap_or_else(|| {
            same.push(Route { template, first: endpoint, endpoints: vec![], methods: vec![] });
            same.len() - 1
        });
        if let Some(route) = same.get_mut(at) {
            route.endpoints.push(endpoint);
            route.methods.extend(endpoint.methods.all().iter().cloned());
        }
    }
    routes
});

/// A path, and its endpoints: one for each method, or for several.
struct Route {
    template: Template,
    /// The endpoints of a path share an API: a method that none of them takes is refused as the first refuses.
    first: &'static Endpoint,
    endpoints: Vec<&'static Endpoint>,
    methods: Vec<Method>,
}

/// Where a path leads.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    route: &'static Route,
    path: Path<'a>,
}

impl<'a> Found<'a> {
    /// Where the parts of a path lead. A slash at the end of one of Adobe's paths means nothing, unless an id is to follow it.
    pub(super) fn at(segments: &'a [&'a str]) -> Option<Self> {
        let adobes = |found: &Self| found.route.first.api.is_adobes();
        Self::to_the_letter(segments).or_else(|| match segments {
            [path @ .., ""] => Self::to_the_letter(path).filter(adobes),
            _ => None,
        })
    }

    fn to_the_letter(segments: &'a [&'a str]) -> Option<Self> {
        let route = ROUTES.get(segments.len())?.iter().find(|route| route.template.matches(segments))?;
        Some(Self { route, path: Path::new(&route.template, segments) })
    }

    /// What the log and the metrics call it.
    pub(super) fn name(&self, method: &Method) -> &'static str {
        self.endpoint(method).unwrap_or(self.route.first).name
    }

    /// Whether who listens to calls as they come in is told of this one, which may have a method that the path does not take.
    pub(super) fn is_told(&self, method: &Method) -> bool {
        *method != Method::OPTIONS && self.endpoint(method).unwrap_or(self.route.first).writes_to_visitors()
    }

    /// The client that its path names, also before anything is checked.
    pub(super) fn client_in_path(&self) -> Option<String> {
        match self.route.first.client {
            Whose::InPath => Some(self.path.get("client").to_owned()),
            Whose::OfBatch => BatchId::parse(self.path.get("id")).map(|id| id.client.to_string()),
            _ => None,
        }
    }

    fn endpoint(&self, method: &Method) -> Option<&'static Endpoint> {
        self.route.endpoints.iter().copied().find(|endpoint| endpoint.methods.all().contains(method))
    }

    /// A refusal, in the form of its API.
    pub(super) fn refusal(&self, request: &Request, error: &HttpError) -> Answer {
        match self.route.first.api {
            Api::Profile(door) => refusal(door, error),
            Api::Site { door, .. } => refusal(door(self.path.get("kind")), error),
            Api::Native => refusal(Door::Native, error),
            Api::Inspector(refusal) => refusal(request, error),
        }
    }

    /// Lets pages of other origins read an answer, where they may make the call.
    pub(super) fn open_to_pages(&self, answer: &mut Answer, origin: Option<HeaderValue>) {
        if let Api::Site { reads_cookies, .. } = self.route.first.api {
            cors::open(answer, origin.filter(|_| !reads_cookies));
        }
    }

    /// Says how old what an answer shows may be, on a node of several that is cut off from the order or behind it.
    pub(super) fn tell_age(&self, front: &Front, method: &Method, answer: &mut Answer) {
        if self.endpoint(method).is_some_and(Endpoint::shows_what_is_kept)
            && let Some(behind) = front.app.order().and_then(|order| order.lookups_behind())
        {
            seq::tell_age(answer, behind);
        }
    }

    /// Has a request answered, if it may be.
    pub(super) async fn answer(&self, front: &Front, request: &mut Request) -> Reply {
        let first = self.route.first;
        if first.api.is_for_pages() && request.method() == Method::OPTIONS {
            return Ok(cors::preflight(Allowed(&self.route.methods)));
        }
        let Some(endpoint) = self.endpoint(request.method()) else {
            return Err(HttpError::Method(&self.route.methods));
        };
        if endpoint.limits.rate == RateLimit::SiteCalls {
            front.count_site_call(request.caller())?;
        }
        let proof = match endpoint.api {
            Api::Inspector(_) => Proof::HeaderOrCookie,
            Api::Profile(_) | Api::Site { .. } | Api::Native => Proof::Header,
        };
        let shut = |error| match endpoint.api {
            Api::Profile(_) => auth::as_adobe(error),
            Api::Site { .. } | Api::Native | Api::Inspector(_) => error,
        };
        let (tokens, now) = (front.app.tokens(), front.app.now());
        let bearer = auth::admit(&tokens, now, request, endpoint.access, endpoint.methods.write(), proof)
            .map_err(|error| shut(front.count_failure(request.caller(), error)))?;
        let client = endpoint.client.find(front, request, &bearer, self.path)?;
        bearer.check(endpoint.access, client.as_ref()).map_err(shut)?;
        if let Some(client) = &client {
            request.note(|notes| notes.client(client));
        }
        if let (RateLimit::BatchCalls, Some(client)) = (endpoint.limits.rate, &client) {
            front.count_batch_call(client)?;
        }
        if let Bearer::Token(token) = &bearer {
            request.let_in_by(token);
            front.app.note_token_use(&token.id);
        }
        if endpoint.client == Whose::OfBatch
            && let Some(id) = BatchId::parse(self.path.get("id"))
        {
            front.app.wait_for_batch(&id).await;
        }
        let call = Call {
            front,
            request,
            path: self.path,
            bearer: &bearer,
            client: client.as_ref(),
            limits: &endpoint.limits,
        };
        let reply = (endpoint.handler)(call).await;
        debug_assert!(
            is_declared(endpoint, &reply),
            "{}: {:?} is no place of its limits",
            endpoint.path,
            reply.err()
        );
        reply
    }
}

/// Whether a place that a call found taken is one that its limits name.
fn is_declared(endpoint: &Endpoint, reply: &Reply) -> bool {
    match reply {
        Err(HttpError::Engine(EngineError::Taken(scarce, _) | EngineError::MadeRoom(scarce))) => {
            endpoint.limits.scarce.contains(scarce)
        }
        _ => true,
    }
}

/// What is answered while the daemon is still opening its data folder.
pub(super) fn answer_while_opening(path: &str, at: String) -> Answer {
    match path {
        ops::HEALTHZ => ops::healthz_while_opening(),
        _ if is_adobes(path) => refusal(Door::Rest, &HttpError::NotReady(at)),
        _ => refusal(Door::Native, &HttpError::NotReady(at)),
    }
}

/// Whether a path, decoded or not, is below Adobe's.
pub(super) fn is_adobes(path: &str) -> bool {
    path.starts_with("/m2/") || path.starts_with("/rest/")
}

/// The form in which a path that leads nowhere is refused.
pub(super) fn door_of_unknown(segments: &[&str]) -> Door {
    match segments.first() {
        Some(&"m2") => Door::Batch,
        Some(&"rest") => Door::Rest,
        _ => Door::Native,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The template that a path leads to, and what stands in its places, in their order.
    fn found(path: &str) -> Option<(&'static str, Vec<String>)> {
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let found = Found::at(&segments)?;
        let values = found.route.template.parameters().map(|(name, _)| found.path.get(name).to_owned());
        Some((found.route.first.path, values.collect()))
    }

    #[track_caller]
    fn check(path: &str, expected: Option<(&str, &[&str])>) {
        let expected = expected.map(|(template, values)| {
            (template, values.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>())
        });
        assert_eq!(found(path), expected, "{path}");
    }

    /// A path of each template, for each value that it lists.
    fn examples(template: &'static str) -> Vec<String> {
        let mut all = vec![String::new()];
        for part in template.split('/').skip(1) {
            let values: Vec<&str> = match part.split_once('=') {
                Some((_, values)) => values.trim_end_matches('}').split('|').collect(),
                None if part.starts_with('{') => vec!["x"],
                None => vec![part],
            };
            all = all.iter().flat_map(|path| values.iter().map(move |it| format!("{path}/{it}"))).collect();
        }
        all
    }

    #[test]
    fn each_path_leads_to_its_own_endpoint_and_to_no_other() {
        for endpoint in endpoints() {
            for path in examples(endpoint.path) {
                assert_eq!(found(&path).map(|(template, _)| template), Some(endpoint.path), "{path}");
                let segments: Vec<&str> = path.split('/').skip(1).collect();
                let matching: BTreeSet<&str> = endpoints()
                    .filter(|other| Template::new(other.path).matches(&segments))
                    .map(|other| other.path)
                    .collect();
                assert_eq!(matching.len(), 1, "{path}: {matching:?}");
            }
        }
        assert!(endpoints().count() > 35);
    }

    #[test]
    fn the_endpoints_of_a_path_share_an_api_and_no_method() {
        for route in ROUTES.iter().flatten() {
            let methods: BTreeSet<&str> = route.methods.iter().map(Method::as_str).collect();
            assert_eq!(methods.len(), route.methods.len(), "{}", route.template.text());
            for endpoint in &route.endpoints {
                let same = std::mem::discriminant(&endpoint.api) == std::mem::discriminant(&route.first.api);
                assert!(same, "{}", endpoint.path);
            }
        }
    }

    /// A declaration that contradicts itself would be found at a call alone.
    #[test]
    fn declarations_agree_with_themselves() {
        for endpoint in endpoints() {
            let Endpoint { path, name, client, access, limits, api, describe, .. } = endpoint;
            assert!(!name.contains(' '), "{name}: it is the value of a label of the metrics");
            let names = Template::new(path).parameters().map(|(name, _)| name).collect::<Vec<_>>();
            assert_eq!(*client == Whose::InPath, names.contains(&"client"), "{path}");
            assert!(*client != Whose::OfBatch || names.contains(&"id"), "{path}");
            assert_eq!(*access == Access::Page, api.is_for_pages(), "{path}");
            assert_eq!(limits.rate == RateLimit::SiteCalls, api.is_for_pages(), "{path}");
            assert_eq!(describe.is_none(), matches!(api, Api::Inspector(_)), "{path}");
            assert_eq!(path.starts_with("/m2/") || path.starts_with("/rest/"), api.is_adobes(), "{path}");
            assert!(!path.starts_with("/m2/") || names.first() == Some(&"client"), "{path}");
            // A token of one client's must not lead to another's visitors.
            assert!(!matches!(access, Access::Of(_)) || *client != Whose::Nobody, "{path}");
        }
    }

    #[test]
    fn the_document_has_each_call_and_no_other() {
        let document = openapi::document(endpoints()).unwrap();
        let mut described = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            described
                .extend(operations.as_object().unwrap().keys().map(|it| (path.clone(), it.to_uppercase())));
        }
        let mut declared = BTreeSet::new();
        for endpoint in endpoints().filter(|endpoint| !matches!(endpoint.api, Api::Inspector(_))) {
            let methods = endpoint.methods.all().iter().filter(|method| *method != Method::HEAD);
            declared.extend(
                methods.map(|method| (Template::new(endpoint.path).in_openapi(), method.to_string())),
            );
        }
        assert_eq!(described, declared);
        // Each call has a name of its own, is in a group that is described, and our own say how they may be refused.
        let groups: BTreeSet<&str> =
            document["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
        let mut names = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for operation in operations.as_object().unwrap().values() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{name} of {path} is another call's, too");
                assert!(groups.contains(operation["tags"][0].as_str().unwrap()), "{path}");
                assert!(
                    !path.starts_with("/api/") || operation["responses"]["400"].is_object(),
                    "{path} may be refused"
                );
            }
        }
        // What is referred to is there.
        let text = document.to_string();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
        for reference in text.split("\"#/components/responses/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(document["components"]["responses"][name].is_object(), "{name}");
        }
    }

    #[test]
    fn a_slash_at_the_end_of_adobes_paths_means_nothing() {
        // aepsdk-target-ios TargetConstants.swift:21, aepsdk-target-android TargetConstants.java:23.
        check("/rest/v1/delivery/", Some(("/rest/v1/delivery", &[])));
        for endpoint in endpoints().filter(|endpoint| endpoint.api.is_adobes()) {
            for path in examples(endpoint.path) {
                assert_eq!(found(&format!("{path}/")), found(&path), "{path}");
            }
        }
    }

    #[test]
    fn paths_lead_where_adobes_documentation_says() {
        let demo: &[&str] = &["demo"];
        check("/m2/demo/profile/batchUpdate", Some(("/m2/{client}/profile/batchUpdate", demo)));
        check("/m2/demo/v2/profile/batchUpdate", Some(("/m2/{client}/v2/profile/batchUpdate", demo)));
        check("/m2/demo/profile/batchStatus", Some(("/m2/{client}/profile/batchStatus", demo)));
        check("/m2/demo/v2/profile/batchStatus", Some(("/m2/{client}/v2/profile/batchStatus", demo)));
        check("/m2/demo/profile/update", Some(("/m2/{client}/profile/update", demo)));
        let mbox = |kind: &str| {
            let path = format!("/m2/demo/mbox/{kind}");
            check(&path, Some(("/m2/{client}/mbox/{kind=json|ajax|standard}", &["demo", kind])));
        };
        ["json", "ajax", "standard"].into_iter().for_each(mbox);
        let ubox = |kind: &str| {
            let path = format!("/m2/demo/ubox/{kind}");
            check(&path, Some(("/m2/{client}/ubox/{kind=raw|image|page}", &["demo", kind])));
        };
        ["raw", "image", "page"].into_iter().for_each(ubox);
        check("/m2/demo/ubox/json", None);
        check("/m2/demo/mbox/raw", None);
        check("/rest/v1/delivery", Some(("/rest/v1/delivery", &[])));
        check("/rest/v1/mbox/", Some(("/rest/v1/mbox", &[])));
        check("/rest/v1/mbox/s", Some(("/rest/v1/mbox/{session_id+}", &["s"])));
        check("/rest/v2/batchmbox/", Some(("/rest/v2/batchmbox", &[])));
        let (pc, third_party, ecid) = (
            "/rest/v1/profiles/{id+}",
            "/rest/v1/profiles/thirdPartyId/{id}",
            "/rest/v1/profiles/marketingCloudVisitorId/{id}",
        );
        check("/rest/v1/profiles/1.28_0", Some((pc, &["1.28_0"])));
        check("/rest/v1/profiles/thirdPartyId/x", Some((third_party, &["x"])));
        check("/rest/v1/profiles/marketingCloudVisitorId/3", Some((ecid, &["3"])));
        check("/rest/v1/profiles/thirdPartyId", Some((pc, &["thirdPartyId"])));
        check("/api/v1/batches", Some(("/api/v1/batches", &[])));
        check("/m2/demo/profile/batchupdate", None);
        check("/m2/demo/profile/batchUpdate//", None);
        check("/api/v1/batches/", Some(("/api/v1/batches/{id}", &[""])));
        check("/api/v1/statistics/", None);
        check("/rest/v1/profiles", None);
        check("/rest/v1/profiles/", None);
        check("/rest/v1/profiles/thirdPartyId/", Some((third_party, &[""])));
        check("/rest/v1/profiles/marketingCloudVisitorId/", Some((ecid, &[""])));
        check("/", Some(("/", &[])));
    }
}
