//! The commit thread's groups: the requests that are committed together, each with the caller to answer.
//!
//! Promises: every request is answered once, in the order in which they came, however many journal groups it takes. Only a node
//! that waits to apply the order of several lets its own requests pass it. A
//! disk without space refuses what would fill it further, and nothing else.

use crate::engine::commit::request::{Answer, Ordered, Request, VisitorWrite};
use crate::engine::error::{EngineError, Fatal};
use std::collections::VecDeque;

/// A checkpoint is due whenever the journal has grown by this much.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// What the commit thread answers to one request.
pub type Reply = Result<Answer, EngineError>;

/// Requests that came together. `W` is the caller to answer.
#[derive(Debug)]
pub struct Group<W> {
    requests: VecDeque<Ordered>,
    waiting: VecDeque<W>,
}

impl<W> Group<W> {
    /// Of all that is waiting.
    pub fn of<R: Into<Ordered>>(asked: impl IntoIterator<Item = (R, W)>) -> Self {
        let (requests, waiting) =
            asked.into_iter().map(|(request, waiting)| (request.into(), waiting)).unzip();
        Self { requests, waiting }
    }

    /// Whether all is answered.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// How many requests are not answered yet.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// How many of the requests that are not answered yet the order of several nodes has placed.
    pub fn placed(&self) -> u64 {
        self.requests.iter().filter(|asked| asked.placed.is_some()).count() as u64
    }

    /// Takes out the requests that would fill the disk further. What is asked from inside ends what was begun, and what is
    /// erased or removed makes space one day. What the order of several nodes has placed must be done: refusing it is no
    /// longer this node's to decide.
    pub fn take_out_writes(&mut self) -> Vec<W> {
        let asked = std::mem::take(&mut self.requests).into_iter().zip(std::mem::take(&mut self.waiting));
        let (writes, others): (Vec<_>, Vec<_>) =
            asked.partition(|(asked, _)| asked.placed.is_none() && fills_the_disk(&asked.request));
        *self = Self::of(others);
        writes.into_iter().map(|(_, waiting)| waiting).collect()
    }

    /// Takes in what came meanwhile, and moves what the order of several nodes has placed behind all else. While a node waits to apply the
    /// order, what it asks of itself goes on: the wait may be for just that.
    pub fn let_own_go_first<R: Into<Ordered>>(&mut self, more: impl IntoIterator<Item = (R, W)>) {
        let all = std::mem::take(&mut self.requests).into_iter().zip(std::mem::take(&mut self.waiting));
        let more = more.into_iter().map(|(request, waiting)| (request.into(), waiting));
        let (placed, own): (Vec<_>, Vec<_>) = all.chain(more).partition(|(asked, _)| asked.placed.is_some());
        *self = Self::of(own.into_iter().chain(placed));
    }

    /// Leaves out what the order of several nodes has placed: the node is stopping, and reads it again at its next start.
    pub fn leave_placed(&mut self) {
        let all = std::mem::take(&mut self.requests).into_iter().zip(std::mem::take(&mut self.waiting));
        *self = Self::of(all.filter(|(asked, _)| asked.placed.is_none()));
    }

    /// Commits the next of them in one journal group; gives the answers, each with whom it is for. There may be none: what
    /// comes before a request can fill a group alone.
    pub fn commit(
        &mut self,
        commit: impl FnOnce(&mut VecDeque<Ordered>) -> Result<Vec<Reply>, Fatal>,
    ) -> Result<Vec<(W, Reply)>, Fatal> {
        let before = self.requests.len();
        let answers = commit(&mut self.requests)?;
        if answers.len() + self.requests.len() != before {
            let (answers, left) = (answers.len(), self.requests.len());
            return Err(Fatal::new(format!("{before} requests got {answers} answers, and {left} wait")));
        }
        Ok(self.waiting.drain(..answers.len()).zip(answers).collect())
    }
}

fn fills_the_disk(request: &Request) -> bool {
    match request {
        Request::Site(..) | Request::Accept(_) => true,
        Request::Visitor(_, _, write, ..) => matches!(write, VisitorWrite::Set(_)),
        _ => false,
    }
}

/// When the next checkpoint is due by what was journaled.
#[derive(Debug, Default)]
pub struct CheckpointDue {
    journaled: u64,
}

impl CheckpointDue {
    /// So many bytes were journaled since the start; gives whether a checkpoint is due, once.
    pub fn is_due(&mut self, journaled: u64) -> bool {
        let due = journaled.saturating_sub(self.journaled) >= CHECKPOINT_BYTES;
        if due {
            self.journaled = journaled;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::commit::request::{Placed, WriteRules};
    use crate::engine::types::{CallIds, SiteCall};
    use crate::model::author::Author;
    use crate::model::id::{ClientCode, IdKind, VisitorId};
    use crate::model::profile::Source;
    use crate::model::seq::Millis;
    use crate::order::record::RunId;
    use crate::order::{Offset, Place};

    const RULES: WriteRules = WriteRules { lifetime_ms: 1, max_profile_bytes: 1, history_max: 16 };

    fn client() -> ClientCode {
        ClientCode::new("demo").unwrap()
    }

    fn site() -> Request {
        let (ids, source, attributes) = (CallIds::default(), Source::Mbox, vec![]);
        Request::Site(SiteCall { client: client(), ids, source, attributes }, RULES)
    }

    fn write(write: VisitorWrite) -> Request {
        Request::Visitor(client(), VisitorId::new(IdKind::Pc, "p").unwrap(), write, Author::default(), RULES)
    }

    #[test]
    fn each_request_is_answered_in_its_order_over_several_groups() {
        let mut group = Group::of([(site(), 'a'), (Request::Mark, 'b'), (Request::Rotate, 'c')]);
        let mut answered = vec![];
        // A group that takes two, one that takes none, and one that takes the rest.
        for takes in [2, 0, 1] {
            let commit = |requests: &mut VecDeque<Ordered>| {
                Ok(requests.drain(..takes).map(|_| Ok(Answer::Done)).collect())
            };
            answered.push(group.commit(commit).unwrap().into_iter().map(|(who, _)| who).collect::<String>());
        }
        assert_eq!(answered, ["ab", "", "c"]);
        assert!(group.is_empty());
    }

    #[test]
    fn while_the_order_waits_the_nodes_own_requests_pass_it() {
        let place = |number| Placed {
            place: Place { offset: Offset(number), within: 0 },
            record_crc32c: 0,
            time: Millis(0),
            run: RunId([0; 16]),
            number,
        };
        let placed = |number| Ordered { request: site(), placed: Some(place(number)) };
        let own = |request: Request| Ordered::from(request);
        let mut group = Group::of([(placed(1), 'a'), (own(Request::Mark), 'b'), (placed(2), 'c')]);
        group.let_own_go_first([(placed(3), 'd'), (own(Request::Rotate), 'e')]);
        assert_eq!(group.waiting.iter().collect::<String>(), "beacd");
        assert_eq!((group.len(), group.placed()), (5, 3));
        group.leave_placed();
        assert_eq!(group.waiting.iter().collect::<String>(), "be");
    }

    #[test]
    fn an_answer_too_few_is_fatal() {
        let mut group = Group::of([(Request::Mark, 'a'), (Request::Mark, 'b')]);
        let commit = |requests: &mut VecDeque<Ordered>| {
            requests.clear();
            Ok(vec![Ok(Answer::Done)])
        };
        assert!(group.commit(commit).is_err());
    }

    #[test]
    fn a_full_disk_refuses_what_fills_it_and_nothing_else() {
        let asked = [
            (site(), 'a'),
            (write(VisitorWrite::Set(vec![])), 'b'),
            (write(VisitorWrite::Remove(vec![])), 'c'),
            (write(VisitorWrite::Erase), 'd'),
            (Request::Mark, 'e'),
            (Request::Resolve(client(), vec![]), 'f'),
        ];
        let mut group = Group::of(asked);
        assert_eq!(group.take_out_writes(), ['a', 'b']);
        assert_eq!((group.len(), group.waiting.iter().collect::<String>().as_str()), (4, "cdef"));
    }

    #[test]
    fn a_checkpoint_is_due_once_for_each_stretch_of_journal() {
        let mut due = CheckpointDue::default();
        let mib = 1 << 20;
        assert_eq!(
            [10, 63, 64, 65, 127, 128, 400].map(|journaled| due.is_due(journaled * mib)),
            [false, false, true, false, false, true, true]
        );
    }
}
