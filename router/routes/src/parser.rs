//! Tokens to the shape of a route (`reference/edgehub.md` §3.1, §3.4; extensions in `router/docs/routes.md`).
//!
//! Knows: the grammar and the precedence of operators. May use: `lexer`, `syntax`, `diagnostic`.
//! In:  a route's text. Out: its tree, or the first thing that does not fit, and what would have.
//! Invariant: recursion is bounded by `Limits::route_depth_max`; every extension starts with a token that
//! edgeHub's grammar refuses at that place, so that no route that edgeHub accepts means something else here.

mod clauses;
mod condition;

use model::Limits;

use crate::Mode;
use crate::diagnostic::{Fault, Span, nearest};
use crate::lexer::{Kind, Token, tokens};
use crate::syntax::{
    ArithmeticOp, BinaryOp, CompareOp, ExceptStep, Expr, ExprKind, GateKind, GateText, Literal, LogicOp,
    Route, Select, SelectItem, SinkText, Source,
};

/// Parses one route.
pub(crate) fn parse(text: &str, mode: Mode, limits: &Limits) -> Result<Route, Fault> {
    if text.len() > limits.route_bytes_max as usize {
        let message =
            format!("the route is {} bytes long, allowed are {}", text.len(), limits.route_bytes_max);
        return Err(Fault::new(0..text.len(), message));
    }
    let mut parser = Parser { text, tokens: tokens(text), at: 0, mode, depth: 0, limits };
    parser.route()
}

/// Parses a condition alone, as `explain` and the truth table of edgeHub need it. Nothing at all is `undefined`.
pub(crate) fn parse_condition(text: &str, mode: Mode, limits: &Limits) -> Result<Expr, Fault> {
    let mut parser = Parser { text, tokens: tokens(text), at: 0, mode, depth: 0, limits };
    if parser.kind() == Kind::End {
        return Ok(Expr { kind: ExprKind::Literal(Literal::Undefined), span: 0..0 });
    }
    let (condition, _) = parser.expr(0)?;
    match parser.kind() {
        Kind::End => Ok(condition),
        _ => Err(parser.unexpected("an operator or the end of the condition")),
    }
}

/// How strongly operators bind; the higher, the tighter (§3.4). All are left-associative.
mod precedence {
    pub(super) const COALESCE: u8 = 1;
    pub(super) const OR: u8 = 2;
    pub(super) const AND: u8 = 3;
    pub(super) const EQUALITY: u8 = 4;
    pub(super) const COMPARISON: u8 = 5;
    pub(super) const SUM: u8 = 6;
    pub(super) const PRODUCT: u8 = 7;
    pub(super) const NOT: u8 = 8;
    pub(super) const NEGATE: u8 = 9;
}

struct Parser<'s> {
    text: &'s str,
    tokens: Vec<Token>,
    at: usize,
    mode: Mode,
    depth: u32,
    limits: &'s Limits,
}

/// An expression and its height, so that long chains are refused like deep nesting.
type Grown = (Expr, u32);

impl Parser<'_> {
    fn route(&mut self) -> Result<Route, Fault> {
        let mut select = match self.kind() {
            Kind::Select => self.select()?,
            _ => None,
        };
        if self.kind() != Kind::From {
            return Err(self.expected_keyword("FROM", "a route starts with FROM"));
        }
        self.advance();
        let source = self.source()?;
        let condition = match self.kind() {
            Kind::Where => {
                self.advance();
                if matches!(self.kind(), Kind::Into | Kind::End) {
                    return Err(self.unexpected("a condition after WHERE"));
                }
                self.expr(0)?.0
            }
            _ => Expr { kind: ExprKind::Literal(Literal::Bool(true)), span: self.here() },
        };
        if self.kind() == Kind::Select && select.is_none() {
            self.extension("SELECT behind the condition")?;
            select = self.select()?;
        }
        let gates = self.gates()?;
        if self.kind() != Kind::Into {
            return Err(self.expected_keyword("INTO", "expected an operator, or INTO and a sink"));
        }
        self.advance();
        let sinks = self.sinks()?;
        Ok(Route { source, condition, select, gates, sinks })
    }

    // ---- source ----

    fn source(&mut self) -> Result<Source, Fault> {
        match self.kind() {
            Kind::Slash => self.path(),
            Kind::Text => self.filter(),
            _ => Err(self.unexpected(
                "a source: a path such as /messages/* or a topic filter in quotes such as \"site/+/line/#\"",
            )),
        }
    }

    fn path(&mut self) -> Result<Source, Fault> {
        let mut path = String::new();
        while self.kind() == Kind::Slash {
            self.advance();
            path.push('/');
            match self.kind() {
                Kind::Star | Kind::Name => {
                    path.push_str(self.slice());
                    self.advance();
                }
                // edgeHub refuses words that are also literals or numbers; there is no other reading, so we take them.
                Kind::True
                | Kind::False
                | Kind::Null
                | Kind::Undefined
                | Kind::Integer
                | Kind::Real
                | Kind::Hex
                    if self.mode == Mode::Millrace =>
                {
                    path.push_str(self.slice());
                    self.advance();
                }
                Kind::Where | Kind::Into | Kind::Slash => {}
                _ => return Err(self.unexpected("a name or '*' in the source path")),
            }
        }
        Ok(Source::Path(path))
    }

    fn filter(&mut self) -> Result<Source, Fault> {
        let span = self.here();
        self.extension("a topic filter as source")?;
        let filter = unescape(inner(self.slice()));
        if filter.starts_with("$share/") {
            return Err(Fault::new(span, "a route's topic filter cannot be shared; leave out $share/NAME/"));
        }
        if let Err(reason) = model::validate_filter(&filter) {
            return Err(Fault::new(span, format!("this is no topic filter: {reason}")));
        }
        if filter.split('/').count() > self.limits.topic_levels_max as usize {
            let allowed = self.limits.topic_levels_max;
            return Err(Fault::new(span, format!("the topic filter has more than {allowed} levels")));
        }
        self.advance();
        Ok(Source::Filter(filter))
    }

    // ---- sinks ----

    fn sinks(&mut self) -> Result<Vec<SinkText>, Fault> {
        let mut sinks = vec![self.sink()?];
        if self.mode == Mode::EdgeHub {
            return Ok(sinks); // edgeHub does not look at what follows a complete sink (§3.1, "End of input")
        }
        while self.kind() == Kind::Comma {
            self.advance();
            sinks.push(self.sink()?);
        }
        match self.kind() {
            Kind::End => Ok(sinks),
            _ => Err(self.unexpected("',' and another sink, or the end of the route")),
        }
    }

    fn sink(&mut self) -> Result<SinkText, Fault> {
        let (kind, span, word) = (self.kind(), self.here(), self.slice().to_owned());
        match kind {
            Kind::Dollar if word.eq_ignore_ascii_case("$upstream") => {
                self.advance();
                Ok(SinkText::Upstream)
            }
            Kind::Dollar => {
                let fault = Fault::new(span, format!("there is no system sink '{word}'; expected $upstream"));
                Err(fault.help("did you mean $upstream?"))
            }
            Kind::Name if self.peek(1) == Kind::Open => self.function_sink(&word, span),
            Kind::Name if word.eq_ignore_ascii_case("topic") && self.peek(1) == Kind::Text => {
                self.extension("a topic as sink")?;
                self.advance();
                self.topic_sink()
            }
            Kind::Name if word.eq_ignore_ascii_case("upstream") => {
                Err(self.unexpected(EXPECTED_SINK).help("did you mean $upstream?"))
            }
            _ => Err(self.unexpected(EXPECTED_SINK)),
        }
    }

    fn function_sink(&mut self, name: &str, span: Span) -> Result<SinkText, Fault> {
        let known = ["BrokeredEndpoint", "uplink", "topic"];
        let Some(which) = known.iter().find(|known| known.eq_ignore_ascii_case(name)) else {
            let mut fault = Fault::new(span, format!("there is no sink '{name}'; {EXPECTED_SINK}"));
            if let Some(near) = nearest(name, known.into_iter()) {
                fault = fault.help(format!("did you mean {near}(…)?"));
            }
            return Err(fault);
        };
        if *which != "BrokeredEndpoint" {
            self.extension("this sink")?;
        }
        self.advance();
        self.expect(Kind::Open, "'('")?;
        if self.kind() != Kind::Text {
            return Err(self.unexpected("a text in quotes"));
        }
        let sink = match *which {
            "topic" => self.topic_sink()?,
            "uplink" => {
                let name = unescape(inner(self.slice()));
                if name.is_empty() {
                    return Err(Fault::new(self.here(), "an uplink has a name; expected uplink(\"name\")"));
                }
                self.advance();
                SinkText::Uplink(name)
            }
            _ => self.input_sink()?,
        };
        self.expect(Kind::Close, "')'")?;
        Ok(sink)
    }

    /// edgeHub strips one slash at either end, splits, and looks at the second and the fourth part only.
    /// It does not know escapes here.
    fn input_sink(&mut self) -> Result<SinkText, Fault> {
        let text = inner(self.slice());
        let path = text.strip_prefix('/').unwrap_or(text);
        let path = path.strip_suffix('/').unwrap_or(path);
        let parts: Vec<&str> = path.split('/').collect();
        let [_, module, _, input] = parts[..] else {
            let message = format!("'{text}' names no input; expected \"/modules/MODULE/inputs/INPUT\"");
            return Err(Fault::new(self.here(), message));
        };
        let sink = SinkText::Input { module: module.to_owned(), input: input.to_owned() };
        self.advance();
        Ok(sink)
    }

    fn topic_sink(&mut self) -> Result<SinkText, Fault> {
        let span = self.here();
        let template = unescape(inner(self.slice()));
        self.advance();
        Ok(SinkText::Topic { template, span })
    }

    // ---- tokens ----

    fn kind(&self) -> Kind {
        self.tokens[self.at].kind
    }

    fn peek(&self, ahead: usize) -> Kind {
        self.tokens.get(self.at + ahead).map_or(Kind::End, |token| token.kind)
    }

    fn here(&self) -> Span {
        self.tokens[self.at].span.clone()
    }

    /// Where the token before this one ended.
    fn before(&self) -> usize {
        self.at.checked_sub(1).map_or(0, |at| self.tokens[at].span.end)
    }

    fn slice(&self) -> &str {
        self.slice_at(0)
    }

    fn slice_at(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", |token| &self.text[token.span.clone()])
    }

    fn advance(&mut self) {
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
    }

    /// Goes on by `width` tokens and says where they stood.
    fn take(&mut self, width: usize) -> Span {
        let start = self.here().start;
        for _ in 0..width {
            self.advance();
        }
        start..self.before().max(start)
    }

    fn expect(&mut self, kind: Kind, what: &str) -> Result<(), Fault> {
        if self.kind() != kind {
            return Err(self.unexpected(what));
        }
        self.advance();
        Ok(())
    }

    fn unexpected(&self, expected: &str) -> Fault {
        let expected = expected.strip_prefix("expected ").unwrap_or(expected);
        let found = match self.kind() {
            Kind::End => "the end of the route".to_owned(),
            Kind::Close => {
                return Fault::new(
                    self.here(),
                    format!("syntax error: unmatched closing ')'; expected {expected}"),
                );
            }
            Kind::TextUnterminated => {
                return Fault::new(
                    self.here(),
                    "syntax error: unterminated string; expected a closing quote",
                );
            }
            Kind::Unknown => {
                return Fault::new(
                    self.here(),
                    format!("syntax error: invalid symbol '{}'; expected {expected}", self.slice()),
                );
            }
            _ => format!("'{}'", self.slice()),
        };
        Fault::new(self.here(), format!("syntax error: found {found}, expected {expected}"))
    }

    fn expected_keyword(&self, keyword: &str, expected: &str) -> Fault {
        let fault = self.unexpected(expected);
        match nearest(self.slice(), [keyword].into_iter()) {
            Some(keyword) => fault.help(format!("did you mean {keyword}?")),
            None => fault,
        }
    }

    fn extension(&self, what: &str) -> Result<(), Fault> {
        match self.mode {
            Mode::Millrace => Ok(()),
            Mode::EdgeHub => {
                let message = format!("syntax error: edgeHub does not know {what}");
                Err(Fault::new(self.here(), message)
                    .help("it is allowed when the router's routes are in millrace mode"))
            }
        }
    }

    fn check_depth(&self, depth: u32) -> Result<(), Fault> {
        if depth > self.limits.route_depth_max {
            let message =
                format!("the condition is nested deeper than {} levels", self.limits.route_depth_max);
            return Err(Fault::new(self.here(), message));
        }
        Ok(())
    }
}

const EXPECTED_SINK: &str = "expected a sink: $upstream, BrokeredEndpoint(\"/modules/MODULE/inputs/INPUT\"), \
                             uplink(\"NAME\") or topic \"TOPIC\"";

/// A string token without its quotes.
fn inner(quoted: &str) -> &str {
    quoted.get(1..quoted.len().max(2) - 1).unwrap_or("")
}

/// edgeHub unescapes in two passes, first `\uXXXX` and `\UXXXX`, then `\"`, `\'` and `\\`.
fn unescape(text: &str) -> String {
    if !text.contains('\\') {
        return text.to_owned();
    }
    let units: Vec<u16> = text.encode_utf16().collect();
    let (mut first, mut at) = (Vec::with_capacity(units.len()), 0);
    while at < units.len() {
        match code_unit(&units[at..]) {
            Some(unit) => {
                first.push(unit);
                at += 6;
            }
            None => {
                first.push(units[at]);
                at += 1;
            }
        }
    }
    let backslash = u16::from(b'\\');
    let escaped = |unit: &u16| [b'"', b'\'', b'\\'].iter().any(|byte| u16::from(*byte) == *unit);
    let (mut second, mut at) = (Vec::with_capacity(first.len()), 0);
    while at < first.len() {
        if first[at] == backslash && first.get(at + 1).is_some_and(escaped) {
            at += 1;
        }
        second.push(first[at]);
        at += 1;
    }
    String::from_utf16_lossy(&second)
}

fn code_unit(units: &[u16]) -> Option<u16> {
    let [backslash, u, digits @ ..] = units else { return None };
    if *backslash != u16::from(b'\\') || !matches!(u8::try_from(*u), Ok(b'u' | b'U')) {
        return None;
    }
    digits.get(..4)?.iter().try_fold(0u16, |value, unit| {
        let digit = char::from_u32(u32::from(*unit))?.to_digit(16)?;
        Some(value << 4 | digit as u16)
    })
}

fn decimal(text: &str) -> Literal {
    // The lexer also takes `-E5`, which is no number to anybody.
    text.parse().map_or(Literal::Undefined, Literal::Number)
}

/// 64 bits with sign, as edgeHub reads it; longer is undefined.
fn hexadecimal(text: &str) -> Literal {
    match u64::from_str_radix(text[2..].trim_start_matches('0'), 16) {
        Ok(bits) => Literal::Number(bits as i64 as f64),
        Err(_) if text[2..].bytes().all(|digit| digit == b'0') => Literal::Number(0.0),
        Err(_) => Literal::Undefined,
    }
}

#[cfg(test)]
mod tests;
