//! Buffers that belong to a worker thread, not to a connection.
//!
//! A connection takes one while it is polled and gives it back before it waits, so ten thousand
//! idle connections hold none. What one connection leaves in a buffer is out of reach of the next:
//! a buffer is handed out empty.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Buffers kept by one worker thread: a poll needs at most input, plaintext, frame and output.
const BUFFERS_MAX: usize = 6;
/// A buffer that grew beyond this is freed instead of kept.
const BUFFER_BYTES_MAX: usize = 256 * 1024;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty byte buffer, borrowed from the worker thread and given back on drop.
///
/// Take it inside one poll and drop it there: held over an `.await` it would be memory that the
/// connection holds while idle.
#[derive(Debug, Default)]
pub struct Scratch(Vec<u8>);

impl Scratch {
    /// Takes a buffer; it is empty, its capacity is what earlier use left.
    #[must_use]
    pub fn take() -> Self {
        let kept = BUFFERS
            .try_with(|buffers| buffers.try_borrow_mut().ok().and_then(|mut kept| kept.pop()))
            .ok()
            .flatten();
        Self(kept.unwrap_or_default())
    }
}

impl Deref for Scratch {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        if buffer.capacity() == 0 || buffer.capacity() > BUFFER_BYTES_MAX {
            return;
        }
        buffer.clear();
        // A thread that is ending has no place for it any more: then it is freed.
        let _ = BUFFERS.try_with(|buffers| {
            if let Ok(mut kept) = buffers.try_borrow_mut()
                && kept.len() < BUFFERS_MAX
            {
                kept.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_empty_with_its_capacity() {
        let mut first = Scratch::take();
        first.extend_from_slice(&[7; 4096]);
        drop(first);
        let second = Scratch::take();
        assert!(second.is_empty());
        assert!(second.capacity() >= 4096);
    }

    #[test]
    fn a_buffer_that_grew_too_large_is_not_kept() {
        std::thread::spawn(|| {
            let mut large = Scratch::take();
            large.reserve(BUFFER_BYTES_MAX + 1);
            drop(large);
            assert_eq!(Scratch::take().capacity(), 0);
        })
        .join()
        .unwrap();
    }
}
