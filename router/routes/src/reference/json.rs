//! JSON in the plainest way: a tree, by recursion. Only for tests.
//!
//! Knows: RFC 8259. In: a text. Out: a tree, duplicates and all; or nothing, if any of it is wrong.

/// A JSON document.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tree {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    Array(Vec<Tree>),
    /// In the order of the body, duplicates and all.
    Object(Vec<(String, Tree)>),
}

/// RFC 8259 by recursive descent; `None` for what is not well-formed or too deep.
pub(crate) fn parse_json(text: &str, depth: usize) -> Option<Tree> {
    let mut rest = text;
    let tree = json_value(&mut rest, depth)?;
    blank(&mut rest);
    rest.is_empty().then_some(tree)
}

fn blank(rest: &mut &str) {
    *rest = rest.trim_start_matches([' ', '\t', '\n', '\r']);
}

fn eat(rest: &mut &str, token: &str) -> bool {
    match rest.strip_prefix(token) {
        Some(after) => {
            *rest = after;
            true
        }
        None => false,
    }
}

fn json_value(rest: &mut &str, depth: usize) -> Option<Tree> {
    blank(rest);
    match rest.chars().next()? {
        '{' => {
            eat(rest, "{");
            let depth = depth.checked_sub(1)?;
            let mut members = Vec::new();
            blank(rest);
            if eat(rest, "}") {
                return Some(Tree::Object(members));
            }
            loop {
                blank(rest);
                let key = json_text(rest)?;
                blank(rest);
                eat(rest, ":").then_some(())?;
                members.push((key, json_value(rest, depth)?));
                blank(rest);
                if eat(rest, "}") {
                    return Some(Tree::Object(members));
                }
                eat(rest, ",").then_some(())?;
            }
        }
        '[' => {
            eat(rest, "[");
            let depth = depth.checked_sub(1)?;
            let mut items = Vec::new();
            blank(rest);
            if eat(rest, "]") {
                return Some(Tree::Array(items));
            }
            loop {
                items.push(json_value(rest, depth)?);
                blank(rest);
                if eat(rest, "]") {
                    return Some(Tree::Array(items));
                }
                eat(rest, ",").then_some(())?;
            }
        }
        '"' => json_text(rest).map(Tree::Text),
        't' => eat(rest, "true").then_some(Tree::Bool(true)),
        'f' => eat(rest, "false").then_some(Tree::Bool(false)),
        'n' => eat(rest, "null").then_some(Tree::Null),
        _ => json_number(rest),
    }
}

fn json_number(rest: &mut &str) -> Option<Tree> {
    let end =
        rest.find(|c: char| !matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E')).unwrap_or(rest.len());
    let (number, after) = rest.split_at(end);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (number, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let whole = whole.strip_prefix('-').unwrap_or(whole);
    let sound = digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)));
    *rest = after;
    sound.then(|| Tree::Number(number.parse().unwrap()))
}

fn json_text(rest: &mut &str) -> Option<String> {
    eat(rest, "\"").then_some(())?;
    let (mut units, mut characters) = (Vec::new(), rest.char_indices());
    while let Some((at, c)) = characters.next() {
        let plain = match c {
            '"' => {
                *rest = &rest[at + 1..];
                return Some(String::from_utf16_lossy(&units));
            }
            '\\' => match characters.next()?.1 {
                c @ ('"' | '\\' | '/') => c,
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                'u' => {
                    let digits: String = (0..4).map_while(|_| characters.next().map(|(_, c)| c)).collect();
                    let sound = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                    sound.then_some(())?;
                    units.push(u16::from_str_radix(&digits, 16).ok()?);
                    continue;
                }
                _ => return None,
            },
            c if c < ' ' => return None,
            c => c,
        };
        units.extend_from_slice(plain.encode_utf16(&mut [0; 2]));
    }
    None
}
