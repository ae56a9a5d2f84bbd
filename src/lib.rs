//! A visitor-profile store that speaks Adobe Target's profile APIs: bulk CSV updates, site calls and lookups, on one
//! durable order.
//!
//! The journal is the truth; the store is a view of it that can be rebuilt. Every accepted write has a [`Seq`], and
//! what any visitor looks like is what comes of applying all accepted writes one after the other in that order,
//! whenever they are really folded in. The rules are numbered R1–R12 in `docs/internals/design.md`, and comments here cite them.
//!
//! # Where things are
//!
//! Imports run only downward in this list; `tests/engine/layers.rs` enforces it.
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`model`] | ids, seqs, stored values and their bytes, the pure [`fold`]; no async, no I/O, no clock |
//! | [`sync`] | locks and atomics, exchangeable for a schedule explorer's in test builds |
//! | [`clock`] | what time it is, as far as the machine's clock is to be believed |
//! | [`durable`] | files that are there whole, or not at all |
//! | [`folder`] | what tells a data folder from any other: its format stamp, and the mark of one that is not finished |
//! | [`tokens`], [`audit`] | who may do what; who did what |
//! | [`config`], [`telemetry`] | settings, resolved and checked before anything opens; log lines and metrics |
//! | [`journal`] | segments, group commit, entries, snapshots |
//! | [`store`] | the seam to what keeps the profiles; sled and memory behind it, and the swap of one for a fresh one |
//! | [`batch`] | the batch file's parser, the spool, pending rows, resolving, background folding |
//! | [`engine`] | what every front door calls: `site_call`, `update`, `read`, `accept_batch`; and what keeps the data folder well: opening, healing, snapshots, backups, erasure, checking |
//! | [`http`] | hyper, TLS, what each caller may take, the router, Adobe's forms and our own, the inspector's pages |
//! | [`cli`] | one file per subcommand |
//!
//! # A batch
//!
//! 1. [`http`] hands the body's frames to an [`Upload`], which [decodes](batch::encoding) them if they are compressed,
//!    writes them to the [spool], parses them and keeps for each row the hash of its id and its place: 16 bytes. A
//!    refusal, or a client that goes away, leaves nothing.
//! 2. The file is fsynced, its index sorted. The commit thread gives it a seq, journals `BatchAccepted` with the file's
//!    checksum, and [publishes](batch::queue::Batches::publish) it as a *pending* batch. Only now is it acknowledged, and
//!    from now on every lookup folds its rows in.
//! 3. The folding thread takes batches in turn. A [`Plan`](batch::apply::Plan) reads the file; if it is not what was
//!    accepted, the batch is held alone, as `stuck`, and all others go on. The plan sorts the rows by key. Two
//!    [`Part`](batch::apply::Part)s read each row once more from the page cache, compare it with what it said before, and
//!    fold it into the store, one atomic swap a visitor. A row whose outcome could not be told from the profile
//!    afterwards goes through the commit thread instead, and so does a visitor with thousands of rows.
//! 4. Outcomes are written, the store is made durable, `BatchCompleted` is journaled, the pending rows are dropped.
//!
//! # A site call
//!
//! 1. [`http`] decodes it into a [`SiteCall`](engine::SiteCall), and [`Engine::site_call`](engine::Engine::site_call) queues it.
//! 2. The [commit thread](engine::commit) takes what is waiting as one group. For each request it takes a seq, *resolves*
//!    the visitor ([`resolve`](batch::resolve::resolve): pending rows of all its ids are folded in first, for they are
//!    earlier in the order), then binds ids and applies the attributes, all in a view that nobody else sees.
//! 3. The group is one journal frame: one write, one `fdatasync`. Its entries hold the new values themselves, and what
//!    became of the rows they resolved.
//! 4. The values are put into the store, each unless what is there reaches as far; then the calls are answered.
//!
//! # A lookup
//!
//! [`look_up`](engine::look_up) takes the list of pending batches first and reads the store second, follows links, folds
//! the visitor's pending rows in by the same `resolve`, and shows the result. It waits for nobody.
//!
//! # What never happens
//!
//! - A success is never answered before its journal frame is synced; a failed sync is never retried.
//! - Nothing in a write's outcome depends on the clock at folding time, or on today's configuration.
//! - No async thread reads or writes a file. No lock is held across an await.
//! - Attribute values, tokens and bodies are never logged.
//!
//! [`Seq`]: model::seq::Seq
//! [`fold`]: model::update::fold
//! [`Upload`]: engine::Upload
//! [spool]: batch::spool

pub mod audit;
pub mod batch;
pub mod cli;
pub mod clock;
pub mod config;
pub mod durable;
pub mod engine;
pub mod folder;
pub mod http;
pub mod journal;
pub mod layout;
pub mod model;
pub mod store;
pub mod sync;
pub mod telemetry;
pub mod tokens;
