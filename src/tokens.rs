//! Access tokens, which control who may do what. This module owns the file `tokens.json` of the data folder. The file
//! holds no token, only the SHA-256 of each; a token has 256 random bits, so nobody can guess it from its hash.
//!
//! Promises: a token's text is shown once, when the token is created. Hashes are compared in constant time. Revoked
//! tokens stay in the file, so revoking the last token does not turn access control off. Several processes may change
//! the file; a lock makes them take turns. A change that is made twice does no harm.

mod last_uses;
mod name;

use crate::layout;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use constant_time_eq::constant_time_eq_32;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable;
use crate::model::id::ClientCode;
use crate::model::seq::Millis;
use crate::sync::{Mutex, lock};

use last_uses::LastUses;
pub use last_uses::{LastUsesError, last_uses_in};
pub use name::{TokenName, TokenNameError};

/// The version of the file's format.
const VERSION: u32 = 1;
/// The prefix of every token, so that a leaked token is easy to recognise.
const PREFIX: &str = "profiled";
const ID_BYTES: usize = 4;
const SECRET_BYTES: usize = 32;
/// How long another process may change the file before a change fails: the commit thread of a daemon waits for it.
const LOCK_WITHIN: Duration = Duration::from_secs(2);
const LOCK_LOOK: Duration = Duration::from_millis(5);

/// The kind of access that a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Batches and single updates.
    Batch,
    /// Lookups.
    Read,
    /// Everything: batches, lookups, erasure, export and maintenance.
    Admin,
}

/// The scopes of a token. As text, several are separated by commas. `admin` includes the others and stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Scopes {
    batch: bool,
    read: bool,
    admin: bool,
}

/// A token as the file stores it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Token {
    /// What tells it from all others, and the second part of its text.
    pub id: String,
    /// What somebody called it. Earlier versions had no names, and a file without names is as they wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<TokenName>,
    /// The client the token is for; `None` for all clients.
    #[serde(with = "client_text")]
    pub client: Option<ClientCode>,
    /// The scopes of the token.
    pub scope: Scopes,
    /// The hash of its text.
    #[serde(with = "hex_text")]
    pub(crate) sha256: [u8; 32],
    /// When the token was created, in milliseconds since the epoch.
    pub created_at_ms: u64,
    /// When the token expires, in milliseconds since the epoch; `None` if it never expires.
    pub expires_at_ms: Option<u64>,
    /// When the token was revoked, in milliseconds since the epoch.
    pub revoked_at_ms: Option<u64>,
}

/// A token that somebody wants.
#[derive(Debug, Clone)]
pub struct WantedToken {
    /// What it is to be called.
    pub name: Option<TokenName>,
    /// The client it is to be for; `None` for all clients.
    pub client: Option<ClientCode>,
    /// Its scopes.
    pub scope: Scopes,
    /// For how many milliseconds it is valid; `None`: until it is revoked.
    pub lasts_ms: Option<u64>,
}

/// A change of the tokens. On a node of several, every node makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenChange {
    /// This token is there from now on. A token that has its id already stays as it is; but it is revoked if this one is.
    Add(Token),
    /// The token with this id is revoked from this time on. A token that was revoked before stays as it is.
    Revoke {
        /// The token's id.
        id: String,
        /// When it was revoked.
        at: Millis,
    },
}

/// Whether a token is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The token is valid.
    Valid,
    /// The token has expired.
    Expired,
    /// The token was revoked.
    Revoked,
}

/// Why a token is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// No such token exists.
    #[error("the token is not known")]
    Unknown,
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
    /// The token was revoked.
    #[error("the token was revoked")]
    Revoked,
}

/// Why the token file could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// The operating system refused an operation on the file.
    #[error("{}: {error}{}", path.display(), hint(error))]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// The file's content is not valid.
    #[error("{}: {why}; restore the file from a backup, or remove it and create all tokens again", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with its content.
        why: String,
    },
    /// The file existed and is gone. Only a restart may turn access control off.
    #[error("{} is gone: restore it from a backup, or restart the daemon to run without tokens", .0.display())]
    Gone(PathBuf),
    /// Another process has the lock.
    #[error("{} is locked: another process has been changing the tokens for {} s", .0.display(), LOCK_WITHIN.as_secs())]
    Locked(PathBuf),
    /// No token has this id.
    #[error("there is no token {0}: `profiled token list` shows all tokens")]
    NoSuchToken(String),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
}

/// All tokens of a data folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    all: Vec<Token>,
    known: Known,
}

/// Whether the tokens are known. If not, every request that needs one is rejected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Known {
    #[default]
    Read,
    /// Their file cannot be read.
    Unreadable,
    /// They are still to be read, from the order of several nodes.
    ToCome,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    tokens: Vec<Token>,
    /// The checksum of the tokens: a changed letter must not turn a token into another client's. Earlier versions did
    /// not write it.
    #[serde(default)]
    crc32c: Option<u32>,
}

fn sum(tokens: &[Token]) -> Option<u32> {
    serde_json::to_vec(tokens).ok().map(|text| crc32c::crc32c(&text))
}

impl Tokens {
    /// Reads the tokens of a data folder; none if the file does not exist.
    pub fn read(folder: &Path) -> Result<Self, TokensError> {
        let path = folder.join(layout::TOKENS);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(TokensError::Io { path, error }),
        };
        match serde_json::from_slice::<Stored>(&text) {
            Ok(Stored { version: VERSION, tokens, crc32c }) if crc32c.is_none() || crc32c == sum(&tokens) => {
                Ok(Self { all: tokens, known: Known::Read })
            }
            Ok(Stored { version: VERSION, .. }) => {
                Err(TokensError::Unreadable { path, why: "its tokens do not match their checksum".into() })
            }
            Ok(Stored { version, .. }) => {
                let why = format!("it has version {version}; this program reads version {VERSION}");
                Err(TokensError::Unreadable { path, why })
            }
            Err(error) => Err(TokensError::Unreadable { path, why: error.to_string() }),
        }
    }

    /// The tokens of a folder whose file exists but cannot be read. Every request is rejected.
    pub fn closed() -> Self {
        Self { all: vec![], known: Known::Unreadable }
    }

    /// The tokens of a new node, before it has read the order. Every request that needs one is rejected for now.
    pub fn to_come() -> Self {
        Self { all: vec![], known: Known::ToCome }
    }

    /// Whether a request that is rejected now may be let in in a moment.
    pub fn are_to_come(&self) -> bool {
        self.known == Known::ToCome
    }

    /// Whether requests need a token: yes once a token was ever created.
    pub fn are_asked_for(&self) -> bool {
        self.known != Known::Read || !self.all.is_empty()
    }

    /// All tokens, oldest first.
    pub fn all(&self) -> &[Token] {
        &self.all
    }

    /// Returns the token with this text if it is valid now.
    pub fn verify(&self, text: &str, now: Millis) -> Result<&Token, InvalidToken> {
        let sha256 = hash(text);
        // The id is no secret, so timing may reveal whether it exists. The hash comparison takes constant time.
        let id = text.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('_')?.split('_').next());
        let named = self.all.iter().find(|token| Some(token.id.as_str()) == id);
        let token =
            named.filter(|token| constant_time_eq_32(&token.sha256, &sha256)).ok_or(InvalidToken::Unknown)?;
        match token.state(now) {
            State::Valid => Ok(token),
            State::Expired => Err(InvalidToken::Expired),
            State::Revoked => Err(InvalidToken::Revoked),
        }
    }

    /// Makes up a token. Only this call returns the token's text.
    pub fn fresh(wanted: &WantedToken, now: Millis) -> Result<(Token, String), TokensError> {
        let id = random_hex(ID_BYTES)?;
        let text = format!("{PREFIX}_{id}_{}", random_hex(SECRET_BYTES)?);
        let token = Token {
            id,
            name: wanted.name.clone(),
            client: wanted.client.clone(),
            scope: wanted.scope,
            sha256: hash(&text),
            created_at_ms: now.0,
            expires_at_ms: wanted.lasts_ms.map(|ms| now.plus(ms).0),
            revoked_at_ms: None,
        };
        Ok((token, text))
    }

    /// Creates a token and stores it durably. Only this call returns the token's text.
    pub fn make(folder: &Path, wanted: &WantedToken, now: Millis) -> Result<(Token, String), TokensError> {
        let made = change(folder, |tokens| {
            let (token, text) = loop {
                let (token, text) = Self::fresh(wanted, now)?;
                if tokens.named(&token.id).is_none() {
                    break (token, text);
                }
            };
            tokens.all.push(token.clone());
            Ok((token, text))
        });
        made.map(|(_, made)| made)
    }

    /// Revokes a token durably. A token that was revoked before stays as it is.
    pub fn revoke(folder: &Path, id: &str, now: Millis) -> Result<Token, TokensError> {
        let revoke = TokenChange::Revoke { id: id.to_owned(), at: now };
        change(folder, |tokens| tokens.apply(&revoke)).map(|(_, token)| token)
    }

    /// Adds the tokens of another folder durably. Those that are here stay; but one that is revoked there is revoked here.
    pub fn take_in(&self, folder: &Path) -> Result<(), TokensError> {
        if self.all.is_empty() {
            return Ok(());
        }
        let added = change(folder, |tokens| {
            for token in &self.all {
                tokens.apply(&TokenChange::Add(token.clone()))?;
            }
            Ok(())
        });
        added.map(drop)
    }

    fn named(&self, id: &str) -> Option<&Token> {
        self.all.iter().find(|token| token.id == id)
    }

    /// Makes a change, and gives the token as it is then.
    fn apply(&mut self, change: &TokenChange) -> Result<Token, TokensError> {
        let (id, revoked) = match change {
            TokenChange::Add(token) => {
                if self.named(&token.id).is_none() {
                    self.all.push(token.clone());
                }
                (&token.id, token.revoked_at_ms)
            }
            TokenChange::Revoke { id, at } => (id, Some(at.0)),
        };
        let named = self.all.iter_mut().find(|token| token.id == *id);
        let token = named.ok_or_else(|| TokensError::NoSuchToken(id.clone()))?;
        token.revoked_at_ms = token.revoked_at_ms.or(revoked);
        Ok(token.clone())
    }
}

impl WantedToken {
    /// One of these scopes that lasts until it is revoked, without a name.
    pub fn of(client: Option<ClientCode>, scope: impl Into<Scopes>) -> Self {
        Self { name: None, client, scope: scope.into(), lasts_ms: None }
    }
}

impl TokenChange {
    /// A sum over the change, for nodes that compare what they did.
    pub fn sum(&self) -> u32 {
        let number = |number: Option<u64>| number.unwrap_or(u64::MAX).to_le_bytes();
        let mut sum = 0;
        let mut add = |bytes: &[u8]| sum = crc32c::crc32c_append(sum, bytes);
        match self {
            Self::Add(token) => {
                add(token.id.as_bytes());
                add(token.client.as_ref().map_or("*", ClientCode::as_str).as_bytes());
                add(token.scope.to_string().as_bytes());
                add(&token.sha256);
                add(&token.created_at_ms.to_le_bytes());
                add(&number(token.expires_at_ms));
                add(&number(token.revoked_at_ms));
                // Nothing for none: a token without a name has the sum that earlier versions give it.
                if let Some(name) = &token.name {
                    add(b"name");
                    add(name.as_str().as_bytes());
                }
            }
            Self::Revoke { id, at } => {
                add(id.as_bytes());
                add(&at.0.to_le_bytes());
            }
        }
        sum
    }
}

/// The tokens that a running daemon goes by, and their file.
///
/// Promises: what is in use is never older than what was in use before, whoever reads or changes the file meanwhile.
pub struct TokensInUse {
    folder: PathBuf,
    /// Replaced whole; a request reads them without waiting.
    in_use: ArcSwap<Tokens>,
    /// When each of them was last used.
    uses: LastUses,
    /// Held while the file is read or changed, and put into use.
    turn: Mutex<()>,
}

impl TokensInUse {
    /// Those of a folder.
    pub fn read(folder: &Path) -> Result<Self, TokensError> {
        let tokens = Tokens::read(folder)?;
        let uses = last_uses_in(folder).unwrap_or_else(|error| {
            tracing::warn!(%error, "when the tokens were last used is not known any more: uses from now on are noted");
            BTreeMap::new()
        });
        Ok(Self::of(folder, tokens, LastUses::from_file(uses)))
    }

    /// Of a folder that serves nobody.
    pub fn of_nobody(folder: &Path) -> Self {
        Self::of(folder, Tokens::closed(), LastUses::default())
    }

    fn of(folder: &Path, tokens: Tokens, uses: LastUses) -> Self {
        let none = ArcSwap::from_pointee(Tokens::default());
        let these = Self { folder: folder.to_owned(), in_use: none, uses, turn: Mutex::new(()) };
        these.put(tokens);
        these
    }

    /// Puts these tokens into use.
    fn put(&self, tokens: Tokens) {
        self.uses.keep(tokens.all.iter().map(|token| token.id.as_str()));
        self.in_use.store(Arc::new(tokens));
    }

    /// The tokens in use.
    pub fn now(&self) -> Arc<Tokens> {
        self.in_use.load_full()
    }

    /// Notes that the token with this id was used now. Takes no lock.
    pub fn note_use(&self, id: &str, now: Millis) {
        self.uses.note(id, now);
    }

    /// When the token with this id was last used, to the minute; none if it was not, as far as is known.
    pub fn last_used(&self, id: &str) -> Option<Millis> {
        self.uses.of(id)
    }

    /// Makes durable when the tokens were last used, if that changed. Blocks.
    pub fn save_uses(&self) -> io::Result<()> {
        self.uses.save(&self.folder)
    }

    /// Reads the file again, and gives how many tokens there are. Blocks. If it cannot be read, the old ones stay.
    pub fn reload(&self) -> Result<usize, TokensError> {
        let _turn = lock(&self.turn);
        self.read_again()
    }

    /// The same; but if there were no tokens, and the file cannot be read, nobody is let in until it can be.
    pub fn reload_or_close(&self) -> Result<usize, TokensError> {
        let _turn = lock(&self.turn);
        self.read_again().inspect_err(|_| {
            if !self.now().are_asked_for() {
                self.put(Tokens::closed());
            }
        })
    }

    fn read_again(&self) -> Result<usize, TokensError> {
        let tokens = Tokens::read(&self.folder)?;
        self.expect_some(&tokens)?;
        let count = tokens.all.len();
        self.put(tokens);
        Ok(count)
    }

    /// Makes a change in the file, and puts the file's tokens into use. Gives the changed token as it is then; none if there is no
    /// such token. Durable when it returns. Blocks.
    pub fn apply(&self, what: &TokenChange) -> Result<Option<Token>, TokensError> {
        let _turn = lock(&self.turn);
        let changed = change(&self.folder, |tokens| {
            self.expect_some(tokens)?;
            tokens.apply(what)
        });
        match changed {
            Ok((tokens, token)) => {
                self.put(tokens);
                Ok(Some(token))
            }
            Err(TokensError::NoSuchToken(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Only a start decides whether the daemon may listen without tokens.
    fn expect_some(&self, read: &Tokens) -> Result<(), TokensError> {
        if self.now().are_asked_for() && !read.are_asked_for() {
            return Err(TokensError::Gone(self.folder.join(layout::TOKENS)));
        }
        Ok(())
    }
}

impl Token {
    /// Whether a token may have this id.
    pub fn may_be_called(id: &str) -> bool {
        (1..=2 * ID_BYTES).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    /// The token's state at `now`.
    pub fn state(&self, now: Millis) -> State {
        if self.revoked_at_ms.is_some() {
            State::Revoked
        } else if self.expires_at_ms.is_some_and(|at| at <= now.0) {
            State::Expired
        } else {
            State::Valid
        }
    }

    /// What the audit trail says of a token that was made.
    pub fn in_words(&self) -> String {
        let name = self.name.as_ref().map_or(String::new(), |name| format!(", name {:?}", name.as_str()));
        format!("{}, scope {}{name}", self.id, self.scope)
    }

    /// Whether the token is for this client.
    pub fn is_for(&self, client: &ClientCode) -> bool {
        self.client.as_ref().is_none_or(|own| own == client)
    }
}

impl State {
    /// The state in a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 3] = [Self::Batch, Self::Read, Self::Admin];

    /// The scope's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

impl Scopes {
    /// Whether these scopes include the scope `asked`.
    pub fn covers(self, asked: Scope) -> bool {
        self.admin
            || match asked {
                Scope::Batch => self.batch,
                Scope::Read => self.read,
                Scope::Admin => false,
            }
    }
}

impl From<Scope> for Scopes {
    fn from(scope: Scope) -> Self {
        Self { batch: scope == Scope::Batch, read: scope == Scope::Read, admin: scope == Scope::Admin }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.admin, self.batch, self.read) {
            (true, _, _) => "admin",
            (_, true, true) => "batch,read",
            (_, true, false) => "batch",
            (_, false, _) => "read",
        })
    }
}

impl FromStr for Scopes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut scopes = Self { batch: false, read: false, admin: false };
        for name in text.split(',').map(str::trim) {
            match Scope::ALL.into_iter().find(|scope| scope.name() == name) {
                Some(Scope::Batch) => scopes.batch = true,
                Some(Scope::Read) => scopes.read = true,
                Some(Scope::Admin) => scopes.admin = true,
                None => {
                    return Err("use batch, read or admin, or several of them separated by commas".to_owned());
                }
            }
        }
        Ok(if scopes.admin { Scope::Admin.into() } else { scopes })
    }
}

impl From<Scopes> for String {
    fn from(scopes: Scopes) -> Self {
        scopes.to_string()
    }
}

impl TryFrom<String> for Scopes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|why| format!("{text:?} is not a scope: {why}"))
    }
}

/// What to do about an error of the system.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; the daemon's user must own the file: give it the owner of the data folder (chown), or run this as that user"
        }
        _ => "",
    }
}

/// Changes the file under a lock that keeps other processes out. Gives its tokens, and what `change` gave.
fn change<T>(
    folder: &Path,
    change: impl FnOnce(&mut Tokens) -> Result<T, TokensError>,
) -> Result<(Tokens, T), TokensError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| TokensError::Io { path, error }
    };
    // Held until the end of this function.
    let _lock = locked(&folder.join(layout::TOKENS_LOCK))?;
    let mut tokens = Tokens::read(folder)?;
    let changed = change(&mut tokens)?;
    let path = folder.join(layout::TOKENS);
    let stored = Stored { version: VERSION, crc32c: sum(&tokens.all), tokens: tokens.all };
    let text = serde_json::to_vec_pretty(&stored).map_err(|error| failed(&path)(error.into()))?;
    // Also if nothing is new: the change before may have broken off before the name was durable.
    durable::replace(&path, "tokens", |file| {
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&text)
    })
    .map_err(failed(&path))?;
    Ok((Tokens { all: stored.tokens, known: Known::Read }, changed))
}

/// The lock of whoever changes the file, until what this gives is dropped.
fn locked(path: &Path) -> Result<File, TokensError> {
    let failed = |error| TokensError::Io { path: path.to_owned(), error };
    let lock = durable::create(path, OpenOptions::new().write(true)).map_err(failed)?;
    let until = Instant::now() + LOCK_WITHIN;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(LOCK_LOOK),
            Err(TryLockError::WouldBlock) => return Err(TokensError::Locked(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
}

fn hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

fn random_hex(bytes: usize) -> Result<String, TokensError> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(TokensError::Random)?;
    Ok(hex(&random))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A client code as text; `*` for all clients.
mod client_text {
    use super::ClientCode;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(client: &Option<ClientCode>, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(client.as_ref().map_or("*", ClientCode::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ClientCode>, D::Error> {
        match String::deserialize(from)?.as_str() {
            "*" => Ok(None),
            text => ClientCode::new(text)
                .map(Some)
                .map_err(|error| de::Error::custom(format!("{text:?} is not a client code: {error}"))),
        }
    }
}

/// Bytes as hexadecimal digits.
mod hex_text {
    use super::hex;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        let wrong = || de::Error::custom("a hash has 64 hexadecimal digits");
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() {
            return Err(wrong());
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(2 * at..2 * at + 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_000_000);

    fn demo() -> Option<ClientCode> {
        ClientCode::new("demo").ok()
    }

    fn read() -> WantedToken {
        WantedToken::of(demo(), Scope::Read)
    }

    #[test]
    fn a_token_lets_in_from_its_making_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (token, text) =
            Tokens::make(folder.path(), &WantedToken { lasts_ms: Some(10), ..read() }, NOW).unwrap();
        let verify = |text: &str, now: u64| {
            let tokens = Tokens::read(folder.path()).unwrap();
            tokens.verify(text, Millis(now)).map(|token| token.id.clone())
        };
        assert_eq!(verify(&text, NOW.0), Ok(token.id.clone()));
        assert_eq!(verify(&text, NOW.0 + 9), Ok(token.id.clone()));
        assert_eq!(verify(&text, NOW.0 + 10), Err(InvalidToken::Expired));
        let other = format!("{}{}", &text[..text.len() - 1], if text.ends_with('0') { '1' } else { '0' });
        for wrong in
            ["", "profiled", "profiled_", &text[..text.len() - 1], &format!("{text}0"), &other, &token.id]
        {
            assert_eq!(verify(wrong, NOW.0), Err(InvalidToken::Unknown), "{wrong}");
        }
        Tokens::revoke(folder.path(), &token.id, NOW).unwrap();
        assert_eq!(verify(&text, NOW.0), Err(InvalidToken::Revoked));
        assert!(
            Tokens::read(folder.path()).unwrap().are_asked_for(),
            "revoking the last token does not turn access control off"
        );
    }

    #[test]
    fn the_file_holds_no_token_and_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!Tokens::read(folder.path()).unwrap().are_asked_for());
        let (_, text) = Tokens::make(folder.path(), &WantedToken::of(None, Scope::Admin), NOW).unwrap();
        let path = folder.path().join(layout::TOKENS);
        let stored = fs::read_to_string(&path).unwrap();
        let secret = text.rsplit('_').next().unwrap();
        assert!(secret.len() == 64 && !stored.contains(secret), "{stored}");
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    /// Revoking is kept, whoever says it first; of two tokens with one id the first one stays.
    #[test]
    fn what_was_changed_may_be_changed_again_and_is_in_use_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let in_use = TokensInUse::read(folder.path()).unwrap();
        let (token, text) = Tokens::fresh(&read(), NOW).unwrap();
        let add = TokenChange::Add(token.clone());
        let revoke = TokenChange::Revoke { id: token.id.clone(), at: NOW.plus(5) };
        assert_eq!(in_use.apply(&revoke).unwrap(), None, "it is not there yet");
        assert!(!folder.path().join(layout::TOKENS).exists());
        let ids = |tokens: &Tokens| tokens.all().iter().map(|it| it.id.clone()).collect::<Vec<_>>();
        for _ in 0..2 {
            assert_eq!(in_use.apply(&add).unwrap(), Some(token.clone()));
            assert_eq!(in_use.now().verify(&text, NOW).map(|it| it.id.clone()), Ok(token.id.clone()));
        }
        let other = Token { client: None, ..token.clone() };
        assert_eq!(in_use.apply(&TokenChange::Add(other)).unwrap(), Some(token.clone()));
        for change in [&revoke, &add, &TokenChange::Revoke { id: token.id.clone(), at: NOW.plus(9) }] {
            let now = in_use.apply(change).unwrap().unwrap();
            assert_eq!(now.revoked_at_ms, Some(NOW.0 + 5));
            assert_eq!(in_use.now().verify(&text, NOW), Err(InvalidToken::Revoked));
        }
        assert_eq!(ids(&in_use.now()), std::slice::from_ref(&token.id));
        assert_eq!(*in_use.now(), Tokens::read(folder.path()).unwrap());
        // A file that went away is not begun anew.
        fs::remove_file(folder.path().join(layout::TOKENS)).unwrap();
        assert!(matches!(in_use.apply(&add), Err(TokensError::Gone(_))));
        assert!(matches!(in_use.reload(), Err(TokensError::Gone(_))));
        assert!(in_use.now().are_asked_for());
    }

    /// What nodes compare must not change for a token that an earlier version made.
    #[test]
    fn a_token_without_a_name_is_stored_and_summed_as_before_and_one_with_a_name_keeps_it() {
        let plain = Token {
            id: "1f0c2b7a".into(),
            name: None,
            client: demo(),
            scope: Scope::Batch.into(),
            sha256: [0; 32],
            created_at_ms: 1,
            expires_at_ms: None,
            revoked_at_ms: None,
        };
        let named = Token { name: Some(TokenName::new("nightly CRM").unwrap()), ..plain.clone() };
        let other = Token { name: Some(TokenName::new("nightly CRN").unwrap()), ..plain.clone() };
        // As the version before computed it.
        assert_eq!(sum(std::slice::from_ref(&plain)), Some(2_444_511_328));
        let of = |token: &Token| TokenChange::Add(token.clone()).sum();
        assert_eq!(of(&plain), 1_849_679_471);
        assert!(of(&plain) != of(&named) && of(&named) != of(&other));
        let folder = tempfile::tempdir().unwrap();
        let in_use = TokensInUse::read(folder.path()).unwrap();
        for token in [&named, &Token { id: "2".into(), ..plain.clone() }] {
            in_use.apply(&TokenChange::Add(token.clone())).unwrap();
        }
        let text = fs::read_to_string(folder.path().join(layout::TOKENS)).unwrap();
        assert_eq!(text.matches("\"name\"").count(), 1, "{text}");
        let read = Tokens::read(folder.path()).unwrap();
        assert_eq!(read.all().first(), Some(&named));
        assert_eq!(read.all().get(1).map(|token| token.name.clone()), Some(None));
        fs::write(folder.path().join(layout::TOKENS), text.replace("nightly CRM", "a\\u0007b")).unwrap();
        let error = Tokens::read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("character 2 is a control character"), "{error}");
    }

    #[test]
    fn a_use_shows_at_once_and_after_a_save_to_whoever_opens_the_folder_next() {
        let folder = tempfile::tempdir().unwrap();
        let in_use = TokensInUse::read(folder.path()).unwrap();
        let (token, _) = Tokens::fresh(&read(), NOW).unwrap();
        in_use.apply(&TokenChange::Add(token.clone())).unwrap();
        assert_eq!(in_use.last_used(&token.id), None);
        in_use.note_use(&token.id, NOW);
        in_use.reload().unwrap();
        assert_eq!(in_use.last_used(&token.id), Some(NOW));
        assert_eq!(TokensInUse::read(folder.path()).unwrap().last_used(&token.id), None);
        in_use.save_uses().unwrap();
        assert_eq!(TokensInUse::read(folder.path()).unwrap().last_used(&token.id), Some(NOW));
        // Damage loses the time, and nothing else.
        fs::write(folder.path().join(layout::TOKEN_USES), "{").unwrap();
        let again = TokensInUse::read(folder.path()).unwrap();
        assert_eq!((again.now().all().len(), again.last_used(&token.id)), (1, None));
    }

    /// A call that reloads is told what is wrong, so nothing need change; whoever sends a signal is told nothing.
    #[test]
    fn an_unreadable_file_closes_the_door_only_where_nobody_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let in_use = TokensInUse::read(folder.path()).unwrap();
        fs::write(folder.path().join(layout::TOKENS), "{").unwrap();
        assert!(matches!(in_use.reload(), Err(TokensError::Unreadable { .. })));
        assert!(!in_use.now().are_asked_for());
        assert!(matches!(in_use.reload_or_close(), Err(TokensError::Unreadable { .. })));
        assert!(in_use.now().are_asked_for());
    }

    #[test]
    fn a_folder_takes_in_the_tokens_of_another_and_keeps_its_own() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [here, there] = [folders[0].path(), folders[1].path()];
        let (both, _) = Tokens::make(there, &read(), NOW).unwrap();
        Tokens::read(there).unwrap().take_in(here).unwrap();
        let (own, _) = Tokens::make(here, &WantedToken::of(demo(), Scope::Batch), NOW).unwrap();
        let (theirs, _) = Tokens::make(there, &WantedToken::of(None, Scope::Admin), NOW).unwrap();
        Tokens::revoke(there, &both.id, NOW.plus(7)).unwrap();
        Tokens::revoke(here, &own.id, NOW.plus(8)).unwrap();
        Tokens::read(there).unwrap().take_in(here).unwrap();
        let tokens = Tokens::read(here).unwrap();
        let found: Vec<_> = tokens.all().iter().map(|it| (it.id.as_str(), it.revoked_at_ms)).collect();
        assert_eq!(found, [(&*both.id, Some(NOW.0 + 7)), (&*own.id, Some(NOW.0 + 8)), (&*theirs.id, None)]);
    }

    #[test]
    fn whoever_waits_for_the_lock_waits_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let _held = locked(&folder.path().join(layout::TOKENS_LOCK)).unwrap();
        let refused = Tokens::make(folder.path(), &read(), NOW);
        assert!(matches!(refused, Err(TokensError::Locked(_))), "{refused:?}");
    }

    #[test]
    fn tokens_made_at_once_are_all_there() {
        let folder = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    Tokens::make(folder.path(), &WantedToken::of(demo(), Scope::Batch), NOW).unwrap()
                });
            }
        });
        assert_eq!(Tokens::read(folder.path()).unwrap().all().len(), 8);
    }

    /// A changed letter once turned a token into another client's.
    #[test]
    fn a_file_with_a_changed_letter_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        Tokens::make(folder.path(), &read(), Millis(1)).unwrap();
        let path = folder.path().join(layout::TOKENS);
        let text = fs::read_to_string(&path).unwrap();
        for (letter, changed) in [("\"demo\"", "\"demp\""), ("\"read\"", "\"admin\""), ("null", "9")] {
            let changed = text.replacen(letter, changed, 1);
            assert_ne!(changed, text);
            fs::write(&path, changed).unwrap();
            let error = Tokens::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains("do not match their checksum"), "{letter}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_not_understood_opens_no_door() {
        let folder = tempfile::tempdir().unwrap();
        let check = |text: &str, says: &str| {
            fs::write(folder.path().join(layout::TOKENS), text).unwrap();
            let error = Tokens::read(folder.path()).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains(layout::TOKENS), "{text}: {error}");
        };
        check("", "EOF");
        check("{}", "version");
        check(r#"{"version":2,"tokens":[]}"#, "version 2");
        let token = |client: &str, scope: &str, sha256: &str| {
            format!(
                r#"{{"version":1,"tokens":[{{"id":"1","client":"{client}","scope":"{scope}","sha256":"{sha256}","createdAtMs":1,"expiresAtMs":null,"revokedAtMs":null}}]}}"#
            )
        };
        let sum = "0".repeat(64);
        check(&token("a b", "read", &sum), "not a client code");
        check(&token("a", "write", &sum), "\"write\" is not a scope");
        check(&token("a", "batch,write", &sum), "\"batch,write\" is not a scope");
        check(&token("a", "read", "00"), "64 hexadecimal digits");
        fs::write(folder.path().join(layout::TOKENS), token("*", "read", &sum)).unwrap();
        assert_eq!(Tokens::read(folder.path()).unwrap().all().len(), 1);
    }

    #[test]
    fn scopes_cover_what_they_name_and_admin_all() {
        let check = |text: &str, may: [bool; 3], shown: &str| {
            let scopes: Scopes = text.parse().unwrap();
            assert_eq!(Scope::ALL.map(|asked| scopes.covers(asked)), may, "{text}");
            assert_eq!(scopes.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(scopes), "{text}");
        };
        check("batch", [true, false, false], "batch");
        check("read", [false, true, false], "read");
        check("admin", [true; 3], "admin");
        check("batch,read", [true, true, false], "batch,read");
        check("read, batch", [true, true, false], "batch,read");
        check("batch,batch", [true, false, false], "batch");
        check("read,admin,batch", [true; 3], "admin");
        for wrong in ["", ",", "batch,", "write", "batch,write", "Batch", "batch read"] {
            assert!(wrong.parse::<Scopes>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_of_before_scopes_were_given_together_is_read_and_goes_on() {
        // The text that the version before wrote, with its checksum.
        const EARLIER: &str = r#"{"version":1,"tokens":[{"id":"1f0c2b7a","client":"demo","scope":"batch","sha256":"0000000000000000000000000000000000000000000000000000000000000000","createdAtMs":1,"expiresAtMs":null,"revokedAtMs":null}],"crc32c":2444511328}"#;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(layout::TOKENS), EARLIER).unwrap();
        let (_, text) = Tokens::make(
            folder.path(),
            &WantedToken::of(demo(), "read,batch".parse::<Scopes>().unwrap()),
            NOW,
        )
        .unwrap();
        let tokens = Tokens::read(folder.path()).unwrap();
        assert_eq!(
            tokens.all().iter().map(|it| it.scope.to_string()).collect::<Vec<_>>(),
            ["batch", "batch,read"]
        );
        let both = tokens.verify(&text, NOW).unwrap().scope;
        assert_eq!(Scope::ALL.map(|asked| both.covers(asked)), [true, true, false]);
    }
}
