//! Objects in S3-compatible storage, below the prefix that a URL names.
//!
//! ```text
//! mod.rs      opens a place
//! objects.rs  what can be done with objects, and why it was not done
//! s3.rs       that over S3, with the feature `s3`; but for http.rs the only file that knows `object_store`
//! http.rs     how its requests are sent: hyper, TLS, time limits; with the feature `s3`
//! ```
//!
//! Promises: every call blocks, and ends: it takes no longer than its time limits, and breaks off when whoever opened the bucket says
//! so. It holds one part of a file in memory. Neither a log line nor an error has credentials in it.

#[cfg(feature = "s3")]
mod http;
#[cfg(feature = "s3")]
mod s3;

pub mod objects;

use crate::config::BucketUrl;
pub use objects::{BucketError, GoOn, Listed, Objects, Storage};

/// Opens a place in storage. Nothing is asked yet. Blocks, and so does all that is done with it; not for an async thread.
#[cfg(feature = "s3")]
pub fn open(url: &BucketUrl, storage: &Storage, go_on: GoOn) -> Result<Box<dyn Objects>, BucketError> {
    Ok(Box::new(s3::S3::open(url, storage, go_on)?))
}

/// Says that this program has no S3 in it.
#[cfg(not(feature = "s3"))]
pub fn open(url: &BucketUrl, _storage: &Storage, _go_on: GoOn) -> Result<Box<dyn Objects>, BucketError> {
    Err(BucketError::NotBuiltIn { url: url.to_string() })
}
