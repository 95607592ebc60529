//! Bytes encoded for one socket that it has not taken yet.
//!
//! In: whole packets, appended. Out: one contiguous slice, so that a wake-up needs one `write`.
//! Invariant: `taken <= bytes.len()`; an empty outbox holds no more memory than `KEEP_BYTES`.

/// What an emptied outbox keeps for its next packets.
///
/// 1 KiB: an idle connection must stay below 6 KiB (DESIGN §10), a busy one refills at once anyway.
const KEEP_BYTES: usize = 1 << 10;

/// Encoded packets on their way to one socket.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    taken: usize,
}

impl Outbox {
    /// Bytes not yet taken by the socket.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    /// Whether the socket has taken everything.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the socket should be offered next.
    #[inline]
    pub(crate) fn pending(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// The buffer to append whole packets to; only append.
    #[inline]
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Notes that the socket took the first `count` bytes of [`Outbox::pending`].
    pub(crate) fn advance(&mut self, count: usize) {
        self.taken += count;
        assert!(self.taken <= self.bytes.len(), "a socket cannot take more than it was offered");
        if self.is_empty() {
            self.bytes.clear();
            self.taken = 0;
        } else if self.taken > self.bytes.len() / 2 {
            // The front half is dead: move the rest once, so that a slow socket's buffer stays within
            // twice its bound instead of growing with everything it ever took.
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
    }

    /// Gives memory back; called when a connection has been quiet for a while.
    pub(crate) fn trim(&mut self) {
        if self.is_empty() && self.bytes.capacity() > KEEP_BYTES {
            self.bytes = Vec::new();
            self.taken = 0;
        }
    }
}
