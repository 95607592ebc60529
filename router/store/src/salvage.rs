//! What can be read of a write-ahead log with damage in the middle. RocksDB, told to skip what is damaged, puts together the
//! pieces around it and then refuses the whole store.
//!
//! Knows: how RocksDB frames records in a log (its log_format.h). Never: what is in a record. In: the bytes of one log, its
//! number. Out: a log with the records that are whole, in their order. Bound: one log in memory, twice.

/// Pieces of records never go over the end of a block.
const BLOCK: usize = 32 << 10;
/// Checksum, length, kind.
const HEADER: usize = 7;
/// The same and the number of the log, in a file that is used again.
const HEADER_NUMBERED: usize = 11;

/// A log of what is whole.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Salvaged {
    pub(crate) bytes: Vec<u8>,
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
pub(crate) fn salvage(log: &[u8], number: u32) -> Salvaged {
    let mut out = Salvaged::default();
    let mut record: Option<Vec<u8>> = None;
    let mut is_broken = false;
    for block in log.chunks(BLOCK) {
        let mut rest = block;
        while rest.len() >= HEADER {
            let (kind, piece, len) = match piece(rest, number) {
                Found::Piece(kind, piece, len) => (kind, piece, len),
                // Lengths are not to be trusted from here to the end of the block.
                found => {
                    (record, is_broken) = (None, true);
                    out.is_torn |= matches!(found, Found::Broken);
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
                out.is_damaged |= is_broken;
                out.is_torn = false;
                append(&mut out.bytes, &record);
            }
        }
    }
    out
}

/// What is at the beginning. A header with another log's number, or without a kind, is not ours.
fn piece(from: &[u8], number: u32) -> Found<'_> {
    let sum = u32::from_le_bytes([from[0], from[1], from[2], from[3]]);
    let len = usize::from(u16::from_le_bytes([from[4], from[5]]));
    let kind = from[6];
    let is_numbered = (5..=8).contains(&kind) || kind > 8 && kind & 1 == 1 && kind != 9;
    let header = if is_numbered { HEADER_NUMBERED } else { HEADER };
    let is_ours =
        !is_numbered || from.get(HEADER..HEADER_NUMBERED).is_some_and(|it| it == number.to_le_bytes());
    if kind == 0 || !is_ours {
        return Found::Stale;
    }
    let end = header + len;
    match from.get(6..end) {
        Some(summed) if sum == checksum(summed) => {
            Found::Piece(if (5..=8).contains(&kind) { kind - 4 } else { kind }, &from[header..end], end)
        }
        _ => Found::Broken,
    }
}

/// Writes one record in as many pieces as it takes.
fn append(log: &mut Vec<u8>, record: &[u8]) {
    let (mut rest, mut is_first) = (record, true);
    loop {
        let mut room = BLOCK - log.len() % BLOCK;
        if room < HEADER {
            log.resize(log.len() + room, 0);
            room = BLOCK;
        }
        let (piece, behind) = rest.split_at(rest.len().min(room - HEADER));
        let kind = match (is_first, behind.is_empty()) {
            (true, true) => 1,
            (true, false) => 2,
            (false, false) => 3,
            (false, true) => 4,
        };
        let summed = [&[kind][..], piece].concat();
        log.extend_from_slice(&checksum(&summed).to_le_bytes());
        log.extend_from_slice(&(piece.len() as u16).to_le_bytes());
        log.extend_from_slice(&summed);
        (rest, is_first) = (behind, false);
        if rest.is_empty() {
            return;
        }
    }
}

/// CRC-32C, turned and shifted as RocksDB stores it.
fn checksum(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| (sum >> 8) ^ TABLE[usize::from(sum as u8 ^ byte)];
    let sum = !bytes.iter().fold(!0, step);
    sum.rotate_right(15).wrapping_add(0xA282_EAD8)
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
        records.iter().for_each(|record| append(&mut log, record));
        log
    }

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(checksum(&[0; 32]), 0x8A91_36AA_u32.rotate_right(15).wrapping_add(0xA282_EAD8));
    }

    #[test]
    fn a_whole_log_stays_and_a_flipped_bit_costs_the_records_of_its_block() {
        let records: Vec<Vec<u8>> = (0..100_u8).map(|at| vec![at; 5_000]).collect();
        let log = log_of(&records);
        assert_eq!(salvage(&log, 1), Salvaged { bytes: log.clone(), ..Salvaged::default() });
        let mut damaged = log.clone();
        damaged[5 * BLOCK + 9_000] ^= 8;
        let salvaged = salvage(&damaged, 1);
        assert!(salvaged.is_damaged && !salvaged.is_torn && salvaged.bytes.len() > log.len() - 2 * BLOCK);
        assert!(salvaged.bytes.len() < log.len());
        assert!(!salvage(&salvaged.bytes, 1).is_damaged, "what is written is whole");
    }

    #[test]
    fn a_torn_tail_is_no_damage_and_records_of_another_log_do_not_count() {
        let log = log_of(&[vec![1; 50_000], vec![2; 100]]);
        let salvaged = salvage(&log[..log.len() - 1], 1);
        let whole = log_of(&[vec![1; 50_000]]);
        assert_eq!(salvaged, Salvaged { bytes: whole.clone(), is_damaged: false, is_torn: true });
        let summed = [&[5][..], &7_u32.to_le_bytes(), b"content"].concat();
        let numbered = [&checksum(&summed).to_le_bytes()[..], &7_u16.to_le_bytes(), &summed].concat();
        // A file that was made longer than it needed, and what was there before it was used again.
        for behind in [&[0; 900][..], &numbered] {
            let stale = [&whole[..], behind].concat();
            assert_eq!(salvage(&stale, 1), Salvaged { bytes: whole.clone(), ..Salvaged::default() });
        }
        assert_eq!(salvage(&numbered, 7).bytes, log_of(&[b"content".to_vec()]));
        assert_eq!(salvage(&numbered, 8), Salvaged::default());
    }
}
