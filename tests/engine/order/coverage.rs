//! The situations that the random sequences met, counted over all cases. A property test that never meets a situation proves
//! nothing about it, so a zero fails the run.

use std::cell::RefCell;

macro_rules! situations {
    ($($name:ident: $says:literal,)+) => {
        /// A situation that the sequences must meet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Met { $($name,)+ }

        const SAYS: &[&str] = &[$($says,)+];
    };
}

situations! {
    Handover: "a pcId handed over to another thirdPartyId",
    DeviceOfEcid: "a call without a pcId, of an ECID that came with one",
    MadeIdElsewhere: "a pcId of our making that leads to somebody else",
    Rebind: "an id bound again where it was bound before",
    LoginMerge: "a login that merged two profiles with attributes",
    OldestLinkDropped: "a 257th pcId that dropped the oldest link",
    TwoLinkedIdsInOneBatch: "two linked ids of one visitor in one batch",
    Creation: "a row that created",
    RowTooLarge: "a row too large",
    AttributeLeftOut: "an attribute left out of a single write for size",
    ExpiryMetByRow: "expiry met by a row",
    ExpiryMetBySiteCall: "expiry met by a site call",
    ExpiryMetByUpdate: "expiry met by a single update",
    ExpiryMetByLink: "expiry met by a bind",
    RebornAfterErasure: "erased, then reborn",
    LayerReplaced: "replace mode: a layer replaced",
    LayerMerged: "replace mode: a layer merged",
    VisitNotWritten: "a visit that was no write",
    VisitNotWrittenOverPending: "a visit that was no write, of a visitor with pending rows",
    ErasedWhenExpired: "an expired visitor erased",
    SeveralInOneGroup: "several requests in one commit group",
    BatchAndBindInOneGroup: "a batch and a bind of its visitor in one group",
    RowResolvedByWrite: "a pending row resolved by a write",
    RowResolvedForApplying: "a pending row resolved at the apply thread's request",
    WriteBeatsPendingRow: "a write to an attribute that a pending row sets",
    BornAfterBatch: "a visitor born after a pending batch that did not find it",
    AppliedBetweenWrites: "a batch applied in part, then a write",
    Bundled: "an id of several rows of one batch",
    BundledSomeTooLarge: "some of them too large",
    BundledCreation: "some of them before and behind one that created",
    BundlesMixed: "those of two linked ids between each other",
    LeftToCommitThread: "a visitor left to the commit thread by the apply thread",
    ResolvedBeforeItsTurn: "rows resolved a group before the request they are resolved for",
    Completed: "a batch completed",
    RestartMidApplying: "a restart in the middle of applying",
    RestartBeforeComplete: "a restart between the outcomes and the completion",
    OutcomeCarriedAcrossCrash: "a resolved outcome carried across a crash",
    CrashedStoreFellBack: "a key that fell back at a crash",
    StoreRebuilt: "a store rebuilt from the whole journal",
    StoreRebuiltUnderComplete: "a store rebuilt after a batch was complete",
    CheckpointTaken: "a checkpoint",
    Swept: "something swept",
    SweptUnderPending: "something swept while a batch was pending",
    WriteBetweenMarkAndCheckpoint: "a write between a checkpoint's mark and its end",
    SettingsChangedAtRestart: "settings changed at a restart over a pending batch",
    SnapshotTaken: "a snapshot",
    WriteBetweenPages: "a write between a snapshot's pages",
    BindBetweenPages: "a bind between them",
    ApplyBetweenPages: "rows applied between them",
    CrashUnderSnapshot: "a crash while a snapshot was taken",
    MadeFromSnapshot: "a store made from a snapshot",
    OlderSnapshotUsed: "a store made from the older of two snapshots",
    MadeFromSnapshotUnderComplete: "a store made from a snapshot under a batch that was complete behind it",
    Swapped: "a fresh store swapped in",
    WriteDuringSwap: "a swap with writes during the copy",
    BindDuringSwap: "a swap with a bind during it",
    ApplyDuringSwap: "a swap with rows applied during it",
    RowsOverwritten: "an erased visitor's rows overwritten in an upload",
    OverwrittenAppliedAgain: "an upload with overwritten rows applied once more",
    TombstoneLeftOut: "a tombstone that a fresh store leaves out",
    CrashWhileCopying: "a crash while a fresh store was filled or made durable",
    CrashBeforeAdopt: "a crash right before a fresh store was adopted",
    CrashAfterAdopt: "a crash between adopting a fresh store and swapping it in",
    SegmentsRetired: "segments retired",
    RestartAfterRetired: "a restart after segments were retired",
    BatchForgotten: "a complete batch forgotten past its retention",
    ClockSteppedBack: "a clock that stepped back an hour at a restart",
}

thread_local! {
    static COUNTS: RefCell<Counts> = const { RefCell::new(Counts([0; SAYS.len()])) };
}

/// How often each situation was met.
#[derive(Debug, Clone)]
pub(crate) struct Counts([u64; SAYS.len()]);

/// Counts a situation, on this thread.
pub(crate) fn met(what: Met) {
    COUNTS.with_borrow_mut(|counts| counts.0[what as usize] += 1);
}

/// The situations that this thread met so far.
pub(crate) fn counts() -> Counts {
    COUNTS.with_borrow(Clone::clone)
}

impl Counts {
    pub(crate) fn add(&mut self, more: &Self) {
        self.0.iter_mut().zip(more.0).for_each(|(count, more)| *count += more);
    }

    /// The situations never met.
    pub(crate) fn never(&self) -> Vec<&'static str> {
        SAYS.iter().zip(self.0).filter(|(_, count)| *count == 0).map(|(says, _)| *says).collect()
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        SAYS.iter().zip(self.0).try_for_each(|(says, count)| writeln!(f, "{count:>9}  {says}"))
    }
}
