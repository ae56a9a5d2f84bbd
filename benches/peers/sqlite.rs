//! SQLite, in the bench's own process: no connection, no parsing, rows bound to a prepared statement.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, params};

use super::{LeftOut, Peer, json};
use crate::support::kernel;
use crate::support::rows::{Batch, seeds};

/// JSON can hold any attributes, and its binary form is the fastest in SQLite. An upsert would create unknown visitors.
const UPDATE: &str = "UPDATE profile SET attributes = jsonb_patch(attributes, ?2) WHERE id = ?1";

pub(super) struct Sqlite {
    connection: Connection,
    prepared: Vec<(String, String)>,
}

impl Sqlite {
    pub(super) fn open(folder: &Path) -> Result<Self, LeftOut> {
        let connection = Connection::open(folder.join("profiles.sqlite")).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -524288;
                 CREATE TABLE profile (id TEXT PRIMARY KEY, attributes BLOB NOT NULL) WITHOUT ROWID;",
            )
            .unwrap();
        Ok(Self { connection, prepared: vec![] })
    }
}

impl Peer for Sqlite {
    fn settings(&self) -> String {
        format!(
            "{} (rusqlite); WAL, synchronous FULL (the commit is durable), cache 512 MiB; in the bench's own process; \
             attributes as JSONB, unknown visitors skipped",
            rusqlite::version()
        )
    }

    fn seed(&mut self, profiles: usize) {
        let transaction = self.connection.transaction().unwrap();
        let mut insert = transaction.prepare("INSERT INTO profile VALUES (?1, jsonb(?2))").unwrap();
        for row in seeds(0..profiles) {
            insert.execute(params![row.id, json(&row)]).unwrap();
        }
        drop(insert);
        transaction.commit().unwrap();
    }

    fn prepare(&mut self, batch: Batch) {
        self.prepared = batch.rows().map(|row| (row.id.clone(), json(&row))).collect();
    }

    fn apply(&mut self) -> Duration {
        let began = Instant::now();
        let transaction = self.connection.transaction().unwrap();
        let mut update = transaction.prepare(UPDATE).unwrap();
        for (id, attributes) in &self.prepared {
            update.execute(params![id, attributes]).unwrap();
        }
        drop(update);
        transaction.commit().unwrap();
        began.elapsed()
    }

    fn points(&mut self, id: &str) -> Option<String> {
        let query = "SELECT attributes ->> 'points' FROM profile WHERE id = ?1";
        self.connection.query_row(query, [id], |row| row.get(0)).optional().unwrap()
    }

    fn written(&self) -> u64 {
        kernel::written(std::process::id())
    }

    fn memory(&self) -> Option<u64> {
        None
    }
}
