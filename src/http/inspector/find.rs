//! `/find?client=`: the visitors who were active last; with `&attribute=&value=` those with a value. Page by page.

use askama::Template;
use form_urlencoded::Serializer;
use hyper::StatusCode;

use super::clients::Choice;
use super::found::Found;
use super::page::{Frame, render};
use super::refusal::PAGES;
use super::words::{Moment, grouped};
use crate::engine::gates::Scarce;
use crate::engine::read::by_value::Wanted;
use crate::engine::read::search::FoundVisitors;
use crate::http::Front;
use crate::http::auth::Access;
use crate::http::endpoint::{Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::model::id::ClientCode;
use crate::model::seq::Seq;
use crate::tokens::Scope;

/// How many visitors stand on one page.
const SHOWN_MAX: usize = 50;

#[derive(Template)]
#[template(path = "find.html")]
struct Find {
    frame: Frame,
    choice: Option<Choice>,
    attribute: String,
    value: String,
    /// Why nothing was looked for.
    message: Option<String>,
    page: Option<Page>,
}

/// What was found.
struct Page {
    title: &'static str,
    found: Found,
    /// What to say if that is nobody.
    none: &'static str,
    /// How many were looked at.
    looked: String,
    /// The query of the next page, without the client, and what it is called.
    next: Option<String>,
    on: &'static str,
}

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/find",
    name: "inspector_find",
    api: PAGES,
    access: Access::Of(Scope::Read),
    client: Whose::OfPage,
    limits: CallLimits { scarce: &[Scarce::Counts], ..CallLimits::NONE },
    handler: |call| Box::pin(answer(call)),
    describe: None,
}];

async fn answer(call: Call<'_>) -> Reply {
    let choice = Choice::of(&call, "/find").await?;
    let query = call.query()?;
    let text = |name| query.get(name).unwrap_or_default().to_owned();
    let frame = Frame { title: "Find".into(), ..Frame::of(call.front, call.request, call.client, "Look up") };
    let (attribute, value) = (text("attribute"), text("value"));
    let mut find = Find { frame, choice, attribute, value, message: None, page: None };
    if let Some(client) = call.client {
        match (find.attribute.is_empty(), find.value.is_empty()) {
            (true, true) => find.page = Some(Page::active(&call, client, query.get("after")).await?),
            (false, false) => {
                let wanted = Wanted { name: find.attribute.clone(), value: find.value.clone() };
                find.page = Some(Page::with(&call, client, wanted, query.get("after")).await?);
            }
            _ => find.message = Some("Write an attribute and its value.".into()),
        }
    }
    render(StatusCode::OK, &find)
}

/// The visitors who were active last, and since when that is known.
pub(super) async fn active(
    front: &Front,
    client: &ClientCode,
    before: Option<Seq>,
    most: usize,
) -> Result<(FoundVisitors, Moment), HttpError> {
    let found = front.app.active(client, before, most).await?;
    let now = front.app.now();
    let since = Moment::of(found.active_since.unwrap_or(now), now);
    Ok((found, since))
}

impl Page {
    /// The visitors who were active last.
    async fn active(call: &Call<'_>, client: &ClientCode, before: Option<&str>) -> Result<Self, HttpError> {
        let before = before.map(|text| {
            let number = text.parse().map(Seq::from_u64);
            number.map_err(|_| HttpError::Wrong(format!("after={text} is not a seq")))
        });
        let (found, since) = active(call.front, client, before.transpose()?, SHOWN_MAX).await?;
        Ok(Self {
            title: "Most recently active",
            looked: format!(
                "By their newest call of the site or single update since {}. The daemon keeps this list in memory, and \
                 begins it anew at a start.",
                since.text
            ),
            next: found.next.as_ref().map(|next| format!("after={next}")),
            none: "Nobody was active since then.",
            found: Found::all(found, call.front.app.now()),
            on: "Earlier ones",
        })
    }

    /// The visitors with a value.
    async fn with(
        call: &Call<'_>,
        client: &ClientCode,
        wanted: Wanted,
        after: Option<&str>,
    ) -> Result<Self, HttpError> {
        let app = &call.front.app;
        let who = call.request.who(Some(client));
        let found = app.find_by_value(&who, client, wanted.clone(), after, SHOWN_MAX).await?;
        let next = found.next.as_ref().map(|next| {
            let mut query = Serializer::new(String::new());
            query.append_pair("attribute", &wanted.name).append_pair("value", &wanted.value);
            query.append_pair("after", next).finish()
        });
        let (count, now) = (u64::try_from(found.looked_at).unwrap_or(u64::MAX), app.now());
        let rest = if next.is_some() { "There are more to look at." } else { "There are no more." };
        let looked = match count {
            1 => format!("1 profile was looked at for this page. {rest}"),
            count => format!("{} profiles were looked at for this page. {rest}", grouped(count)),
        };
        let none = match (&next, after) {
            (Some(_), _) => "Nobody among these has the value.",
            (None, Some(_)) => "Nobody else has the value.",
            (None, None) => "Nobody has the value.",
        };
        Ok(Self {
            title: "Visitors with this value",
            found: Found::all(found, now),
            none,
            looked,
            next,
            on: "Look further",
        })
    }
}
