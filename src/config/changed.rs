//! Which settings differ between those in use and those that were read again.
//!
//! Promises: names and no values, for a value may be a secret. A setting is named as the file has it: with its table in front.

use std::collections::{BTreeMap, BTreeSet};

use super::declare::Group;
use super::declared::Changes;
use super::settings::ClientSettings;
use crate::model::id::ClientCode;

/// The settings that have another value, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedSettings {
    /// Those that a running daemon takes over.
    pub taken: Vec<String>,
    /// Those that count at the next start.
    pub at_start: Vec<String>,
}

impl ChangedSettings {
    /// Adds what differs between two groups of settings that stand in this table of the file; at its top if it has no name.
    pub(super) fn add<G: Group>(&mut self, table: &str, before: &G, next: &G) {
        self.add_all(table, before.changed(next));
    }

    fn add_all(&mut self, table: &str, changed: Vec<(&'static str, Changes)>) {
        for (key, changes) in changed {
            let name = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
            match changes {
                Changes::AtSighup => self.taken.push(name),
                Changes::AtStart => self.at_start.push(name),
            }
        }
    }

    /// Adds what differs between two tables of texts, which count at a start.
    pub(super) fn add_texts(
        &mut self,
        table: &str,
        before: &BTreeMap<String, String>,
        next: &BTreeMap<String, String>,
    ) {
        let keys = before.keys().chain(next.keys()).collect::<BTreeSet<_>>();
        let changed = keys.into_iter().filter(|key| before.get(*key) != next.get(*key));
        self.at_start.extend(changed.map(|key| format!("{table}.{key}")));
    }

    /// Adds what changed for single clients, whose tables stand in this one. A client that is new or gone is named itself. What a
    /// client has from the settings of all clients is named once, there.
    pub(super) fn add_clients(
        &mut self,
        tables: &str,
        (before, next): (&BTreeMap<ClientCode, ClientSettings>, &BTreeMap<ClientCode, ClientSettings>),
        any_client: (&ClientSettings, &ClientSettings),
    ) {
        let of_all = any_client.0.changed(any_client.1);
        for client in before.keys().chain(next.keys()).collect::<BTreeSet<_>>() {
            let table = format!("{tables}.{client}");
            let (Some(before), Some(next)) = (before.get(client), next.get(client)) else {
                self.taken.push(table);
                continue;
            };
            let (own_before, own_next) = (before.changed(any_client.0), next.changed(any_client.1));
            let mut changed = before.changed(next);
            changed.retain(|it| !of_all.contains(it) || own_before.contains(it) || own_next.contains(it));
            self.add_all(&table, changed);
        }
    }
}
