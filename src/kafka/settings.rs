//! The order's address, and what is passed on to librdkafka.
//!
//! Promises: an address that parses names brokers and legal topics. Properties are passed on as they are; those on which
//! the order's promises rest are refused, with the reason.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The longest name of a topic that Kafka takes.
const TOPIC_NAME_MAX: usize = 249;

/// Where an order is: `kafka://HOST:PORT,HOST:PORT/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `HOST:PORT` of some brokers; they name the others.
    brokers: Vec<String>,
    /// What the names of the topics start with.
    prefix: String,
}

/// Why an order's address is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the order's address {given:?} {what}; it is written kafka://HOST:PORT,HOST:PORT/PREFIX")]
pub struct AddressError {
    given: String,
    what: String,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(given: &str) -> Result<Self, AddressError> {
        let wrong = |what: String| AddressError { given: given.to_owned(), what };
        let rest =
            given.strip_prefix("kafka://").ok_or_else(|| wrong("doesn't start with kafka://".into()))?;
        let (hosts, prefix) = rest.split_once('/').ok_or_else(|| wrong("has no /PREFIX".into()))?;
        let brokers: Vec<String> = hosts.split(',').map(str::to_owned).collect();
        for broker in &brokers {
            if let Some(what) = wrong_broker(broker) {
                return Err(wrong(what));
            }
        }
        if prefix.is_empty() {
            return Err(wrong("has an empty PREFIX".into()));
        }
        if let Some(bad) = prefix.chars().find(|&c| !(c.is_ascii_alphanumeric() || "._-".contains(c))) {
            return Err(wrong(format!(
                "has a {bad:?} in PREFIX, which may have letters, digits, '.', '_' and '-'"
            )));
        }
        let longest = TOPIC_NAME_MAX - ".order".len();
        if prefix.len() > longest {
            return Err(wrong(format!("has a PREFIX of {} characters; at most {longest} fit", prefix.len())));
        }
        Ok(Self { brokers, prefix: prefix.to_owned() })
    }
}

/// What is wrong with `HOST:PORT`.
fn wrong_broker(broker: &str) -> Option<String> {
    if broker.is_empty() {
        return Some("has an empty HOST:PORT".into());
    }
    let Some((host, port)) = broker.rsplit_once(':') else {
        return Some(format!("has a broker {broker:?} without a :PORT"));
    };
    let is_v6 = host.starts_with('[') && host.ends_with(']');
    if host.is_empty()
        || (host.contains(':') && !is_v6)
        || host.contains(|c: char| c.is_whitespace() || c == '@')
    {
        return Some(format!("has a broker {broker:?} whose host is none"));
    }
    match port.parse::<u16>() {
        Ok(1..) => None,
        _ => Some(format!("has a broker {broker:?} whose port is none")),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kafka://{}/{}", self.brokers.join(","), self.prefix)
    }
}

/// One of the order's topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// The requests.
    Order,
    /// The bytes of batches.
    Files,
    /// What each node reports of itself.
    Nodes,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Order, Self::Files, Self::Nodes];

    /// What its name ends with.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Files => "files",
            Self::Nodes => "nodes",
        }
    }
}

/// How to reach an order, and what is asked of its topics.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    /// Where it is.
    pub address: Address,
    /// `[cluster.kafka]`: properties of librdkafka, by name.
    pub properties: BTreeMap<String, String>,
    /// Be content with fewer than three replicas, and with one in-sync replica.
    pub allow_fewer_replicas: bool,
    /// Be content with brokers that acknowledge before they have synced: a power supply that they share may take records.
    pub trust_replication: bool,
}

/// Without the values of properties: there are passwords among them.
impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("address", &self.address.to_string())
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .field("allow_fewer_replicas", &self.allow_fewer_replicas)
            .field("trust_replication", &self.trust_replication)
            .finish()
    }
}

/// Properties that nobody may set, and why.
const OWN: [(&str, &str); 13] = [
    ("bootstrap.servers", "the order's address names the brokers"),
    ("metadata.broker.list", "the order's address names the brokers"),
    ("acks", "an acknowledged write must be on all in-sync replicas"),
    ("request.required.acks", "an acknowledged write must be on all in-sync replicas"),
    ("enable.idempotence", "the order of writes rests on it"),
    ("transactional.id", "the order has no transactions"),
    ("auto.offset.reset", "a node must notice that records are missing"),
    ("enable.auto.commit", "each node keeps its own place"),
    ("enable.auto.offset.store", "each node keeps its own place"),
    ("allow.auto.create.topics", "topics are made with the right settings, or not at all"),
    ("message.timeout.ms", "whoever waits for a write waits for no longer"),
    ("delivery.timeout.ms", "whoever waits for a write waits for no longer"),
    ("enable.gapless.guarantee", "a write without an answer must not end all others"),
];

impl KafkaSettings {
    /// Settings for this address, strict and without properties.
    pub fn new(address: Address) -> Self {
        let properties = BTreeMap::new();
        Self { address, properties, allow_fewer_replicas: false, trust_replication: false }
    }

    /// The name of a topic.
    pub fn topic(&self, topic: Topic) -> String {
        format!("{}.{}", self.address.prefix, topic.suffix())
    }

    /// The brokers, as librdkafka takes them.
    pub(super) fn brokers(&self) -> String {
        self.address.brokers.join(",")
    }

    /// Which property is set that nobody may set, and why not.
    pub(super) fn own_property(&self) -> Option<String> {
        let (name, why) = OWN.iter().find(|(name, _)| self.properties.contains_key(*name))?;
        Some(format!("[cluster.kafka] must not set {name:?}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse() {
        for (given, brokers, order) in [
            ("kafka://k1:9092/profiled", "k1:9092", "profiled.order"),
            (
                "kafka://k1:9092,k2:9093,10.0.0.3:9094/a.b_c-D",
                "k1:9092,k2:9093,10.0.0.3:9094",
                "a.b_c-D.order",
            ),
            ("kafka://[::1]:9092/p", "[::1]:9092", "p.order"),
        ] {
            let address: Address = given.parse().unwrap();
            assert_eq!(address.to_string(), given);
            let settings = KafkaSettings::new(address);
            assert_eq!(
                (settings.brokers().as_str(), settings.topic(Topic::Order).as_str()),
                (brokers, order)
            );
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        let long = format!("kafka://k:1/{}", "x".repeat(244));
        for (given, what) in [
            ("", "doesn't start with kafka://"),
            ("k1:9092/p", "doesn't start with kafka://"),
            ("http://k1:9092/p", "doesn't start with kafka://"),
            ("kafka://k1:9092", "has no /PREFIX"),
            ("kafka://k1:9092/", "has an empty PREFIX"),
            ("kafka:///p", "has an empty HOST:PORT"),
            ("kafka://k1:9092,/p", "has an empty HOST:PORT"),
            ("kafka://k1/p", r#"has a broker "k1" without a :PORT"#),
            ("kafka://:9092/p", r#"has a broker ":9092" whose host is none"#),
            ("kafka://::1:9092/p", r#"has a broker "::1:9092" whose host is none"#),
            ("kafka://me@k1:9092/p", r#"has a broker "me@k1:9092" whose host is none"#),
            ("kafka://k1:kafka/p", r#"has a broker "k1:kafka" whose port is none"#),
            ("kafka://k1:0/p", r#"has a broker "k1:0" whose port is none"#),
            ("kafka://k1:70000/p", r#"has a broker "k1:70000" whose port is none"#),
            ("kafka://k1:9092/a/b", "has a '/' in PREFIX"),
            ("kafka://k1:9092/ä", "has a 'ä' in PREFIX"),
            (&long, "has a PREFIX of 244 characters; at most 243 fit"),
        ] {
            let error = given.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(what), "{given}: {error}");
            assert!(error.ends_with("it is written kafka://HOST:PORT,HOST:PORT/PREFIX"), "{error}");
        }
    }

    #[test]
    fn no_secret_is_in_the_debug_form() {
        let mut settings = KafkaSettings::new("kafka://k:1/p".parse().unwrap());
        settings.properties.insert("sasl.password".into(), "hunter2".into());
        let shown = format!("{settings:?}");
        assert!(shown.contains("sasl.password") && !shown.contains("hunter2"), "{shown}");
    }
}
