//! Parts of the command line that have a file of their own.

pub(crate) mod broker;
pub(crate) mod processes;
pub(crate) mod reports;
pub(crate) mod table;
