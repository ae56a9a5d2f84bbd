//! A batch's body on its way in: written to the spool while it is parsed, checked and indexed.
//!
//! Promises: memory per upload is bounded whatever is sent (a few chunks, one row, 16 bytes a row); the limits hold on
//! what has actually arrived; an upload that is refused, broken off or dropped leaves nothing behind.

use super::commit::{Answer, NewBatch, Request};
use super::{AppError, BatchStatus, Inner};
use crate::batch::csv::Parser;
use crate::batch::pending::IndexBuilder;
use crate::batch::spool::SpoolError;
use crate::model::batch::BatchRules;
use crate::model::id::ClientCode;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;

/// How many chunks of the body may wait for the disk and the parser.
const CHUNKS_WAITING_MAX: usize = 4;

enum Piece {
    Bytes(Bytes),
    End,
}

/// A batch file on its way in. Dropping it abandons it: nothing stays.
pub struct Upload {
    inner: Arc<Inner>,
    pieces: mpsc::Sender<Piece>,
    worker: Option<JoinHandle<Result<NewBatch, AppError>>>,
}

impl Upload {
    pub(super) fn begin(
        inner: Arc<Inner>,
        client: ClientCode,
        rules: BatchRules,
        place: OwnedSemaphorePermit,
    ) -> Self {
        let (pieces, arriving) = mpsc::channel(CHUNKS_WAITING_MAX);
        let worker_inner = Arc::clone(&inner);
        let under_way = inner.metrics.upload();
        let worker = tokio::task::spawn_blocking(move || {
            let (_place, _under_way) = (place, under_way);
            take_in(&worker_inner, client, rules, arriving)
        });
        Self { inner, pieces, worker: Some(worker) }
    }

    /// Takes the next bytes of the body; waits while the disk or the parser is behind.
    pub async fn push(&mut self, bytes: Bytes) -> Result<(), AppError> {
        if self.pieces.send(Piece::Bytes(bytes)).await.is_ok() {
            return Ok(());
        }
        // The worker has refused the body, and says why.
        match self.joined().await {
            Err(error) => Err(error),
            Ok(_) => Err(AppError::internal("an upload ended before its body did")),
        }
    }

    /// The body has ended: makes the batch durable and readable, then says what it is called.
    pub async fn finish(mut self) -> Result<BatchStatus, AppError> {
        // If the worker has refused the body, joining it says why.
        drop(self.pieces.send(Piece::End).await);
        let batch = self.joined().await?;
        match self.inner.ask(Request::Accept(Box::new(batch))).await? {
            Answer::Accepted(known) => {
                self.inner.metrics.batch_accepted(&known.accepted.id.client);
                Ok(known.into())
            }
            other => Err(AppError::internal(format!("a batch was answered with {other:?}"))),
        }
    }

    async fn joined(&mut self) -> Result<NewBatch, AppError> {
        match self.worker.take() {
            Some(worker) => worker.await.map_err(AppError::internal)?,
            None => Err(AppError::internal("an upload was used after its end")),
        }
    }
}

/// Takes a body in, on a thread that may block.
fn take_in(
    inner: &Inner,
    client: ClientCode,
    rules: BatchRules,
    mut arriving: mpsc::Receiver<Piece>,
) -> Result<NewBatch, AppError> {
    let limits = inner.config.limits;
    let mut spool = inner.spool.begin(inner.clock.now())?;
    let (mut parser, mut index) = (Parser::new(), IndexBuilder::default());
    let mut rows = 0u64;
    loop {
        let piece = arriving.blocking_recv();
        let each = |row: crate::batch::csv::Row<'_>| {
            rows += 1;
            index.add(&row, rules.empty_values);
        };
        let ended = match &piece {
            Some(Piece::Bytes(bytes)) => {
                spool.write(bytes)?;
                parser.push(bytes, each)?;
                false
            }
            Some(Piece::End) => {
                parser.finish(each)?;
                true
            }
            // Dropped: the client is gone, or was refused by the front door.
            None => return Err(AppError::BadBatch("the upload was broken off".into())),
        };
        if spool.written() >= limits.body_bytes_limit {
            let limit = limits.body_bytes_limit;
            return Err(AppError::TooLarge(format!(
                "the batch file has {limit} bytes or more; send fewer than {limit} at a time"
            )));
        }
        if rows > limits.rows_limit {
            let limit = limits.rows_limit;
            return Err(AppError::TooManyRows(format!(
                "the batch file has more than {limit} rows; send at most {limit} at a time"
            )));
        }
        if ended {
            break;
        }
    }
    let header = parser.finish(|_| ())?.clone();
    spool.sync()?;
    let index_path = inner.spool.index_path(spool.name());
    let index = index.finish(&index_path).map_err(|error| SpoolError::of(index_path, error))?;
    spool.count_index();
    Ok(NewBatch { client, rules, header, rows, spool, index })
}

impl From<SpoolError> for AppError {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::OverLimit(_) => Self::SpoolFull(error.to_string()),
            SpoolError::NoHandle => Self::NoHandle,
            SpoolError::Full(why) => Self::Full(why),
            SpoolError::Failed { .. } => Self::internal(error),
        }
    }
}

impl From<crate::batch::csv::HeaderError> for AppError {
    fn from(error: crate::batch::csv::HeaderError) -> Self {
        Self::BadBatch(error.to_string())
    }
}
