//! What can be read of a write-ahead log with damage in the middle. RocksDB, told to skip what is damaged, puts together the
//! pieces around it and then refuses the whole store.
//!
//! Knows: how RocksDB frames records in a log (its log_format.h). Never: what is in a record. In: the bytes of one log, its
//! number. Out: a log with the records that are whole, in their order. Bound: a block and the record that is being put
//! together, however large the log is.

use std::io::{self, ErrorKind, Read, Write};

/// Pieces of records never go over the end of a block.
const BLOCK: usize = 32 << 10;
/// Checksum, length, kind.
const HEADER: usize = 7;
/// The same and the number of the log, in a file that is used again.
const HEADER_NUMBERED: usize = 11;

/// What a log was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Salvaged {
    /// Something that is whole follows something that is not; what is torn at the end does not count.
    pub(crate) is_damaged: bool,
    /// The last piece that is this log's is not whole: torn, if this is the newest log, and damage in any other.
    pub(crate) is_torn: bool,
}

/// What stands somewhere in a log.
enum Found<'l> {
    /// A piece: its kind without the mark of a file that is used again, its content, and how long all is.
    Piece(u8, &'l [u8], usize),
    /// Something of this log that is not what was written.
    Broken,
    /// What was there before, in a file that is used again, or nothing at all.
    Stale,
}

/// Reads what is whole and writes it anew.
pub(crate) fn salvage(log: &mut impl Read, number: u32, out: &mut impl Write) -> io::Result<Salvaged> {
    let mut salvaged = Salvaged::default();
    let mut out = Writer { out, len: 0 };
    let mut block = vec![0; BLOCK];
    let mut record: Option<Vec<u8>> = None;
    let mut is_broken = false;
    loop {
        let len = fill(log, &mut block)?;
        let mut rest = &block[..len];
        while rest.len() >= HEADER {
            let (kind, piece, len) = match piece(rest, number) {
                Found::Piece(kind, piece, len) => (kind, piece, len),
                // Lengths are not to be trusted from here to the end of the block.
                found => {
                    (record, is_broken) = (None, true);
                    salvaged.is_torn |= matches!(found, Found::Broken);
                    break;
                }
            };
            rest = &rest[len..];
            match kind {
                1 | 2 => record = Some(piece.to_vec()),
                3 | 4 => {
                    if let Some(record) = &mut record {
                        record.extend_from_slice(piece);
                    }
                }
                _ => continue,
            }
            if kind != 1 && kind != 4 {
                continue;
            }
            if let Some(record) = record.take() {
                salvaged.is_damaged |= is_broken;
                salvaged.is_torn = false;
                out.append(&record)?;
            }
        }
        if len < BLOCK {
            return Ok(salvaged);
        }
    }
}

/// Reads as much as there is room for; less only at the end.
fn fill(from: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < room.len() {
        match from.read(&mut room[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// What is at the beginning. A header with another log's number, or without a kind, is not ours, unless the checksum says that
/// it was when it was written: then the header is what was damaged.
fn piece(from: &[u8], number: u32) -> Found<'_> {
    let sum = u32::from_le_bytes([from[0], from[1], from[2], from[3]]);
    let len = usize::from(u16::from_le_bytes([from[4], from[5]]));
    let kind = from[6];
    let is_numbered = (5..=8).contains(&kind) || kind > 8 && kind & 1 == 1 && kind != 9;
    let header = if is_numbered { HEADER_NUMBERED } else { HEADER };
    let is_ours =
        !is_numbered || from.get(HEADER..HEADER_NUMBERED).is_some_and(|it| it == number.to_le_bytes());
    if kind == 0 || !is_ours {
        return if was_ours(from, (sum, len), number) { Found::Broken } else { Found::Stale };
    }
    let end = header + len;
    match from.get(6..end) {
        Some(summed) if sum == checksum(summed) => {
            Found::Piece(if (5..=8).contains(&kind) { kind - 4 } else { kind }, &from[header..end], end)
        }
        _ => Found::Broken,
    }
}

/// Whether the checksum fits with some kind of a record and this log's number in the header.
fn was_ours(from: &[u8], (sum, len): (u32, usize), number: u32) -> bool {
    let plain = from.get(HEADER..HEADER + len);
    let numbered = from.get(HEADER_NUMBERED..HEADER_NUMBERED + len);
    let fits = |kind: u8, number: &[u8], content: Option<&[u8]>| {
        content.is_some_and(|content| sum == masked(sum_of(sum_of(sum_of(!0, &[kind]), number), content)))
    };
    (1..=4).any(|kind| fits(kind, &[], plain))
        || (5..=8).any(|kind| fits(kind, &number.to_le_bytes(), numbered))
}

/// A log that is being written.
struct Writer<'w, W> {
    out: &'w mut W,
    len: usize,
}

impl<W: Write> Writer<'_, W> {
    /// Writes one record in as many pieces as it takes.
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let (mut rest, mut is_first) = (record, true);
        loop {
            let mut room = BLOCK - self.len % BLOCK;
            if room < HEADER {
                self.write(&[0; HEADER][..room])?;
                room = BLOCK;
            }
            let (piece, behind) = rest.split_at(rest.len().min(room - HEADER));
            let kind = match (is_first, behind.is_empty()) {
                (true, true) => 1,
                (true, false) => 2,
                (false, false) => 3,
                (false, true) => 4,
            };
            let sum = masked(sum_of(sum_of(!0, &[kind]), piece));
            self.write(&sum.to_le_bytes())?;
            self.write(&(piece.len() as u16).to_le_bytes())?;
            self.write(&[kind])?;
            self.write(piece)?;
            (rest, is_first) = (behind, false);
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.len += bytes.len();
        self.out.write_all(bytes)
    }
}

/// CRC-32C, turned and shifted as RocksDB stores it.
fn checksum(bytes: &[u8]) -> u32 {
    masked(sum_of(!0, bytes))
}

/// The sum so far with more bytes.
fn sum_of(sum: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(sum, |sum, byte| (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ byte)])
}

fn masked(sum: u32) -> u32 {
    (!sum).rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// Remainders of single bytes, by the polynomial of Castagnoli.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let (mut sum, mut bit) = (at as u32, 0);
        while bit < 8 {
            sum = if sum & 1 == 1 { (sum >> 1) ^ 0x82F6_3B78 } else { sum >> 1 };
            bit += 1;
        }
        table[at] = sum;
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(records: &[Vec<u8>]) -> Vec<u8> {
        let mut log = Vec::new();
        let mut writer = Writer { out: &mut log, len: 0 };
        records.iter().for_each(|record| writer.append(record).unwrap());
        log
    }

    fn read(mut log: &[u8], number: u32) -> (Vec<u8>, Salvaged) {
        let mut out = Vec::new();
        let salvaged = salvage(&mut log, number, &mut out).unwrap();
        (out, salvaged)
    }

    /// A piece as it is in a file that is used again.
    fn numbered(number: u32, content: &[u8]) -> Vec<u8> {
        let summed = [&[5][..], &number.to_le_bytes(), content].concat();
        [&checksum(&summed).to_le_bytes()[..], &(content.len() as u16).to_le_bytes(), &summed].concat()
    }

    const SOUND: Salvaged = Salvaged { is_damaged: false, is_torn: false };

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(checksum(&[0; 32]), 0x8A91_36AA_u32.rotate_right(15).wrapping_add(0xA282_EAD8));
    }

    #[test]
    fn a_whole_log_stays_and_a_flipped_bit_costs_the_records_of_its_block() {
        let records: Vec<Vec<u8>> = (0..100_u8).map(|at| vec![at; 5_000]).collect();
        let log = log_of(&records);
        assert_eq!(read(&log, 1), (log.clone(), SOUND));
        let mut damaged = log.clone();
        damaged[5 * BLOCK + 9_000] ^= 8;
        let (bytes, salvaged) = read(&damaged, 1);
        assert!(salvaged.is_damaged && !salvaged.is_torn && bytes.len() > log.len() - 2 * BLOCK);
        assert!(bytes.len() < log.len());
        assert_eq!(read(&bytes, 1), (bytes, SOUND), "what is written is whole");
    }

    #[test]
    fn a_torn_tail_is_no_damage_and_records_of_another_log_do_not_count() {
        let log = log_of(&[vec![1; 50_000], vec![2; 100]]);
        let whole = log_of(&[vec![1; 50_000]]);
        let torn = Salvaged { is_damaged: false, is_torn: true };
        assert_eq!(read(&log[..log.len() - 1], 1), (whole.clone(), torn));
        let old = numbered(7, b"content");
        // A file that was made longer than it needed, and what was there before it was used again.
        for behind in [&[0; 900][..], &old, &old[3..]] {
            assert_eq!(read(&[&whole[..], behind].concat(), 1), (whole.clone(), SOUND));
        }
        assert_eq!(read(&old, 7).0, log_of(&[b"content".to_vec()]));
        assert_eq!(read(&old, 8), (Vec::new(), SOUND));
    }

    /// In every bit of the header of the last record, whose number and kind say whether it is this log's at all.
    #[test]
    fn a_last_record_with_a_damaged_header_is_not_taken_for_the_end_of_the_log() {
        let whole = numbered(7, &[1; 300]);
        let log = [&whole[..], &numbered(7, b"the last one")].concat();
        for bit in 0..8 * HEADER_NUMBERED {
            let mut damaged = log.clone();
            damaged[whole.len() + bit / 8] ^= 1 << (bit % 8);
            let (bytes, salvaged) = read(&damaged, 7);
            assert!(salvaged.is_torn, "bit {bit}");
            assert_eq!(bytes, log_of(&[vec![1; 300]]), "bit {bit}");
        }
    }
}
