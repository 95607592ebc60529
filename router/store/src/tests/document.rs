//! The document of the format and the code say the same.

use crate::block::HEADER_BYTES;
use crate::{BLOCK_BYTES_MAX, BLOCK_RECORDS_MAX, FORMAT_VERSION, RECORD_OVERHEAD_BYTES, home, keys};

const DOCUMENT: &str = include_str!("../../../docs/storage-format.md");

/// The rows of the table whose head has this cell, each as its cells.
fn table(section: &str, head: &str) -> Vec<Vec<String>> {
    let section = DOCUMENT.split("\n## ").find(|text| text.starts_with(section)).expect(section);
    let rows = section.lines().skip_while(|line| !line.starts_with(&format!("| {head}"))).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| {
            line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
        })
        .collect()
}

/// Offsets follow from the lengths before them; the last row has the rest and begins where the header ends.
fn check_layout(section: &str, header_bytes: usize) {
    let rows = table(section, "Offset †");
    let mut offset = 0;
    for row in &rows {
        assert_eq!(row[0], offset.to_string(), "{section}: {row:?}");
        offset += row[1].parse::<usize>().unwrap_or(0);
    }
    assert_eq!(rows.last().unwrap()[0], header_bytes.to_string());
}

#[test]
fn the_format_document_says_what_the_code_does() {
    assert!(DOCUMENT.starts_with(&format!("# Storage format, version {FORMAT_VERSION}\n")));
    check_layout("3. A block", HEADER_BYTES);
    check_layout("4. A record", RECORD_OVERHEAD_BYTES);
    assert!(
        DOCUMENT.contains(&format!("At most {} KiB and {BLOCK_RECORDS_MAX} records", BLOCK_BYTES_MAX >> 10))
    );
    let mut families: Vec<_> = table("2. Column", "Family †").into_iter().map(|row| row[0].clone()).collect();
    families.dedup();
    assert_eq!(families, [keys::FAMILY_META, keys::FAMILY_LOG, keys::FAMILY_LANES, keys::FAMILY_STATE]);
    for name in [home::MARKER, home::MARKER_UNFINISHED, home::ENGINE_DIRECTORY] {
        assert!(DOCUMENT.contains(&format!("| `{name}")), "{name}");
    }
}
