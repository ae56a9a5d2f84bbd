//! Which settings differ between those in use and those that were read again.
//!
//! Promises: names and no values, for a value may be a secret. A setting is named as the file has it: with its table in front.

use std::collections::{BTreeMap, BTreeSet};

use super::declare::Group;
use super::declared::Changes;
use super::settings::ClientSettings;
use super::{CLIENTS, CLUSTER, Config, INGEST, KAFKA};
use crate::model::id::ClientCode;

/// The settings that have another value, by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangedSettings {
    /// Those that a running daemon takes over.
    pub taken: Vec<String>,
    /// Those that count at the next start.
    pub at_start: Vec<String>,
}

impl Config {
    /// Which settings `next` has otherwise, in the order of the docs.
    pub fn changes_to(&self, next: &Self) -> ChangedSettings {
        let mut changed = ChangedSettings::default();
        changed.add("", self.server.changed(&next.server));
        changed.add("", self.https.changed(&next.https));
        changed.add("", self.upkeep.changed(&next.upkeep));
        changed.add("", self.backups.changed(&next.backups));
        changed.add("", self.limits.changed(&next.limits));
        changed.add("", self.callers.changed(&next.callers));
        changed.add("", self.heads.changed(&next.heads));
        changed.add("", self.timeouts.changed(&next.timeouts));
        changed.add(INGEST, self.ingest.changed(&next.ingest));
        changed.add("", self.any_client.changed(&next.any_client));
        let any_client = (&self.any_client, &next.any_client);
        changed.add_clients((&self.clients, &next.clients), any_client);
        changed.add(CLUSTER, self.cluster.changed(&next.cluster));
        let kafka = self.kafka.keys().chain(next.kafka.keys()).collect::<BTreeSet<_>>();
        let kafka = kafka.into_iter().filter(|name| self.kafka.get(*name) != next.kafka.get(*name));
        changed.at_start.extend(kafka.map(|name| format!("{CLUSTER}.{KAFKA}.{name}")));
        changed
    }
}

impl ChangedSettings {
    fn add(&mut self, table: &str, changed: Vec<(&'static str, Changes)>) {
        for (key, changes) in changed {
            let name = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
            match changes {
                Changes::AtSighup => self.taken.push(name),
                Changes::AtStart => self.at_start.push(name),
            }
        }
    }

    /// Adds what changed for single clients. A client that is new or gone is named itself. What a client has from the settings of all
    /// clients is named once, there.
    fn add_clients(
        &mut self,
        (before, next): (&BTreeMap<ClientCode, ClientSettings>, &BTreeMap<ClientCode, ClientSettings>),
        any_client: (&ClientSettings, &ClientSettings),
    ) {
        let of_all = any_client.0.changed(any_client.1);
        for client in before.keys().chain(next.keys()).collect::<BTreeSet<_>>() {
            let table = format!("{CLIENTS}.{client}");
            let (Some(before), Some(next)) = (before.get(client), next.get(client)) else {
                self.taken.push(table);
                continue;
            };
            let (own_before, own_next) = (before.changed(any_client.0), next.changed(any_client.1));
            let mut changed = before.changed(next);
            changed.retain(|it| !of_all.contains(it) || own_before.contains(it) || own_next.contains(it));
            self.add(&table, changed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServeOptions;

    fn read(text: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profiled.toml");
        std::fs::write(&path, text).unwrap();
        Config::resolve(&ServeOptions::of_file(path)).unwrap()
    }

    #[track_caller]
    fn check(before: &str, next: &str, taken: &[&str], at_start: &[&str]) {
        let changed = read(before).changes_to(&read(next));
        assert_eq!(
            (changed.taken.as_slice(), changed.at_start.as_slice()),
            (&*owned(taken), &*owned(at_start))
        );
    }

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn each_setting_that_differs_is_named_where_the_file_has_it() {
        check("", "", &[], &[]);
        check("", "retention_days = 30", &[], &[]);
        check("rows_limit = 5", "rows_limit = 6", &["rows_limit"], &[]);
        check(
            "",
            "listen = \"127.0.0.1:1\"\nretention_days = 3\n[ingest]\nmax_rows_per_second = 5",
            &["retention_days", "ingest.max_rows_per_second"],
            &["listen"],
        );
        let cluster = |secret: &str| {
            let node = "[cluster]\norder = \"kafka://a:1/t\"\nnode = \"a\"\n";
            format!("{node}[cluster.kafka]\n\"sasl.password\" = \"{secret}\"")
        };
        check(&cluster("one"), &cluster("two"), &[], &["cluster.kafka.sasl.password"]);
    }

    #[test]
    fn a_client_is_named_if_it_is_new_or_gone_and_else_what_is_its_own() {
        check("", "[clients.a]", &["clients.a"], &[]);
        check("[clients.a]\n[clients.b]", "[clients.b]\n[clients.c]", &["clients.a", "clients.c"], &[]);
        let two = "[clients.a]\n[clients.b]\nbatch_calls_per_minute = 5";
        check(two, &format!("batch_calls_per_minute = 7\n{two}"), &["batch_calls_per_minute"], &[]);
        check(two, &two.replace('5', "6"), &["clients.b.batch_calls_per_minute"], &[]);
        // It goes by its own value from now on.
        let own = format!(
            "batch_calls_per_minute = 7\n{}",
            two.replace("[clients.a]", "[clients.a]\nbatch_calls_per_minute = 8")
        );
        check(two, &own, &["batch_calls_per_minute", "clients.a.batch_calls_per_minute"], &[]);
    }
}
