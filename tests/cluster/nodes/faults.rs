//! The table of faults. Each is put in under load, so often; a line says what came of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Site;
use super::apart::Ways;
use super::check::Found;
use crate::support::{self, load::Moments};

const SECOND: Duration = Duration::from_secs(1);
/// How long a node that was not hit may go without acknowledging a write, while a broker is chosen for one that died. The
/// brokers notice after three seconds; how long it was is in the table, and a slow machine takes longer.
const BROKER_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What came of some rounds of a fault.
#[derive(Default)]
struct Line {
    rounds: usize,
    found: Found,
    longest_pause: Duration,
    ready_in: Duration,
}

/// A fault: what it is called, how often it is put in, which nodes are hit, and how.
struct Fault<'f> {
    called: &'f str,
    rounds: usize,
    /// The nodes that are hit; nothing is said of how long they don't answer.
    hit: &'f dyn Fn(usize) -> Vec<usize>,
    /// Puts the fault in and mends it. Gives how long a node took until it was ready.
    put_in: &'f mut dyn FnMut(&mut Site, usize) -> Option<Duration>,
}

impl Site {
    fn suffer(&mut self, fault: Fault<'_>) -> Line {
        let mut line = Line::default();
        if !is_asked_for(fault.called) {
            return line;
        }
        let begun = Instant::now();
        for round in 0..fault.rounds {
            self.load.wait_for_acknowledgements();
            self.load.measure();
            std::thread::sleep(SECOND);
            let ready = (fault.put_in)(self, round);
            line.ready_in = line.ready_in.max(ready.unwrap_or_default());
            self.load.wait_for_acknowledgements();
            line.longest_pause = line.longest_pause.max(self.load.longest_pause(&(fault.hit)(round)));
            let found = self.check();
            line.rounds += 1;
            line.found.acknowledged += found.acknowledged;
            line.found.refused += found.refused;
            line.found.batches += found.batches;
            line.found.unknown.0 += found.unknown.0;
            line.found.unknown.1 += found.unknown.1;
            line.found.lost.extend(found.lost);
            line.found.wrong.extend(found.wrong);
        }
        let Found { acknowledged, unknown, refused, batches, lost, wrong } = &line.found;
        let row = format!(
            "| {} | {} | {acknowledged} | {batches} | {} | {} | {}, {} of them in | {refused} | {:.1} s | {:.1} s | {:.0} s |",
            fault.called,
            line.rounds,
            lost.len(),
            wrong.len(),
            unknown.0,
            unknown.1,
            line.longest_pause.as_secs_f32(),
            line.ready_in.as_secs_f32(),
            begun.elapsed().as_secs_f32(),
        );
        crate::say(&row);
        self.table.push(row);
        let some = |of: &[String]| of.iter().take(5).cloned().collect::<Vec<_>>();
        assert!(
            lost.is_empty() && wrong.is_empty(),
            "{}: lost {:?}, wrong {:?}",
            fault.called,
            some(lost),
            some(wrong)
        );
        line
    }

    fn all(&self) -> Vec<usize> {
        (0..self.nodes.len()).collect()
    }

    /// Kills all nodes at once.
    fn kill_all_nodes(&mut self) {
        self.all().into_iter().for_each(|node| self.kill_node(node));
    }

    /// Starts all nodes, one after the other. Gives how long the last one took.
    fn start_all_nodes(&mut self) -> Duration {
        self.all().into_iter().map(|node| self.start_node(node)).max().unwrap_or_default()
    }

    /// Kills all brokers at once.
    fn kill_all_brokers(&mut self) {
        (0..3).for_each(|broker| self.brokers.kill9(broker));
    }

    /// Starts all brokers.
    fn start_all_brokers(&mut self) {
        (0..3).for_each(|broker| self.brokers.restart(broker));
        self.brokers.wait_for_all();
    }
}

/// Whether a fault is to be put in: `PROFILED_FAULTS` may name some, with `|` between them.
fn is_asked_for(fault: &str) -> bool {
    let asked = support::variable("PROFILED_FAULTS");
    asked.is_none_or(|asked| asked.split('|').any(|words| fault.contains(words)))
}

/// How often each fault is put in: `CLUSTER_ROUNDS`, or once. Often takes an hour or two.
fn rounds() -> usize {
    support::variable("CLUSTER_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap())
}

/// How long something stands still.
fn standstill() -> Duration {
    if rounds() > 1 { 20 * SECOND } else { 5 * SECOND }
}

const HEAD: [&str; 2] = [
    "| fault | rounds | acknowledged | batches among them | lost | wrong | unknown | refused | longest pause at the others | ready after | \
     took |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
];

/// All faults, one after the other, on one cluster.
pub(crate) fn table() {
    let begun = Instant::now();
    let Some(mut site) = Site::start(3) else { return };
    crate::say(&format!("three brokers and three nodes: {:.1} s to start", begun.elapsed().as_secs_f32()));
    let mut moments = Moments::new(support::seed::fresh());
    let nobody = |_| vec![];
    let everybody = |_| (0..8).collect::<Vec<_>>();
    let one = |round: usize| vec![round % 3];

    HEAD.iter().for_each(|line| crate::say(line));

    site.suffer(Fault { called: "nothing", rounds: 1, hit: &nobody, put_in: &mut |_, _| None });

    site.suffer(Fault {
        called: "a visitor erased to the last byte",
        rounds: 1,
        hit: &nobody,
        put_in: &mut |site, _| {
            let found = site.check();
            assert_eq!((found.lost, found.wrong), (vec![], vec![]));
            let gone = site.erase_to_the_last_byte();
            site.account_from_here();
            site.load.wait_for_acknowledgements();
            Some(gone)
        },
    });

    site.suffer(Fault {
        called: "a new node",
        rounds: 1,
        hit: &|_| vec![3],
        put_in: &mut |site, _| Some(site.add_node()),
    });

    site.suffer(Fault {
        called: "a node's folder is gone",
        rounds: rounds(),
        hit: &one,
        put_in: &mut |site, round| {
            site.kill_node(round % 3);
            Some(site.start_emptied(round % 3))
        },
    });

    site.suffer(Fault {
        called: "a node back after the topics were trimmed",
        rounds: rounds(),
        hit: &one,
        put_in: &mut |site, round| Some(site.come_back_too_late(round % 3)),
    });

    let line = site.suffer(Fault {
        called: "kill -9 a node",
        rounds: rounds(),
        hit: &one,
        put_in: &mut |site, round| {
            site.kill_node(round % 3);
            std::thread::sleep(moments.next(Duration::ZERO, 2 * SECOND));
            Some(site.start_node(round % 3))
        },
    });
    assert!(
        line.longest_pause < 3 * SECOND,
        "the other nodes went without an answer for {:?}",
        line.longest_pause
    );

    let line = site.suffer(Fault {
        called: "kill -9 the broker that leads",
        rounds: rounds(),
        hit: &nobody,
        put_in: &mut |site, _| {
            let leader = site.brokers.leader_of("site.order");
            site.brokers.kill9(leader);
            site.load.wait_for_acknowledgements();
            site.brokers.restart(leader);
            site.brokers.wait_for_all();
            None
        },
    });
    assert!(line.longest_pause < BROKER_PAUSE_MAX, "no write was acknowledged for {:?}", line.longest_pause);

    if rounds() > 1 {
        site.suffer(Fault {
            called: "kill -9 any broker",
            rounds: rounds(),
            hit: &nobody,
            put_in: &mut |site, round| {
                site.brokers.kill9(round % 3);
                site.load.wait_for_acknowledgements();
                site.brokers.restart(round % 3);
                site.brokers.wait_for_all();
                None
            },
        });
    }

    let line = site.suffer(Fault {
        called: "SIGSTOP the broker that leads",
        rounds: rounds(),
        hit: &nobody,
        put_in: &mut |site, _| {
            let leader = site.brokers.leader_of("site.order");
            site.brokers.freeze(leader);
            std::thread::sleep(standstill());
            site.load.wait_for_acknowledgements();
            site.brokers.thaw(leader);
            site.brokers.wait_for_all();
            None
        },
    });
    assert!(line.longest_pause < BROKER_PAUSE_MAX, "no write was acknowledged for {:?}", line.longest_pause);

    site.suffer(Fault {
        called: "SIGSTOP a node",
        rounds: rounds(),
        hit: &one,
        put_in: &mut |site, round| {
            site.signal_node(round % 3, Signal::STOP);
            std::thread::sleep(standstill());
            site.signal_node(round % 3, Signal::CONT);
            None
        },
    });

    site.suffer(Fault {
        called: "a node stopped in order",
        rounds: rounds(),
        hit: &one,
        put_in: &mut |site, round| {
            site.stop_node(round % 3);
            Some(site.start_node(round % 3))
        },
    });

    site.suffer(Fault {
        called: "kill -9 a node in mid-upload",
        rounds: rounds(),
        hit: &one,
        put_in: &mut |site, round| {
            let (load, address) = (Arc::clone(&site.load.shared), site.nodes[round % 3].address());
            let upload = std::thread::spawn(move || load.large_batch(address, 30_000, SECOND / 3));
            std::thread::sleep(moments.next(SECOND / 5, SECOND * 3 / 2));
            site.kill_node(round % 3);
            upload.join().unwrap();
            Some(site.start_node(round % 3))
        },
    });

    site.suffer(Fault {
        called: "kill -9 a node in mid-apply",
        rounds: rounds(),
        hit: &one,
        put_in: &mut |site, round| {
            let address = site.nodes[(round + 1) % 3].address();
            site.load.shared.large_batch(address, 20_000, Duration::ZERO);
            std::thread::sleep(moments.next(Duration::ZERO, SECOND));
            site.kill_node(round % 3);
            Some(site.start_node(round % 3))
        },
    });

    site.suffer(Fault {
        called: "kill -9 a node in mid-snapshot",
        rounds: rounds(),
        hit: &one,
        put_in: &mut |site, round| {
            let node = round % 3;
            let wait = moments.next(Duration::ZERO, SECOND / 3);
            let pid = site.nodes[node].pid();
            std::thread::scope(|scope| {
                scope.spawn(|| site.snapshot_of(node));
                std::thread::sleep(wait);
                kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
            });
            site.kill_node(node);
            Some(site.start_node(node))
        },
    });

    site.suffer(Fault {
        called: "kill -9 all nodes",
        rounds: rounds(),
        hit: &everybody,
        put_in: &mut |site, _| {
            site.kill_all_nodes();
            Some(site.start_all_nodes())
        },
    });

    site.suffer(Fault {
        called: "kill -9 all brokers",
        rounds: rounds(),
        hit: &everybody,
        put_in: &mut |site, _| {
            site.kill_all_brokers();
            site.start_all_brokers();
            let from = Instant::now();
            site.all().into_iter().for_each(|node| site.wait_ready(node));
            Some(from.elapsed())
        },
    });

    site.suffer(Fault {
        called: "kill -9 all nodes and brokers",
        rounds: rounds(),
        hit: &everybody,
        put_in: &mut |site, _| {
            site.kill_all_nodes();
            site.kill_all_brokers();
            site.start_all_brokers();
            Some(site.start_all_nodes())
        },
    });
    site.suffer(Fault {
        called: "a clock an hour ahead, then behind",
        rounds: 2 * rounds(),
        hit: &|round| vec![(round / 2) % 3],
        put_in: &mut |site, round| {
            // It keeps its wrong clock until the next round has begun.
            let ahead = if round % 2 == 0 { 3600 } else { -3600 };
            Some(site.start_with_clock((round / 2) % 3, ahead))
        },
    });

    site.suffer(Fault {
        called: "a clock that jumps an hour ahead, then back, while the node runs",
        rounds: 2 * rounds(),
        hit: &|round| vec![(round / 2) % 3],
        put_in: &mut |site, round| {
            let node = (round / 2) % 3;
            if round % 2 == 1 {
                site.set_clock(node, 0);
                return None;
            }
            let ready = site.start_with_clock(node, 0);
            site.load.wait_for_acknowledgements();
            site.set_clock(node, 3600);
            Some(ready)
        },
    });

    site.suffer(Fault {
        called: "one name twice",
        rounds: 1,
        hit: &nobody,
        put_in: &mut |site, _| {
            site.start_twice(0);
            None
        },
    });

    site.suffer(Fault {
        called: "each wrong setting of a topic",
        rounds: 1,
        hit: &nobody,
        put_in: &mut |site, _| Some(site.refuse_each_wrong_setting()),
    });

    if is_asked_for("a node's disk is full")
        && let Some(small) = site.add_node_on_small_disk()
    {
        site.suffer(Fault {
            called: "a node's disk is full",
            rounds: rounds(),
            hit: &|_| vec![small],
            put_in: &mut |site, _| Some(site.fill_disk(small)),
        });
    }

    if is_asked_for("a broker's disk is full") && site.may_fill_brokers_disk() {
        let line = site.suffer(Fault {
            called: "a broker's disk is full",
            rounds: rounds(),
            hit: &nobody,
            put_in: &mut |site, _| {
                site.fill_brokers_disk();
                None
            },
        });
        assert!(
            line.longest_pause < BROKER_PAUSE_MAX,
            "no write was acknowledged for {:?}",
            line.longest_pause
        );
    }

    apart(&mut site);

    site.suffer(Fault {
        called: "the order truncated before a node that stands still",
        rounds: rounds(),
        hit: &one,
        put_in: &mut |site, round| Some(site.truncate_before(round % 3)),
    });

    // Each of these ends all nodes.
    site.suffer(Fault {
        called: "a request of a newer program",
        rounds: rounds(),
        hit: &everybody,
        put_in: &mut |site, _| Some(site.offer_newer_rules()),
    });

    site.suffer(Fault {
        called: "the order's topic made anew under load, then in silence",
        rounds: 2 * rounds(),
        hit: &everybody,
        put_in: &mut |site, round| Some(site.make_order_anew(round % 2 == 1)),
    });

    crate::say(&format!("all faults: {:.0} s", begun.elapsed().as_secs_f32()));
    HEAD.iter().copied().chain(site.table.iter().map(String::as_str)).for_each(crate::say);
}

/// Faults of the network.
fn apart(site: &mut Site) {
    const CUTS: [(&str, Ways); 3] = [
        ("a node cut from Kafka", Ways::Both),
        ("a node cut from Kafka, which it still hears", Ways::There),
        ("a node cut from Kafka, which still hears it", Ways::Back),
    ];
    let one = |round: usize| vec![round % 3];
    for (called, ways) in CUTS {
        if is_asked_for(called) && site.can_cut(called) {
            site.suffer(Fault {
                called,
                rounds: rounds(),
                hit: &one,
                put_in: &mut |site, round| Some(site.cut_from_kafka(round % 3, ways)),
            });
        }
    }
    const LEADER: &str = "a node cut from the broker that leads";
    if is_asked_for(LEADER) && site.can_cut(LEADER) {
        site.suffer(Fault {
            called: LEADER,
            rounds: rounds(),
            hit: &one,
            put_in: &mut |site, round| Some(site.cut_from_leader(round % 3)),
        });
    }
    const ALONE: &str = "the broker that leads cut from the other brokers";
    if is_asked_for(ALONE) && site.can_cut(ALONE) {
        let line = site.suffer(Fault {
            called: ALONE,
            rounds: rounds(),
            hit: &|_| vec![],
            put_in: &mut |site, _| {
                site.cut_leader_from_brokers();
                None
            },
        });
        let pause = line.longest_pause;
        assert!(pause < BROKER_PAUSE_MAX, "no write was acknowledged for {pause:?}");
    }
    const PEERS: &str = "a node cut from the other nodes";
    if is_asked_for(PEERS) && site.can_cut(PEERS) {
        site.suffer(Fault {
            called: PEERS,
            rounds: rounds(),
            hit: &one,
            put_in: &mut |site, round| Some(site.cut_from_peers(round % 3)),
        });
    }
}
