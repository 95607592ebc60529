//! The walls: what the design says of the repository as a whole, checked on its files. Starts no process.
//!
//! Knows: the table of who may know whom, the list of nevers, what every file must open with. In: the checkout.
//! Out: every fault at once, each with its file. A test here changes only when the design does.

mod conformance;
mod files;
mod pages;
mod performance;
mod tree;
mod walls;
