//! The order over Apache Kafka. The only module that knows `rdkafka`, and compiled only with the feature `cluster`.
//!
//! ```text
//! settings   the order's address, and what is passed on to librdkafka
//! client     what librdkafka says goes to the log; its errors in our words
//! topics     the topics: made, and checked
//! log        one topic partition as a `Log`
//! events     the topic of changes as an `EventTopic`
//! ```
//!
//! An order at `kafka://HOST:PORT,…/PREFIX` has three topics of one partition each:
//!
//! | topic | holds | kept |
//! | --- | --- | --- |
//! | `PREFIX.order` | the requests | until all nodes have them in a snapshot |
//! | `PREFIX.files` | the bytes of batches | until all nodes have them in a snapshot |
//! | `PREFIX.nodes` | what each node reports of itself | the last report of each (compacted), and how far changes are passed on |
//!
//! Changes go to a topic of any name, with several partitions, if the settings name one. It is kept as its owner sets it.

mod client;
pub mod events;
pub mod log;
pub mod settings;
pub mod topics;
