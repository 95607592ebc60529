//! Percent-encoding as .NET's `Uri.EscapeDataString` does it: all but RFC 3986's unreserved characters is escaped.
//!
//! May use: `percent-encoding`. In: text. Out: text. A plus sign is a plus sign, never a space.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Appends `text`, escaped.
pub fn escape_into(text: &str, out: &mut String) {
    out.extend(utf8_percent_encode(text, RESERVED));
}

/// `text`, escaped.
pub(crate) fn escape(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// `text` without escapes; what only looks like one stays as it is. `None` if the result is not UTF-8.
pub fn unescape(text: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(text).decode_utf8().ok()
}
