//! Who leads the order's topics, in the eyes of every broker.
//!
//! A broker that leads a topic, and that is cut off from the other brokers, goes on believing that it leads. The others choose another
//! one. librdkafka asks the broker with which it talks most who leads, and that is the one that is wrong. So a thread asks every broker by
//! a client of its own. If one is outvoted in two looks one after the other, all clients of the order are made again, without it.
//!
//! Promises: a broker that does not answer holds up nobody but this thread. Without a majority of those who answer nothing changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, park_timeout};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::metadata::Metadata;

use super::asked::Asked;
use super::client::{self, Context};
use super::settings::{KafkaSettings, Topic};
use crate::order::OrderError;

/// How often every broker is asked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How soon they are asked again about one that is outvoted for the first time.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long one answer may take.
const ASK: Duration = Duration::from_secs(1);

/// The id of a broker.
type BrokerId = i32;
/// Who leads each of the topics, in the order of [`Topic::ALL`], as one broker says.
type Leaders = Vec<BrokerId>;

/// The thread that asks. It ends with this.
pub struct LeaderWatch {
    asked: Asked,
    ends: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl LeaderWatch {
    /// Starts to ask, for all clients with these settings.
    pub fn start(settings: &KafkaSettings) -> Result<Self, OrderError> {
        let ends = Arc::new(AtomicBool::new(false));
        let (mut watch, ending) = (Watch::new(settings.clone()), Arc::clone(&ends));
        let thread = std::thread::Builder::new()
            .name("kafka-leaders".into())
            .spawn(move || {
                while !ending.load(Ordering::Acquire) {
                    watch.look();
                    park_timeout(if watch.is_settled() { LOOK_EVERY } else { LOOK_AGAIN });
                }
            })
            .map_err(|error| OrderError::OutOfReach(format!("no thread that asks who leads: {error}")))?;
        Ok(Self { asked: settings.asked.clone(), ends, thread })
    }

    /// Which broker is not asked now, and why, in words.
    pub fn outvoted(&self) -> Option<String> {
        self.asked.why()
    }
}

impl Drop for LeaderWatch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }
}

struct Watch {
    settings: KafkaSettings,
    /// The brokers that are asked, each by its own client, by `HOST:PORT`.
    clients: BTreeMap<String, Option<BaseConsumer<Context>>>,
    /// Who was outvoted at the last look.
    last: BTreeSet<BrokerId>,
    /// From whom the clients have turned away.
    left: BTreeSet<BrokerId>,
}

/// What the brokers said at one look.
#[derive(Default)]
struct Look {
    said: BTreeMap<BrokerId, Leaders>,
    /// The brokers whom each of them knows, with `HOST:PORT`.
    known: BTreeMap<BrokerId, BTreeMap<BrokerId, String>>,
}

impl Watch {
    fn new(settings: KafkaSettings) -> Self {
        let clients = settings.address.brokers().iter().map(|broker| (broker.clone(), None)).collect();
        Self { settings, clients, last: BTreeSet::new(), left: BTreeSet::new() }
    }

    /// Asks every broker, and turns away from those that are outvoted for the second time.
    fn look(&mut self) {
        let look = self.ask();
        let outvoted = outvoted(&look.said);
        if outvoted.is_empty() && !self.left.is_empty() {
            tracing::info!(target: "kafka", "the brokers agree again on who leads");
            self.settings.asked.turn_back();
            self.left.clear();
        } else if !outvoted.is_empty() && outvoted == self.last && outvoted != self.left {
            let others: BTreeMap<BrokerId, &str> = look
                .known
                .iter()
                .filter(|(by, _)| !outvoted.contains(by))
                .flat_map(|(_, known)| known.iter().map(|(id, address)| (*id, address.as_str())))
                .filter(|(id, _)| !outvoted.contains(id))
                .collect();
            let words = |ids: &mut dyn Iterator<Item = &BrokerId>| {
                ids.map(BrokerId::to_string).collect::<Vec<_>>().join(", ")
            };
            let (who, to) = (words(&mut outvoted.iter()), words(&mut others.keys()));
            let why = format!(
                "broker {who} says that it leads, and most brokers name another one: it may be cut off from them. \
                 Writes go to broker {to}; stop broker {who}, or mend the network between the brokers"
            );
            tracing::warn!(target: "kafka", "{why}");
            self.settings.asked.turn_to(others.into_values().collect::<Vec<_>>().join(","), why);
            self.left.clone_from(&outvoted);
        }
        self.last = outvoted;
    }

    /// Whether the clients have turned away from those who are outvoted.
    fn is_settled(&self) -> bool {
        self.last == self.left
    }

    /// Asks every broker that was ever named. Those that are named now are asked at the next look.
    fn ask(&mut self) -> Look {
        let mut look = Look::default();
        for (address, client) in &mut self.clients {
            let told = match client {
                Some(client) => told(client, &self.settings),
                None => asking(&self.settings, address)
                    .and_then(|fresh| told(client.insert(fresh), &self.settings)),
            };
            // A client that was told by another broker than its own says nothing new.
            if let Some((by, leaders, known)) = told {
                look.said.insert(by, leaders);
                look.known.insert(by, known);
            }
        }
        let named: BTreeSet<String> = look.known.values().flat_map(BTreeMap::values).cloned().collect();
        if !named.is_empty() {
            let address = self.settings.address.brokers();
            self.clients.retain(|broker, _| named.contains(broker) || address.contains(broker));
        }
        for broker in named {
            self.clients.entry(broker).or_default();
        }
        look
    }
}

/// A client that begins with this broker, and stays with it as long as it can. Its connections are no news.
fn asking(settings: &KafkaSettings, broker: &str) -> Option<BaseConsumer<Context>> {
    let mut config = client::config(settings, &[("group.id", "profiled-reads-without-a-group")]);
    config.set("bootstrap.servers", broker).set_log_level(RDKafkaLogLevel::Emerg);
    client::make(&config).ok()
}

/// Which broker answered, whom it calls the leaders, and whom it knows. `None` if it did not answer in time, or does not know all topics.
fn told(
    client: &BaseConsumer<Context>,
    settings: &KafkaSettings,
) -> Option<(BrokerId, Leaders, BTreeMap<BrokerId, String>)> {
    let mut leaders = vec![];
    let mut last = None;
    for topic in Topic::ALL {
        let answer = client.fetch_metadata(Some(&settings.topic(topic)), ASK).ok()?;
        leaders.push(leader(&answer)?);
        last = Some(answer);
    }
    let answer = last?;
    let known = answer.brokers().iter().map(|it| (it.id(), format!("{}:{}", it.host(), it.port())));
    Some((answer.orig_broker_id(), leaders, known.collect()))
}

fn leader(answer: &Metadata) -> Option<BrokerId> {
    Some(answer.topics().first()?.partitions().first()?.leader())
}

/// The brokers that call themselves leaders where more brokers name one and the same other, who agrees.
fn outvoted(said: &BTreeMap<BrokerId, Leaders>) -> BTreeSet<BrokerId> {
    let names =
        |broker: BrokerId, topic: usize| said.get(&broker).and_then(|leaders| leaders.get(topic)).copied();
    let votes = |topic: usize, leader: BrokerId| {
        said.keys().filter(|broker| names(**broker, topic) == Some(leader)).count()
    };
    let leads = |broker: BrokerId, topic: usize| names(broker, topic) == Some(broker);
    let is_outvoted = |broker: BrokerId| {
        (0..Topic::ALL.len()).filter(|topic| leads(broker, *topic)).any(|topic| {
            let mut others = said.keys().filter(|other| **other != broker && leads(**other, topic));
            others.any(|other| votes(topic, *other) > votes(topic, broker))
        })
    };
    said.keys().copied().filter(|broker| is_outvoted(*broker)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_outvoted_where_more_name_another_who_agrees() {
        type Case<'a> = (&'a [(BrokerId, [BrokerId; 3])], &'a [BrokerId]);
        // Who says who leads the three topics; who is outvoted.
        let table: [Case<'_>; 10] = [
            (&[], &[]),
            (&[(1, [1, 1, 1])], &[]),
            (&[(1, [1, 2, 3]), (2, [1, 2, 3]), (3, [1, 2, 3])], &[]),
            (&[(1, [1, 2, 3]), (2, [2, 2, 3]), (3, [2, 2, 3])], &[1]),
            (&[(1, [1, 2, 1]), (2, [3, 2, 2]), (3, [3, 2, 2])], &[1]),
            // One against one: nobody knows who is right.
            (&[(1, [1, 2, 3]), (2, [2, 2, 3])], &[]),
            // The new leader does not answer, or does not know it yet.
            (&[(1, [1, 1, 1]), (3, [2, 2, 2])], &[]),
            (&[(1, [1, 1, 1]), (2, [1, 1, 1]), (3, [2, 2, 2])], &[]),
            // There is no leader at the moment.
            (&[(1, [1, 1, 1]), (2, [-1, -1, -1]), (3, [-1, -1, -1])], &[]),
            // Two of five are cut off together.
            (&[(1, [1; 3]), (2, [1; 3]), (3, [4; 3]), (4, [4; 3]), (5, [4; 3])], &[1]),
        ];
        for (said, expected) in table {
            let heard = said.iter().map(|(by, leaders)| (*by, leaders.to_vec())).collect();
            assert_eq!(outvoted(&heard), expected.iter().copied().collect(), "{said:?}");
        }
    }
}
