//! The mark that each batch begins with: its number, and up to which one all was synced.
//!
//! It tells a journal that a power cut has torn from one that is damaged: what a later batch says
//! was synced has to be there. A mark holds the token of its store, which no client knows: bytes
//! in a payload are never taken for a batch.

use fjall::OwnedWriteBatch;

use super::codec::{Damage, Fields, Record, put_u64, unseal};
use super::engine::Engine;
use super::keys;

/// What makes the marks of one store its own.
pub(super) type Token = [u8; 16];

/// The bytes of a mark's record: version, two numbers, token, checksum.
pub(super) const RECORD_BYTES: usize = 41;
/// Where in the record the token is.
pub(super) const TOKEN_AT: usize = 17;

/// What a batch says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Its number: one higher than that of the batch before.
    pub(super) number: u64,
    /// Batches up to this one were synced when it was written.
    pub(super) synced: u64,
}

impl Mark {
    /// The mark that is stored, if it is of this store.
    pub(super) fn unseal(stored: &[u8], token: &Token) -> Result<Self, Damage> {
        let mut fields = unseal(keys::MARK, stored)?;
        let mark = Self { number: fields.u64()?, synced: fields.u64()? };
        if fields.array()? != *token {
            return Err(Damage("the mark of the batch is that of another store"));
        }
        Fields::finish(fields)?;
        Ok(mark)
    }
}

/// Gives batches their marks.
#[derive(Debug)]
pub(super) struct Marks {
    token: Token,
    last: Mark,
}

impl Marks {
    /// Goes on after this number; all up to there is synced.
    pub(super) fn after(number: u64, token: Token) -> Self {
        Self { token, last: Mark { number, synced: number } }
    }

    /// A batch that begins with its mark.
    pub(super) fn batch(&mut self, engine: &Engine) -> OwnedWriteBatch {
        let mut batch = engine.database.batch();
        self.last.number += 1;
        let mut record = Record::new();
        put_u64(record.fields(), self.last.number);
        put_u64(record.fields(), self.last.synced);
        record.fields().extend_from_slice(&self.token);
        batch.insert(&engine.state, keys::MARK, record.seal(keys::MARK));
        batch
    }

    /// The number of the last batch.
    pub(super) fn last(&self) -> u64 {
        self.last.number
    }

    /// All that was written so far is synced.
    pub(super) fn synced(&mut self) {
        self.last.synced = self.last.number;
    }
}
