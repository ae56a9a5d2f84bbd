//! Which clients there are: those that the settings name, and those that have visitors or batches.
//!
//! Promises: it reads one value of the store for each client, however many visitors the client has.

use crate::batch::kept::Totals;
use crate::batch::queue::Which;
use crate::engine::error::EngineError;
use crate::engine::gates::Who;
use crate::engine::read::state::Reader;
use crate::engine::shared::blocking;
use crate::model::id::{ClientCode, Key};
use crate::model::seq::{Millis, Seq};
use crate::store::ProfileStore as _;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

/// How many clients are listed at most.
pub(crate) const CLIENTS_MAX: usize = 1_000;

/// A client, and its batches that are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedClient {
    /// Its code.
    pub client: ClientCode,
    /// Whether the settings name it.
    pub configured: bool,
    /// How many batches are kept.
    pub batches: u64,
    /// How many of them are not applied yet.
    pub batches_incomplete: u64,
    /// How many rows they have.
    pub rows: u64,
    /// When the newest of them was accepted.
    pub newest_batch: Option<Millis>,
}

/// Which clients there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListedClients {
    /// By their codes.
    pub clients: Vec<ListedClient>,
    /// Whether there are more than are listed.
    pub more: bool,
}

impl Reader {
    /// Lists the clients.
    pub(in crate::engine) async fn clients(
        self: &Arc<Self>,
        who: &Who,
    ) -> Result<ListedClients, EngineError> {
        let turn = self.counts.take(who).await?;
        let reader = Arc::clone(self);
        let listed = blocking(move || {
            let _turn = turn;
            reader.clients_now()
        });
        listed.await
    }

    fn clients_now(&self) -> Result<ListedClients, EngineError> {
        let config = self.shared.config();
        let configured: BTreeSet<&ClientCode> = config.clients().map(|(client, _)| client).collect();
        let mut all: BTreeSet<ClientCode> = configured.iter().map(|client| (*client).clone()).collect();
        all.extend(self.shared.batches.clients());
        let mut after: Option<Key> = None;
        // One more than are listed, to know whether there are more.
        while all.len() <= CLIENTS_MAX {
            let next =
                self.shared.store.scan(after.as_ref(), 1).map_err(|error| self.shared.reported(error))?;
            let Some((key, _)) = next.into_iter().next() else { break };
            let Ok(client) = ClientCode::new(key.client()) else { break };
            after = Some(Key::behind_all_of(&client));
            all.insert(client);
            self.shared.signals.go_on()?;
        }
        let more = all.len() > CLIENTS_MAX;
        let clients = all.into_iter().take(CLIENTS_MAX);
        let clients = clients.map(|client| self.listed(configured.contains(&client), client)).collect();
        Ok(ListedClients { clients, more })
    }

    fn listed(&self, configured: bool, client: ClientCode) -> ListedClient {
        let batches = &self.shared.batches;
        let Totals { batches: complete, rows, .. } = batches.totals(&client);
        let mut listed = ListedClient {
            configured,
            batches: complete,
            batches_incomplete: 0,
            rows,
            newest_batch: None,
            client,
        };
        let latest = Seq::from_u64(u64::MAX);
        batches.walk_back(&listed.client, latest, Which::Incomplete, |known| {
            listed.batches += 1;
            listed.batches_incomplete += 1;
            listed.rows += known.accepted.rows;
            ControlFlow::Continue(())
        });
        batches.walk_back(&listed.client, latest, Which::All, |known| {
            listed.newest_batch = Some(known.accepted.id.seq.millis());
            ControlFlow::Break(())
        });
        listed
    }
}
