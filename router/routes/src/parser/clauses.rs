//! What stands around source and condition: SELECT, and the clauses with a memory.
//!
//! Knows: their grammar (`router/docs/routes.md` §7 and §8). May use: what `parser` uses.
//! In:  tokens from the word that starts a clause. Out: the clause as written, or where it goes wrong.
//! Invariant: edgeHub mode sees no clause; what it refuses is refused there.

use super::*;

impl Parser<'_> {
    // ---- what is sent ----

    /// `SELECT *` is the message as it came, and the only form that edgeHub knows.
    pub(super) fn select(&mut self) -> Result<Option<Select>, Fault> {
        self.advance();
        if self.kind() == Kind::Star && matches!(self.peek(1), Kind::From | Kind::Into) {
            self.advance();
            return Ok(None);
        }
        if self.kind() == Kind::From {
            return Err(self.unexpected("'*' after SELECT"));
        }
        self.extension("a selection other than '*'")?;
        let mut select = Select { everything_except: None, items: Vec::new() };
        let everything = self.kind() == Kind::Star;
        if everything {
            self.advance();
            select.everything_except = Some(self.except()?);
        }
        if everything && self.kind() != Kind::Comma {
            return Ok(Some(select));
        }
        if everything {
            self.advance();
        }
        loop {
            let item = self.item()?;
            if select.items.iter().any(|known| known.name == item.name) {
                let message = format!("two selected values are called '{}'", item.name);
                return Err(
                    Fault::new(item.value.span, message).help("give one of them another name with AS")
                );
            }
            select.items.push(item);
            if self.kind() != Kind::Comma {
                return Ok(Some(select));
            }
            self.advance();
        }
    }

    /// `EXCEPT path, path`: the list goes on as long as plain paths follow.
    pub(super) fn except(&mut self) -> Result<Vec<(Vec<ExceptStep>, Span)>, Fault> {
        let mut paths = Vec::new();
        if !self.is_word("EXCEPT") {
            return Ok(paths);
        }
        self.advance();
        loop {
            let (span, text) = (self.here(), self.slice().to_owned());
            if self.kind() != Kind::Dollar {
                return Err(self.unexpected("a path such as $body.patient.name"));
            }
            let steps = except_path(&text, self.limits.body_path_names_max)
                .map_err(|reason| Fault::new(span.clone(), format!("error in EXCEPT path: {reason}")))?;
            paths.push((steps, span));
            self.advance();
            let plain = self.peek(1) == Kind::Dollar
                && (matches!(self.peek(2), Kind::Comma | Kind::From | Kind::Into)
                    || (self.peek(2) == Kind::Name && is_clause(self.slice_at(2))));
            if self.kind() != Kind::Comma || !plain {
                return Ok(paths);
            }
            self.advance();
        }
    }

    pub(super) fn item(&mut self) -> Result<SelectItem, Fault> {
        let value = self.expr(0)?.0;
        if self.is_word("AS") {
            self.advance();
            let name = match self.kind() {
                Kind::Name => self.slice().to_owned(),
                Kind::Text => unescape(inner(self.slice())),
                _ => return Err(self.unexpected("a name after AS")),
            };
            self.advance();
            return Ok(SelectItem { value, name });
        }
        let name = match &value.kind {
            ExprKind::Name(name) => Some(name.as_str()),
            ExprKind::Dollar(path) | ExprKind::Escaped(path) if !path.ends_with(']') => {
                path.rsplit('.').next().map(|name| name.trim_start_matches('$'))
            }
            _ => None,
        };
        match name {
            Some(name) => Ok(SelectItem { name: name.to_owned(), value }),
            None => Err(self.unexpected("AS and a name for this value")),
        }
    }

    // ---- what depends on earlier messages ----

    pub(super) fn gates(&mut self) -> Result<Vec<GateText>, Fault> {
        let mut gates = Vec::new();
        while self.kind() == Kind::Name && is_gate(self.slice()) {
            self.extension("this clause")?;
            let word = self.slice().to_ascii_uppercase();
            self.advance();
            let kind = match word.as_str() {
                "SAMPLE" => self.sample()?,
                "THROTTLE" => self.throttle()?,
                _ => self.changed()?,
            };
            let by = if self.is_word("BY") {
                self.advance();
                Some(self.expr(0)?.0)
            } else {
                None
            };
            gates.push(GateText { kind, by });
        }
        Ok(gates)
    }

    pub(super) fn sample(&mut self) -> Result<GateKind, Fault> {
        if self.count()? != 1 || !self.is_word("IN") {
            return Err(self.unexpected("SAMPLE 1 IN n"));
        }
        self.advance();
        Ok(GateKind::Sample { one_in: self.count()? })
    }

    pub(super) fn throttle(&mut self) -> Result<GateKind, Fault> {
        let messages = self.count()?;
        if !self.is_word("PER") {
            return Err(self.unexpected("PER and a time such as 10s"));
        }
        self.advance();
        let micros =
            micros(self.slice()).ok_or_else(|| self.unexpected("a time such as 500ms, 10s, 5m or 1h"))?;
        self.advance();
        Ok(GateKind::Throttle { messages, micros })
    }

    pub(super) fn changed(&mut self) -> Result<GateKind, Fault> {
        self.expect(Kind::Open, "'(' and a value")?;
        let value = self.expr(0)?.0;
        let mut delta = 0.0;
        if self.kind() == Kind::Comma {
            self.advance();
            delta = match (self.kind(), decimal(self.slice())) {
                (Kind::Integer | Kind::Real, Literal::Number(delta)) if delta >= 0.0 => delta,
                _ => return Err(self.unexpected("the least change that counts, a number")),
            };
            self.advance();
        }
        self.expect(Kind::Close, "')'")?;
        Ok(GateKind::Changed { value, delta })
    }

    /// A whole number, at least 1.
    pub(super) fn count(&mut self) -> Result<u64, Fault> {
        let count = self.slice().parse().ok().filter(|count| self.kind() == Kind::Integer && *count > 0);
        let count = count.ok_or_else(|| self.unexpected("a whole number, at least 1"))?;
        self.advance();
        Ok(count)
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        self.kind() == Kind::Name && self.slice().eq_ignore_ascii_case(word)
    }
}

pub(super) fn is_gate(word: &str) -> bool {
    ["SAMPLE", "THROTTLE", "CHANGED"].iter().any(|known| known.eq_ignore_ascii_case(word))
}

/// Words that end a list of EXCEPT paths.
pub(super) fn is_clause(word: &str) -> bool {
    is_gate(word)
}

/// `500ms`, `10s`, `5m`, `1h` in microseconds.
pub(super) fn micros(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = text.split_at(digits);
    let unit: u64 = match unit.to_ascii_lowercase().as_str() {
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        _ => return None,
    };
    count.parse::<u64>().ok()?.checked_mul(unit).filter(|micros| *micros > 0)
}

/// `$body.a.*`, `$body.list[*].secret`, `$body.list[0]`.
pub(super) fn except_path(text: &str, names_max: u32) -> Result<Vec<ExceptStep>, String> {
    let path = text.get(..6).filter(|prefix| prefix.eq_ignore_ascii_case("$body.")).map(|_| &text[6..]);
    let path = path.ok_or("expected a path that starts with $body.")?;
    let mut steps = Vec::new();
    for part in path.split('.') {
        let (name, index) = part.split_once('[').map_or((part, None), |(name, rest)| (name, Some(rest)));
        match name {
            "" => return Err("a name is missing".to_owned()),
            "*" => steps.push(ExceptStep::AnyKey),
            name => steps.push(ExceptStep::Key(name.to_owned())),
        }
        match index.map(|rest| rest.strip_suffix(']')) {
            None => {}
            Some(Some("*")) => steps.push(ExceptStep::AnyIndex),
            Some(digits) => {
                let index = digits.and_then(|digits| digits.parse().ok());
                steps.push(ExceptStep::Index(index.ok_or("expected an index such as [0] or [*]")?));
            }
        }
    }
    match steps.len() > names_max as usize {
        true => Err(format!("it has more than {names_max} steps")),
        false => Ok(steps),
    }
}
