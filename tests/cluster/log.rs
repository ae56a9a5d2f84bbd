//! Records on real brokers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use futures_executor::block_on;
use profiled::kafka::log::KafkaLog;
use profiled::kafka::settings::{KafkaSettings, Topic};
use profiled::kafka::topics::ensure;
use profiled::model::seq::{Clock, SystemClock};
use profiled::order::gather::{Gatherer, Gathering, Told};
use profiled::order::record::{Offers, RunId};
use profiled::order::{Log, LogReader, Offset, OrderError, Record};
use rdkafka::admin::AdminOptions;

use crate::brokers::Brokers;
use crate::support::{long, wait_for};
use crate::{order, say};

const SECOND: Duration = Duration::from_secs(1);

fn open(settings: &KafkaSettings) -> KafkaLog {
    KafkaLog::open(settings, Topic::Order).unwrap()
}

/// Appends a record, and waits for what became of it.
fn append(log: &KafkaLog, key: &[u8], value: Vec<u8>) -> Result<Offset, OrderError> {
    let (tell, told) = mpsc::channel();
    log.append(key, value, Box::new(move |outcome| tell.send(outcome).unwrap()));
    told.recv_timeout(30 * SECOND).expect("an append that nobody was told of")
}

/// The next record, which must come.
fn next(reader: &mut dyn LogReader) -> Record {
    wait_for("the next record", || reader.next(SECOND).unwrap())
}

/// All records up to the end that the log has now.
fn all(log: &KafkaLog) -> Vec<Record> {
    let (low, end) = log.ends().unwrap();
    let mut reader = log.read_from(low).unwrap();
    let mut records = vec![];
    while records.last().map_or(low.0, |it: &Record| it.offset.0 + 1) < end.0 {
        records.push(next(&mut *reader));
    }
    records
}

pub(crate) fn records_come_back_in_order_with_the_times_of_the_log(brokers: &Brokers) {
    let log = open(&order(brokers, "read"));
    assert_eq!(log.ends().unwrap(), (Offset(0), Offset(0)));
    let mut early = log.read_from(Offset(0)).unwrap();
    assert_eq!(early.next(Duration::from_millis(10)).unwrap(), None);

    let from = SystemClock.now();
    // All at once; the largest piece of a file among them.
    let values: Vec<Vec<u8>> =
        (0..200u32).map(|n| n.to_le_bytes().to_vec()).chain([vec![7; 1 << 20]]).collect();
    let (tell, told) = mpsc::channel();
    for (n, value) in values.iter().enumerate() {
        let tell = tell.clone();
        let key: &[u8] = if n % 2 == 0 { b"" } else { b"key" };
        log.append(key, value.clone(), Box::new(move |outcome| tell.send((n, outcome)).unwrap()));
    }
    let offsets: BTreeMap<usize, Offset> = values
        .iter()
        .map(|_| told.recv_timeout(30 * SECOND).unwrap())
        .map(|(n, outcome)| (n, outcome.unwrap()))
        .collect();
    let until = SystemClock.now();

    for (n, value) in values.iter().enumerate() {
        let record = next(&mut *early);
        assert_eq!((record.offset, &record.value), (Offset(n as u64), value));
        assert_eq!(offsets[&n], record.offset);
        assert_eq!(record.key, if n % 2 == 0 { b"".to_vec() } else { b"key".to_vec() });
        assert!(from <= record.time && record.time <= until, "{from:?} {:?} {until:?}", record.time);
    }
    assert_eq!(log.ends().unwrap(), (Offset(0), Offset(201)));
    let mut later = log.read_from(Offset(150)).unwrap();
    assert_eq!(next(&mut *later).offset, Offset(150));
    assert!(matches!(log.read_from(Offset(202)), Err(OrderError::NotTheSame(_))));

    // Too large for the topic; what comes after it is taken.
    assert!(matches!(append(&log, b"", vec![0; 3 << 20]), Err(OrderError::Refused(_))));
    assert_eq!(append(&log, b"", b"after".to_vec()), Ok(Offset(201)));

    let mut millis = vec![];
    for _ in 0..50 {
        let from = Instant::now();
        append(&log, b"", vec![0; 300]).unwrap();
        let appended = from.elapsed();
        while next(&mut *early).value.len() != 300 {}
        millis.push((appended, from.elapsed()));
    }
    millis.sort();
    let (appended, read) = millis[25];
    say(&format!("one broker, one record at a time: appended in {appended:.1?}, read back in {read:.1?}"));
}

pub(crate) fn deleted_records_are_gone_and_offsets_stay(brokers: &Brokers) {
    let log = open(&order(brokers, "delete"));
    for n in 0..10 {
        append(&log, b"", vec![n]).unwrap();
    }
    let mut behind = log.read_from(Offset(9)).unwrap();
    log.delete_before(Offset(6)).unwrap();
    assert_eq!(log.ends().unwrap(), (Offset(6), Offset(10)));
    assert_eq!(all(&log).iter().map(|it| it.value[0]).collect::<Vec<_>>(), [6, 7, 8, 9]);
    assert!(matches!(log.read_from(Offset(5)), Err(OrderError::NotTheSame(_))));
    log.delete_before(Offset(2)).unwrap();
    assert_eq!(log.ends().unwrap(), (Offset(6), Offset(10)), "what is gone stays gone");
    assert!(matches!(log.delete_before(Offset(11)), Err(OrderError::Refused(_))));
    log.delete_before(Offset(10)).unwrap();
    assert_eq!(log.ends().unwrap(), (Offset(10), Offset(10)));
    assert_eq!(next(&mut *behind).offset, Offset(9), "it had that one already");
    assert_eq!(append(&log, b"", vec![10]), Ok(Offset(10)));
    assert_eq!(next(&mut *behind).offset, Offset(10));
}

pub(crate) fn offers_are_gathered_and_come_back_once(brokers: &Brokers) {
    let log = Arc::new(open(&order(brokers, "gather")));
    let run = RunId::random().unwrap();
    let gatherer = Gatherer::start(log.clone(), run, Arc::new(SystemClock), Gathering::default()).unwrap();
    let (tell, told) = mpsc::channel();
    let from = Instant::now();
    let count = 20_000;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for n in 0..count {
        let tell = tell.clone();
        let told: Told = Box::new(move |outcome| tell.send((n, outcome)).unwrap());
        runtime.block_on(gatherer.offer(format!("request {n}").into_bytes(), |_| {}, told));
    }
    let places: BTreeMap<usize, _> = (0..count)
        .map(|_| told.recv_timeout(30 * SECOND).unwrap())
        .map(|(n, outcome)| (n, outcome.unwrap()))
        .collect();
    let took = from.elapsed();
    let records = all(&log);
    let mut next_number = 1;
    for record in &records {
        let offered = Offers::decode(&record.value).unwrap();
        assert_eq!((offered.run, offered.first), (run, next_number));
        for (within, request) in offered.requests.iter().enumerate() {
            let n = usize::try_from(next_number).unwrap() - 1;
            assert_eq!(request, format!("request {n}").as_bytes());
            assert_eq!((places[&n].offset, places[&n].within as usize), (record.offset, within));
            next_number += 1;
        }
    }
    assert_eq!(next_number, count as u64 + 1);
    say(&format!("{count} offers went into {} records in {took:.1?}", records.len()));
}

pub(crate) fn a_topic_made_anew_is_noticed(brokers: &Brokers) {
    let settings = order(brokers, "anew");
    let log = open(&settings);
    for n in 0..5 {
        append(&log, b"", vec![n]).unwrap();
    }
    let mut reader = log.read_from(Offset(0)).unwrap();
    (0..5).for_each(|_| drop(next(&mut *reader)));
    let admin = brokers.admin();
    block_on(admin.delete_topics(&["anew.order"], &AdminOptions::new())).unwrap()[0].clone().unwrap();
    wait_for("the topic to be made anew", || ensure(&settings).ok());
    assert_eq!(log.ends().unwrap(), (Offset(0), Offset(0)));
    let error = wait_for("the reader to notice", || reader.next(SECOND).err());
    assert!(matches!(error, OrderError::NotTheSame(_)), "{error:?}");
    assert_eq!(reader.next(Duration::ZERO), Err(error.clone()), "it says so from now on");
    assert!(matches!(log.read_from(Offset(5)), Err(OrderError::NotTheSame(_))));

    say(&format!("a topic made anew: {error}"));

    // Also when the new one is soon longer than the old one was.
    let log = open(&settings);
    for n in 0..5 {
        append(&log, b"", vec![n]).unwrap();
    }
    let mut reader = log.read_from(Offset(0)).unwrap();
    (0..5).for_each(|_| drop(next(&mut *reader)));
    block_on(admin.delete_topics(&["anew.order"], &AdminOptions::new())).unwrap()[0].clone().unwrap();
    wait_for("the topic to be made anew", || ensure(&settings).ok());
    for n in 0..10 {
        append(&log, b"", vec![n]).unwrap();
    }
    let outcome = wait_for("the reader to notice", || match reader.next(SECOND) {
        Ok(None) => None,
        other => Some(other),
    });
    assert!(matches!(outcome, Err(OrderError::NotTheSame(_))), "{outcome:?}");

    // One that is gone is not made by asking for it, though these brokers would.
    block_on(admin.delete_topics(&["anew.order"], &AdminOptions::new())).unwrap()[0].clone().unwrap();
    let error = wait_for("the log to notice", || log.ends().err());
    say(&format!("a topic that is gone: {error}"));
    let metadata = admin.inner().fetch_metadata(None, 10 * SECOND).unwrap();
    assert!(metadata.topics().iter().all(|it| it.name() != "anew.order"));
}

pub(crate) fn a_producer_without_brokers_says_unknown_and_goes_on(brokers: &mut Brokers) {
    let log = open(&order(brokers, "away"));
    append(&log, b"", b"before".to_vec()).unwrap();
    let mut reader = log.read_from(Offset(0)).unwrap();
    next(&mut *reader);
    brokers.kill9(0);
    let from = Instant::now();
    let took = std::thread::scope(|scope| {
        scope.spawn(|| assert!(matches!(log.ends(), Err(OrderError::OutOfReach(_)))));
        let outcome = append(&log, b"", b"away".to_vec());
        assert!(matches!(outcome, Err(OrderError::Unknown(_))), "{outcome:?}");
        from.elapsed()
    });
    assert!(took >= 9 * SECOND && took < 30 * SECOND, "{took:?}");
    let error = wait_for("the reader to say that it is cut off", || reader.next(SECOND).err());
    assert!(matches!(error, OrderError::OutOfReach(_)), "{error:?}");
    brokers.restart(0);
    brokers.wait_for_all();
    let from = Instant::now();
    append(&log, b"", b"after".to_vec()).unwrap();
    let record = wait_for("the reader to go on", || reader.next(SECOND).ok().flatten());
    assert_eq!(record.value, b"after", "the one in between was given up");
    say(&format!("without brokers: unknown after {took:.1?}; back {:.1?} after they were", from.elapsed()));
}

pub(crate) fn nothing_acknowledged_is_missing_after_the_leader_died(brokers: &mut Brokers) {
    let settings = order(brokers, "leader");
    let rounds = if long() { 2 } else { 1 };
    for how in ["killed", "stopped"] {
        for _ in 0..rounds {
            leader_dies(brokers, &settings, how);
        }
    }
}

/// What became of the offers of a run.
#[derive(Default)]
struct Outcomes {
    acknowledged: BTreeSet<u64>,
    unknown: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    last: Option<Instant>,
    longest_pause: Duration,
}

fn leader_dies(brokers: &mut Brokers, settings: &KafkaSettings, how: &str) {
    let log = Arc::new(open(settings));
    let run = RunId::random().unwrap();
    let gatherer = Gatherer::start(log.clone(), run, Arc::new(SystemClock), Gathering::default()).unwrap();
    let mut reader = log.read_from(log.ends().unwrap().1).unwrap();
    let outcomes = Arc::new(Mutex::new(Outcomes::default()));
    let mut offered = 0u64;
    let mut offer = || {
        offered += 1;
        let (n, outcomes) = (offered, Arc::clone(&outcomes));
        let told: Told = Box::new(move |outcome| {
            let mut outcomes = outcomes.lock().unwrap();
            let now = Instant::now();
            let pause = outcomes.last.map_or(Duration::ZERO, |last| now - last);
            outcomes.last = Some(now);
            outcomes.longest_pause = outcomes.longest_pause.max(pause);
            match outcome {
                Ok(_) => outcomes.acknowledged.insert(n),
                Err(OrderError::Unknown(_)) => outcomes.unknown.insert(n),
                Err(_) => outcomes.refused.insert(n),
            };
        });
        gatherer.offer_now(n.to_le_bytes().to_vec(), |_| {}, told);
    };
    let mut offer_for = |time: Duration| {
        let from = Instant::now();
        while from.elapsed() < time {
            offer();
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    offer_for(2 * SECOND);
    let leader = brokers.leader_of("leader.order");
    match how {
        "killed" => brokers.kill9(leader),
        _ => brokers.freeze(leader),
    }
    let died = Instant::now();
    offer_for(SECOND);
    while outcomes.lock().unwrap().last.is_none_or(|last| last < died + SECOND) {
        assert!(died.elapsed() < 40 * SECOND, "writes never came back");
        offer_for(Duration::from_millis(100));
    }
    offer_for(2 * SECOND);
    wait_for("all offers to be told", || (gatherer.waiting() == 0).then_some(()));
    match how {
        "killed" => brokers.restart(leader),
        _ => brokers.thaw(leader),
    }
    brokers.wait_for_all();

    let mut times: BTreeMap<u64, u32> = BTreeMap::new();
    let end = wait_for("the log", || log.ends().ok()).1;
    let mut last_number = 0;
    let mut twice = 0;
    loop {
        let record = next(&mut *reader);
        let offered = Offers::decode(&record.value).unwrap();
        if offered.run == run {
            twice += u32::from(offered.first <= last_number);
            last_number = last_number.max(offered.first);
            for request in &offered.requests {
                *times.entry(u64::from_le_bytes(request.as_slice().try_into().unwrap())).or_default() += 1;
            }
        }
        if record.offset.0 + 1 >= end.0 {
            break;
        }
    }
    let outcomes = outcomes.lock().unwrap();
    let missing = outcomes.acknowledged.iter().filter(|n| !times.contains_key(n)).count();
    let wrong = outcomes.refused.iter().filter(|n| times.contains_key(n)).count();
    let more_than_once = times.values().filter(|&&times| times > 1).count();
    say(&format!(
        "the leader was {how}: {} acknowledged, {missing} of them missing; {} unknown, {} refused, {wrong} of them there; \
         {more_than_once} there more than once, {twice} records not in the order of their numbers; longest pause {:.1?}",
        outcomes.acknowledged.len(),
        outcomes.unknown.len(),
        outcomes.refused.len(),
        outcomes.longest_pause,
    ));
    assert_eq!((missing, wrong, more_than_once, twice), (0, 0, 0, 0));
    assert!(outcomes.longest_pause < 30 * SECOND, "{:?}", outcomes.longest_pause);
}
