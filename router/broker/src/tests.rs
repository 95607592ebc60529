//! The room as a whole, by what clients, disk and other shards see of it.

mod admitting;
mod aliases;
mod authorising;
mod clauses;
mod connecting;
mod delivering;
mod exactly_once;
mod exactly_once_simulation;
mod identifying;
mod illegal;
mod promising;
mod reporting;
mod retaining;
pub(crate) mod routing;
mod runs;
pub(crate) mod seeds;
mod sharding;
mod sharing;
mod sharing_simulation;
mod simulation;
mod sizing;
mod storing;
mod v5;
mod wills;
