//! Topics with holes: `line/{topic[1]}/{clientId}`; holes are filled from a message.
//!
//! In: text of an operator. Out: a template, or what is wrong with it; then, for each message, a topic, or the hole that
//! the message has nothing for. `{{` and `}}` stand for braces; `{hole|text}` has `text` where the message has nothing.

use crate::envelope::Envelope;

/// A topic with holes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Box<str>),
    Hole { field: Field, otherwise: Option<Box<str>> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Topic,
    Level(usize),
    /// This level and all behind it.
    Rest(usize),
    ClientId,
    User,
    Gateway,
    ContentType,
    Property(Box<str>),
}

/// What fills the holes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    pub(super) envelope: &'a Envelope<'a>,
    pub(super) gateway: &'a str,
}

/// The kind of hole that a message has nothing for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hole {
    /// A level that its topic does not have.
    Level,
    /// Its publisher's client identifier.
    ClientId,
    /// Its publisher's user: it is anonymous.
    User,
    /// A user property or the content type.
    Property,
}

/// What is wrong with a template, for its author.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// A brace is not closed.
    #[error("a {{ is not closed; {{{{ stands for the brace itself")]
    Open,
    /// A brace is not opened.
    #[error("a }} was not opened; }}}} stands for the brace itself")]
    Closed,
    /// There is no such hole.
    #[error(
        "{{{0}}} is no hole; there are {{topic}}, {{topic[1]}}, {{topic[1..]}} (levels count from 0), {{clientId}}, \
         {{user}}, {{gateway}}, {{contentType}} and {{property:NAME}}, each with |TEXT for messages without it"
    )]
    Unknown(String),
    /// What stands between holes cannot be part of a topic.
    #[error("a topic cannot have + or #")]
    Wildcard,
    /// There is nothing.
    #[error("it is empty")]
    Empty,
}

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Template, InvalidTemplate> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let (brace, behind) = (&rest[at..=at], &rest[at + 1..]);
            if let Some(behind) = behind.strip_prefix(brace) {
                plain.push_str(brace);
                rest = behind;
                continue;
            }
            if brace == "}" {
                return Err(InvalidTemplate::Closed);
            }
            let (hole, behind) = behind.split_once('}').ok_or(InvalidTemplate::Open)?;
            push_text(&mut pieces, &mut plain)?;
            pieces.push(parse_hole(hole)?);
            rest = behind;
        }
        plain.push_str(rest);
        push_text(&mut pieces, &mut plain)?;
        if pieces.is_empty() { Err(InvalidTemplate::Empty) } else { Ok(Template { pieces }) }
    }

    /// Appends the topic of a message to `out`; it is not checked.
    pub(super) fn render(&self, fields: &Fields<'_>, out: &mut String) -> Result<(), Hole> {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Hole { field, otherwise } => match (field.find(fields), otherwise) {
                    (Ok(found), _) => out.push_str(found),
                    (Err(_), Some(otherwise)) => out.push_str(otherwise),
                    (Err(hole), None) => return Err(hole),
                },
            }
        }
        Ok(())
    }

    /// Whether it asks who published.
    pub fn asks_for_user(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Hole { field: Field::User, .. }))
    }

    /// A topic filter that matches whatever this becomes: a hole may be any number of levels, so the first one that
    /// stands alone or in a level ends it.
    pub fn image(&self, prefix: &str) -> String {
        let Some(Piece::Text(first)) = self.pieces.first() else { return image(prefix) };
        let start = format!("{prefix}{first}");
        if self.pieces.len() == 1 { start } else { image(&start) }
    }
}

/// A filter for every topic that begins so.
pub fn image(start: &str) -> String {
    match start.rsplit_once('/') {
        Some((levels, _)) => format!("{levels}/#"),
        None => "#".to_owned(),
    }
}

/// Whether some topic matches both filters.
pub fn filters_meet(one: &str, other: &str) -> bool {
    let (mut ones, mut others) = (one.split('/'), other.split('/'));
    loop {
        match (ones.next(), others.next()) {
            (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
            _ => return false,
        }
    }
}

impl Field {
    fn find<'a>(&'a self, fields: &Fields<'a>) -> Result<&'a str, Hole> {
        let envelope = fields.envelope;
        let block = || wire::PublishProperties::from_block(envelope.properties).ok();
        match self {
            Field::Topic => Ok(envelope.topic),
            Field::Level(number) => envelope.topic.split('/').nth(*number).ok_or(Hole::Level),
            Field::Rest(0) => Ok(envelope.topic),
            Field::Rest(number) => {
                let slash = envelope.topic.match_indices('/').nth(number - 1).ok_or(Hole::Level)?;
                Ok(&envelope.topic[slash.0 + 1..])
            }
            Field::ClientId if envelope.client_id.is_empty() => Err(Hole::ClientId),
            Field::ClientId => Ok(envelope.client_id),
            Field::User if envelope.user.is_empty() => Err(Hole::User),
            Field::User => Ok(envelope.user),
            Field::Gateway => Ok(fields.gateway),
            Field::ContentType => block().and_then(|block| block.content_type()).ok_or(Hole::Property),
            Field::Property(name) => block()
                .and_then(|block| block.user_properties().find(|pair| pair.0 == &**name))
                .map(|pair| pair.1)
                .ok_or(Hole::Property),
        }
    }
}

fn push_text(pieces: &mut Vec<Piece>, plain: &mut String) -> Result<(), InvalidTemplate> {
    if plain.contains(['+', '#']) {
        return Err(InvalidTemplate::Wildcard);
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(std::mem::take(plain).into()));
    }
    Ok(())
}

fn parse_hole(text: &str) -> Result<Piece, InvalidTemplate> {
    let unknown = || InvalidTemplate::Unknown(text.to_owned());
    let (name, otherwise) = match text.split_once('|') {
        Some((name, otherwise)) => (name, Some(otherwise)),
        None => (text, None),
    };
    if otherwise.is_some_and(|text| text.contains(['+', '#'])) {
        return Err(InvalidTemplate::Wildcard);
    }
    // As routes write it, too.
    let name = name.trim();
    let name = name.strip_prefix('$').unwrap_or(name);
    let field = match name {
        "topic" => Field::Topic,
        "clientId" => Field::ClientId,
        "user" => Field::User,
        "gateway" => Field::Gateway,
        "contentType" => Field::ContentType,
        _ => {
            if let Some(name) = name.strip_prefix("property:").filter(|name| !name.is_empty()) {
                Field::Property(name.into())
            } else {
                let index = name.strip_prefix("topic[").and_then(|rest| rest.strip_suffix(']'));
                let index = index.ok_or_else(unknown)?;
                match index.strip_suffix("..") {
                    Some(from) => Field::Rest(from.parse().map_err(|_| unknown())?),
                    None => Field::Level(index.parse().map_err(|_| unknown())?),
                }
            }
        }
    };
    Ok(Piece::Hole { field, otherwise: otherwise.map(Into::into) })
}

#[cfg(test)]
mod tests;
