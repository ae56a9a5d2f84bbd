//! The logs of the order that the settings name.

use crate::config::Config;
use crate::order::topic::EventTopic;
use crate::order::{Log, OrderError};
use std::sync::Arc;

/// The logs of an order, and what can be said of them.
#[derive(Clone)]
pub struct Transport {
    /// The requests.
    pub order: Arc<dyn Log>,
    /// The files of batches, in pieces.
    pub pieces: Arc<dyn Log>,
    /// What each node reports of itself; the last report of each is kept.
    pub nodes: Arc<dyn Log>,
    /// Where the changes of all clients go, if they go to a topic.
    pub changes: Option<Arc<dyn EventTopic>>,
    /// What is wrong with the logs now, in words: settings that lose records, too few replicas in sync. Blocks.
    pub look: Arc<dyn Fn() -> Result<Vec<String>, OrderError> + Send + Sync>,
}

/// Opens the logs of the order that the settings name: makes their topics if they are missing, and checks them. Blocks.
#[cfg(feature = "cluster")]
pub fn open(config: &Config, order: &str) -> Result<Transport, OrderError> {
    use crate::kafka::events::KafkaTopic;
    use crate::kafka::log::KafkaLog;
    use crate::kafka::settings::{Address, KafkaSettings, Topic};
    use crate::kafka::topics::{self, Seen};

    let address: Address = order.parse().map_err(|error| OrderError::Refused(format!("{error}")))?;
    let settings = KafkaSettings {
        properties: config.kafka.clone(),
        allow_fewer_replicas: config.cluster.allow_fewer_replicas,
        trust_replication: config.cluster.trust_replication,
        ..KafkaSettings::new(address)
    };
    topics::ensure(&settings)?;
    let log = |topic| KafkaLog::open(&settings, topic).map(Arc::new);
    let (order, pieces, nodes) = (log(Topic::Order)?, log(Topic::Files)?, log(Topic::Nodes)?);
    let changes = config.cluster.changes_topic.as_ref();
    let changes = changes.map(|name| KafkaTopic::named(&settings, name.as_str())).transpose()?;
    let changes = changes.map(|topic| Arc::new(topic) as Arc<dyn EventTopic>);
    let look = move || {
        let seen = topics::look(&settings)?;
        let faults = seen.iter().flat_map(|topic| topic.faults.iter().cloned());
        Ok(faults.chain(seen.iter().filter_map(Seen::too_few_in_sync)).collect())
    };
    Ok(Transport { order, pieces, nodes, changes, look: Arc::new(look) })
}

/// Says that this program has no Kafka in it.
#[cfg(not(feature = "cluster"))]
pub fn open(_config: &Config, order: &str) -> Result<Transport, OrderError> {
    Err(OrderError::Refused(format!(
        "this profiled was built without Kafka, so it cannot share {order} with other nodes: build it with `--features cluster`, or \
         install the Debian package or the image, which have it"
    )))
}
