//! The order over Apache Kafka. The only module that knows `rdkafka`, and compiled only with the feature `cluster`.
//!
//! ```text
//! settings   the order's address, and what is passed on to librdkafka
//! asked      which brokers are asked
//! client     what librdkafka says goes to the log; its errors in our words
//! leaders    who leads the topics, in the eyes of every broker
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

mod asked;
mod client;
pub mod events;
pub mod leaders;
pub mod log;
pub mod settings;
pub mod topics;
