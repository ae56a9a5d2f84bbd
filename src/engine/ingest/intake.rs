//! A batch file on its way in: written to the spool, parsed and indexed as it arrives. An upload's own thread does so with
//! what a caller sends, and a node of several with what other nodes took in.
//!
//! Promises: nothing of it stays unless the batch is accepted.

use crate::batch::csv::{HeaderError, Parser};
use crate::batch::index::IndexBuilder;
use crate::batch::spool::{SpoolError, SpoolFile};
use crate::engine::commit::NewBatch;
use crate::engine::error::EngineError;
use crate::engine::shared::Shared;
use crate::engine::types::BatchSending;
use crate::model::batch::{AS_OF_ATTRIBUTES_MAX, BatchRules};
use crate::model::id::ClientCode;

/// A batch file on its way in.
pub(in crate::engine) struct Intake {
    client: ClientCode,
    rules: BatchRules,
    spool: SpoolFile,
    parser: Parser,
    index: IndexBuilder,
    rows: u64,
}

impl Intake {
    /// Begins a file.
    pub(in crate::engine) fn begin(
        shared: &Shared,
        client: ClientCode,
        rules: BatchRules,
    ) -> Result<Self, EngineError> {
        let spool = shared.spool.begin(shared.now())?;
        let (parser, index) = (Parser::new(&rules.reading), IndexBuilder::default());
        Ok(Self { client, rules, spool, parser, index, rows: 0 })
    }

    /// Takes it in whatever the spool holds already: another node has judged that by its own limit.
    pub(in crate::engine) fn lift_limit(&mut self) {
        self.spool.lift_limit();
    }

    /// How many rows have come so far.
    pub(in crate::engine) fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes the next bytes.
    pub(in crate::engine) fn push(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        let (rows, index, empty_values) = (&mut self.rows, &mut self.index, self.rules.empty_values);
        self.spool.write(bytes)?;
        self.parser.push(bytes, |row: crate::batch::csv::Row<'_>| {
            *rows += 1;
            index.add(&row, empty_values);
        })?;
        self.check_attributes()
    }

    /// No more bytes come.
    pub(in crate::engine) fn end(&mut self) -> Result<(), HeaderError> {
        let (rows, index, empty_values) = (&mut self.rows, &mut self.index, self.rules.empty_values);
        let each = |row: crate::batch::csv::Row<'_>| {
            *rows += 1;
            index.add(&row, empty_values);
        };
        self.parser.finish(each).map(drop)
    }

    /// Refuses a file with more attributes than the outcomes of a batch with a time can tell apart.
    pub(in crate::engine) fn check_attributes(&self) -> Result<(), EngineError> {
        let attributes = self.parser.header().map_or(0, |header| header.names().len());
        let line = self.parser.header_place().map_or(1, |(place, _)| place.line);
        if self.rules.as_of.is_some() && attributes > AS_OF_ATTRIBUTES_MAX {
            return Err(EngineError::BadBatch(format!(
                "line {line}: a batch with a time (asOf) has at most {AS_OF_ATTRIBUTES_MAX} attributes, and this one has \
                 {attributes}: send its columns as two batches with the same time"
            )));
        }
        Ok(())
    }

    /// Makes the file durable and its index ready, once it has [ended](Self::end).
    pub(in crate::engine) fn finish(mut self, shared: &Shared) -> Result<NewBatch, EngineError> {
        let header = self.parser.finish(|_| ())?.clone();
        let Self { client, rules, mut spool, index, rows, .. } = self;
        spool.sync()?;
        let index_path = shared.spool.index_path(spool.name());
        let index = index
            .finish(&index_path, &spool.path(), &header, &rules)
            .map_err(|error| SpoolError::of(index_path, error))?;
        spool.count_index();
        Ok(NewBatch {
            client,
            rules,
            header,
            rows,
            spool,
            index,
            sending: BatchSending::default(),
            lacking: None,
        })
    }
}
