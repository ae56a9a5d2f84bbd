//! Gets the files of held batches from other nodes, which a single daemon has to ask its operator for.
//!
//! Promises: what another node gives counts as if the client had sent the file again: only the very file that was accepted ends the hold. A
//! file that no other node has yet is asked for again, ever less often. One file is on its way at a time, and takes as much memory as
//! an upload.

use crate::batch::pending::Pending;
use crate::engine::ingest::intake::Intake;
use crate::engine::ingest::state::Ingest;
use crate::engine::peers::Peers;
use crate::model::seq::Seq;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often it looks for held batches.
const HELD_LOOK: Duration = Duration::from_millis(200);
/// How long a batch waits after the first vain attempt, and at most. In between the time doubles.
const AGAIN_AFTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// A batch whose file nobody gave.
struct InVain {
    again_at: Instant,
    waits: Duration,
}

/// Mends held batches until the daemon stops.
pub(in crate::engine) fn run(ingest: &Ingest, peers: &dyn Peers) {
    let mut in_vain: HashMap<Seq, InVain> = HashMap::new();
    while ingest.shared.signals.wait(HELD_LOOK) {
        let held = ingest.shared.batches.held_batches();
        in_vain.retain(|seq, _| held.iter().any(|pending| pending.accepted.id.seq == *seq));
        for pending in held {
            let id = &pending.accepted.id;
            let before = in_vain.get(&id.seq);
            if before.is_some_and(|before| before.again_at > Instant::now()) {
                continue;
            }
            match mend(ingest, peers, &pending) {
                Ok(node) => {
                    tracing::info!(batch = %id, node, "the file of a batch came from another node");
                    in_vain.remove(&id.seq);
                }
                Err(why) => {
                    let (first, longest) = AGAIN_AFTER;
                    let waits = before.map_or(first, |before| (before.waits * 2).min(longest));
                    if before.is_none() && !ingest.shared.signals.is_stopping() {
                        tracing::warn!(batch = %id, %why, "no other node gave the file of a held batch: it is asked for again now and then");
                    }
                    in_vain.insert(id.seq, InVain { again_at: Instant::now() + waits, waits });
                }
            }
        }
    }
}

/// Has the batch go on with the file that another node has. Gives the node's name, or what each of them said.
fn mend(ingest: &Ingest, peers: &dyn Peers, pending: &Pending) -> Result<String, String> {
    let mut said = vec![];
    for node in peers.names() {
        match mend_from(ingest, peers, &node, pending) {
            Ok(()) => return Ok(node),
            Err(why) => said.push(format!("{node}: {why}")),
        }
    }
    Err(if said.is_empty() { "no other node is there".into() } else { said.join("; ") })
}

fn mend_from(ingest: &Ingest, peers: &dyn Peers, node: &str, pending: &Pending) -> Result<(), String> {
    let (shared, accepted) = (&ingest.shared, &pending.accepted);
    let goes_on = || !shared.signals.is_stopping();
    let mut file = peers.file(node, &accepted.id, &goes_on)?;
    let begun = Intake::begin(shared, accepted.id.client.clone(), accepted.rules.clone());
    let mut intake = begun.map_err(|error| error.to_string())?;
    // The batch was accepted: its file has its room in the spool already.
    intake.lift_limit();
    let mut left = accepted.bytes;
    while let Some(bytes) = file.next(&goes_on)? {
        let more = left.checked_sub(bytes.len() as u64);
        left =
            more.ok_or_else(|| format!("its file is longer than the {} bytes accepted", accepted.bytes))?;
        shared.disk_space.for_writes().map_err(|error| error.to_string())?;
        intake.push(&bytes).map_err(|error| error.to_string())?;
    }
    intake.end().map_err(|error| error.to_string())?;
    let sent = intake.finish(shared).map_err(|error| error.to_string())?;
    ingest.put_back(&accepted.id, sent).map_err(|error| error.to_string())
}
