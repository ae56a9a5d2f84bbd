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

    /// The token with this id, valid or not.
    pub fn named(&self, id: &str) -> Option<&Token> {
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
mod tests;
