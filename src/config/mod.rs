//! The settings of `serve`: defaults < file < environment < flag, resolved and checked before anything binds or opens.
//!
//! Promises: a [`Config`] that exists has been checked whole, and nothing changes it. An error names where the setting
//! was given (file and line, or the flag and its variable), what is wrong with it, and what would be right. Each setting
//! is declared once, in `settings.rs`. Only this folder reads the environment.

mod changed;
mod declare;
mod declared;
#[cfg(test)]
mod docs;
mod error;
mod file;
mod flags;
mod options;
mod settings;
mod supervisor;
mod value;
mod window;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::model::id::ClientCode;
use crate::model::seq::Millis;

pub use changed::ChangedSettings;
use declare::{Given, Group};
use declared::{Declared, SetIn};
pub use error::{ConfigError, Origin};
use file::File;
pub use options::ServeOptions;
pub use settings::{
    Backups, Callers, ClientSettings, ClusterNode, HeadLimits, Https, Ingest, Limits, Pace, Server, Timeouts,
    Upkeep,
};
use settings::{SECTIONS, Table};
pub use supervisor::Supervisor;
pub use value::{
    BucketUrl, Endpoint, ImsOrg, LogFilter, LogFormat, NodeName, OrderUrl, PublicUrl, Region, TopicName,
};
use value::{ImsOrg as Org, MIB, Setting as _, Written};
pub use window::Window;

/// The file that is read if it exists and `--config` names no other.
const DEFAULT_FILE: &str = "profiled.toml";
const INGEST: &str = "ingest";
const CLIENTS: &str = "clients";
const CLUSTER: &str = "cluster";
/// The table of `[cluster]` whose keys are passed on to the Kafka client.
const KAFKA: &str = "kafka";

/// The part of `cache` for a batch that is applied while another arrives, and for what the store needs beside its cache.
const WORK_BYTES: u64 = 104 * MIB;
/// The store's cache has at least this part of `cache`.
const STORE_PART: u64 = 6;
/// A batch's file may take this part of `cache` while it is applied.
const HELD_PART: u64 = 8;

/// What `serve` runs with: every setting resolved and checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the daemon listens, and what it keeps.
    pub server: Server,
    /// The certificate for HTTPS.
    pub https: Https,
    /// What is kept on the disk, and how long.
    pub upkeep: Upkeep,
    /// The backups that the daemon makes by itself.
    pub backups: Backups,
    /// How large a batch or a profile may be.
    pub limits: Limits,
    /// How much of the daemon callers may use.
    pub callers: Callers,
    /// How large the header of a request may be.
    pub heads: HeadLimits,
    /// How long a connection may keep the daemon waiting.
    pub timeouts: Timeouts,
    /// How fast batches are applied, and when.
    pub ingest: Ingest,
    /// What makes the daemon one node of several.
    pub cluster: ClusterNode,
    /// Properties of the Kafka client, by name.
    pub kafka: BTreeMap<String, String>,
    /// What holds for every client unless its table says something else.
    any_client: ClientSettings,
    clients: BTreeMap<ClientCode, ClientSettings>,
    listen_origin: Origin,
}

/// The files of a certificate and its key; both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate: the server's own first, then those that lead to a root.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Config {
    /// Resolves the settings: what `options` leaves open comes from the file that it names, else from `profiled.toml` in
    /// the working folder if that exists, else from the defaults.
    pub fn resolve(options: &ServeOptions) -> Result<Self, ConfigError> {
        Self::resolve_with(options, Path::new(DEFAULT_FILE))
    }

    /// The settings of a client: its own, or the defaults as long as no client is configured. `None` for a client that
    /// is not served.
    pub fn client(&self, client: &ClientCode) -> Option<ClientSettings> {
        if self.clients.is_empty() {
            return Some(self.any_client.clone());
        }
        self.clients.get(client).cloned()
    }

    /// What holds for every client as long as none is configured.
    pub fn any_client(&self) -> &ClientSettings {
        &self.any_client
    }

    /// The clients that are configured. If there are none, every client code is accepted.
    pub fn clients(&self) -> impl Iterator<Item = (&ClientCode, &ClientSettings)> {
        self.clients.iter()
    }

    /// The client to which an organisation belongs, as Adobe's SDKs send it.
    pub fn client_of_ims_org(&self, org: &str) -> Option<&ClientCode> {
        let mut clients = self.clients.iter();
        clients.find(|(_, it)| it.ims_orgs.iter().any(|own| own.as_str() == org)).map(|(client, _)| client)
    }

    /// The shortest lifetime of any client's profiles.
    pub fn lifetime_ms_min(&self) -> u64 {
        let lifetimes = self.clients.values().map(|client| client.lifetime_ms);
        lifetimes.min().unwrap_or(self.any_client.lifetime_ms)
    }

    /// The part of `cache` for the store's cache.
    pub fn store_cache_bytes(&self) -> u64 {
        let cache = self.server.cache_bytes;
        cache.saturating_sub(WORK_BYTES).max(cache / STORE_PART)
    }

    /// The largest batch file that is held in memory while it is applied.
    pub fn held_bytes_max(&self) -> u64 {
        self.server.cache_bytes / HELD_PART
    }

    /// The certificate for HTTPS; none: plain HTTP.
    pub fn tls(&self) -> Option<TlsFiles> {
        let (cert, key) = (self.https.cert.clone()?, self.https.key.clone()?);
        Some(TlsFiles { cert, key })
    }

    /// These settings, with those that may change while the daemon runs as `next` has them.
    pub fn following(&self, next: &Self) -> Self {
        Self {
            server: self.server.following(&next.server),
            https: self.https.following(&next.https),
            upkeep: self.upkeep.following(&next.upkeep),
            backups: self.backups.following(&next.backups),
            limits: self.limits.following(&next.limits),
            callers: self.callers.following(&next.callers),
            heads: self.heads.following(&next.heads),
            timeouts: self.timeouts.following(&next.timeouts),
            ingest: self.ingest.following(&next.ingest),
            cluster: self.cluster.following(&next.cluster),
            kafka: self.kafka.clone(),
            any_client: self.any_client.following(&next.any_client),
            clients: next.clients.clone(),
            listen_origin: self.listen_origin.clone(),
        }
    }

    /// Which settings `next` has otherwise, in the order of the docs.
    pub fn changes_to(&self, next: &Self) -> ChangedSettings {
        let mut changed = ChangedSettings::default();
        changed.add("", &self.server, &next.server);
        changed.add("", &self.https, &next.https);
        changed.add("", &self.upkeep, &next.upkeep);
        changed.add("", &self.backups, &next.backups);
        changed.add("", &self.limits, &next.limits);
        changed.add("", &self.callers, &next.callers);
        changed.add("", &self.heads, &next.heads);
        changed.add("", &self.timeouts, &next.timeouts);
        changed.add(INGEST, &self.ingest, &next.ingest);
        changed.add("", &self.any_client, &next.any_client);
        let any_client = (&self.any_client, &next.any_client);
        changed.add_clients(CLIENTS, (&self.clients, &next.clients), any_client);
        changed.add(CLUSTER, &self.cluster, &next.cluster);
        changed.add_texts(&format!("{CLUSTER}.{KAFKA}"), &self.kafka, &next.kafka);
        changed
    }

    /// Refuses an address that other machines can reach if anybody may do anything: unless there are tokens, or
    /// `allow_anonymous` is set.
    pub fn check_reach(&self, tokens: bool) -> Result<(), ConfigError> {
        let listen = self.server.listen;
        let loopback = listen.ip().to_canonical().is_loopback();
        if loopback || tokens || self.server.allow_anonymous {
            return Ok(());
        }
        Err(ConfigError::Anonymous { origin: self.listen_origin.clone(), listen })
    }

    fn resolve_with(options: &ServeOptions, default_file: &Path) -> Result<Self, ConfigError> {
        let file = File::read(options.config.as_deref(), default_file)?;
        let table = file.parse()?;
        check_keys(&file, &table)?;
        let given = Given { flags: Some(&options.flags), table: Some(&table), file: &file };
        let in_ingest = Given { flags: None, table: file.table(&table, INGEST)?, file: &file };
        let in_cluster =
            Given { flags: Some(&options.flags), table: file.table(&table, CLUSTER)?, file: &file };

        let any_client = ClientSettings::resolve(&given, &ClientSettings::default())?;
        let config = Self {
            server: Server::resolve(&given, &Server::default())?,
            https: Https::resolve(&given, &Https::default())?,
            upkeep: Upkeep::resolve(&given, &Upkeep::default())?,
            backups: Backups::resolve(&given, &Backups::default())?,
            limits: Limits::resolve(&given, &Limits::default())?,
            callers: Callers::resolve(&given, &Callers::default())?,
            heads: HeadLimits::resolve(&given, &HeadLimits::default())?,
            timeouts: Timeouts::resolve(&given, &Timeouts::default())?,
            ingest: Ingest::resolve(&in_ingest, &Ingest::default())?,
            cluster: ClusterNode::resolve(&in_cluster, &ClusterNode::default())?,
            kafka: kafka(&file, in_cluster.table)?,
            clients: clients(&file, file.table(&table, CLIENTS)?, &any_client)?,
            any_client,
            listen_origin: given.origin("listen").unwrap_or(Origin::Flag("listen")),
        };
        config.check_together(&given, &in_ingest)?;
        config.check_cluster(&in_cluster)?;
        Ok(config)
    }

    /// Checks what a node of several needs.
    fn check_cluster(&self, in_cluster: &Given<'_>) -> Result<(), ConfigError> {
        for (one, other) in [("order", "node"), ("node", "order")] {
            if let (Some(origin), None) = (in_cluster.origin(one), in_cluster.origin(other)) {
                return Err(ConfigError::HalfCluster { origin, given: one, missing: other });
            }
        }
        if let (Some(origin), None) = (in_cluster.origin("changes_topic"), in_cluster.origin("order")) {
            return Err(ConfigError::ChangesOfOne { origin });
        }
        let (cluster, listen) = (&self.cluster, self.server.listen);
        if cluster.order.is_some() && cluster.advertise.is_none() && listen.ip().is_unspecified() {
            return Err(ConfigError::NoAdvertise { origin: self.listen_origin.clone(), listen });
        }
        Ok(())
    }

    /// Checks what one setting demands of another.
    fn check_together(&self, given: &Given<'_>, in_ingest: &Given<'_>) -> Result<(), ConfigError> {
        for (one, other) in [("tls_cert", "tls_key"), ("tls_key", "tls_cert")] {
            if let (Some(origin), None) = (given.origin(one), given.origin(other)) {
                return Err(ConfigError::HalfTls { origin, given: one, missing: other });
            }
        }
        if let (Some(origin), None) = (in_ingest.origin("window"), in_ingest.origin("max_rows_per_second")) {
            return Err(ConfigError::WindowAlone { origin });
        }
        let data = std::path::absolute(&self.server.data_folder);
        let folder = self.backups.folder.as_ref().and_then(|folder| std::path::absolute(folder).ok());
        if let (Some(folder), Ok(data), Some(origin)) = (folder, data, given.origin("backup_folder"))
            && folder.starts_with(&data)
        {
            return Err(ConfigError::BackupsInData { origin, folder, data });
        }
        if let (Some(origin), true) = (given.origin("backup_url"), self.backups.folder.is_some()) {
            return Err(ConfigError::TwoBackupPlaces { origin });
        }
        if let (Some(origin), false) = (given.origin("backup_url"), cfg!(feature = "s3")) {
            return Err(ConfigError::NoS3 { origin });
        }
        let plain = self.backups.endpoint.as_ref().filter(|endpoint| endpoint.is_plain());
        if let (Some(endpoint), Some(origin), false) =
            (plain, given.origin("s3_endpoint"), self.backups.allow_http)
        {
            return Err(ConfigError::PlainEndpoint { origin, endpoint: endpoint.as_str().to_owned() });
        }
        let unknown = self.server.default_client.as_ref().filter(|client| self.client(client).is_none());
        if let (Some(client), Some(origin)) = (unknown, given.origin("default_client")) {
            let configured: Vec<&str> = self.clients.keys().map(ClientCode::as_str).collect();
            let configured = configured.join(", ");
            return Err(ConfigError::DefaultClient { origin, client: client.clone(), configured });
        }
        Ok(())
    }
}

impl Ingest {
    /// How many rows a second may be applied at that moment; none: no limit.
    pub fn rows_per_second_at(&self, now: Millis) -> Option<NonZeroU32> {
        let inside = self.window.as_ref().is_none_or(|window| window.contains(now));
        self.rows_per_second_max.filter(|_| inside)
    }
}

/// The settings that may stand in a table of the file.
fn known(table: Table) -> Vec<&'static Declared> {
    let stands = |section: Table, declared: &Declared| match table {
        Table::Top => {
            section == Table::Top || (section == Table::Client && declared.set_in == SetIn::Anything)
        }
        other => section == other,
    };
    let settings = SECTIONS.iter().flat_map(|it| it.settings.iter().map(|declared| (it.table, declared)));
    settings.filter(|(section, declared)| stands(*section, declared)).map(|(_, declared)| declared).collect()
}

/// Checks every key and every value of the file.
fn check_keys(file: &File, table: &DeTable<'_>) -> Result<(), ConfigError> {
    let (top, ingest, client) = (known(Table::Top), known(Table::Ingest), known(Table::Client));
    let cluster = known(Table::Cluster);
    let elsewhere = |key: &str| {
        let of = |settings: &[&Declared], name| settings.iter().any(|it| it.key == key).then_some(name);
        of(&top, "at the top of the file, before its first table")
            .or_else(|| of(&ingest, "under [ingest]"))
            .or_else(|| of(&client, "under [clients.NAME]"))
            .or_else(|| of(&cluster, "under [cluster]"))
    };
    file.check(table, &top, &[INGEST, CLIENTS, CLUSTER], elsewhere)?;
    if let Some(table) = file.table(table, CLUSTER)? {
        file.check(table, &cluster, &[KAFKA], elsewhere)?;
    }
    if let Some(table) = file.table(table, INGEST)? {
        file.check(table, &ingest, &[], elsewhere)?;
    }
    for (name, value) in file.table(table, CLIENTS)?.into_iter().flatten() {
        file.check(file.as_table(name.get_ref(), value)?, &client, &[], elsewhere)?;
    }
    Ok(())
}

/// The properties of `[cluster.kafka]`: texts, numbers or booleans, passed on as they are written.
fn kafka(file: &File, cluster: Option<&DeTable<'_>>) -> Result<BTreeMap<String, String>, ConfigError> {
    let table = match cluster {
        Some(cluster) => file.table(cluster, KAFKA)?,
        None => None,
    };
    let property =
        |(name, value): (&toml::Spanned<toml::de::DeString<'_>>, &toml::Spanned<toml::de::DeValue<'_>>)| {
            let text = match value.get_ref() {
                toml::de::DeValue::String(text) => text.to_string(),
                toml::de::DeValue::Integer(number) => number.as_str().to_owned(),
                toml::de::DeValue::Boolean(truth) => truth.to_string(),
                _ => {
                    let what = format!("{} must be a text, a number, or true or false", name.get_ref());
                    return Err(file.wrong(value.span().start, what));
                }
            };
            Ok((name.get_ref().to_string(), text))
        };
    table.into_iter().flatten().map(property).collect()
}

/// The clients of the tables `[clients.NAME]`.
fn clients(
    file: &File,
    tables: Option<&DeTable<'_>>,
    any_client: &ClientSettings,
) -> Result<BTreeMap<ClientCode, ClientSettings>, ConfigError> {
    let mut owners: BTreeMap<Org, ClientCode> = BTreeMap::new();
    let mut clients = BTreeMap::new();
    for (name, value) in tables.into_iter().flatten() {
        let name_at = name.span().start;
        let code = ClientCode::new(name.get_ref());
        let code =
            code.map_err(|e| file.wrong(name_at, format!("{:?} is not a client code: {e}", name.get_ref())))?;
        let table = file.as_table(name.get_ref(), value)?;
        let orgs = table.get("ims_orgs").map(Written::from).and_then(Written::items).unwrap_or_default();
        for written in orgs {
            let org = Org::read(written).map_err(|wrong| file.wrong(name_at, wrong.what))?;
            if let Some(first) = owners.insert(org.clone(), code.clone()) {
                let origin = file.line(written.at.unwrap_or(name_at));
                return Err(ConfigError::ImsOrgTwice { origin, org, first });
            }
        }
        let given = Given { flags: None, table: Some(table), file };
        clients.insert(code, ClientSettings::resolve(&given, any_client)?);
    }
    Ok(clients)
}

#[cfg(test)]
mod tests;
