//! A visitor-profile store that speaks Adobe Target's profile APIs: bulk CSV updates, site calls and lookups, on one
//! durable order.
//!
//! The journal is the truth; the store is a view of it that can be rebuilt. Every accepted write has a [`Seq`]. A
//! visitor's profile is the result of all accepted writes in the order of their seqs, no matter when the store really
//! applies them. `docs/internals/design.md` numbers the rules R1–R12, and comments here cite them.
//!
//! # Where things are
//!
//! Imports run only downward in this list; `tests/engine/layers.rs` enforces it.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`model`] | ids, seqs, stored values and their bytes, the pure [`apply_rows`]; no async, no I/O, no clock |
//! | [`layout`] | the names of all files and folders of a data folder |
//! | [`sync`] | locks and atomics; test builds can exchange them for those of a schedule explorer |
//! | [`clock`] | the current time, and how far the machine's clock is trusted |
//! | [`durable`] | files that exist whole or not at all |
//! | [`folder`] | the format stamp of a data folder, and the marker of an unfinished one |
//! | [`tokens`], [`audit`] | who may do what; who did what |
//! | [`config`], [`telemetry`] | settings, resolved and checked before anything opens; log lines and metrics |
//! | [`order`] | the order of several nodes: a log of records that each of them reads; how offers are gathered into records; no Kafka |
//! | `kafka` | that log over Kafka: topics made and checked, records appended and read; a topic of changes; only with the feature `cluster` |
//! | [`bucket`] | objects in S3-compatible storage, for backups; S3 itself only with the feature `s3` |
//! | [`journal`] | segments, group commit, entries, snapshots |
//! | [`store`] | the interface to the profile store, its implementations sled and memory, and the exchange of a store for a fresh one |
//! | [`batch`] | the batch file's parser, the spool, pending rows, their resolving, and the application of batches in the background |
//! | [`engine`] | what every front door calls (`site_call`, `update`, `read`, `accept_batch`): a handle, and below it the rooms commit, driver, open, upkeep, read, ingest and offline |
//! | [`cluster`] | a daemon as one node of several: founding and joining an order, reports, trimming, passing changes on to a topic |
//! | [`http`] | hyper, TLS, limits per caller, the router, Adobe's formats and our own, the inspector's pages |
//! | [`cli`] | one file per subcommand |
//!
//! # A batch
//!
//! 1. [`http`] hands the body's frames to an [`Upload`]. The upload [decodes](batch::encoding) compressed frames, writes
//!    them to the [spool], parses them, and keeps 16 bytes per row: the hash of its id and its position. A rejected or
//!    aborted upload leaves nothing behind.
//! 2. The file is synced and its index sorted. The commit thread gives the batch a seq, journals `BatchAccepted` with the
//!    file's checksum, and [publishes](batch::queue::Batches::publish) it as a *pending* batch. Only now is the batch
//!    acknowledged. From now on every lookup includes its rows.
//! 3. The apply thread takes batches in turn. A [`Plan`](batch::apply::Plan) reads the file and sorts the rows by key. If
//!    the file differs from what was accepted, only this batch is held, as `stuck`; all others continue. Two
//!    [`Part`](batch::apply::Part)s read each row again from the page cache, check that it is unchanged, and apply it to
//!    the store, with one atomic swap per visitor. Two kinds of rows go through the commit thread instead: rows whose
//!    outcome the profile would not show afterwards, and visitors with thousands of rows.
//! 4. The outcomes are written, the store is made durable, `BatchCompleted` is journaled, the pending rows are dropped.
//!
//! # A site call
//!
//! 1. [`http`] decodes the call into a [`SiteCall`](engine::SiteCall), and
//!    [`Engine::site_call`](engine::Engine::site_call) queues it.
//! 2. The [commit thread](engine::commit) takes the waiting requests as one group. Each request gets a seq. The thread
//!    first *resolves* the visitor ([`resolve`](batch::resolve::resolve)): it applies pending rows of all the visitor's
//!    ids, because they are earlier in the order. Then it binds ids and applies the attributes. Until the group is
//!    durable, nobody else sees these changes.
//! 3. The group is one journal frame: one write, one `fdatasync`. Its entries contain the new values themselves and the
//!    outcomes of the resolved rows.
//! 4. Each value goes into the store unless the store already has a newer one. Then the calls are answered.
//!
//! # A lookup
//!
//! [`look_up`](engine::look_up) takes the list of pending batches first and reads the store second. It follows links,
//! applies the visitor's pending rows with the same `resolve`, and returns the result. It never waits for a write.
//!
//! # What never happens
//!
//! - No success is answered before its journal frame is synced. A failed sync is never retried.
//! - No write's outcome depends on the clock at the time it is applied, or on a later configuration.
//! - No async thread reads or writes a file. No lock is held across an await.
//! - No attribute value, token or body is logged.
//!
//! [`Seq`]: model::seq::Seq
//! [`apply_rows`]: model::update::apply_rows
//! [`Upload`]: engine::Upload
//! [spool]: batch::spool

pub mod audit;
pub mod batch;
pub mod bucket;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod durable;
pub mod engine;
pub mod folder;
pub mod http;
pub mod journal;
#[cfg(feature = "cluster")]
pub mod kafka;
pub mod layout;
pub mod model;
pub mod order;
pub mod store;
pub mod sync;
pub mod telemetry;
pub mod tokens;
