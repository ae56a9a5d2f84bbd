//! The steps of a sequence, and random sequences. They use few ids, names and values, so that everything meets everything else.

use super::model::{From, Id, Kind};
use proptest::prelude::*;

/// The clients.
pub(crate) const CLIENTS: [&str; 2] = ["demo", "demo2"];
/// Ids of all three kinds bear the same names: a pcId and a thirdPartyId of one name are two visitors (R1).
pub(crate) const NAMES: [&str; 4] = ["v0", "v1", "v2", "v3"];
/// Attributes.
pub(crate) const ATTRIBUTES: [&str; 3] = ["a", "b", "c"];

pub(crate) const MINUTE_MS: u64 = 60_000;
pub(crate) const HOUR_MS: u64 = 60 * MINUTE_MS;
pub(crate) const DAY_MS: u64 = 24 * HOUR_MS;

/// The n-th visitor id of a kind.
pub(crate) fn id(kind: Kind, n: usize) -> Id {
    Id { kind, name: NAMES[n % NAMES.len()].into() }
}

/// Attributes to set, by number; later ones of the same name win.
pub(crate) type Sets = Vec<(usize, Text)>;

/// A value: a few short ones, and two that reach the limits on a profile's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text {
    Empty,
    One,
    Two,
    Long,
    Huge,
}

impl Text {
    pub(crate) fn text(self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::One => "1".into(),
            Self::Two => "22".into(),
            Self::Long => "l".repeat(30),
            Self::Huge => "h".repeat(90),
        }
    }
}

/// A batch to upload.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) by: Kind,
    /// Its rows are objects, and not lines of CSV.
    pub(crate) ndjson: bool,
    pub(crate) v2: bool,
    pub(crate) removes: bool,
    pub(crate) time: Option<Time>,
    pub(crate) columns: Vec<usize>,
    pub(crate) rows: Vec<Row>,
    /// This many more rows for visitors that nothing else names. Enough of them make several chunks of one part.
    pub(crate) fillers: usize,
}

/// The time that a batch says its values are of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Time {
    /// So many milliseconds before it is sent.
    Before(u64),
    At(u64),
}

impl Batch {
    /// The time that its values are of, if it is sent now.
    pub(crate) fn as_of_ms(&self, now_ms: u64) -> Option<u64> {
        self.time.map(|time| match time {
            Time::Before(ms) => now_ms.saturating_sub(ms),
            Time::At(at_ms) => at_ms,
        })
    }
}

/// A row of it.
#[derive(Debug, Clone)]
pub(crate) enum Row {
    /// For the n-th visitor, a pcId with or without a location hint, with a cell for each of the first columns.
    Good {
        who: usize,
        hint: bool,
        cells: Vec<Text>,
    },
    /// Not well-formed.
    BadEscape {
        who: usize,
    },
    TooManyCells {
        who: usize,
    },
    NoId,
    /// A blocked id (`blocked_ids`): this one of the list.
    BlockedId {
        word: usize,
    },
}

/// A request to the commit thread.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Site { pc: Option<usize>, third_party: Option<usize>, ecid: Option<usize>, sets: Sets },
    Update { kind: Kind, who: usize, sets: Sets },
    Remove { kind: Kind, who: usize, attributes: Vec<usize> },
    Erase { kind: Kind, who: usize },
    Batch(Batch),
}

impl Call {
    /// Where its write comes from if it is no site call and no batch.
    pub(crate) fn from(&self) -> From {
        match self {
            Self::Update { who, .. } | Self::Remove { who, .. } => From::SingleUpdate(*who),
            Self::Site { .. } | Self::Erase { .. } | Self::Batch(_) => From::SingleUpdate(usize::MAX),
        }
    }
}

/// What shapes writes and batches accepted under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) creates: bool,
    pub(crate) replaces: bool,
    pub(crate) lifetime_ms: u64,
    pub(crate) profile_bytes_max: usize,
}

/// How a start begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// With what a crash left.
    Crash,
    /// After a checkpoint.
    Checkpointed,
    /// Without the store, which is rebuilt from the journal.
    StoreLost,
    /// Without the store, which is rebuilt from the newest snapshot and the journal after it.
    FromSnapshot,
}

/// Where a fresh store's making pauses, besides when its steps are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Nowhere,
    BeforeAdopt,
    BehindAdopt,
}

/// A step of a sequence.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// One commit group.
    Commit(Vec<(usize, Call)>),
    /// Steps of background applying: the next part each, and what follows the last.
    Apply { steps: usize, part: usize, joins: bool },
    /// A checkpoint's beginning: what it will cover.
    Mark,
    /// Its end: the store made durable and the checkpoint written. Marks first if that was not done.
    Checkpoint,
    /// The daemon ends and starts again.
    Restart { how: How, fate: u64, hour_back: bool, settings: Option<Settings> },
    /// Steps of a snapshot: what is read a page at a time, and the end of it.
    Snapshot { steps: usize, rotate: bool, retire: bool, retention_over: bool },
    /// Steps of a fresh store's making, up to the swap.
    Fresh { steps: usize, stop: Stop },
    /// A checkpoint, then the sweeper goes over the whole store.
    Sweep,
    /// A batch that undoes the n-th of those that the client sent.
    Undo { client: usize, nth: usize },
    /// Time goes by.
    Wait(u64),
    /// So many pcIds bound to a thirdPartyId that the oldest drop off its list.
    Crowd { client: usize, who: usize },
}

fn who() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0usize), 3 => Just(1), 2 => Just(2), 1 => Just(3)]
}

fn text() -> impl Strategy<Value = Text> {
    prop_oneof![
        5 => Just(Text::One),
        4 => Just(Text::Two),
        3 => Just(Text::Empty),
        2 => Just(Text::Long),
        1 => Just(Text::Huge),
    ]
}

fn sets() -> impl Strategy<Value = Sets> {
    prop::collection::vec((0..ATTRIBUTES.len(), text()), 0..4)
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![5 => Just(Kind::Pc), 4 => Just(Kind::ThirdParty), 1 => Just(Kind::Ecid)]
}

fn row() -> impl Strategy<Value = Row> {
    prop_oneof![
        20 => (who(), prop::bool::weighted(0.1), prop::collection::vec(text(), 0..=3))
            .prop_map(|(who, hint, cells)| Row::Good { who, hint, cells }),
        1 => who().prop_map(|who| Row::BadEscape { who }),
        1 => who().prop_map(|who| Row::TooManyCells { who }),
        1 => Just(Row::NoId),
        1 => (0..BLOCKED.len()).prop_map(|word| Row::BlockedId { word }),
    ]
}

fn batch() -> impl Strategy<Value = Call> {
    let by = prop_oneof![3 => Just(Kind::Pc), 2 => Just(Kind::ThirdParty)];
    let columns = prop::sample::subsequence((0..ATTRIBUTES.len()).collect::<Vec<_>>(), 1..=3).prop_shuffle();
    let fillers = prop_oneof![60 => Just(0usize), 1 => 100usize..300];
    // Now and then one of many rows, most of them of the same one or two visitors.
    let rows = prop_oneof![
        4 => prop::collection::vec(row(), 1..7),
        1 => prop::collection::vec(row(), 7..24),
    ];
    // Of now, of an hour or a few ago, or older than everything.
    let time = prop_oneof![
        6 => Just(None),
        1 => Just(Some(0)),
        3 => prop::sample::select(vec![1, HOUR_MS, 3 * HOUR_MS, 6 * HOUR_MS]).prop_map(Some),
        1 => Just(Some(u64::MAX)),
    ];
    let time = time.prop_map(|before: Option<u64>| before.map(Time::Before));
    let flags = (prop::bool::weighted(0.3), prop::bool::weighted(0.7), prop::bool::weighted(0.25));
    (by, flags, time, columns, rows, fillers).prop_map(
        |(by, (ndjson, v2, removes), time, columns, rows, fillers)| {
            Call::Batch(Batch { by, ndjson, v2, removes, time, columns, rows, fillers })
        },
    )
}

pub(crate) fn call() -> impl Strategy<Value = Call> {
    let ids = prop_oneof![
        4 => (who().prop_map(Some), Just(None), Just(None)),
        2 => (Just(None), who().prop_map(Some), Just(None)),
        6 => (who().prop_map(Some), who().prop_map(Some), Just(None)),
        1 => (who().prop_map(Some), Just(None), who().prop_map(Some)),
        1 => (who().prop_map(Some), who().prop_map(Some), who().prop_map(Some)),
        1 => (Just(None), who().prop_map(Some), who().prop_map(Some)),
        1 => (Just(None), Just(None), who().prop_map(Some)),
    ];
    prop_oneof![
        8 => (ids, sets()).prop_map(|((pc, third_party, ecid), sets)| Call::Site { pc, third_party, ecid, sets }),
        2 => (kind(), who(), sets()).prop_map(|(kind, who, sets)| Call::Update { kind, who, sets }),
        1 => (kind(), who(), prop::collection::vec(0..ATTRIBUTES.len(), 1..3))
            .prop_map(|(kind, who, attributes)| Call::Remove { kind, who, attributes }),
        1 => (kind(), who()).prop_map(|(kind, who)| Call::Erase { kind, who }),
        7 => batch(),
    ]
}

pub(crate) fn client() -> impl Strategy<Value = usize> {
    prop_oneof![6 => Just(0usize), 1 => Just(1)]
}

pub(crate) fn settings() -> impl Strategy<Value = Settings> {
    let lifetime = prop_oneof![3 => Just(14 * DAY_MS), 2 => Just(DAY_MS), 2 => Just(2 * HOUR_MS)];
    let profile_bytes_max = prop_oneof![2 => Just(1usize << 20), 1 => Just(70), 1 => Just(35)];
    (any::<bool>(), any::<bool>(), lifetime, profile_bytes_max).prop_map(
        |(creates, replaces, lifetime_ms, profile_bytes_max)| Settings {
            creates,
            replaces,
            lifetime_ms,
            profile_bytes_max,
        },
    )
}

fn fresh_store() -> impl Strategy<Value = Op> {
    let steps = (1usize..6).prop_map(|steps| (steps, Stop::Nowhere));
    let all = prop::sample::select(vec![Stop::Nowhere, Stop::BeforeAdopt, Stop::BehindAdopt]);
    prop_oneof![2 => steps, 1 => all.prop_map(|stop| (99, stop))]
        .prop_map(|(steps, stop)| Op::Fresh { steps, stop })
}

fn op() -> impl Strategy<Value = Op> {
    let how = prop_oneof![5 => Just(How::Crash), 1 => Just(How::Checkpointed), 1 => Just(How::StoreLost), 2 => Just(How::FromSnapshot)];
    let settings = prop::option::weighted(0.4, settings());
    let wait = prop::sample::select(vec![
        1,
        30 * MINUTE_MS,
        HOUR_MS,
        2 * HOUR_MS - 1,
        2 * HOUR_MS,
        5 * HOUR_MS,
        DAY_MS,
        15 * DAY_MS,
    ]);
    prop_oneof![
        400 => prop::collection::vec((client(), call()), 1..4).prop_map(Op::Commit),
        320 => (1usize..5, 0usize..8, any::<bool>())
            .prop_map(|(steps, part, joins)| Op::Apply { steps, part, joins }),
        30 => Just(Op::Mark),
        50 => Just(Op::Checkpoint),
        60 => Just(Op::Sweep),
        130 => (prop_oneof![4 => 1usize..4, 1 => Just(99)], any::<bool>(), prop::bool::weighted(0.7), prop::bool::weighted(0.2))
            .prop_map(|(steps, rotate, retire, retention_over)| Op::Snapshot { steps, rotate, retire, retention_over }),
        110 => fresh_store(),
        90 => (how, any::<u64>(), prop::bool::weighted(0.2), settings)
            .prop_map(|(how, fate, hour_back, settings)| Op::Restart { how, fate, hour_back, settings }),
        50 => (client(), 0usize..8).prop_map(|(client, nth)| Op::Undo { client, nth }),
        110 => wait.prop_map(Op::Wait),
        1 => (client(), who()).prop_map(|(client, who)| Op::Crowd { client, who }),
    ]
}

/// What one sequence leaves out. If everything happens at once, the effects of a few steps on each other are hidden.
#[derive(Debug, Clone)]
struct Focus {
    names: usize,
    clients: usize,
    ecids: bool,
    applies: bool,
    restarts: bool,
    snapshots: bool,
    fresh: bool,
    short_lives: bool,
    creates: Option<bool>,
    replaces: Option<bool>,
    batches_by: Option<Kind>,
}

fn focus() -> impl Strategy<Value = Focus> {
    let names = prop_oneof![1 => Just(1usize), 4 => Just(2), 2 => Just(3), 2 => Just(4)];
    let clients = prop_oneof![3 => Just(1usize), 1 => Just(2)];
    let batches_by =
        prop_oneof![4 => Just(None), 3 => Just(Some(Kind::Pc)), 1 => Just(Some(Kind::ThirdParty))];
    let on = prop::bool::weighted;
    let maybe = || prop::option::weighted(0.4, any::<bool>());
    (names, clients, on(0.5), on(0.8), on(0.8), on(0.6), on(0.6), on(0.5), maybe(), maybe(), batches_by)
        .prop_map(
            |(
                names,
                clients,
                ecids,
                applies,
                restarts,
                snapshots,
                fresh,
                short_lives,
                creates,
                replaces,
                batches_by,
            )| Focus {
                names,
                clients,
                ecids,
                applies,
                restarts,
                snapshots,
                fresh,
                short_lives,
                creates,
                replaces,
                batches_by,
            },
        )
}

impl Focus {
    fn settings(&self, settings: &mut Settings) {
        settings.creates = self.creates.unwrap_or(settings.creates);
        settings.replaces = self.replaces.unwrap_or(settings.replaces);
        if self.short_lives {
            settings.lifetime_ms = settings.lifetime_ms.min(5 * HOUR_MS);
        }
    }

    /// The step with what is left out taken out; none if it all is.
    fn on(&self, mut op: Op) -> Option<Op> {
        match &mut op {
            Op::Commit(calls) => {
                for (client, call) in &mut *calls {
                    *client %= self.clients;
                    self.on_call(call);
                }
            }
            Op::Apply { .. } if !self.applies => return None,
            Op::Restart { .. } if !self.restarts => return None,
            Op::Snapshot { .. } if !self.snapshots => return None,
            Op::Fresh { .. } if !self.fresh => return None,
            Op::Restart { settings: Some(settings), .. } => self.settings(settings),
            Op::Undo { client, .. } => *client %= self.clients,
            Op::Crowd { client, who } => (*client, *who) = (*client % self.clients, *who % self.names),
            _ => {}
        }
        Some(op)
    }

    fn on_call(&self, call: &mut Call) {
        match call {
            Call::Site { pc, third_party, ecid, .. } if !self.ecids => {
                let lone = ecid.take();
                *pc = pc.or(lone.filter(|_| third_party.is_none()));
            }
            Call::Batch(batch) => batch.by = self.batches_by.unwrap_or(batch.by),
            _ => {}
        }
        among(call, self.names);
    }
}

/// The call with all that it names among the first few visitors.
pub(crate) fn among(call: &mut Call, names: usize) {
    let short = |who: &mut usize| *who %= names;
    match call {
        Call::Site { pc, third_party, ecid, .. } => {
            [pc, third_party, ecid].into_iter().flatten().for_each(short);
        }
        Call::Update { who, .. } | Call::Remove { who, .. } | Call::Erase { who, .. } => short(who),
        Call::Batch(batch) => {
            for row in &mut batch.rows {
                match row {
                    Row::Good { who, .. } | Row::BadEscape { who } | Row::TooManyCells { who } => short(who),
                    Row::NoId | Row::BlockedId { .. } => {}
                }
            }
        }
    }
}

/// Steps that random sequences hardly ever have in a row: a visitor is erased down to the bytes, and then the store is lost.
fn erasure() -> impl Strategy<Value = [Op; 5]> {
    let apply = || Op::Apply { steps: 99, part: 0, joins: false };
    let how = prop_oneof![Just(How::StoreLost), Just(How::FromSnapshot)];
    (client(), kind(), who(), how).prop_map(move |(client, kind, who, how)| {
        let erase = Op::Commit(vec![(client, Call::Erase { kind, who })]);
        let restart = Op::Restart { how, fate: 1, hour_back: false, settings: None };
        [apply(), erase, apply(), Op::Fresh { steps: 99, stop: Stop::Nowhere }, restart]
    })
}

/// Random sequences.
pub(crate) fn sequences() -> impl Strategy<Value = (Settings, Vec<Op>)> {
    let erasure = prop::option::weighted(0.2, (any::<prop::sample::Index>(), erasure()));
    let all = (settings(), focus(), prop::collection::vec(op(), 1..60), erasure);
    all.prop_map(|(mut settings, focus, mut ops, erasure)| {
        if let Some((at, erasure)) = erasure {
            let at = at.index(ops.len());
            ops.splice(at..at, erasure);
        }
        focus.settings(&mut settings);
        (settings, ops.into_iter().filter_map(|op| focus.on(op)).collect())
    })
}

/// What no row may name a visitor by.
pub(crate) const BLOCKED: [&str; 5] = ["undefined", "NULL", "-", "None", "\u{feff}000"];
