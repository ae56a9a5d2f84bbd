//! `GET /api/v1/export?format=ndjson|csv[&by=third-party|pc][&defuse=true]`: exports all living visitors of a client.
//!
//! Each visitor is as a lookup would show it at the moment it is written; an export is no snapshot of one instant. It comes in
//! chunks. One that cannot be completed breaks off without its last chunk, so that nobody takes it for complete.

use std::ops::ControlFlow;

use hyper::header::{HeaderName, HeaderValue};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use crate::batch::csv::write::Cells;
use crate::engine::gates::Scarce;
use crate::engine::read::export::Export;
use crate::engine::{EngineError, Visitor};
use crate::http::auth::Access;
use crate::http::endpoint::{Api, Call, CallLimits, Endpoint, Methods, Reply, Whose};
use crate::http::error::HttpError;
use crate::http::operation::{form, form_of};
use crate::http::request::Params;
use crate::http::response::{CSV, NDJSON, chunked};
use crate::http::stream::{Sender, begin};
use crate::http::visitor_body::Profile;
use crate::http::{seq, shapes};
use crate::model::id::IdKind;
use crate::tokens::Scope;
use crate::tokens::Tokens;

/// How many visitors a CSV file leaves out, for want of an id of its kind.
const LEFT_OUT: HeaderName = HeaderName::from_static("profiled-left-out");

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Read,
    path: "/api/v1/export",
    name: "export",
    api: Api::Native,
    // All visitors at once are more than a look at one.
    access: Access::Of(Scope::Admin),
    client: Whose::InQuery,
    limits: CallLimits { scarce: &[Scarce::Exports], ..CallLimits::NONE },
    handler: |call| Box::pin(answer(call)),
    describe: Some(|operation| {
        operation
            .summary("Exports all visitors of a client.")
            .client()
            .query("format", true, shapes::one_of(&["ndjson", "csv"]), "The form.")
            .query(
                "by",
                false,
                shapes::one_of(&["third-party", "pc"]),
                "csv: the kind of id that is the rows' key.",
            )
            .switch("defuse", "csv: percent-encode what a spreadsheet would run as a formula.")
            .answers(
                "200",
                "The visitors, in chunks.",
                [form_of::<Profile<'_>>(NDJSON), form(CSV, shapes::text())],
            )
            .bears(
                "200",
                "Profiled-Left-Out",
                "csv: how many visitors are left out because they have no id of the kind in by.",
            )
            .bears(
                "200",
                "Profiled-Seq",
                "Everything up to this seq is in it: follow the changes from there on.",
            )
            .bears("200", "Content-Disposition", "The file name.")
            .refusal("409")
    }),
}];

async fn answer(call: Call<'_>) -> Reply {
    let (client, format) = (call.client()?, Format::of(&call.query()?)?);
    let Call { front, request, bearer, .. } = call;
    let export = front.app.export(&request.who(Some(client)), client).await?;
    let (place, pace) = (export.place().clone(), request.answer_pace());
    let at = export.seq;
    let what = match format {
        Format::Ndjson => "all visitors, as NDJSON",
        Format::Csv(..) => "all visitors, as CSV",
    };
    front.app.note_act(bearer.actor(request), "export", Some(client), what).await;
    match format {
        Format::Ndjson => {
            let tokens = front.app.tokens();
            let chunks = begin("an export", &place, pace, move |out| ndjson(&export, out, &tokens));
            let mut answer = chunked(NDJSON, chunks);
            seq::tell(&mut answer, Some(at));
            Ok(answer)
        }
        Format::Csv(key_kind, cells) => {
            let (gone, _here) = oneshot::channel::<()>();
            let here = place.clone();
            let found = spawn_blocking(move || {
                let wanted = || !gone.is_closed() && !here.is_asked_to_leave();
                let table = export.table(key_kind, cells, wanted)?;
                Ok::<_, EngineError>((export, table))
            });
            let (export, table) = found.await.map_err(|error| HttpError::Inside(error.to_string()))??;
            // Then it has not been through all visitors.
            if place.is_asked_to_leave() {
                return Err(EngineError::MadeRoom(Scarce::Exports).into());
            }
            let left_out = HeaderValue::from(table.left_out);
            let chunks = begin("an export", &place, pace, move |out| {
                if out.write(|bytes| bytes.extend(table.header())).is_break() {
                    return Ok(());
                }
                let here = out.client();
                export.rows(&table, here, |line| out.write(|bytes| bytes.extend_from_slice(line)))
            });
            let mut answer = chunked(CSV, chunks);
            answer.headers_mut().insert(LEFT_OUT, left_out);
            seq::tell(&mut answer, Some(at));
            Ok(answer)
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Format {
    Ndjson,
    Csv(IdKind, Cells),
}

impl Format {
    fn of(query: &Params) -> Result<Self, HttpError> {
        let wrong = |what: String| Err(HttpError::Wrong(what));
        let cells = match query.get("defuse") {
            None | Some("false") => Cells::Plain,
            Some("true") => Cells::Defused,
            Some(other) => return wrong(format!("defuse={other} is not known: it is true or false")),
        };
        let by = match query.get("by") {
            None => None,
            Some("third-party") => Some(IdKind::ThirdParty),
            Some("pc") => Some(IdKind::Pc),
            Some(other) => {
                return wrong(format!("by={other} is not known: a batch file is by third-party or pc"));
            }
        };
        match query.get("format") {
            Some("csv") => Ok(Self::Csv(by.unwrap_or(IdKind::ThirdParty), cells)),
            Some("ndjson") if by.is_some() || cells == Cells::Defused => {
                wrong("by= and defuse= are for format=csv".into())
            }
            Some("ndjson") => Ok(Self::Ndjson),
            Some(other) => wrong(format!("format={other} is not known: it is ndjson or csv")),
            None => wrong("format= is missing: it is ndjson or csv".into()),
        }
    }
}

fn ndjson(export: &Export, out: &mut Sender, tokens: &Tokens) -> Result<(), EngineError> {
    let mut fault = None;
    export.visitors(out.client(), |visitor: Visitor| {
        out.write(|bytes| {
            if let Err(error) = serde_json::to_writer(&mut *bytes, &Profile::of(&visitor, tokens)) {
                fault.get_or_insert(EngineError::Internal(format!("a visitor in JSON: {error}")));
            }
            bytes.push(b'\n');
        })?;
        if fault.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    fault.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, expected: Result<Format, &str>) {
        let found = Format::of(&Params::decode(query.as_bytes()));
        match (found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{query}"),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{query}: {error}"),
            (found, _) => panic!("{query}: {found:?}"),
        }
    }

    #[test]
    fn the_form_of_an_export_is_named_outright() {
        check("format=ndjson", Ok(Format::Ndjson));
        check("format=csv", Ok(Format::Csv(IdKind::ThirdParty, Cells::Plain)));
        check("format=csv&by=pc&defuse=true", Ok(Format::Csv(IdKind::Pc, Cells::Defused)));
        check("", Err("ndjson or csv"));
        check("format=xml", Err("ndjson or csv"));
        check("format=csv&by=ecid", Err("third-party or pc"));
        check("format=csv&defuse=yes", Err("true or false"));
        check("format=ndjson&by=pc", Err("format=csv"));
    }
}
