//! The bytes of a request on its way through the order of several nodes.
//!
//! Promises: decoding any bytes never panics. A request comes out as it went in, with the settings that shaped it where it
//! came from (R4). A version that this program does not know is an error that says so: the node stops before the request.

use super::request::{NewBatch, Request, VisitorWrite, WriteRules};
use crate::batch::accepted::{Accepted, SentKey};
use crate::engine::types::{CallIds, SiteCall};
use crate::journal::entry::{BatchAcceptedEntry, Version6};
use crate::model::author::Author;
use crate::model::batch::{BatchId, BatchRules, Counts};
use crate::model::codec::{self, CodecError};
use crate::model::id::{ClientCode, IdKind, Key, VisitorId};
use crate::model::profile::Source;
use crate::model::seq::{Millis, Seq};
use crate::order::Offset;
use crate::order::pieces::UploadId;
use crate::order::record::ClusterId;
use crate::tokens::{Token, TokenChange, TokenName};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// The version of the rules by which requests are decided, and of their bytes. A node says in its reports which it knows; a
/// new one may be offered only once every node knows it.
pub const RULES_VERSION: u8 = 2;
/// The version before requests said how much history profiles keep, and before tokens had names.
const WITHOUT_HISTORY: u8 = 1;

/// A request as it comes out of the order.
#[derive(Debug)]
pub enum FromOrder {
    /// One that needs nothing else.
    Request(Request),
    /// A batch, whose file came by another way.
    Batch(Box<OfferedBatch>),
    /// The first record of an order: which one it is, and whether it goes on from a single daemon's data.
    Founded(ClusterId, bool),
}

/// A batch that was offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedBatch {
    /// Its upload.
    pub upload: UploadId,
    /// Where the first piece of its file is among the pieces, and where the last.
    pub pieces: (Offset, Offset),
    /// What it is. Its seq and the name of its file are not set yet.
    pub accepted: Accepted,
}

/// A request, with its rules, its batch, its write to one visitor and its token as one version has them.
#[derive(Serialize, Deserialize)]
enum Wire<R = Rules, B = BatchAcceptedEntry, V = Visitor, T = NewToken> {
    Founded { cluster: ClusterId, with_data: bool },
    Site(Site<R>),
    Visitor(V),
    Batch { upload: UploadId, pieces: (Offset, Offset), batch: B },
    Sweep { client: String, keys: Vec<ByteBuf>, lifetime_ms: u64 },
    Count { client: String, seq: u64, counts: Counts },
    AddToken(T),
    RevokeToken { id: String, at_ms: u64 },
}

/// A token, with the hash of its text.
#[derive(Serialize, Deserialize)]
struct NewToken {
    id: String,
    /// None: all clients.
    client: Option<String>,
    scope: String,
    sha256: [u8; 32],
    created_at_ms: u64,
    expires_at_ms: Option<u64>,
    revoked_at_ms: Option<u64>,
    name: Option<TokenName>,
}

/// A token as version 1 has it.
#[derive(Deserialize)]
struct NewToken1 {
    id: String,
    client: Option<String>,
    scope: String,
    sha256: [u8; 32],
    created_at_ms: u64,
    expires_at_ms: Option<u64>,
    revoked_at_ms: Option<u64>,
}

impl From<NewToken1> for NewToken {
    fn from(token: NewToken1) -> Self {
        let NewToken1 { id, client, scope, sha256, created_at_ms, expires_at_ms, revoked_at_ms } = token;
        Self { id, client, scope, sha256, created_at_ms, expires_at_ms, revoked_at_ms, name: None }
    }
}

#[derive(Serialize, Deserialize)]
struct Site<R> {
    client: String,
    pc: Option<String>,
    third_party: Option<String>,
    ecid: Option<String>,
    made: Vec<String>,
    source: u8,
    attributes: Vec<(String, String)>,
    rules: R,
}

#[derive(Serialize, Deserialize)]
struct Visitor {
    client: String,
    kind: u8,
    id: String,
    write: Write,
    rules: Rules,
    /// Who made it, as `model::author` writes it.
    by: ByteBuf,
}

/// The same in version 1, without who made it.
#[derive(Deserialize)]
struct Visitor1 {
    client: String,
    kind: u8,
    id: String,
    write: Write,
    rules: Rules1,
}

impl From<Visitor1> for Visitor {
    fn from(visitor: Visitor1) -> Self {
        let Visitor1 { client, kind, id, write, rules } = visitor;
        let by = ByteBuf::from(Author::default().to_bytes());
        Self { client, kind, id, write, rules: rules.into(), by }
    }
}

#[derive(Serialize, Deserialize)]
enum Write {
    Set(Vec<(String, String)>),
    Remove(Vec<String>),
    Erase,
}

#[derive(Serialize, Deserialize)]
struct Rules {
    lifetime_ms: u64,
    max_profile_bytes: u64,
    history_max: u16,
}

/// The rules as version 1 has them.
#[derive(Deserialize)]
struct Rules1 {
    lifetime_ms: u64,
    max_profile_bytes: u64,
}

impl From<Rules1> for Rules {
    fn from(rules: Rules1) -> Self {
        let Rules1 { lifetime_ms, max_profile_bytes } = rules;
        Self { lifetime_ms, max_profile_bytes, history_max: 0 }
    }
}

impl From<WriteRules> for Rules {
    fn from(rules: WriteRules) -> Self {
        Self {
            lifetime_ms: rules.lifetime_ms,
            max_profile_bytes: rules.max_profile_bytes as u64,
            history_max: rules.history_max,
        }
    }
}

/// The bytes of the first record of an order. `with_data` says that it goes on from a single daemon's data.
pub fn founding(cluster: ClusterId, with_data: bool) -> Result<Vec<u8>, CodecError> {
    encoded(&Wire::<Rules>::Founded { cluster, with_data })
}

/// The bytes of a batch whose file is on its way.
pub fn batch(upload: UploadId, pieces: (Offset, Offset), new: &NewBatch) -> Result<Vec<u8>, CodecError> {
    let sent = new.sum();
    let accepted = Accepted {
        key_kind: new.header.key_kind(),
        bytes: sent.bytes,
        crc32c: sent.crc32c,
        rows: new.rows,
        key: new.sending.key.clone().map(|key| SentKey { key, sent }),
        name: new.sending.name.clone(),
        by: new.sending.by,
        ..unsent(&new.client, &new.rules)
    };
    encoded(&Wire::Batch { upload, pieces, batch: accepted.to_entry() })
}

/// The bytes of what indexing an upload needs to know before its file has come.
pub fn beginning(client: &ClientCode, rules: &BatchRules) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![];
    codec::encode_into(RULES_VERSION, &unsent(client, rules).to_entry(), &mut out)?;
    Ok(out)
}

/// The client and the rules of an upload that begins.
pub fn begun(bytes: &[u8]) -> Result<(ClientCode, BatchRules), CodecError> {
    let entry = match bytes.first() {
        Some(&WITHOUT_HISTORY) => codec::decode::<Version6>(WITHOUT_HISTORY, bytes)?.into(),
        _ => codec::decode(RULES_VERSION, bytes)?,
    };
    let unfit = || CodecError::Damaged("rules that no program writes".into());
    let accepted = Accepted::from_entry(entry).ok_or_else(unfit)?;
    Ok((accepted.id.client, accepted.rules))
}

/// A batch of which only the rules are known.
fn unsent(client: &ClientCode, rules: &BatchRules) -> Accepted {
    Accepted {
        id: BatchId { client: client.clone(), seq: Seq::ZERO },
        rules: rules.clone(),
        key_kind: IdKind::Pc,
        spool: 0,
        bytes: 0,
        crc32c: None,
        rows: 0,
        key: None,
        name: None,
        by: Author::default(),
    }
}

/// The bytes of a request that every node decides alike; none for one that concerns a single node.
pub fn encode(request: &Request) -> Option<Result<Vec<u8>, CodecError>> {
    let text = |id: &Option<VisitorId>| id.as_ref().map(|id| id.as_str().to_owned());
    let wire = match request {
        Request::Site(call, rules) => Wire::Site(Site {
            client: call.client.to_string(),
            pc: text(&call.ids.pc),
            third_party: text(&call.ids.third_party),
            ecid: text(&call.ids.ecid),
            made: call.ids.made.iter().map(|id| id.as_str().to_owned()).collect(),
            source: call.source.code(),
            attributes: call.attributes.clone(),
            rules: (*rules).into(),
        }),
        Request::Visitor(client, id, write, by, rules) => Wire::Visitor(Visitor {
            client: client.to_string(),
            kind: id.kind().code(),
            id: id.as_str().to_owned(),
            write: match write {
                VisitorWrite::Set(sets) => Write::Set(sets.clone()),
                VisitorWrite::Remove(names) => Write::Remove(names.clone()),
                VisitorWrite::Erase => Write::Erase,
            },
            rules: (*rules).into(),
            by: ByteBuf::from(by.to_bytes()),
        }),
        Request::Sweep(client, keys, lifetime_ms) => Wire::Sweep {
            client: client.to_string(),
            keys: keys.iter().map(|key| ByteBuf::from(key.as_bytes())).collect(),
            lifetime_ms: *lifetime_ms,
        },
        Request::Count(id, counts) => {
            Wire::Count { client: id.client.to_string(), seq: id.seq.get(), counts: *counts }
        }
        Request::Token(TokenChange::Add(token)) => Wire::AddToken(NewToken {
            id: token.id.clone(),
            client: token.client.as_ref().map(ToString::to_string),
            scope: token.scope.to_string(),
            sha256: token.sha256,
            created_at_ms: token.created_at_ms,
            expires_at_ms: token.expires_at_ms,
            revoked_at_ms: token.revoked_at_ms,
            name: token.name.clone(),
        }),
        Request::Token(TokenChange::Revoke { id, at }) => Wire::RevokeToken { id: id.clone(), at_ms: at.0 },
        Request::Accept(_)
        | Request::Resolve(..)
        | Request::Complete(..)
        | Request::GiveUp(_)
        | Request::Mark
        | Request::Rotate
        | Request::Retire(_)
        | Request::TakeOver(_) => return None,
    };
    Some(encoded(&wire))
}

fn encoded(wire: &Wire) -> Result<Vec<u8>, CodecError> {
    let mut out = vec![];
    codec::encode_into(RULES_VERSION, wire, &mut out)?;
    Ok(out)
}

/// What these bytes ask for.
pub fn decode(bytes: &[u8]) -> Result<FromOrder, CodecError> {
    let unfit = || CodecError::Damaged("a value that no program writes".into());
    let request = match bytes.first() {
        Some(&WITHOUT_HISTORY) => {
            read(codec::decode::<Wire<Rules1, Version6, Visitor1, NewToken1>>(WITHOUT_HISTORY, bytes)?)
        }
        _ => read(codec::decode::<Wire>(RULES_VERSION, bytes)?),
    };
    request.ok_or_else(unfit)
}

fn read<R, B, V, T>(wire: Wire<R, B, V, T>) -> Option<FromOrder>
where
    R: Into<Rules>,
    B: Into<BatchAcceptedEntry>,
    V: Into<Visitor>,
    T: Into<NewToken>,
{
    let client = |text: &str| ClientCode::new(text).ok();
    let id = |kind, text: &str| VisitorId::new(kind, text).ok();
    let rules = |rules: Rules| {
        let Rules { lifetime_ms, max_profile_bytes, history_max } = rules;
        let max_profile_bytes = usize::try_from(max_profile_bytes).ok()?;
        Some(WriteRules { lifetime_ms, max_profile_bytes, history_max })
    };
    // None where there is no id, and an error where there is a wrong one.
    let given = |kind, text: Option<String>| text.map(|text| id(kind, &text).ok_or(())).transpose().ok();
    Some(match wire {
        Wire::Founded { cluster, with_data } => FromOrder::Founded(cluster, with_data),
        Wire::Site(site) => {
            let ids = CallIds {
                pc: given(IdKind::Pc, site.pc)?,
                third_party: given(IdKind::ThirdParty, site.third_party)?,
                ecid: given(IdKind::Ecid, site.ecid)?,
                made: site.made.iter().map(|text| id(IdKind::Pc, text)).collect::<Option<_>>()?,
            };
            let call = SiteCall {
                client: client(&site.client)?,
                ids,
                source: Source::from_code(site.source)?,
                attributes: site.attributes,
            };
            FromOrder::Request(Request::Site(call, rules(site.rules.into())?))
        }
        Wire::Visitor(visitor) => {
            let visitor = visitor.into();
            let write = match visitor.write {
                Write::Set(sets) => VisitorWrite::Set(sets),
                Write::Remove(names) => VisitorWrite::Remove(names),
                Write::Erase => VisitorWrite::Erase,
            };
            let id = id(IdKind::from_code(visitor.kind)?, &visitor.id)?;
            let (client, by) = (client(&visitor.client)?, Author::from_bytes(&visitor.by)?);
            FromOrder::Request(Request::Visitor(client, id, write, by, rules(visitor.rules)?))
        }
        Wire::Batch { upload, pieces, batch } => FromOrder::Batch(Box::new(OfferedBatch {
            upload,
            pieces,
            accepted: Accepted::from_entry(batch.into())?,
        })),
        Wire::Sweep { client: of, keys, lifetime_ms } => {
            let keys = keys.iter().map(|key| Key::from_bytes(key)).collect::<Option<_>>()?;
            FromOrder::Request(Request::Sweep(client(&of)?, keys, lifetime_ms))
        }
        Wire::Count { client: of, seq, counts } => {
            let id = BatchId { client: client(&of)?, seq: Seq::from_u64(seq) };
            FromOrder::Request(Request::Count(id, counts))
        }
        Wire::AddToken(token) => {
            let token: NewToken = token.into();
            FromOrder::Request(Request::Token(TokenChange::Add(Token {
                client: token.client.as_deref().map(|text| client(text).ok_or(())).transpose().ok()?,
                scope: token.scope.parse().ok()?,
                id: token.id,
                sha256: token.sha256,
                created_at_ms: token.created_at_ms,
                expires_at_ms: token.expires_at_ms,
                revoked_at_ms: token.revoked_at_ms,
                name: token.name,
            })))
        }
        Wire::RevokeToken { id, at_ms } => {
            FromOrder::Request(Request::Token(TokenChange::Revoke { id, at: Millis(at_ms) }))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::author::TokenId;
    use crate::model::batch::{ConsecutiveV2, EmptyValues, RowReading};
    use crate::tokens::{Scope, Scopes, Tokens, WantedToken};
    use proptest::prelude::*;

    const RULES: WriteRules = WriteRules { lifetime_ms: 14, max_profile_bytes: 1 << 20, history_max: 16 };

    fn client() -> ClientCode {
        ClientCode::new("demo").unwrap()
    }

    fn id(kind: IdKind, text: &str) -> VisitorId {
        VisitorId::new(kind, text).unwrap()
    }

    /// A request comes out as it went in.
    #[track_caller]
    fn check(request: Request) {
        let bytes = encode(&request).unwrap().unwrap();
        let FromOrder::Request(read) = decode(&bytes).unwrap() else { panic!("{request:?}") };
        assert_eq!(format!("{read:?}"), format!("{request:?}"));
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} bytes of {request:?}");
        }
    }

    #[test]
    fn requests_read_back() {
        let pairs = vec![("name".to_owned(), "Wert ä,\"".to_owned()), ("empty".to_owned(), String::new())];
        for source in [Source::Mbox, Source::Delivery] {
            let ids = CallIds {
                pc: Some(id(IdKind::Pc, "p-1")),
                third_party: Some(id(IdKind::ThirdParty, "crm 7")),
                ecid: Some(id(IdKind::Ecid, "123")),
                made: vec![id(IdKind::Pc, "made1"), id(IdKind::Pc, "made2")],
            };
            check(Request::Site(
                SiteCall { client: client(), ids, source, attributes: pairs.clone() },
                RULES,
            ));
        }
        let none =
            SiteCall { client: client(), ids: CallIds::default(), source: Source::Mbox, attributes: vec![] };
        check(Request::Site(none, RULES));
        for write in [VisitorWrite::Set(pairs), VisitorWrite::Remove(vec!["a".into()]), VisitorWrite::Erase] {
            let by = Author { token: TokenId::new("1a2b"), address: "2001:db8::1".parse().ok() };
            check(Request::Visitor(client(), id(IdKind::Ecid, "5"), write, by, RULES));
        }
        let keys = vec![id(IdKind::Pc, "p").key(&client()), id(IdKind::ThirdParty, "t").key(&client())];
        check(Request::Sweep(client(), keys, 99));
        let batch = BatchId { client: client(), seq: Seq::from_u64(77) };
        check(Request::Count(batch, Counts { updated: 3, failed: 1, ..Counts::default() }));
        for (of, lasts_ms, name) in [(Some(client()), Some(4), "nightly CRM ä"), (None, None, "")] {
            let scope: Scopes = "batch,read".parse().unwrap();
            let wanted =
                WantedToken { lasts_ms, name: TokenName::new(name).ok(), ..WantedToken::of(of, scope) };
            let (token, text) = Tokens::fresh(&wanted, Millis(5)).unwrap();
            let revoked = Token { revoked_at_ms: Some(7), ..token.clone() };
            for token in [token, revoked] {
                let request = Request::Token(TokenChange::Add(token));
                let bytes = encode(&request).unwrap().unwrap();
                let secret = text.rsplit('_').next().unwrap().as_bytes();
                assert!(!bytes.windows(secret.len()).any(|some| some == secret), "only its hash travels");
                check(request);
            }
        }
        check(Request::Token(TokenChange::Revoke { id: "1f0c2b7a".into(), at: Millis(8) }));
    }

    #[test]
    fn what_concerns_one_node_has_no_bytes() {
        for request in [Request::Mark, Request::Rotate, Request::Resolve(client(), vec![])] {
            assert!(encode(&request).is_none(), "{request:?}");
        }
    }

    /// As a program wrote them that knew no history: the profile of that visitor keeps none.
    #[test]
    fn requests_of_version_1_are_read() {
        let set = VisitorWrite::Set(vec![("a".into(), "1".into())]);
        let without = WriteRules { history_max: 0, ..RULES };
        let request = Request::Visitor(client(), id(IdKind::Ecid, "5"), set, Author::default(), without);
        let mut bytes = encode(&request).unwrap().unwrap();
        let without = bytes.len() - 3;
        assert_eq!(
            bytes.split_off(without),
            [0, 1, 0],
            "how much history is kept, and an author of one byte"
        );
        bytes[0] = WITHOUT_HISTORY;
        let FromOrder::Request(read) = decode(&bytes).unwrap() else { panic!("{bytes:?}") };
        assert_eq!(format!("{read:?}"), format!("{request:?}"));
        let rules = BatchRules {
            seq: Seq::ZERO,
            source: Source::BatchV2,
            creates: true,
            consecutive_v2: ConsecutiveV2::Merge,
            empty_values: EmptyValues::Ignore,
            lifetime_ms: 14,
            max_profile_bytes: 1 << 20,
            reading: RowReading::default(),
            history_max: 0,
            as_of: None,
            undoes: None,
        };
        let mut bytes = beginning(&client(), &rules).unwrap();
        bytes.truncate(bytes.len() - 6);
        bytes[0] = WITHOUT_HISTORY;
        assert_eq!(begun(&bytes).unwrap(), (client(), rules));
    }

    /// As a program wrote it that knew no names.
    #[test]
    fn a_token_of_version_1_is_read_and_has_no_name() {
        let wanted = WantedToken::of(Some(client()), Scope::Read);
        let (token, _) = Tokens::fresh(&wanted, Millis(5)).unwrap();
        let request = Request::Token(TokenChange::Add(token));
        let mut bytes = encode(&request).unwrap().unwrap();
        assert_eq!(bytes.pop(), Some(0), "the name comes last");
        bytes[0] = WITHOUT_HISTORY;
        let FromOrder::Request(read) = decode(&bytes).unwrap() else { panic!("{bytes:?}") };
        assert_eq!(format!("{read:?}"), format!("{request:?}"));
    }

    #[test]
    fn a_version_that_is_not_known_is_said() {
        let mut bytes = founding(ClusterId([7; 16]), true).unwrap();
        assert!(matches!(decode(&bytes), Ok(FromOrder::Founded(ClusterId([7, ..]), true))));
        bytes[0] = RULES_VERSION + 1;
        assert!(
            matches!(decode(&bytes), Err(CodecError::Version { found, .. }) if found == RULES_VERSION + 1)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let versioned: Vec<u8> = std::iter::once(RULES_VERSION).chain(bytes).collect();
            drop(decode(&versioned));
        }
    }
}
