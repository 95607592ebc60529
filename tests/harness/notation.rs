//! Packets as people write them, for tables and scripts.
//!
//! `30 1F`: bytes in hexadecimal, `00*9` nine of them. `'text'`: its bytes. `"text"`: its length in two bytes, then its
//! bytes. `[ … ]`: the length of what stands within as a variable byte integer, then that. In what is expected also `??`:
//! any one byte, and `...`: whatever else the packet holds. `#` behind a blank begins a comment.
//! In: a line. Out: [`Atom`]s. Fails with a sentence about the line. Shared by the broker's tests, which include this file.

/// One byte, or what may stand in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atom {
    /// This byte.
    Byte(u8),
    /// Any byte.
    Any,
    /// Any bytes, to the end of the packet.
    Rest,
}

/// Reads a line.
pub fn parse(line: &str) -> Result<Vec<Atom>, String> {
    let mut open: Vec<Vec<Atom>> = vec![Vec::new()];
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next().filter(|first| *first != '#') {
        let innermost = open.last_mut().ok_or("a ']' too many")?;
        let word_len = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let used = match first {
            '[' => {
                open.push(Vec::new());
                1
            }
            ']' => {
                let within = open.pop().unwrap_or_default();
                let outer = open.last_mut().ok_or("a ']' too many")?;
                put_length(outer, &within);
                outer.extend(within);
                1
            }
            '\'' | '"' => {
                let text = rest[1..].split_once(first).ok_or("a string that does not end")?.0;
                let len = u16::try_from(text.len()).map_err(|_| "a string that is too long")?;
                let prefix = if first == '"' { &len.to_be_bytes()[..] } else { &[] };
                innermost.extend(prefix.iter().chain(text.as_bytes()).map(|byte| Atom::Byte(*byte)));
                text.len() + 2
            }
            _ => {
                let word = rest[..word_len].trim_end_matches([']', '[']);
                match word {
                    "??" => innermost.push(Atom::Any),
                    "..." => innermost.push(Atom::Rest),
                    _ => put_bytes(innermost, word)?,
                }
                word.len()
            }
        };
        rest = rest[used..].trim_start();
    }
    match <[Vec<Atom>; 1]>::try_from(open) {
        Ok([atoms]) => Ok(atoms),
        Err(_) => Err("a '[' that does not end".to_owned()),
    }
}

/// Reads a line that stands for exact bytes.
pub fn bytes(line: &str) -> Result<Vec<u8>, String> {
    let byte = |atom| match atom {
        Atom::Byte(byte) => Ok(byte),
        Atom::Any | Atom::Rest => Err("'??' and '...' are for what is expected".to_owned()),
    };
    parse(line)?.into_iter().map(byte).collect()
}

/// Whether `bytes` are what was expected.
pub fn matches(expected: &[Atom], bytes: &[u8]) -> bool {
    let whole = expected.split_last().filter(|(last, _)| **last == Atom::Rest);
    let (expected, bytes) = match whole {
        Some((_, expected)) if bytes.len() >= expected.len() => (expected, &bytes[..expected.len()]),
        Some(_) => return false,
        None => (expected, bytes),
    };
    expected.len() == bytes.len()
        && expected.iter().zip(bytes).all(|(atom, byte)| *atom == Atom::Any || *atom == Atom::Byte(*byte))
}

/// Bytes as a failing test shows them.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(" ")
}

fn put_bytes(out: &mut Vec<Atom>, word: &str) -> Result<(), String> {
    let (digits, times) = word.split_once('*').unwrap_or((word, "1"));
    let fault = || format!("{word:?} is no byte in hexadecimal");
    let times = times.parse::<usize>().map_err(|_| fault())?;
    if digits.is_empty() || digits.len() % 2 != 0 || !digits.is_ascii() {
        return Err(fault());
    }
    for _ in 0..times {
        for at in (0..digits.len()).step_by(2) {
            out.push(Atom::Byte(u8::from_str_radix(&digits[at..at + 2], 16).map_err(|_| fault())?));
        }
    }
    Ok(())
}

/// The length of `within` as a variable byte integer; any one byte where that is not known.
fn put_length(out: &mut Vec<Atom>, within: &[Atom]) {
    if within.contains(&Atom::Rest) {
        out.push(Atom::Any);
        return;
    }
    let mut len = within.len();
    while len > 0x7F {
        out.push(Atom::Byte(len as u8 | 0x80));
        len >>= 7;
    }
    out.push(Atom::Byte(len as u8));
}
