//! The progress of applying never shows. The same requests, restarts and clock steps run with applying that stands still, goes row
//! by row, is always done, or is random, with and without sweeps. All answers and all lookups between them are the same, and in the
//! end every row has the same outcome and every batch the same counts.

use super::applying::PART_A_ROW;
use super::harness::Harness;
use super::ops::{How, Op, Settings, sequences};
use super::stores::Which;
use crate::support::long;
use crate::support::seed::{runner, with_each_seed};
use proptest::strategy::{Strategy, ValueTree};
use std::io::Write;

/// How many random programs run: fewer in a build without optimisation.
const PROGRAMS: usize = 30;
const PROGRAMS_OF_THE_LONG_FORM: usize = 1_200;

/// How fast batches are applied beside the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pace {
    Stopped,
    Slow,
    Fast,
    Random,
}

const PACES: [Pace; 4] = [Pace::Stopped, Pace::Slow, Pace::Fast, Pace::Random];

/// Whether a step is part of the program: requests, time, restarts and checkpoints. The pace adds what the daemon does by itself.
fn program(ops: Vec<Op>, sweeps: bool) -> Vec<Op> {
    let theirs = |mut op: Op| {
        match &mut op {
            Op::Apply { .. } | Op::Sweep | Op::Mark | Op::Snapshot { .. } | Op::Fresh { .. } => return None,
            // A rebuilt store forgets which batches were complete, and with it how far applying had got; that is
            // another test's.
            Op::Restart { how: How::StoreLost | How::FromSnapshot, .. } => return None,
            Op::Restart { hour_back, settings, .. } => {
                // Who was swept stays so, whatever the clock and the lifetime are set to afterwards.
                *hour_back &= !sweeps;
                *settings = settings.take().filter(|_| !sweeps);
            }
            _ => {}
        }
        Some(op)
    };
    ops.into_iter().filter_map(theirs).collect()
}

/// The program with what applying and the sweeper do at this pace between any two of its steps.
fn at(pace: Pace, program: &[Op], sweeps: bool, seed: u64) -> Vec<Op> {
    let mut random = seed | 1;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((random >> 33) % below).unwrap()
    };
    let apply = |steps, part| Op::Apply { steps, part, joins: false };
    let mut all = vec![];
    for op in program {
        all.push(op.clone());
        match pace {
            Pace::Stopped => {}
            // Each part has about one row.
            Pace::Slow => all.push(apply(1, PART_A_ROW)),
            Pace::Fast => all.extend((0..4).map(|_| apply(usize::MAX, 0))),
            Pace::Random => {
                all.extend(
                    (0..next(3))
                        .map(|_| Op::Apply { steps: 1 + next(6), part: next(9), joins: next(2) == 0 })
                        .collect::<Vec<_>>(),
                );
            }
        }
        let swept = match pace {
            Pace::Stopped => false,
            Pace::Slow | Pace::Fast => true,
            Pace::Random => next(3) == 0,
        };
        if sweeps && swept {
            all.push(Op::Sweep);
        }
    }
    all
}

/// All answers and lookups of a daemon, or what was wrong.
fn reported(settings: &Settings, ops: &[Op]) -> Vec<String> {
    let mut harness = Harness::new(Which::Memory, settings.clone());
    harness.listen();
    if let Err(wrong) = harness.run(ops) {
        return vec![format!("wrong: {wrong}")];
    }
    harness.heard()
}

#[test]
fn how_far_applying_has_got_shows_nowhere() {
    let programs = if long() { PROGRAMS_OF_THE_LONG_FORM } else { PROGRAMS };
    with_each_seed(|seed| differs_nowhere(seed, programs / 2));
}

fn differs_nowhere(seed: u64, programs: usize) {
    let mut runner = runner(seed, 1);
    let (mut differing, mut first) = (0, None);
    for number in 0..programs {
        let (settings, ops) = sequences().new_tree(&mut runner).unwrap().current();
        let sweeps = number % 2 == 0;
        let program = program(ops, sweeps);
        let all = PACES.map(|pace| reported(&settings, &at(pace, &program, sweeps, number as u64)));
        let [stopped, others @ ..] = &all;
        let Some(n) = others.iter().position(|other| other != stopped) else { continue };
        differing += 1;
        first.get_or_insert_with(|| {
            let lines = stopped.iter().zip(&others[n]).find(|(one, other)| one != other);
            let program: String = program.iter().map(|op| format!("    {op:?}\n")).collect();
            format!(
                "program {number}, begun with {settings:?}:\n{program}stopped: {:?}\n{:?}: {:?}",
                lines.map(|it| it.0),
                PACES[n + 1],
                lines.map(|it| it.1)
            )
        });
    }
    let line = format!("{differing} of {programs} programs show how far applying has got\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    assert_eq!(differing, 0, "{}", first.unwrap_or_default());
}
