//! How a node asks another one: over HTTP, with the token of `peer_token_file`.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::LINK;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::client::Client;
use super::error::CliError;
use crate::cluster::{AskPeer, PeerAnswer, PeerCall};
use crate::engine::PeerBody;

/// How long a node may take to begin its answer: it reads a whole file before it gives it.
const BEGINS_WITHIN: Duration = Duration::from_secs(60);
/// How long the next bytes may take.
const NEXT_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether the answer is still wanted.
const LOOK: Duration = Duration::from_millis(100);

/// Asks with this token, if there is one, from threads that may block.
pub(super) fn asking(token: Option<String>, runtime: Handle) -> AskPeer {
    Box::new(move |call, goes_on| {
        let answer = ask(call, token.as_deref(), &runtime, goes_on)?;
        let link = answer.headers().get(LINK).and_then(|link| Some(link.to_str().ok()?.to_owned()));
        let body = Coming { answer: answer.into_body(), runtime: runtime.clone() };
        Ok(PeerAnswer { link, body: Box::new(body) })
    })
}

fn ask(
    call: &PeerCall,
    token: Option<&str>,
    runtime: &Handle,
    goes_on: &dyn Fn() -> bool,
) -> Result<Response<Incoming>, String> {
    let failed = |error: CliError| error.to_string();
    let client = Client::new(&call.address, token, None).and_then(|client| client.of_node(&call.from));
    let client = client.map_err(failed)?;
    let asked = within(runtime, BEGINS_WITHIN, goes_on, client.stream(&call.path, call.accept))?;
    asked.map_err(failed)
}

/// An answer as it comes.
struct Coming {
    answer: Incoming,
    runtime: Handle,
}

impl PeerBody for Coming {
    fn next(&mut self, goes_on: &dyn Fn() -> bool) -> Result<Option<Bytes>, String> {
        loop {
            let frame = within(&self.runtime, NEXT_WITHIN, goes_on, self.answer.frame())?;
            match frame.transpose().map_err(|error| format!("it broke off its answer: {error}"))? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

/// Waits for what comes, for so long, and as long as it goes on.
fn within<T>(
    runtime: &Handle,
    time: Duration,
    goes_on: &dyn Fn() -> bool,
    coming: impl Future<Output = T>,
) -> Result<T, String> {
    let (mut coming, begun) = (pin!(coming), Instant::now());
    while goes_on() {
        if let Ok(came) = runtime.block_on(async { timeout(LOOK, coming.as_mut()).await }) {
            return Ok(came);
        }
        if begun.elapsed() >= time {
            return Err(format!("it did not answer within {} s", time.as_secs()));
        }
    }
    Err("the answer is not wanted any more".into())
}
