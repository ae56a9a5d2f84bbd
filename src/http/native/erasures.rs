//! `POST /api/v1/erasures`: erases many visitors by one call. The body is a file of ids; the answer is a receipt for each as it is
//! erased, and in the end the counts.
//!
//! Promises: nobody is erased unless every line is right. Each erasure is in the audit trail, and told to who listens to calls, as one
//! that was asked for by itself. An answer whose last line is not the sum broke off; to send the same file again is safe.

use std::time::Instant;

use hyper::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa::openapi::Schema;
use utoipa::openapi::schema::{ObjectBuilder, Type};

use crate::audit::Actor;
use crate::engine::gates::Scarce;
use crate::engine::{Announced, Erased, Erasing, Receipt};
use crate::http::auth::Access;
use crate::http::batch_file::{ENCODINGS, MEDIA_TYPES};
use crate::http::endpoint::{Api, BodyLimit, Call, CallLimits, Endpoint, Methods, RateLimit, Reply, Whose};
use crate::http::live::{HeardCall, Notes};
use crate::http::operation::{Form, form, form_of};
use crate::http::response::{Answer, NDJSON, chunked};
use crate::http::stream::{EventForm, begin};
use crate::http::{Front, shapes};
use crate::model::id::{ClientCode, VisitorId};
use crate::model::seq::Seq;
use crate::tokens::Scope;

pub(super) const ENDPOINTS: &[Endpoint] = &[Endpoint {
    methods: Methods::Post,
    path: "/api/v1/erasures",
    name: "erasures",
    api: Api::Native,
    access: Access::Of(Scope::Admin),
    client: Whose::InQuery,
    limits: CallLimits { body: BodyLimit::BatchFile, rate: RateLimit::Free, scarce: &[Scarce::Erasures] },
    handler: |call| Box::pin(erase(call)),
    describe: Some(|operation| {
        operation
            .summary("Erases many visitors, each with all its ids.")
            .says("If any line is no id, nobody is erased, and the refusal names the first ten of those lines.")
            .says("A visitor who was erased before is not_found, so the same file may be sent again.")
            .id("eraseVisitors")
            .client()
            .body(forms())
            .answers(
                "200",
                "A receipt for each id, as it is erased; the last line has the counts. If there is no such line, the answer broke off.",
                [form_of::<Line<'_>>(NDJSON)],
            )
    }),
}];

/// What a file of ids looks like, for the OpenAPI document.
fn forms() -> [Form; 1] {
    let what =
        "Its first line is the kind of the ids: thirdPartyId, pcId or ecid. Each further line is an id.";
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("^(pcId|thirdPartyId|ecid)(\\n[1-9]{1,20}){1,20}\\n?$"))
        .description(Some(what));
    [form("text/csv", schema.into()).example("thirdPartyId\ncrm-123\ncrm-124\n")]
}

async fn erase(call: Call<'_>) -> Reply {
    let (client, begun) = (call.client()?, Instant::now());
    let Call { front, request, bearer, .. } = call;
    let url = format!("{}{}?client={client}", request.base_url(&front.app)?, request.path());
    let right = || {
        format!(
            "send a file whose first line is thirdPartyId, pcId or ecid, and each further line an id, \
             curl -X POST -H \"Content-Type: text/csv\" --data-binary @IDS.csv {url}, or compressed with gzip, zstd or deflate"
        )
    };
    request.check_content_type(&MEDIA_TYPES, right)?;
    let encoding = request.content_encoding(Some(ENCODINGS), right)?;
    let announced = Announced { encoding, bytes: request.content_length(), ..Announced::default() };
    let mut upload = front.app.take_ids(&request.who(Some(client)), client, announced).await?;
    while let Some(bytes) = request.body.next_holding(upload.place()).await? {
        upload.push(bytes).await?;
    }
    let erasing = upload.finish().await?;
    let heard =
        Notes::default().of_request(request.id(), request.caller().address, request.method(), request.path());
    let told =
        Told { front: front.clone(), client: client.clone(), actor: bearer.actor(request), heard, begun };
    Ok(receipts(erasing, told, request.answer_pace()))
}

/// The answer: a receipt for each.
fn receipts(erasing: Erasing, told: Told, pace: crate::config::Pace) -> Answer {
    let place = erasing.place().clone();
    let chunks = begin("an erasure of many visitors", &place, pace, move |out| {
        let line =
            |line: Line<'_>, bytes: &mut Vec<u8>| EventForm::Ndjson.write("", None::<Seq>, &line, bytes);
        let sum = erasing.erase(out.client(), |receipts| {
            told.of(&erasing, receipts);
            for receipt in receipts {
                out.write(|bytes| line(Line::of(receipt), bytes))?;
            }
            // Whoever waits sees each group when it is erased.
            out.flush()
        })?;
        if let Some(sum) = sum {
            // That its client may have gone, what sends the end finds out.
            let _gone = out.write(|bytes| line(Line::sum(&sum), bytes));
        }
        Ok(())
    });
    let mut answer = chunked(NDJSON, chunks);
    *answer.status_mut() = StatusCode::OK;
    answer
}

/// Where erasures are told, beside the answer.
struct Told {
    front: Front,
    client: ClientCode,
    actor: Actor,
    /// The call, for who listens to calls.
    heard: HeardCall,
    begun: Instant,
}

impl Told {
    /// Tells a group.
    fn of(&self, erasing: &Erasing, receipts: &[Receipt<'_>]) {
        let erased: Vec<Seq> =
            receipts.iter().filter_map(|it| it.erased.as_ref().ok().copied().flatten()).collect();
        if let (Some(first), Some(last)) = (erased.first(), erased.last()) {
            let in_all = format!("{} visitors, from seq {first} to seq {last}", erased.len());
            // Which visitors they were, nothing may remember (R12).
            let whats: Vec<String> = erased.iter().map(|seq| format!("seq {seq}")).collect();
            self.front.app.note_acts_blocking(&self.actor, ("erase", &in_all), &self.client, &whats);
        }
        if !self.front.live.is_heard() {
            return;
        }
        let at = self.front.app.now();
        for receipt in receipts {
            let Ok(id) = VisitorId::sent(erasing.kind(), receipt.id) else { continue };
            let seq = receipt.erased.as_ref().ok().copied().flatten();
            let mut heard = self.heard.for_one(&id, (outcome(receipt), seq), at, self.begun.elapsed());
            heard.client = Some(self.client.to_string());
            heard.message = receipt.erased.as_ref().err().map(ToString::to_string);
            self.front.live.tell(heard);
        }
    }
}

fn outcome(receipt: &Receipt<'_>) -> &'static str {
    match receipt.erased {
        Ok(Some(_)) => "erased",
        Ok(None) => "not_found",
        Err(_) => "failed",
    }
}

fn outcomes() -> Schema {
    shapes::one_of(&["erased", "not_found", "failed"])
}

/// A line of the answer.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ErasureLine)]
enum Line<'a> {
    Receipt(ReceiptBody<'a>),
    Sum(Sum),
}

/// What became of one id.
#[derive(Serialize, ToSchema)]
#[schema(as = ErasureReceipt)]
struct ReceiptBody<'a> {
    /// The line of the file.
    line: u32,
    /// The id as it was sent.
    id: &'a str,
    #[schema(schema_with = outcomes)]
    outcome: &'static str,
    /// The place of the erasure in the order of all writes, if it is erased.
    seq: Option<String>,
    /// When it was erased.
    #[schema(format = "date-time")]
    time: Option<String>,
    /// Why it may not be erased, if it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    message: Option<String>,
}

/// The last line.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ErasureSum)]
struct Sum {
    /// Whether every id is erased or was not found.
    done: bool,
    /// How many ids the file has.
    ids: u64,
    /// How many visitors were erased.
    erased: u64,
    /// How many ids led to nobody.
    not_found: u64,
    /// How many may not be erased: send the file again.
    failed: u64,
    /// How many were not tried after the first that failed.
    not_tried: u64,
}

impl<'a> Line<'a> {
    fn of(receipt: &Receipt<'a>) -> Self {
        let seq = receipt.erased.as_ref().ok().copied().flatten();
        Self::Receipt(ReceiptBody {
            line: receipt.line,
            id: receipt.id,
            outcome: outcome(receipt),
            seq: seq.map(|seq| seq.to_string()),
            time: seq.map(|seq| seq.millis().iso_8601()),
            message: receipt.erased.as_ref().err().map(ToString::to_string),
        })
    }

    fn sum(sum: &Erased) -> Self {
        let Erased { ids, erased, not_found, failed, not_tried } = *sum;
        Self::Sum(Sum { done: failed == 0, ids, erased, not_found, failed, not_tried })
    }
}
