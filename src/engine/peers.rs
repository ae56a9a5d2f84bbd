//! The other nodes of an order, as far as the engine needs them. The engine does not know where they are, nor how they are asked.

use crate::model::batch::BatchId;
use crate::order::Offset;
use bytes::Bytes;

/// The other nodes.
pub trait Peers: Send + Sync {
    /// This node has taken in a file of another one: the others are to hear of it. Returns at once.
    fn took_in(&self);

    /// Waits until the other nodes that are there have taken in everything before this offset among the pieces of files; not
    /// long, and not for one that was waited for in vain before. Blocks.
    fn wait_for_files(&self, before: Offset);

    /// The names of those that are there and may answer.
    fn names(&self) -> Vec<String>;

    /// Asks one of them for the file of a batch. Blocks, as long as it `goes_on`.
    fn file(
        &self,
        node: &str,
        batch: &BatchId,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Box<dyn PeerBody>, String>;
}

/// What a node gives, as it comes.
pub trait PeerBody: Send {
    /// The next bytes; none once it is complete. An error if it breaks off. Blocks, as long as it `goes_on`.
    fn next(&mut self, goes_on: &dyn Fn() -> bool) -> Result<Option<Bytes>, String>;
}
