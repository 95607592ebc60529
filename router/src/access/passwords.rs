//! The password file: users, each with an argon2id hash of its password.
//!
//! A line is `user:$argon2id$v=19$m=…,t=…,p=…$salt$hash` (the PHC string format); blank lines and lines that start with
//! `#` are comments. In: text, credentials. Out: users, yes or no, the text with one line changed.
//! Always: a password is neither kept nor shown; to find no such user takes as long as to find a wrong password.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use argon2::{Algorithm, Argon2, Params, Version};
use base64ct::{Base64Unpadded, Encoding};

/// Longest name of a user, in bytes.
const NAME_BYTES_MAX: usize = 255;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// How expensive it is to try a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl Default for Cost {
    /// The first recommendation of OWASP for argon2id: about 20 ms on a desktop core, 19 MiB.
    fn default() -> Self {
        Cost { memory_kib: 19_456, passes: 2 }
    }
}

/// Why a line is no user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordFileError {
    /// No colon.
    #[error("expected USER:$argon2id$…; write it with: millrace passwd FILE USER")]
    NoColon,
    /// Empty, too long, or with a control character.
    #[error(
        "the user's name must have 1 to {NAME_BYTES_MAX} bytes, no control characters, no ':' and no '#' in front"
    )]
    Name,
    /// A second line for the same user.
    #[error("user {0:?} stands in line {1} already")]
    Twice(String, u32),
    /// Another algorithm.
    #[error("the hash is not argon2id; write it with: millrace passwd FILE USER")]
    Algorithm,
    /// Not the PHC format, or impossible parameters.
    #[error("the hash is not what $argon2id$v=19$m=KIB,t=PASSES,p=LANES$SALT$HASH looks like: {0}")]
    Hash(&'static str),
    /// More memory than we may take.
    #[error("verifying it would take {0} KiB, more than limits.password_memory_bytes_max allows ({1} KiB)")]
    Memory(u32, u32),
    /// Too many.
    #[error("there are more users than limits.password_entries_max allows ({0})")]
    TooMany(u32),
}

/// One user's hash.
#[derive(Clone, PartialEq, Eq)]
struct Entry {
    params: (u32, u32, u32),
    salt: Box<[u8]>,
    hash: Box<[u8]>,
    /// Of the whole line: changes when the password does.
    print: u64,
}

/// All users.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordFile {
    users: HashMap<Box<str>, Entry>,
    /// Verified in place of users who do not exist; as expensive as the others.
    nobody: Entry,
}

impl fmt::Debug for PasswordFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordFile({} users)", self.users.len())
    }
}

impl PasswordFile {
    /// Reads a password file; every mistake comes with its line, counted from 1.
    pub fn parse(
        text: &str,
        entries_max: u32,
        memory_bytes_max: u32,
    ) -> Result<PasswordFile, Vec<(u32, PasswordFileError)>> {
        let (mut users, mut lines, mut errors) = (HashMap::new(), HashMap::new(), Vec::new());
        for (number, line) in entries(text) {
            match parse_line(line, memory_bytes_max / 1_024) {
                Ok((user, _)) if lines.contains_key(user) => {
                    errors.push((number, PasswordFileError::Twice(user.to_owned(), lines[user])));
                }
                Ok((user, entry)) => {
                    lines.insert(user, number);
                    users.insert(Box::from(user), entry);
                }
                Err(error) => errors.push((number, error)),
            }
        }
        if users.len() > entries_max as usize {
            errors.push((0, PasswordFileError::TooMany(entries_max)));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(PasswordFile { nobody: nobody(&users), users })
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Every user with the print of its line.
    pub fn prints(&self) -> impl Iterator<Item = (&str, u64)> {
        self.users.iter().map(|(user, entry)| (&**user, entry.print))
    }

    /// The print of a user's line.
    pub fn print_of(&self, user: &str) -> Option<u64> {
        self.users.get(user).map(|entry| entry.print)
    }

    /// Memory that verifying one password takes at most, in bytes.
    pub fn memory_bytes_max(&self) -> u64 {
        let kib = self.users.values().map(|entry| entry.params.0).max();
        u64::from(kib.unwrap_or_default()) * 1_024
    }

    /// The print of the user's line, if this is its password. Costs tens of milliseconds, whether or not there is such a
    /// user.
    pub fn verify(&self, user: &str, password: &[u8]) -> Option<u64> {
        let found = self.users.get(user);
        let entry = found.unwrap_or(&self.nobody);
        let (memory, passes, lanes) = entry.params;
        let mut hash = vec![0; entry.hash.len()];
        // The parameters were tried when the file was read.
        let done = argon2(memory, passes, lanes)?.hash_password_into(password, &entry.salt, &mut hash);
        let same = done.is_ok() && constant_time_eq(&hash, &entry.hash);
        found.filter(|_| same).map(|entry| entry.print)
    }
}

/// A line for the password file. `salt` must be random.
pub fn line(
    user: &str,
    password: &[u8],
    salt: [u8; SALT_BYTES],
    cost: Cost,
) -> Result<String, PasswordFileError> {
    check_name(user)?;
    let mut hash = [0; HASH_BYTES];
    let argon2 =
        argon2(cost.memory_kib, cost.passes, 1).ok_or(PasswordFileError::Hash("impossible parameters"))?;
    argon2
        .hash_password_into(password, &salt, &mut hash)
        .map_err(|_| PasswordFileError::Hash("the password cannot be hashed"))?;
    let (salt, hash) = (Base64Unpadded::encode_string(&salt), Base64Unpadded::encode_string(&hash));
    let Cost { memory_kib, passes } = cost;
    Ok(format!("{user}:$argon2id$v=19$m={memory_kib},t={passes},p=1${salt}${hash}"))
}

/// The text with the line of one user replaced, added or (`None`) removed; everything else stays as it is. Also whether
/// there was such a user.
pub fn with_user(text: &str, user: &str, line: Option<&str>) -> (String, bool) {
    let is_theirs =
        |text: &str| !text.trim_start().starts_with('#') && text.trim().split(':').next() == Some(user);
    let mut out = String::with_capacity(text.len() + 128);
    let mut found = false;
    for old in text.lines() {
        let keep = if is_theirs(old) { line.filter(|_| !found) } else { Some(old) };
        found |= is_theirs(old);
        if let Some(keep) = keep {
            out.push_str(keep);
            out.push('\n');
        }
    }
    if let (false, Some(line)) = (found, line) {
        out.push_str(line);
        out.push('\n');
    }
    (out, found)
}

/// What stands in for those who do not exist: the cost of the most expensive user.
fn nobody(users: &HashMap<Box<str>, Entry>) -> Entry {
    let Cost { memory_kib, passes } = Cost::default();
    let params = users.values().map(|entry| entry.params).max().unwrap_or((memory_kib, passes, 1));
    Entry { params, salt: [0; SALT_BYTES].into(), hash: [0; HASH_BYTES].into(), print: 0 }
}

fn entries(text: &str) -> impl Iterator<Item = (u32, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index as u32 + 1, line.trim()));
    numbered.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn check_name(user: &str) -> Result<(), PasswordFileError> {
    let is_bad = |c: char| c.is_control() || c == ':';
    let bad = user.is_empty()
        || user.len() > NAME_BYTES_MAX
        || user.starts_with('#')
        || user.trim() != user
        || user.contains(is_bad);
    if bad { Err(PasswordFileError::Name) } else { Ok(()) }
}

fn parse_line(line: &str, memory_kib_max: u32) -> Result<(&str, Entry), PasswordFileError> {
    let (user, phc) = line.split_once(':').ok_or(PasswordFileError::NoColon)?;
    check_name(user)?;
    let rest = phc.strip_prefix("$argon2id$").ok_or(PasswordFileError::Algorithm)?;
    let parts: Vec<&str> = rest.split('$').collect();
    let [version, params, salt, hash] = parts.as_slice() else {
        return Err(PasswordFileError::Hash("it does not have five parts"));
    };
    if *version != "v=19" {
        return Err(PasswordFileError::Hash("the version is not v=19"));
    }
    let params = parse_params(params).ok_or(PasswordFileError::Hash("the parameters are not m=…,t=…,p=…"))?;
    let decode = |text: &str| Base64Unpadded::decode_vec(text).map(Vec::into_boxed_slice);
    let salt = decode(salt).map_err(|_| PasswordFileError::Hash("the salt is not base64 without padding"))?;
    let hash = decode(hash).map_err(|_| PasswordFileError::Hash("the hash is not base64 without padding"))?;
    if !(8..=64).contains(&salt.len()) || !(16..=64).contains(&hash.len()) {
        return Err(PasswordFileError::Hash("the salt must have 8 to 64 bytes and the hash 16 to 64"));
    }
    if params.0 > memory_kib_max {
        return Err(PasswordFileError::Memory(params.0, memory_kib_max));
    }
    if argon2(params.0, params.1, params.2).is_none() {
        return Err(PasswordFileError::Hash("argon2 does not take these parameters"));
    }
    let mut print = DefaultHasher::new();
    line.hash(&mut print);
    Ok((user, Entry { params, salt, hash, print: print.finish() }))
}

fn parse_params(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split(',');
    let mut number = |name: &str| parts.next()?.strip_prefix(name)?.parse::<u32>().ok();
    let params = (number("m=")?, number("t=")?, number("p=")?);
    // 2^16 passes would be hours.
    (parts.next().is_none() && params.1 <= 1_000 && params.2 <= 64).then_some(params)
}

fn argon2(memory_kib: u32, passes: u32, lanes: u32) -> Option<Argon2<'static>> {
    let params = Params::new(memory_kib, passes, lanes, None).ok()?;
    Some(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// Equality that takes as long whatever differs.
fn constant_time_eq(one: &[u8], other: &[u8]) -> bool {
    let differs = one.iter().zip(other).fold(0, |differs, (one, other)| differs | (one ^ other));
    one.len() == other.len() && std::hint::black_box(differs) == 0
}
