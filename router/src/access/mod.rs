//! Users and rules as operators keep them, and the threads that verify passwords.
//!
//! `passwords`: the password file. `acl`: the text of rules. `verifier`: the threads, `recent` and `brake` beside them.
//! In: files, credentials. Out: what the broker decides by (`broker::access`), and verdicts. Never: who may do what.

pub mod acl;
mod brake;
pub mod passwords;
mod recent;
mod verifier;

pub use acl::AclError;
pub(crate) use brake::Brake;
pub use passwords::{PasswordFile, PasswordFileError};
pub(crate) use verifier::{Verifier, VerifierSetup};

#[cfg(test)]
mod tests;
