//! Objects over S3, with `object_store`: signatures, credentials, uploads in parts, tries again.
//!
//! Promises: a file goes in parts of [`PART_BYTES`], one after the other; a file of many parts gets larger ones, so that there are not
//! more than the storage takes. The storage shows the object when the last part is confirmed. An upload that fails is aborted, so that
//! its parts cost nothing; what a kill leaves behind, nobody sees, and a rule of the bucket removes.

use super::http::{Connector, Unanswered};
use super::objects::{BucketError, GoOn, Listed, Objects, Storage};
use crate::config::BucketUrl;
use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path as Location;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};
use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::pin::pin;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How many bytes are sent or fetched at once.
const PART_BYTES: u64 = 8 << 20;
/// How many parts the storage takes of one object.
const PARTS_MAX: u64 = 10_000;
/// How long one call may take, with all tries.
const CALL_MAX: Duration = Duration::from_secs(300);
/// How often a call that goes on is asked whether it is wanted still.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long an upload that failed may take to be aborted.
const ABORT_MAX: Duration = Duration::from_secs(5);
/// How often a call is tried again, and for how long.
const TRIES_AGAIN: usize = 3;
const TRIED_FOR: Duration = Duration::from_secs(60);

/// The variables with the credentials.
const KEYS: &str = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";

/// A place in S3-compatible storage.
pub(super) struct S3 {
    runtime: Runtime,
    store: AmazonS3,
    url: BucketUrl,
    /// Where the storage answers, in words.
    endpoint: String,
    is_amazon: bool,
    go_on: GoOn,
}

impl S3 {
    /// Opens the place. Credentials are those of the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, …), else the machine's.
    pub(super) fn open(url: &BucketUrl, storage: &Storage, go_on: GoOn) -> Result<Self, BucketError> {
        let failed = |why: String| BucketError::Failed { url: url.to_string(), why };
        let retry =
            RetryConfig { max_retries: TRIES_AGAIN, retry_timeout: TRIED_FOR, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(url.bucket())
            .with_allow_http(storage.allow_http)
            .with_http_connector(Connector)
            .with_retry(retry);
        if let Some(endpoint) = &storage.endpoint {
            builder = builder.with_endpoint(endpoint.as_str()).with_virtual_hosted_style_request(false);
        }
        if let Some(region) = &storage.region {
            builder = builder.with_region(region.as_str());
        }
        let store =
            builder.build().map_err(|error| failed(format!("{error}: set both {KEYS}, or neither")))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(format!("it cannot be reached: {error}")))?;
        let endpoint =
            storage.endpoint.as_ref().map_or("Amazon S3".into(), |endpoint| endpoint.as_str().to_owned());
        Ok(Self { runtime, store, url: url.clone(), endpoint, is_amazon: storage.endpoint.is_none(), go_on })
    }

    fn location(&self, name: &str) -> Result<Location, BucketError> {
        let whole = format!("{}/{name}", self.url.prefix());
        Location::parse(&whole).map_err(|error| self.failed(format!("{name}: {error}")))
    }

    /// A location as a name below the prefix.
    fn name<'l>(&self, location: &'l Location) -> Option<&'l str> {
        let below = location.as_ref().strip_prefix(self.url.prefix())?;
        Some(below.strip_prefix('/').unwrap_or(below))
    }

    /// Does something on this thread, for as long as it is wanted.
    fn wait<T>(&self, call: impl Future<Output = object_store::Result<T>>) -> Result<T, BucketError> {
        self.wait_for(call)?.map_err(|error| self.told(&error))
    }

    fn wait_for<T>(
        &self,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<object_store::Result<T>, BucketError> {
        self.runtime.block_on(async {
            let mut call = pin!(call);
            let begun = tokio::time::Instant::now();
            loop {
                (self.go_on)().map_err(BucketError::BrokenOff)?;
                if let Ok(done) = tokio::time::timeout(LOOK_EVERY, call.as_mut()).await {
                    return Ok(done);
                }
                if begun.elapsed() > CALL_MAX {
                    let why = format!("{} did not finish a call in {} s", self.endpoint, CALL_MAX.as_secs());
                    return Err(self.failed(why));
                }
            }
        })
    }

    fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        file: &mut File,
        (path, length): (&Path, u64),
    ) -> Result<(), BucketError> {
        let part = part_bytes(length);
        let mut left = length;
        while left > 0 {
            let bytes = read(file, left.min(part)).map_err(unreadable(path))?;
            left -= bytes.len() as u64;
            self.wait(upload.put_part(PutPayload::from_bytes(bytes)))?;
        }
        self.wait(upload.complete()).map(drop)
    }

    /// Whether a host is the storage's.
    fn is_storage(&self, host: &str) -> bool {
        let amazon = host.starts_with("s3.") || host.contains(".s3.");
        self.endpoint.contains(host) || (self.is_amazon && amazon)
    }

    fn failed(&self, why: String) -> BucketError {
        BucketError::Failed { url: self.url.to_string(), why }
    }

    /// An error of the storage, in words for whoever runs the daemon.
    fn told(&self, error: &object_store::Error) -> BucketError {
        let endpoint = &self.endpoint;
        if let Some(unanswered) = unanswered(error) {
            return self.failed(match unanswered {
                // Somebody else was asked: whoever gives this machine the credentials of its role.
                Unanswered::NotConnected { host, .. } if !self.is_storage(host) => {
                    format!("there are no credentials: set {KEYS}, or give this machine a role; {unanswered}")
                }
                Unanswered::NotConnected { .. } => {
                    format!("{unanswered}: check s3_endpoint, and the network")
                }
                other => format!("{endpoint}: {other}"),
            });
        }
        let text = error.to_string();
        let code = code(&text);
        let why = match code.unwrap_or_default() {
            "NoSuchBucket" => format!("there is no bucket {:?} at {endpoint}: make it", self.url.bucket()),
            code @ ("SignatureDoesNotMatch" | "InvalidAccessKeyId" | "NotSignedUp") => {
                format!("{endpoint} does not know the credentials ({code}): check {KEYS}")
            }
            code @ ("ExpiredToken" | "InvalidToken") => {
                format!(
                    "{endpoint} takes the credentials no more ({code}): renew AWS_SESSION_TOKEN with {KEYS}"
                )
            }
            "RequestTimeTooSkewed" => format!("{endpoint} has another time than this machine: set its clock"),
            "AuthorizationHeaderMalformed" | "PermanentRedirect" => {
                format!("the bucket is in another region: set s3_region ({})", shortened(&text))
            }
            "AccessDenied" => format!(
                "{endpoint} does not let these credentials do that (AccessDenied): they must list, read, write and delete objects"
            ),
            _ => format!("{endpoint}: {}", shortened(&text)),
        };
        self.failed(why)
    }
}

impl Objects for S3 {
    fn folders(&self) -> Result<Vec<String>, BucketError> {
        let prefix = Location::parse(self.url.prefix()).map_err(|error| self.failed(error.to_string()))?;
        let listed = self.wait(self.store.list_with_delimiter(Some(&prefix)))?;
        let names = listed.common_prefixes.iter().filter_map(|folder| self.name(folder));
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    fn list(&self, folder: &str) -> Result<Vec<Listed>, BucketError> {
        let (mut found, mut folders) = (vec![], vec![self.location(folder)?]);
        while let Some(next) = folders.pop() {
            let listed = self.wait(self.store.list_with_delimiter(Some(&next)))?;
            folders.extend(listed.common_prefixes);
            found.extend(listed.objects.into_iter().filter_map(|object| {
                Some(Listed { name: self.name(&object.location)?.to_owned(), bytes: object.size })
            }));
        }
        Ok(found)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, BucketError> {
        let location = self.location(name)?;
        let read = self.wait_for(async { self.store.get(&location).await?.bytes().await })?;
        match read {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(ref error @ object_store::Error::NotFound { .. })
                if code(&error.to_string()) != Some("NoSuchBucket") =>
            {
                Ok(None)
            }
            Err(error) => Err(self.told(&error)),
        }
    }

    fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), BucketError> {
        let location = self.location(name)?;
        self.wait(self.store.put(&location, PutPayload::from(bytes))).map(drop)
    }

    fn send(&self, from: &Path, name: &str) -> Result<(), BucketError> {
        let location = self.location(name)?;
        let mut file = File::open(from).map_err(unreadable(from))?;
        let length = file.metadata().map_err(unreadable(from))?.len();
        if length <= PART_BYTES {
            let bytes = read(&mut file, length).map_err(unreadable(from))?;
            return self.wait(self.store.put(&location, PutPayload::from_bytes(bytes))).map(drop);
        }
        let mut upload = self.wait(self.store.put_multipart(&location))?;
        let sent = self.send_parts(&mut *upload, &mut file, (from, length));
        if sent.is_err() {
            let aborted =
                self.runtime.block_on(async { tokio::time::timeout(ABORT_MAX, upload.abort()).await });
            if !matches!(aborted, Ok(Ok(()))) {
                tracing::warn!(url = %self.url, name, "the parts of an upload that failed could not be removed; a rule of the bucket can");
            }
        }
        sent
    }

    fn fetch(
        &self,
        object: &Listed,
        see: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), BucketError> {
        let location = self.location(&object.name)?;
        let mut from = 0;
        while from < object.bytes {
            let to = object.bytes.min(from + PART_BYTES);
            let piece: Bytes = self.wait(self.store.get_range(&location, from..to))?;
            if piece.len() as u64 != to - from {
                let why = format!("{} has become shorter while it was read", object.name);
                return Err(self.failed(why));
            }
            see(&piece).map_err(BucketError::BrokenOff)?;
            from = to;
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), BucketError> {
        let location = self.location(name)?;
        match self.wait_for(self.store.delete(&location))? {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.told(&error)),
        }
    }
}

/// How large the parts of a file of this length are.
fn part_bytes(length: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    PART_BYTES.max(length.div_ceil(PARTS_MAX).next_multiple_of(MIB))
}

/// So many bytes of a file.
fn read(file: &mut File, length: u64) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    file.take(length).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == length { Ok(bytes.into()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// An error of the system at a file that is sent.
fn unreadable(path: &Path) -> impl Fn(io::Error) -> BucketError + use<> {
    let path = path.to_owned();
    move |error| BucketError::File { path: path.clone(), error }
}

/// Why the storage did not answer, if it did not.
fn unanswered<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Unanswered> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The code in an error of S3, such as `NoSuchBucket`.
fn code(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("<Code>")?;
    Some(rest.split_once("</Code>")?.0)
}

/// The first line of a message, not too long. It may hold the storage's own words, but no header of the request.
fn shortened(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_has_no_more_parts_than_the_storage_takes() {
        const MIB: u64 = 1 << 20;
        for length in [PART_BYTES + 1, 10_000 * PART_BYTES, 10_000 * PART_BYTES + 1, 5 << 40] {
            let part = part_bytes(length);
            assert!(length.div_ceil(part) <= PARTS_MAX && part.is_multiple_of(MIB), "{length}: {part}");
        }
        assert_eq!(part_bytes(100 << 30), 11 * MIB);
    }

    #[test]
    fn the_code_of_an_error_is_found() {
        assert_eq!(code("404: <Error><Code>NoSuchBucket</Code><Message>…"), Some("NoSuchBucket"));
        assert_eq!(code("Connection refused"), None);
    }
}
