//! What the fuzz targets share: bytes as choices, and the seeds they start from.
//!
//! Three targets, each a binary with libFuzzer inside: `frames` (bytes to packets and back), `routes` (a table against
//! the naive evaluator), `broker` (two connections, any bytes). They are built by the compiler of the product, in this
//! folder, where `.cargo/config.toml` turns coverage on: `cargo build --release`; `make fuzz` does it and runs them.
//! `corpus/<target>` is what a run starts from, `crashes/<target>` what once failed; both are run first, each time.
//! One input alone: `<target> FILE`. The seeds anew: `MILLRACE_FUZZ_SEEDS=corpus/<target> <target>`.
//! The corpus of `frames` is more than seeds: the fewest inputs that reach every edge which a long run has reached, made by
//! `frames -use_counters=0 -set_cover_merge=1 NEW corpus/frames STATE/learned/frames`.
//! Invariant: the same bytes give the same run; no target keeps anything from one input to the next.

use std::path::Path;

/// An input, read as answers to questions. When it ends, every answer is 0, so each input is a whole one.
#[derive(Clone, Debug)]
pub struct Choices<'d> {
    rest: &'d [u8],
}

impl<'d> Choices<'d> {
    /// Choices from `bytes`.
    pub const fn new(bytes: &'d [u8]) -> Choices<'d> {
        Choices { rest: bytes }
    }

    /// Whether only zeros follow.
    pub const fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    /// A number from 0 to `count` - 1; `count` is 1 to 256.
    pub fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    /// One of `all`.
    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// The next `len` bytes as they are; fewer at the end.
    pub fn take(&mut self, len: usize) -> &'d [u8] {
        let (taken, rest) = self.rest.split_at(len.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Everything that is left.
    pub fn take_rest(&mut self) -> &'d [u8] {
        std::mem::take(&mut self.rest)
    }
}

/// Writes the seeds of a target into the folder that `MILLRACE_FUZZ_SEEDS` names and ends the process. Without the
/// variable it does nothing.
///
/// Panics if the folder cannot be written.
pub fn write_seeds(make: fn() -> Vec<Vec<u8>>) {
    let Some(folder) = std::env::var_os("MILLRACE_FUZZ_SEEDS") else { return };
    let folder = Path::new(&folder);
    std::fs::create_dir_all(folder).expect("the folder of the seeds can be made");
    for (number, seed) in make().iter().enumerate() {
        std::fs::write(folder.join(format!("{number:02}")), seed).expect("a seed can be written");
    }
    std::process::exit(0);
}

/// Appends a packet: this first byte, the right length, this body. Flags that must have one value get it.
pub fn frame(out: &mut Vec<u8>, header: u8, body: &[u8]) {
    out.push(match header >> 4 {
        0 => 0x10,
        3 if header & 0b0110 == 0 => header & !0b1000,
        3 if header & 0b0110 == 0b0110 => header & !0b0100,
        3 => header,
        6 | 8 | 10 => header & 0xF0 | 0b0010,
        _ => header & 0xF0,
    });
    let mut len = body.len();
    while len > 0x7F {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(body);
}
