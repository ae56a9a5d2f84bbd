//! The calls of [`Engine`] for whoever operates it: settings, health, maintenance, the audit trail.

use crate::audit::{self, Actor};
use crate::config::{ChangedSettings, Config, PublicUrl};
use crate::engine::Engine;
use crate::engine::commit::{Answer, Request};
use crate::engine::error::{EngineError, Fatal, OrInternal};
use crate::engine::gates::Who;
use crate::engine::node::OrderStatus;
use crate::engine::read::clients::ListedClients;
use crate::engine::shared::blocking;
use crate::engine::types::Readiness;
use crate::engine::upkeep::passing::PassingBackup;
use crate::engine::upkeep::task::{Done, Task};
use crate::model::id::ClientCode;
use crate::model::seq::Millis;
use crate::order::Offset;
use crate::telemetry::metrics::{Metrics, Vitals};
use crate::tokens::{Token, TokenChange, Tokens, TokensError, WantedToken};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How many ids are made up for a token before that is given up. Hardly ever another token has one of them.
const TOKEN_IDS_TRIED: usize = 4;

impl Engine {
    /// The folder that keeps everything.
    pub fn data_folder(&self) -> &Path {
        &self.0.shared.data_folder
    }

    /// What time it is.
    pub fn now(&self) -> Millis {
        self.0.shared.now()
    }

    /// What is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.shared.metrics
    }

    /// What status URLs begin with, if that is configured.
    pub fn public_url(&self) -> Option<PublicUrl> {
        self.0.shared.config().server.public_url.clone()
    }

    /// The client for a call that names none, if one is configured.
    pub fn default_client(&self) -> Option<ClientCode> {
        self.0.shared.config().server.default_client.clone()
    }

    /// The client whose pages open if none is named: the default client, else the only configured one, else the only one that
    /// has batches, if no client is configured.
    pub fn only_client(&self) -> Option<ClientCode> {
        let config = self.0.shared.config();
        let mut configured = config.clients().map(|(client, _)| client);
        let only = match (configured.next(), configured.next()) {
            (Some(only), None) => Some(only.clone()),
            (None, _) => self.0.shared.batches.only_client(),
            (Some(_), Some(_)) => None,
        };
        config.server.default_client.clone().or(only)
    }

    /// How long after an erasure its visitor's bytes have left the disk.
    pub fn erase_within_ms(&self) -> u64 {
        self.0.shared.config().upkeep.erase_within_ms
    }

    /// The client to which an organisation belongs, as Adobe's SDKs name it.
    pub fn client_of_ims_org(&self, org: &str) -> Option<ClientCode> {
        self.0.shared.config().client_of_ims_org(org).cloned()
    }

    /// Which clients there are.
    pub async fn clients(&self, who: &Who) -> Result<ListedClients, EngineError> {
        self.0.read.clients(who).await
    }

    /// How many batch calls a client may make a minute; none: as many as it likes.
    pub fn batch_calls_per_minute(&self, client: &ClientCode) -> Result<Option<NonZeroU32>, EngineError> {
        Ok(self.0.shared.settings(client)?.batch_calls_per_minute)
    }

    /// Uses other settings from now on, as far as they may change while the daemon runs. A call goes by the settings of the
    /// moment at which it came in.
    pub fn reconfigure(&self, config: &Config) {
        let shared = &self.0.shared;
        let next = shared.config().following(config);
        self.0.ingest.uploads.resize(next.limits.concurrent_uploads_max);
        shared.spool.set_limit(next.limits.spool_bytes_max);
        shared.disk_space.set_reserve(next.upkeep.disk_reserve_bytes);
        shared.clock.set_ahead_max(next.server.clock_ahead_max);
        shared.config.store(Arc::new(next));
    }

    /// Which settings differ from those in use.
    pub fn changes_to(&self, config: &Config) -> ChangedSettings {
        self.0.shared.config().changes_to(config)
    }

    /// Believes the machine's clock as it is, after it leapt ahead. Gives by how much it had.
    pub fn accept_clock(&self) -> Option<Duration> {
        let shared = &self.0.shared;
        let ahead = shared.clock.accept()?;
        let held = self.0.upkeep.hold_if_long(ahead, &shared.config());
        tracing::warn!(
            ahead_seconds = ahead.as_secs(),
            nobody_is_swept_for_an_hour = held,
            "the machine's clock was accepted as it is"
        );
        Some(ahead)
    }

    /// Notes an act of an administrator in the audit trail. Returns when it stands there.
    pub async fn note_act(&self, actor: Actor, act: &'static str, client: Option<&ClientCode>, what: &str) {
        let (shared, client, what) = (Arc::clone(&self.0.shared), client.cloned(), what.to_owned());
        let noted = blocking(move || {
            audit::note(&shared.data_folder, shared.now(), &actor, act, client.as_ref(), &what);
            Ok(())
        });
        if let Err(error) = noted.await {
            tracing::error!(%error, act, "an act was not noted in the audit trail");
        }
    }

    /// Notes several acts of one kind in the audit trail, each with a line of its own. Blocks.
    pub fn note_acts_blocking(
        &self,
        actor: &Actor,
        named: (&'static str, &str),
        client: &ClientCode,
        whats: &[String],
    ) {
        let shared = &self.0.shared;
        audit::note_each(&shared.data_folder, shared.now(), actor, named, Some(client), whats);
    }

    /// The tokens that a caller's is looked for in. While a node of several has none, and may not be open to everybody, nobody is
    /// let in.
    pub fn tokens(&self) -> Arc<Tokens> {
        let shared = &self.0.shared;
        let tokens = shared.tokens.now();
        match self.0.commit.node().filter(|_| !tokens.are_asked_for()) {
            Some(node) if node.awaits_tokens() => Arc::new(Tokens::to_come()),
            Some(_) if shared.config().check_reach(false).is_err() => Arc::new(Tokens::closed()),
            _ => tokens,
        }
    }

    /// Reads the tokens' file again, and gives how many tokens there are. Blocks. If it cannot be read, the old ones stay.
    pub fn reload_tokens(&self) -> Result<usize, TokensError> {
        self.0.shared.tokens.reload()
    }

    /// The same; but if there were no tokens, and the file cannot be read, nobody is let in until it can be.
    pub fn reload_tokens_or_close(&self) -> Result<usize, TokensError> {
        self.0.shared.tokens.reload_or_close()
    }

    /// Notes that a caller was let in by the token with this id.
    pub fn note_token_use(&self, id: &str) {
        self.0.shared.tokens.note_use(id, self.now());
    }

    /// When the token with this id was last used here, to the minute; none if it was not, as far as is known.
    pub fn token_last_used(&self, id: &str) -> Option<Millis> {
        self.0.shared.tokens.last_used(id)
    }

    /// Makes a token. On a node of several it counts on all of them. Only this call gives the token's text.
    pub async fn make_token(&self, wanted: WantedToken) -> Result<(Token, String), EngineError> {
        let now = self.now();
        for _ in 0..TOKEN_IDS_TRIED {
            let (token, text) = Tokens::fresh(&wanted, now)?;
            let made = self.change_token(TokenChange::Add(token.clone())).await?;
            if made.as_ref() == Some(&token) {
                return Ok((token, text));
            }
        }
        Err(EngineError::internal("each id that was made up for a token is another token's"))
    }

    /// Revokes a token; on a node of several it counts on none of them any more.
    pub async fn revoke_token(&self, id: &str) -> Result<Token, EngineError> {
        let unknown = || EngineError::UnknownToken(id.to_owned());
        if !Token::may_be_called(id) {
            return Err(unknown());
        }
        // On a node of several only a token that it knows: so a revocation always comes after the token in the order. Else a node
        // that starts again could find the token in its file already, and revoke it where the others did not.
        if self.0.commit.node().is_some() && !self.tokens().all().iter().any(|token| token.id == id) {
            return Err(unknown());
        }
        let revoke = TokenChange::Revoke { id: id.to_owned(), at: self.now() };
        self.change_token(revoke).await?.ok_or_else(unknown)
    }

    async fn change_token(&self, change: TokenChange) -> Result<Option<Token>, EngineError> {
        match self.0.commit.ask(Request::Token(change)).await? {
            Answer::Token(token) => Ok(token),
            other => {
                Err(EngineError::internal(format!("a change of the tokens was answered with {other:?}")))
            }
        }
    }

    /// Fills a fresh store. What the old one wasted is free again, and no byte of an erased visitor is left (R12).
    pub async fn compact(&self, who: &Who) -> Result<Done, EngineError> {
        self.0.upkeep.task_in_turn(who, Task::Compact).await
    }

    /// Takes a snapshot.
    pub async fn snapshot(&self) -> Result<Done, EngineError> {
        self.0.upkeep.task(Task::Snapshot).await
    }

    /// Writes a backup into a folder that does not exist yet, or is empty; or to a new place in storage, which an `s3://` URL names.
    pub async fn backup(&self, who: &Who, folder: PathBuf) -> Result<Done, EngineError> {
        self.0.upkeep.task_in_turn(who, Task::Backup(folder)).await
    }

    /// Writes a backup for another node, into a folder that goes with what this gives.
    pub async fn peer_snapshot(&self, who: &Who) -> Result<Arc<PassingBackup>, EngineError> {
        let data = self.data_folder().to_owned();
        let snapshot = blocking(move || PassingBackup::begin(&data).or_internal()).await?;
        self.backup(who, snapshot.folder().to_owned()).await?;
        let snapshot = Arc::new(snapshot);
        self.0.upkeep.last_for_node.begin(&snapshot);
        Ok(snapshot)
    }

    /// Such a backup was sent, to its end or not. It is kept for a while: its rest may be asked for. Needs the runtime.
    pub fn peer_snapshot_was_sent(&self, snapshot: &Arc<PassingBackup>) {
        self.0.upkeep.last_for_node.end(snapshot);
    }

    /// The backup of this name that was sent, or is being sent, if it is kept.
    pub fn sent_snapshot(&self, name: &str) -> Option<Arc<PassingBackup>> {
        self.0.upkeep.last_for_node.get(name)
    }

    /// The gauges, for whoever watches.
    pub fn vitals(&self) -> Vitals {
        self.0.vitals()
    }

    /// How many bytes of the disk the daemon leaves free.
    pub fn disk_reserve(&self) -> u64 {
        self.0.shared.config().upkeep.disk_reserve_bytes
    }

    /// Whether the disk is so full that writes are refused, as far as that is known without asking the file system.
    pub fn refuses_writes(&self) -> bool {
        match self.0.vitals().disk_free_bytes {
            // Not measured yet, or nothing at all.
            0 => self.0.shared.disk_space.is_refusing(),
            free => free < self.disk_reserve(),
        }
    }

    /// Why only a new start helps, if that is so.
    pub fn ailment(&self) -> Option<String> {
        self.0.shared.health.ailment()
    }

    /// Whether the daemon serves.
    pub fn readiness(&self) -> Readiness {
        self.0.readiness()
    }

    /// What an operator should know of a daemon that serves all the same.
    pub fn remarks(&self) -> Vec<String> {
        self.0.remarks()
    }

    /// Completes when something failed for good. The process must then say why, and end.
    pub async fn failed(&self) -> String {
        self.0.shared.health.failed().await
    }

    /// How far this node is in the order of several; none on a single daemon.
    pub fn order(&self) -> Option<OrderStatus> {
        self.0.order_status()
    }

    /// Notes where the order ends, as somebody heard it.
    pub fn heard_of_order_end(&self, end: Offset) {
        if let Some(node) = self.0.commit.node() {
            node.progress.heard_of_end(end);
        }
    }

    /// Ends the process for this reason.
    pub fn give_up(&self, why: &str) {
        self.0.shared.health.fail(&Fatal::new(why));
    }

    /// Notes that a thread panicked.
    pub fn thread_panicked(&self, name: Option<&str>) {
        self.0.thread_panicked(name);
    }
}
