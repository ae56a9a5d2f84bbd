//! `GET /api/v1/profiles`: visitors by the beginning of an id, or by the value of an attribute; those who were active last.

use form_urlencoded::Serializer;
use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::profiles::by;
use crate::engine::gates::Scarce;
use crate::engine::read::by_value::Wanted;
use crate::engine::read::search::{FOUND_MAX, FoundVisitor};
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::request::Params;
use crate::http::response::json;
use crate::http::{kinds, shapes};
use crate::model::id::IdKind;
use crate::model::seq::{Millis, Seq};
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/api/v1/profiles",
    name: "profiles",
    api: Api::Native,
    access: Access::Of(Scope::Read),
    client: Whose::InQuery,
    limits: CallLimits { scarce: &[Scarce::Counts], ..CallLimits::NONE },
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        operation
            .id("findProfiles")
            .summary("Finds visitors: by the beginning of an id, by the value of an attribute, or those who were active last.")
            .says("Say beginning, or attribute and value, or active.")
            .client()
            .query(
                "beginning",
                false,
                shapes::not_empty(),
                "How the id begins. They come in the order of the ids.",
            )
            .query("by", false, kinds::names(), "beginning: the kind of the id; third-party by default.")
            .query("attribute", false, shapes::not_empty(), "The name of an attribute.")
            .query("value", false, shapes::not_empty(), "attribute: its value, the whole of it.")
            .switch("active", "true: those with the newest calls of the site and single updates, newest first.")
            .query("limit", false, shapes::count(FOUND_MAX), "The most visitors of a page.")
            .query("after", false, shapes::not_empty(), "Where to go on, as next has it.")
            .json::<Found<'_>>("The visitors, and the path of the next page.")
    }),
}];

/// What is asked.
enum Question<'q> {
    /// Visitors with an id of this kind that begins so.
    Beginning(IdKind, &'q str),
    /// Visitors with this value.
    Value(&'q str, &'q str),
    /// Visitors who were active last.
    Active,
}

impl<'q> Question<'q> {
    fn of(query: &'q Params) -> Result<Self, HttpError> {
        let wrong = |why: &str| Err(HttpError::Wrong(why.into()));
        let [beginning, attribute, value] = ["beginning", "attribute", "value"].map(|name| query.get(name));
        if query.switch("active")? {
            return match (beginning.or(attribute).or(value), query.get("by")) {
                (None, None) => Ok(Self::Active),
                _ => wrong("active=true stands alone: leave beginning=, by=, attribute= and value= out"),
            };
        }
        match (beginning, attribute, value) {
            (Some(beginning), None, None) => Ok(Self::Beginning(by(query)?, beginning)),
            (None, Some(name), Some(value)) if query.get("by").is_none() => Ok(Self::Value(name, value)),
            (None, Some(_), Some(_)) => {
                wrong("by= is for beginning=: an attribute is looked for in all visitors")
            }
            (None, Some(_), None) => wrong("value= is missing: say which value the attribute has"),
            (None, None, Some(_)) => wrong("attribute= is missing: say which attribute has the value"),
            (None, None, None) => wrong(
                "beginning= is missing: say how the id begins; or say attribute= and value=, or active=true",
            ),
            (Some(_), ..) => wrong("say either beginning=, or attribute= and value="),
        }
    }

    /// How a further page is asked for.
    fn pairs(&self) -> Vec<(&'static str, &'q str)> {
        match self {
            Self::Beginning(kind, beginning) => vec![("by", kinds::name(*kind)), ("beginning", beginning)],
            Self::Value(name, value) => vec![("attribute", name), ("value", value)],
            Self::Active => vec![("active", "true")],
        }
    }
}

/// Visitors that were found.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FoundProfiles)]
struct Found<'a> {
    profiles: Vec<FoundOne<'a>>,
    /// How many ids or profiles were looked at for this page.
    looked_at: usize,
    /// active: since when calls were noted; the daemon keeps them in memory. null otherwise.
    #[schema(format = "date-time")]
    active_since: Option<String>,
    /// The path of the next page. null: this is the last. A page may have fewer visitors than the limit, or none, and have a next one.
    next: Option<String>,
}

/// A visitor that was found.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = FoundProfile)]
struct FoundOne<'a> {
    /// The id that begins so; otherwise the id that the profile is kept under.
    id: &'a str,
    /// The id that the profile is kept under, and its kind.
    canonical_id: &'a str,
    #[schema(schema_with = kinds::names)]
    canonical_by: &'static str,
    #[schema(format = "date-time")]
    last_active: String,
    /// active: when the last call of the site or single update came. null otherwise.
    #[schema(format = "date-time")]
    last_call: Option<String>,
    /// How many attributes it has.
    attributes: usize,
}

impl<'a> FoundOne<'a> {
    fn of(found: &'a FoundVisitor) -> Self {
        Self {
            id: found.id.as_str(),
            canonical_id: found.canonical.as_str(),
            canonical_by: kinds::name(found.canonical.kind()),
            last_active: found.last_active.iso_8601(),
            last_call: found.last_call.map(Millis::iso_8601),
            attributes: found.attributes,
        }
    }
}

async fn answer(call: Call<'_>) -> Reply {
    let (client, query) = (call.client()?, call.query()?);
    let Call { front, request, .. } = call;
    let question = Question::of(&query)?;
    let limit = query.count("limit", FOUND_MAX)?.unwrap_or(FOUND_MAX);
    let after = query.get("after");
    let found = match question {
        Question::Beginning(kind, beginning) => {
            front.app.find(client, (kind, beginning), after, limit).await?
        }
        Question::Value(name, value) => {
            let wanted = Wanted { name: name.to_owned(), value: value.to_owned() };
            front.app.find_by_value(&request.who(Some(client)), client, wanted, after, limit).await?
        }
        Question::Active => {
            let before = after.map(|text| {
                let number = text.parse().map(Seq::from_u64);
                number.map_err(|_| {
                    HttpError::Wrong(format!("after={text} is not a seq: take the path in next"))
                })
            });
            front.app.active(client, before.transpose()?, limit).await?
        }
    };
    let active_since = found.active_since.map(Millis::iso_8601);
    let profiles = found.visitors.iter().map(FoundOne::of).collect();
    let next = found.next.as_ref().map(|next| {
        let query = Serializer::new(String::new())
            .append_pair("client", client.as_str())
            .extend_pairs(question.pairs())
            .append_pair("limit", &limit.to_string())
            .append_pair("after", next)
            .finish();
        format!("/api/v1/profiles?{query}")
    });
    json(StatusCode::OK, &Found { profiles, looked_at: found.looked_at, active_since, next })
}
