//! Which brokers the clients of an order ask: those that its address names, or others while one of them is not to be trusted.

use std::sync::{Arc, PoisonError, RwLock};

/// Which brokers the clients of an order ask. All of them share it.
#[derive(Clone, Default)]
pub struct Asked(Arc<RwLock<Chosen>>);

#[derive(Clone, Default)]
struct Chosen {
    /// Rises whenever all clients have to be made again.
    round: u64,
    /// `HOST:PORT` of those to ask, if not the ones of the order's address.
    brokers: Option<String>,
    /// Who is not asked, and why, in words.
    why: Option<String>,
}

impl Asked {
    /// A client that was made in an earlier round has to be made again.
    pub(super) fn round(&self) -> u64 {
        self.0.read().unwrap_or_else(PoisonError::into_inner).round
    }

    /// The brokers to ask, as librdkafka takes them, if not those of the order's address.
    pub(super) fn brokers(&self) -> Option<String> {
        self.chosen().brokers
    }

    /// Which brokers are not asked, and why, in words.
    pub(super) fn why(&self) -> Option<String> {
        self.chosen().why
    }

    fn chosen(&self) -> Chosen {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All clients turn away from some brokers, to these.
    pub(super) fn turn_to(&self, brokers: String, why: String) {
        let mut chosen = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *chosen = Chosen { round: chosen.round + 1, brokers: Some(brokers), why: Some(why) };
    }

    /// New clients may ask all again.
    pub(super) fn turn_back(&self) {
        let mut chosen = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *chosen = Chosen { round: chosen.round, ..Chosen::default() };
    }
}
