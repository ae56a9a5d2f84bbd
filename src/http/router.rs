//! Which path leads where, by which methods, and what it takes to be let in.

use hyper::{Method, StatusCode};

use super::adobe::mbox::Kind;
use super::auth::{Access, Bearer, Proof};
use super::error::{HttpError, Methods};
use super::openapi::{self, Schemas};
use super::request::{Request, client};
use super::response::{Answer, Door, json, refusal};
use super::{Front, adobe, auth, cors, inspector, native, ops, outcomes};
use crate::engine::BatchVersion;
use crate::model::batch::BatchId;
use crate::model::id::{ClientCode, IdKind};
use crate::tokens::Scope;

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint<'a> {
    BatchUpdate {
        client: &'a str,
        version: BatchVersion,
    },
    BatchStatus {
        client: &'a str,
    },
    ProfileUpdate {
        client: &'a str,
    },
    Mbox {
        client: &'a str,
        kind: Kind,
    },
    Delivery,
    RestMbox {
        session_id: Option<&'a str>,
    },
    BatchMbox,
    ProfileFetch {
        kind: IdKind,
        id: &'a str,
    },
    Profile {
        id: &'a str,
    },
    Attribute {
        id: &'a str,
        name: &'a str,
    },
    Batches,
    Batch {
        id: &'a str,
    },
    Events {
        id: &'a str,
    },
    Outcomes {
        id: &'a str,
    },
    Repair {
        id: &'a str,
    },
    File {
        id: &'a str,
    },
    Statistics,
    Export,
    Compact,
    Backup,
    OpenApi,
    Healthz,
    Readyz,
    Metrics,
    /// For people; the inspector has paths of its own, and the document of the calls does not have them.
    Inspector(inspector::Page<'a>),
}

const READ: &[Method] = &[Method::GET, Method::HEAD];
const READ_OR_ERASE: &[Method] = &[Method::GET, Method::HEAD, Method::DELETE];
const READ_OR_WRITE: &[Method] = &[Method::GET, Method::HEAD, Method::POST];
const REMOVE: &[Method] = &[Method::DELETE];
const WRITE: &[Method] = &[Method::POST];
const WRITE_BY_EITHER: &[Method] = &[Method::GET, Method::POST];

impl<'a> Endpoint<'a> {
    /// What the segments of a path lead to. A slash at the end of one of Adobe's paths means nothing: its mobile SDKs
    /// call `/rest/v1/delivery/`. Where an id is to follow, what follows is an empty id.
    pub(super) fn find(segments: &[&'a str]) -> Option<Self> {
        match *segments {
            ["rest", "v1", "profiles", "thirdPartyId" | "marketingCloudVisitorId", ""] => {
                Self::named(segments)
            }
            [ref path @ .., ""] if matches!(path.first(), Some(&("m2" | "rest"))) => Self::named(path),
            _ => Self::named(segments),
        }
    }

    /// What the segments of a path lead to, to the letter.
    fn named(segments: &[&'a str]) -> Option<Self> {
        Some(match *segments {
            ["m2", client, "profile", "batchUpdate"] => {
                Self::BatchUpdate { client, version: BatchVersion::V1 }
            }
            ["m2", client, "v2", "profile", "batchUpdate"] => {
                Self::BatchUpdate { client, version: BatchVersion::V2 }
            }
            ["m2", client, "profile", "batchStatus"] | ["m2", client, "v2", "profile", "batchStatus"] => {
                Self::BatchStatus { client }
            }
            ["m2", client, "profile", "update"] => Self::ProfileUpdate { client },
            ["m2", client, door @ ("mbox" | "ubox"), kind] => {
                Self::Mbox { client, kind: Kind::of(door, kind)? }
            }
            ["rest", "v1", "delivery"] => Self::Delivery,
            ["rest", "v1", "mbox"] => Self::RestMbox { session_id: None },
            ["rest", "v1", "mbox", session_id] => Self::RestMbox { session_id: Some(session_id) },
            ["rest", "v2", "batchmbox"] => Self::BatchMbox,
            ["rest", "v1", "profiles", "thirdPartyId", id] => {
                Self::ProfileFetch { kind: IdKind::ThirdParty, id }
            }
            ["rest", "v1", "profiles", "marketingCloudVisitorId", id] => {
                Self::ProfileFetch { kind: IdKind::Ecid, id }
            }
            ["rest", "v1", "profiles", id] => Self::ProfileFetch { kind: IdKind::Pc, id },
            ["api", "v1", "profiles", id] => Self::Profile { id },
            ["api", "v1", "profiles", id, "attributes", name] => Self::Attribute { id, name },
            ["api", "v1", "batches"] => Self::Batches,
            ["api", "v1", "batches", id] => Self::Batch { id },
            ["api", "v1", "batches", id, "events"] => Self::Events { id },
            ["api", "v1", "batches", id, "outcomes"] => Self::Outcomes { id },
            ["api", "v1", "batches", id, "repair"] => Self::Repair { id },
            ["api", "v1", "batches", id, "file"] => Self::File { id },
            ["api", "v1", "statistics"] => Self::Statistics,
            ["api", "v1", "export"] => Self::Export,
            ["api", "v1", "compact"] => Self::Compact,
            ["api", "v1", "backup"] => Self::Backup,
            ["openapi.json"] => Self::OpenApi,
            ["healthz"] => Self::Healthz,
            ["readyz"] => Self::Readyz,
            ["metrics"] => Self::Metrics,
            _ => return inspector::Page::find(segments).map(Self::Inspector),
        })
    }

    /// The methods that it takes.
    pub(super) fn methods(&self) -> &'static [Method] {
        match self {
            Self::BatchUpdate { .. }
            | Self::Delivery
            | Self::RestMbox { .. }
            | Self::BatchMbox
            | Self::Compact
            | Self::Backup => WRITE,
            Self::Profile { .. } | Self::Batch { .. } => READ_OR_ERASE,
            Self::File { .. } => READ_OR_WRITE,
            Self::Attribute { .. } => REMOVE,
            Self::ProfileUpdate { .. } | Self::Mbox { .. } => WRITE_BY_EITHER,
            Self::Inspector(page) => page.methods(),
            _ => READ,
        }
    }

    /// What it takes to be let in.
    fn access(&self, method: &Method) -> Access {
        match self {
            Self::BatchUpdate { .. } | Self::ProfileUpdate { .. } => Access::Of(Scope::Batch),
            Self::Batch { .. } if method == Method::DELETE => Access::Of(Scope::Admin),
            Self::File { .. } if method == Method::POST => Access::Of(Scope::Admin),
            Self::BatchStatus { .. }
            | Self::Batches
            | Self::Batch { .. }
            | Self::Events { .. }
            | Self::Outcomes { .. }
            | Self::Repair { .. }
            | Self::File { .. } => Access::Any,
            Self::Mbox { .. } | Self::Delivery | Self::RestMbox { .. } | Self::BatchMbox => Access::Page,
            Self::ProfileFetch { .. } | Self::Statistics => Access::Of(Scope::Read),
            Self::Attribute { .. } => Access::Of(Scope::Admin),
            Self::Profile { .. } if method == Method::DELETE => Access::Of(Scope::Admin),
            Self::Profile { .. } => Access::Of(Scope::Read),
            // All visitors at once are more than a look at one.
            Self::Export => Access::Of(Scope::Admin),
            Self::Compact | Self::Backup => Access::Everywhere(Scope::Admin),
            Self::OpenApi | Self::Healthz | Self::Readyz => Access::Open,
            Self::Metrics => Access::OpenInPart,
            Self::Inspector(page) => page.access(method),
        }
    }

    /// Whether it changes anything.
    fn writes(&self, method: &Method) -> bool {
        matches!(self, Self::ProfileUpdate { .. }) || !READ.contains(method)
    }

    /// Whose visitors it is about, where they are one client's; a batch's id names its client.
    fn client(
        &self,
        front: &Front,
        request: &Request,
        bearer: &Bearer,
    ) -> Result<Option<ClientCode>, HttpError> {
        Ok(match *self {
            Self::BatchUpdate { client: code, .. }
            | Self::BatchStatus { client: code }
            | Self::ProfileUpdate { client: code }
            | Self::Mbox { client: code, .. } => Some(client(code)?),
            Self::ProfileFetch { .. }
            | Self::Profile { .. }
            | Self::Attribute { .. }
            | Self::Batches
            | Self::Statistics
            | Self::Export => Some(request.query().strict()?.client(&front.app)?),
            Self::Inspector(page) => page.client(front, request, bearer)?,
            Self::Batch { id }
            | Self::Events { id }
            | Self::Outcomes { id }
            | Self::Repair { id }
            | Self::File { id } => BatchId::parse(id).map(|id| id.client),
            Self::Delivery
            | Self::RestMbox { .. }
            | Self::BatchMbox
            | Self::Compact
            | Self::Backup
            | Self::OpenApi
            | Self::Healthz
            | Self::Readyz
            | Self::Metrics => None,
        })
    }

    /// Whether pages of other origins call it: the site's calls.
    pub(super) fn is_for_pages(&self) -> bool {
        matches!(self, Self::Mbox { .. } | Self::Delivery | Self::RestMbox { .. } | Self::BatchMbox)
    }

    /// Whether it is one of Adobe's calls that take a token.
    fn is_for_adobes_clients(&self) -> bool {
        matches!(
            self,
            Self::BatchUpdate { .. }
                | Self::BatchStatus { .. }
                | Self::ProfileUpdate { .. }
                | Self::ProfileFetch { .. }
        )
    }

    /// Whether it reads a cookie.
    pub(super) fn reads_cookies(&self) -> bool {
        matches!(self, Self::Mbox { kind: Kind::Raw | Kind::Image | Kind::Page, .. })
    }

    /// The form in which it refuses.
    fn door(&self) -> Door {
        match self {
            Self::BatchUpdate { .. } | Self::BatchStatus { .. } => Door::Batch,
            Self::ProfileUpdate { .. } => Door::Update,
            Self::Mbox { kind, .. } => kind.door(),
            _ => Door::Rest,
        }
    }

    /// What the log and the metrics call it: a path would hold ids.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::BatchUpdate { version: BatchVersion::V1, .. } => "batchUpdate v1",
            Self::BatchUpdate { version: BatchVersion::V2, .. } => "batchUpdate v2",
            Self::BatchStatus { .. } => "batchStatus",
            Self::ProfileUpdate { .. } => "profile update",
            Self::Mbox { .. } => "mbox",
            Self::Delivery => "delivery",
            Self::RestMbox { .. } => "rest mbox",
            Self::BatchMbox => "batch mbox",
            Self::ProfileFetch { .. } => "profile fetch",
            Self::Profile { .. } => "profile",
            Self::Attribute { .. } => "attribute",
            Self::Batches => "batches",
            Self::Batch { .. } => "batch",
            Self::Events { .. } => "batch events",
            Self::Outcomes { .. } => "batch outcomes",
            Self::Repair { .. } => "batch repair",
            Self::File { .. } => "batch file",
            Self::Statistics => "statistics",
            Self::Export => "export",
            Self::Compact => "compact",
            Self::Backup => "backup",
            Self::OpenApi => "openapi",
            Self::Healthz => "healthz",
            Self::Readyz => "readyz",
            Self::Metrics => "metrics",
            Self::Inspector(page) => page.name(),
        }
    }

    /// A refusal, in the form of its front door.
    pub(super) fn refusal(&self, request: &Request, error: &HttpError) -> Answer {
        match self {
            Self::Inspector(page) => page.refusal(request, error),
            _ => refusal(self.door(), error),
        }
    }

    /// Has the request answered.
    pub(super) async fn answer(&self, front: &Front, request: &mut Request) -> Result<Answer, HttpError> {
        if self.is_for_pages() && request.method() == Method::OPTIONS {
            return Ok(cors::preflight(Methods(self.methods())));
        }
        if !self.methods().contains(request.method()) {
            return Err(HttpError::Method(self.methods()));
        }
        if self.is_for_pages() {
            front.count_site_call(request.caller())?;
        }
        let access = self.access(request.method());
        let (tokens, now) = (front.tokens(), front.app.now());
        let writes = self.writes(request.method());
        let proof = match self {
            Self::Inspector(_) => Proof::HeaderOrCookie,
            _ => Proof::Header,
        };
        let shut = |error| if self.is_for_adobes_clients() { auth::as_adobe(error) } else { error };
        let bearer = auth::admit(&tokens, now, request, access, writes, proof)
            .map_err(|error| shut(front.count_failure(request.caller(), error)))?;
        let client = self.client(front, request, &bearer)?;
        bearer.check(access, client.as_ref()).map_err(shut)?;
        match (*self, &client) {
            (Self::Inspector(page), client) => page.answer(front, request, &bearer, client.as_ref()).await,
            (Self::OpenApi, _) => document(),
            (Self::Healthz, _) => ops::healthz(front),
            (Self::Readyz, _) => ops::readyz(front),
            (Self::Delivery, _) => adobe::delivery::answer(front, request).await,
            (Self::RestMbox { session_id }, _) => adobe::rest_mbox::answer(front, request, session_id).await,
            (Self::BatchMbox, _) => adobe::batch_mbox::answer(front, request).await,
            (Self::Batch { id }, _) if request.method() == Method::DELETE => {
                native::batches::give_up(front, request, &bearer, &native::batches::id(request, id)?).await
            }
            (Self::File { id }, _) if request.method() == Method::POST => {
                native::batches::put_back(front, request, &bearer, &native::batches::id(request, id)?).await
            }
            (Self::Batch { id }, _) => native::batches::one(front, &native::batches::id(request, id)?),
            (Self::Events { id }, _) => {
                native::events::answer(front, request, &native::batches::id(request, id)?).await
            }
            (Self::Outcomes { id }, _) => {
                native::outcomes::answer(front, request, &native::batches::id(request, id)?).await
            }
            (Self::Repair { id }, _) => {
                outcomes::repair(front, request, &native::batches::id(request, id)?).await
            }
            (Self::File { id }, _) => {
                outcomes::file(front, request, &native::batches::id(request, id)?).await
            }
            (Self::Compact, _) => native::upkeep::compact(front, request, &bearer).await,
            (Self::Backup, _) => native::upkeep::backup(front, request, &bearer).await,
            (Self::BatchUpdate { version, .. }, Some(client)) => {
                adobe::batch_update::answer(front, request, client, version).await
            }
            (Self::BatchStatus { .. }, Some(client)) => {
                adobe::batch_status::answer(front, request, client).await
            }
            (Self::ProfileUpdate { .. }, Some(client)) => {
                adobe::profile_update::answer(front, request, client).await
            }
            (Self::Mbox { kind, .. }, Some(client)) => {
                adobe::mbox::answer(front, request, client, kind).await
            }
            (Self::ProfileFetch { kind, id }, Some(client)) => {
                adobe::profile_fetch::answer(front, client, kind, id).await
            }
            (Self::Profile { id }, Some(client)) if request.method() == Method::DELETE => {
                native::profiles::erase(front, request, &bearer, client, id).await
            }
            (Self::Profile { id }, Some(client)) => {
                native::profiles::answer(front, request, client, id).await
            }
            (Self::Attribute { id, name }, Some(client)) => {
                native::profiles::remove(front, request, &bearer, client, id, name).await
            }
            (Self::Statistics, Some(client)) => native::statistics::answer(front, request, client).await,
            (Self::Batches, Some(client)) => native::batches::list(front, request, client),
            (Self::Export, Some(client)) => native::export::answer(front, request, &bearer, client).await,
            (Self::Metrics, _) => ops::metrics(front, |client| bearer.sees(client)),
            (_, None) => Err(HttpError::Inside("a call about one client's visitors names none".into())),
        }
    }
}

/// `GET /openapi.json`: all calls, described.
fn document() -> Result<Answer, HttpError> {
    let schemas = Schemas::default()
        .with::<native::batches::Batches>()
        .with::<native::batches::Batch>()
        .with::<native::profiles::Profile<'static>>()
        .with::<native::profiles::Erased>()
        .with::<native::profiles::Removed>()
        .with::<native::statistics::Statistics<'static>>()
        .with::<native::upkeep::Compacted>()
        .with::<native::upkeep::BackedUp>()
        .with::<outcomes::Row<'static>>()
        .with::<adobe::batch_update::TriedOut<'static>>()
        .with::<adobe::profile_fetch::Fetched<'static>>();
    json(StatusCode::OK, &openapi::document(schemas)?)
}

/// What is answered while the daemon is still opening its data folder.
pub(super) fn answer_while_opening(path: &str, at: String) -> Answer {
    match path {
        "/healthz" => ops::healthz_while_opening(),
        _ => refusal(Door::Rest, &HttpError::NotReady(at)),
    }
}

/// The form in which a path that leads nowhere is refused.
pub(super) fn door_of_unknown(segments: &[&str]) -> Door {
    match segments.first() {
        Some(&"m2") => Door::Batch,
        _ => Door::Rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Option<Endpoint<'_>>) {
        let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        assert_eq!(Endpoint::find(&segments), expected, "{path}");
    }

    /// The paths of `find`, as this file has them, in the form of the document.
    fn paths_found() -> std::collections::BTreeSet<String> {
        let text = include_str!("router.rs");
        let find = text.split_once("Some(match *segments {").unwrap().1.split_once("_ => return ").unwrap().0;
        let mut paths = std::collections::BTreeSet::new();
        for pattern in find.split('[').skip(1).filter_map(|rest| rest.split_once(']')).map(|(it, _)| it) {
            let mut all = vec![String::new()];
            for segment in pattern.split(',').map(str::trim) {
                let names: Vec<String> = match segment.split_once(" @ ") {
                    Some((_, names)) => names
                        .trim_matches(['(', ')'])
                        .split(" | ")
                        .map(|it| it.trim_matches('"').into())
                        .collect(),
                    None if segment.starts_with('"') => vec![segment.trim_matches('"').into()],
                    None => vec![format!("{{{segment}}}")],
                };
                all = all
                    .iter()
                    .flat_map(|path| names.iter().map(move |name| format!("{path}/{name}")))
                    .collect();
            }
            paths.extend(all);
        }
        paths
    }

    #[test]
    fn the_document_has_the_paths_and_methods_that_there_are_and_no_others() {
        let document = openapi::document(Schemas::default()).unwrap();
        let described = document["paths"].as_object().unwrap();
        let paths: std::collections::BTreeSet<String> = described.keys().cloned().collect();
        assert!(paths.len() > 25);
        assert_eq!(paths, paths_found());
        for (path, operations) in described {
            let kind = if path.contains("/ubox/") { "raw" } else { "json" };
            let example = path.replace("{kind}", kind);
            let segments: Vec<&str> = example.trim_start_matches('/').split('/').collect();
            let endpoint = Endpoint::find(&segments).unwrap();
            let methods = operations.as_object().unwrap().keys().map(|it| it.to_uppercase());
            let taken = endpoint.methods().iter().filter(|it| *it != Method::HEAD).map(ToString::to_string);
            let sorted = |mut all: Vec<String>| {
                all.sort();
                all
            };
            assert_eq!(sorted(methods.collect()), sorted(taken.collect()), "{path}");
        }
    }

    #[test]
    fn a_slash_at_the_end_of_adobes_paths_means_nothing() {
        // aepsdk-target-ios TargetConstants.swift:21, aepsdk-target-android TargetConstants.java:23.
        check("/rest/v1/delivery/", Some(Endpoint::Delivery));
        for path in paths_found().iter().filter(|path| !path.starts_with("/api/")) {
            let kind = if path.contains("/ubox/") { "raw" } else { "json" };
            let path = path.replace("{kind}", kind);
            if path.starts_with("/m2/") || path.starts_with("/rest/") {
                let slashed = format!("{path}/");
                let (plain, slashed): (Vec<&str>, Vec<&str>) =
                    (path.split('/').skip(1).collect(), slashed.split('/').skip(1).collect());
                assert!(Endpoint::find(&plain).is_some(), "{path}");
                assert_eq!(Endpoint::find(&slashed), Endpoint::find(&plain), "{path}");
            }
        }
    }

    #[test]
    fn paths_lead_where_adobes_documentation_says() {
        use BatchVersion::{V1, V2};
        let batch = |version| Some(Endpoint::BatchUpdate { client: "demo", version });
        let fetch = |kind, id| Some(Endpoint::ProfileFetch { kind, id });
        check("/m2/demo/profile/batchUpdate", batch(V1));
        check("/m2/demo/v2/profile/batchUpdate", batch(V2));
        check("/m2/demo/profile/batchStatus", Some(Endpoint::BatchStatus { client: "demo" }));
        check("/m2/demo/v2/profile/batchStatus", Some(Endpoint::BatchStatus { client: "demo" }));
        check("/m2/demo/profile/update", Some(Endpoint::ProfileUpdate { client: "demo" }));
        let mbox = |kind| Some(Endpoint::Mbox { client: "demo", kind });
        check("/m2/demo/mbox/json", mbox(Kind::Json));
        check("/m2/demo/mbox/ajax", mbox(Kind::Ajax));
        check("/m2/demo/mbox/standard", mbox(Kind::Standard));
        check("/m2/demo/ubox/raw", mbox(Kind::Raw));
        check("/m2/demo/ubox/image", mbox(Kind::Image));
        check("/m2/demo/ubox/page", mbox(Kind::Page));
        check("/m2/demo/ubox/json", None);
        check("/m2/demo/mbox/raw", None);
        check("/rest/v1/delivery", Some(Endpoint::Delivery));
        check("/rest/v1/mbox/", Some(Endpoint::RestMbox { session_id: None }));
        check("/rest/v1/mbox/s", Some(Endpoint::RestMbox { session_id: Some("s") }));
        check("/rest/v2/batchmbox/", Some(Endpoint::BatchMbox));
        check("/rest/v1/profiles/1.28_0", fetch(IdKind::Pc, "1.28_0"));
        check("/rest/v1/profiles/thirdPartyId/x", fetch(IdKind::ThirdParty, "x"));
        check("/rest/v1/profiles/marketingCloudVisitorId/3", fetch(IdKind::Ecid, "3"));
        check("/rest/v1/profiles/thirdPartyId", fetch(IdKind::Pc, "thirdPartyId"));
        check("/api/v1/batches", Some(Endpoint::Batches));
        check("/m2/demo/profile/batchupdate", None);
        check("/m2/demo/profile/batchUpdate//", None);
        check("/api/v1/batches/", Some(Endpoint::Batch { id: "" }));
        check("/rest/v1/profiles", None);
        check("/rest/v1/profiles/", None);
        check("/rest/v1/profiles/thirdPartyId/", fetch(IdKind::ThirdParty, ""));
        check("/rest/v1/profiles/marketingCloudVisitorId/", fetch(IdKind::Ecid, ""));
        check("/", Some(Endpoint::Inspector(inspector::Page::Home)));
    }
}
