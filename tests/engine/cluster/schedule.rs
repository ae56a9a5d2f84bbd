//! What a schedule is made of, and how random ones are made.

use crate::order::core::LIMITS;
use crate::order::ops::{self, Call, DAY_MS, HOUR_MS, MINUTE_MS, Settings};
use proptest::prelude::*;

/// The most nodes that a schedule begins with.
const NODES_MAX: usize = 5;

/// What a node begins with.
#[derive(Debug, Clone)]
pub(crate) struct NodeSetup {
    pub(crate) settings: Settings,
    /// How far its clock is ahead.
    pub(crate) ahead_ms: i64,
    /// How many bytes a group has, and what a request resolves in it.
    pub(crate) limits: (usize, usize),
    /// Whether its store forgets at a crash whatever it may.
    pub(crate) forgets: bool,
    /// Whether its program knows a newer version of requests.
    pub(crate) newer: bool,
}

/// What becomes of a record on its way to the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Appended,
    Late,
    Twice,
    TwiceLate,
    Lost,
}

/// With what a killed node begins again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KilledHow {
    /// What a crash left.
    Crash,
    /// Without the store, which is rebuilt from the journal.
    StoreLost,
    /// Without the store, which is rebuilt from the newest snapshot and the journal behind it.
    FromSnapshot,
}

/// A call, and the key that it bears if it is a batch; with the second, it is the batch that bore the key before.
pub(crate) type Keyed = (usize, Call, Option<(u8, bool)>);

/// A step of a schedule. Nodes are counted round those that there are.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// A node offers calls in one record, of a newer version if its program knows one.
    Offer {
        node: usize,
        calls: Vec<Keyed>,
        fate: Fate,
        newer: bool,
    },
    /// A node offers the counts of the batches that it has applied, once more those that it has offered before.
    Count {
        node: usize,
        fate: Fate,
        again: bool,
    },
    /// A node offers to sweep what has expired in its store.
    Sweep {
        node: usize,
        fate: Fate,
        all: bool,
    },
    /// A node offers a token, or its revocation.
    Token {
        node: usize,
        which: usize,
        revoke: bool,
        fate: Fate,
    },
    /// A record that is on its way arrives.
    Arrive {
        which: usize,
    },
    /// A node reads requests and applies them.
    Read {
        node: usize,
        requests: usize,
        own_first: bool,
    },
    /// All nodes that run read all there is, and perhaps apply it.
    Everyone {
        applies: bool,
    },
    /// A node reads files, and perhaps spools them before their acceptance comes.
    Receive {
        node: usize,
        files: usize,
        spools: bool,
    },
    /// A node applies the rows of batches.
    Apply {
        node: usize,
        steps: usize,
        which: usize,
        joins: bool,
    },
    Checkpoint {
        node: usize,
    },
    Snapshot {
        node: usize,
        retire: bool,
        retention_over: bool,
    },
    /// A node is killed.
    Kill {
        node: usize,
        upgrade: bool,
    },
    /// A node is killed while it commits what it reads next, with so many hundredths of the group journaled.
    KillCommitting {
        node: usize,
        requests: usize,
        hundredths: u64,
    },
    /// A killed node begins again, perhaps with other settings and another clock.
    Start {
        node: usize,
        how: KilledHow,
        fate: u64,
        settings: Option<Settings>,
        ahead_ms: Option<i64>,
    },
    /// All nodes that run take a snapshot, and perhaps forget batches.
    Upkeep {
        retention_over: bool,
    },
    /// The order is trimmed behind what all nodes have in their snapshots.
    Trim,
    /// A new node begins with what a peer has.
    Join {
        peer: usize,
        setup: NodeSetup,
    },
    /// Time goes by.
    Wait(u64),
    /// The clock of the log is so far ahead.
    LogClock(i64),
}

fn ahead_ms() -> impl Strategy<Value = i64> {
    let hour = i64::try_from(HOUR_MS).unwrap();
    prop_oneof![4 => Just(0i64), 1 => Just(hour), 1 => Just(-hour), 1 => -5000i64..5000]
}

fn setup() -> impl Strategy<Value = NodeSetup> {
    let (group, resolved) = LIMITS;
    let limits = prop_oneof![
        3 => Just(LIMITS),
        1 => Just((group / 4, resolved / 4)),
        1 => Just((2 << 20, 1 << 20)),
    ];
    (ops::settings(), ahead_ms(), limits, prop::bool::weighted(0.8), any::<bool>()).prop_map(
        |(settings, ahead_ms, limits, forgets, newer)| NodeSetup {
            settings,
            ahead_ms,
            limits,
            forgets,
            newer,
        },
    )
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        14 => Just(Fate::Appended),
        3 => Just(Fate::Late),
        2 => Just(Fate::Twice),
        1 => Just(Fate::TwiceLate),
        1 => Just(Fate::Lost),
    ]
}

fn node() -> impl Strategy<Value = usize> {
    0..NODES_MAX
}

fn keyed() -> impl Strategy<Value = Keyed> {
    let key = prop::option::weighted(0.4, (0u8..2, prop::bool::weighted(0.6)));
    (ops::client(), ops::call(), key)
}

fn op() -> impl Strategy<Value = Op> {
    let how = prop_oneof![
        5 => Just(KilledHow::Crash),
        1 => Just(KilledHow::StoreLost),
        2 => Just(KilledHow::FromSnapshot),
    ];
    let wait = prop::sample::select(vec![
        1,
        30 * MINUTE_MS,
        HOUR_MS,
        2 * HOUR_MS,
        5 * HOUR_MS,
        DAY_MS - HOUR_MS,
        DAY_MS,
        15 * DAY_MS,
    ]);
    let few = prop_oneof![4 => 1usize..4, 2 => 4usize..12, 1 => Just(99)];
    let settings = prop::option::weighted(0.4, ops::settings());
    prop_oneof![
        300 => (node(), prop::collection::vec(keyed(), 1..4), fate(), prop::bool::weighted(0.1))
            .prop_map(|(node, calls, fate, newer)| Op::Offer { node, calls, fate, newer }),
        60 => (node(), fate(), prop::bool::weighted(0.3))
            .prop_map(|(node, fate, again)| Op::Count { node, fate, again }),
        60 => (node(), fate(), any::<bool>()).prop_map(|(node, fate, all)| Op::Sweep { node, fate, all }),
        50 => any::<bool>().prop_map(|applies| Op::Everyone { applies }),
        20 => prop::bool::weighted(0.4).prop_map(|retention_over| Op::Upkeep { retention_over }),
        60 => (0usize..9).prop_map(|which| Op::Arrive { which }),
        300 => (node(), few, any::<bool>())
            .prop_map(|(node, requests, own_first)| Op::Read { node, requests, own_first }),
        100 => (node(), 1usize..5, any::<bool>())
            .prop_map(|(node, files, spools)| Op::Receive { node, files, spools }),
        240 => (node(), prop_oneof![4 => 1usize..6, 1 => Just(99)], 0usize..8, prop::bool::weighted(0.3))
            .prop_map(|(node, steps, which, joins)| Op::Apply { node, steps, which, joins }),
        40 => node().prop_map(|node| Op::Checkpoint { node }),
        50 => (node(), any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(node, retire, retention_over)| Op::Snapshot { node, retire, retention_over }),
        70 => (node(), prop::bool::weighted(0.2)).prop_map(|(node, upgrade)| Op::Kill { node, upgrade }),
        50 => (node(), 1usize..6, prop_oneof![0u64..100, Just(100)])
            .prop_map(|(node, requests, hundredths)| Op::KillCommitting { node, requests, hundredths }),
        140 => (node(), how, any::<u64>(), settings, prop::option::weighted(0.2, ahead_ms()))
            .prop_map(|(node, how, fate, settings, ahead_ms)| Op::Start { node, how, fate, settings, ahead_ms }),
        30 => Just(Op::Trim),
        6 => (node(), setup()).prop_map(|(peer, setup)| Op::Join { peer, setup }),
        70 => wait.prop_map(Op::Wait),
        10 => ahead_ms().prop_map(Op::LogClock),
        40 => (node(), 0usize..3, any::<bool>(), fate())
            .prop_map(|(node, which, revoke, fate)| Op::Token { node, which, revoke, fate }),
    ]
}

/// What one schedule leaves out: what everything does at once hides what a few things do to each other.
#[derive(Debug, Clone)]
struct Focus {
    nodes: usize,
    names: usize,
    kills: bool,
    sweeps: bool,
    upkeep: bool,
    newer: bool,
    short_lives: bool,
    batches: Batches,
}

/// Which calls are batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Batches {
    None,
    Some,
    WithKeys,
}

fn focus() -> impl Strategy<Value = Focus> {
    let nodes = prop_oneof![1 => Just(1usize), 5 => Just(2), 4 => Just(3), 1 => Just(4), 1 => Just(5)];
    let names = prop_oneof![1 => Just(1usize), 4 => Just(2), 2 => Just(3), 2 => Just(4)];
    let batches =
        prop_oneof![1 => Just(Batches::None), 8 => Just(Batches::Some), 3 => Just(Batches::WithKeys)];
    let on = prop::bool::weighted;
    (nodes, names, on(0.7), on(0.6), on(0.6), on(0.3), on(0.6), batches).prop_map(
        |(nodes, names, kills, sweeps, upkeep, newer, short_lives, batches)| Focus {
            nodes,
            names,
            kills,
            sweeps,
            upkeep,
            newer,
            short_lives,
            batches,
        },
    )
}

impl Focus {
    fn on_setup(&self, settings: &mut Settings) {
        if self.short_lives {
            settings.lifetime_ms = settings.lifetime_ms.min(5 * HOUR_MS);
        }
    }

    /// Whether a step stays. What it names is brought among the few that there are.
    fn keeps(&self, op: &mut Op) -> bool {
        match op {
            Op::Offer { calls, newer, .. } => {
                *newer &= self.newer;
                for (_, call, key) in &mut *calls {
                    ops::among(call, self.names);
                    if self.batches != Batches::WithKeys {
                        *key = None;
                    }
                }
                if self.batches == Batches::None {
                    calls.retain(|(_, call, _)| !matches!(call, Call::Batch(_)));
                }
                !calls.is_empty()
            }
            Op::Sweep { .. } => self.sweeps,
            Op::Snapshot { .. } | Op::Upkeep { .. } | Op::Trim | Op::Join { .. } => self.upkeep,
            Op::Kill { .. } | Op::KillCommitting { .. } => self.kills,
            Op::Start { settings: Some(settings), .. } => {
                self.on_setup(settings);
                true
            }
            _ => true,
        }
    }
}

/// Random schedules.
pub(crate) fn schedules() -> impl Strategy<Value = (Vec<NodeSetup>, Vec<Op>)> {
    let nodes = prop::collection::vec(setup(), NODES_MAX);
    (nodes, focus(), prop::collection::vec(op(), 1..80)).prop_map(|(mut nodes, focus, mut ops)| {
        nodes.truncate(focus.nodes);
        nodes.iter_mut().for_each(|setup| focus.on_setup(&mut setup.settings));
        ops.retain_mut(|op| focus.keeps(op));
        (nodes, ops)
    })
}
