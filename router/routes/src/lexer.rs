//! Route text to tokens, with edgeHub's habits (`reference/edgehub.md` §3.4).
//!
//! Knows: which characters belong together: the longest match wins, and between equally long ones the rule
//! that edgeHub lists first. So `a-b`, `temp+1`, `-x` and `!flag` are single names; spaces separate operators.
//! May use: `diagnostic`. In: a route. Out: tokens with spans; nothing is an error here, the parser judges.
//! Invariant: spans ascend, do not overlap, and lie on character boundaries. Cost is linear in the text.

use crate::diagnostic::Span;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Select,
    From,
    Where,
    Into,
    And,
    Or,
    Not,
    True,
    False,
    Null,
    Undefined,
    /// A property or function name, or a word of an extension (`IN`, `LIKE`, `&&`, `!`).
    Name,
    /// `$` and what follows: a system property or a body path.
    Dollar,
    /// Like a name, but with `[` or `]`; no edgeHub rule uses it.
    Path,
    Text,
    TextUnterminated,
    Integer,
    Hex,
    Real,
    Plus,
    Minus,
    Star,
    Slash,
    Percent,
    Concat,
    Coalesce,
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Open,
    Close,
    BraceOpen,
    BraceClose,
    Comma,
    /// A character that no rule accepts.
    Unknown,
    End,
}

/// A token and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) span: Span,
}

/// All tokens of `text`, closed by one [`Kind::End`]. White space and `/* … */` are left out.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { text, at: 0, comment_end: None };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next();
        let last = token.kind == Kind::End;
        tokens.push(token);
        if last {
            return tokens;
        }
    }
}

struct Lexer<'s> {
    text: &'s str,
    at: usize,
    /// Where the next `*/` stands at or behind a place already looked at: keeps `/*/*/*…` linear.
    comment_end: Option<Option<usize>>,
}

impl Lexer<'_> {
    fn next(&mut self) -> Token {
        self.skip();
        let rest = &self.text[self.at..];
        let Some(first) = rest.chars().next() else {
            return Token { kind: Kind::End, span: self.at..self.at };
        };
        let (kind, length) = longest(rest).unwrap_or((Kind::Unknown, first.len_utf8()));
        let span = self.at..self.at + length;
        self.at = span.end;
        Token { kind, span }
    }

    fn skip(&mut self) {
        loop {
            let rest = &self.text[self.at..];
            let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
            self.at += blank;
            match self.comment() {
                Some(end) => self.at = end,
                None if blank == 0 => return,
                None => {}
            }
        }
    }

    /// The end of the comment that starts here. Without a later `*/` it is no comment: `FROM /* INTO …`.
    fn comment(&mut self) -> Option<usize> {
        if !self.text[self.at..].starts_with("/*") {
            return None;
        }
        let from = self.at + 2;
        let found = match self.comment_end {
            Some(None) => None,
            Some(Some(end)) if end >= from => Some(end),
            _ => self.text[from..].find("*/").map(|at| from + at),
        };
        self.comment_end = Some(found);
        found.map(|end| end + 2)
    }
}

/// The rule that matches most of `rest`; the earliest of edgeHub's rules among equals.
fn longest(rest: &str) -> Option<(Kind, usize)> {
    let mut best: Option<(Kind, usize)> = None;
    let mut offer = |kind: Kind, length: usize| {
        if length > best.map_or(0, |(_, length)| length) {
            best = Some((kind, length));
        }
    };
    let (brace_kind, brace_length) = brace(rest);
    offer(brace_kind, brace_length);
    let word = run(rest, is_name_char);
    if let Some(keyword) = route_keyword(&rest[..word]) {
        offer(keyword, word);
    }
    let (text_kind, text_length) = text(rest);
    offer(text_kind, text_length);
    let (number_kind, number_length) = number(rest.as_bytes());
    offer(number_kind, number_length);
    if let Some(keyword) = condition_keyword(&rest[..word]) {
        offer(keyword, word);
    }
    let (operator_kind, operator_length) = operator(rest.as_bytes());
    offer(operator_kind, operator_length);
    let path = run(rest, is_path_char);
    if rest.starts_with('$') && path > 1 {
        offer(Kind::Dollar, path);
    }
    offer(Kind::Name, word);
    offer(Kind::Path, path);
    best
}

/// Characters of a name: everything but these.
pub(crate) fn is_name_char(c: char) -> bool {
    is_path_char(c) && !matches!(c, '[' | ']')
}

fn is_path_char(c: char) -> bool {
    !matches!(
        c,
        '(' | ')'
            | '<'
            | '>'
            | '@'
            | ','
            | ';'
            | ':'
            | '\\'
            | '"'
            | '/'
            | '?'
            | '='
            | '{'
            | '}'
            | ' '
            | '\t'
            | '\n'
            | '\r'
    )
}

fn run(rest: &str, belongs: impl Fn(char) -> bool) -> usize {
    rest.find(|c| !belongs(c)).unwrap_or(rest.len())
}

fn brace(rest: &str) -> (Kind, usize) {
    match rest.as_bytes().first() {
        Some(b'{') => (Kind::BraceOpen, 1),
        Some(b'}') => (Kind::BraceClose, 1),
        _ => (Kind::Unknown, 0),
    }
}

fn route_keyword(word: &str) -> Option<Kind> {
    [("SELECT", Kind::Select), ("FROM", Kind::From), ("WHERE", Kind::Where), ("INTO", Kind::Into)]
        .into_iter()
        .find(|(keyword, _)| keyword.eq_ignore_ascii_case(word))
        .map(|(_, kind)| kind)
}

fn condition_keyword(word: &str) -> Option<Kind> {
    match word {
        "true" => return Some(Kind::True),
        "false" => return Some(Kind::False),
        "null" => return Some(Kind::Null),
        "undefined" => return Some(Kind::Undefined),
        _ => {}
    }
    [("AND", Kind::And), ("OR", Kind::Or), ("NOT", Kind::Not)]
        .into_iter()
        .find(|(keyword, _)| keyword.eq_ignore_ascii_case(word))
        .map(|(_, kind)| kind)
}

/// A string in either quote; it knows the escapes `\" \' \\ \uXXXX` and no others.
fn text(rest: &str) -> (Kind, usize) {
    let bytes = rest.as_bytes();
    let Some(&quote @ (b'"' | b'\'')) = bytes.first() else {
        return (Kind::Text, 0);
    };
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' => match escape(&bytes[at..]) {
                Some(length) => at += length,
                None => break,
            },
            _ if byte == quote => return (Kind::Text, at + 1),
            _ => at += 1,
        }
    }
    (Kind::TextUnterminated, at)
}

fn escape(bytes: &[u8]) -> Option<usize> {
    match bytes.get(1)? {
        b'"' | b'\'' | b'\\' => Some(2),
        b'u' | b'U' => {
            bytes.get(2..6).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)).then_some(6)
        }
        _ => None,
    }
}

fn number(bytes: &[u8]) -> (Kind, usize) {
    let hex = match bytes {
        [b'0', b'x' | b'X', digits @ ..] => 2 + count(digits, u8::is_ascii_hexdigit),
        _ => 0,
    };
    if hex > 2 {
        return (Kind::Hex, hex);
    }
    let sign = usize::from(bytes.first() == Some(&b'-'));
    let whole = sign + count(&bytes[sign..], u8::is_ascii_digit);
    let mut real = 0;
    if bytes.get(whole) == Some(&b'.') {
        let decimals = count(&bytes[whole + 1..], u8::is_ascii_digit);
        if decimals > 0 {
            let end = whole + 1 + decimals;
            real = end + exponent(&bytes[end..]);
        }
    } else {
        let length = exponent(&bytes[whole..]);
        real = if length > 0 { whole + length } else { 0 };
    }
    match real {
        0 if whole > sign => (Kind::Integer, whole),
        _ => (Kind::Real, real),
    }
}

fn exponent(bytes: &[u8]) -> usize {
    let [b'e' | b'E', rest @ ..] = bytes else { return 0 };
    let sign = usize::from(matches!(rest.first(), Some(b'+' | b'-')));
    match count(&rest[sign..], u8::is_ascii_digit) {
        0 => 0,
        digits => 1 + sign + digits,
    }
}

fn count(bytes: &[u8], belongs: impl Fn(&u8) -> bool) -> usize {
    bytes.iter().take_while(|byte| belongs(byte)).count()
}

fn operator(bytes: &[u8]) -> (Kind, usize) {
    match bytes {
        [b'|', b'|', ..] => (Kind::Concat, 2),
        [b'?', b'?', ..] => (Kind::Coalesce, 2),
        [b'!', b'=', ..] => (Kind::NotEqual, 2),
        [b'<', b'>', ..] => (Kind::NotEqual, 2),
        [b'<', b'=', ..] => (Kind::LessEqual, 2),
        [b'>', b'=', ..] => (Kind::GreaterEqual, 2),
        [b'<', ..] => (Kind::Less, 1),
        [b'>', ..] => (Kind::Greater, 1),
        [b'=', ..] => (Kind::Equal, 1),
        [b'(', ..] => (Kind::Open, 1),
        [b')', ..] => (Kind::Close, 1),
        [b',', ..] => (Kind::Comma, 1),
        [b'+', ..] => (Kind::Plus, 1),
        [b'-', ..] => (Kind::Minus, 1),
        [b'*', ..] => (Kind::Star, 1),
        [b'/', ..] => (Kind::Slash, 1),
        [b'%', ..] => (Kind::Percent, 1),
        _ => (Kind::Unknown, 0),
    }
}

#[cfg(test)]
mod tests;
