//! What a route sends: the body without some of its parts, with others renamed, computed or hidden.
//!
//! Knows: how a JSON body is rewritten. May use: `syntax`, `check`, `paths`, `program`, `scan`, `body`, `table`.
//! In:  a `SELECT`; then a matched message. Out: a JSON object in a buffer of the caller.
//! Invariant: what is excepted never appears in the output, however its key is written; a body that cannot be
//! read is not sent at all, rather than sent whole.

use std::io::Write;

use model::{Limits, Message, RouteId};

use crate::Mode;
use crate::body::Body;
use crate::check::check_value;
use crate::diagnostic::Fault;
use crate::document::{Member, Walker, find};
use crate::paths::{self, Step};
use crate::program::{Code, Machine, Program};
use crate::scratch::Scratch;
use crate::slots::{Origins, SlotId, Slots};
use crate::syntax::{ExceptStep, ExprKind, Select};
use crate::table::RouteTable;
use crate::value::{Value, folded};

/// A compiled `SELECT`.
#[derive(Debug, Clone)]
pub(crate) struct Projection {
    /// What is left out of the whole body; `None` if only the items are sent.
    except: Option<Except>,
    items: Vec<Item>,
}

#[derive(Debug, Clone)]
struct Item {
    name: String,
    value: ItemValue,
}

#[derive(Debug, Clone)]
enum ItemValue {
    /// A part of the body, as it is written there.
    Part(Vec<Step>),
    /// A bare name: the property, or else the part of the body.
    Named(SlotId, Option<Vec<Step>>),
    Computed(Code),
}

/// A tree of what is left out.
#[derive(Debug, Clone, Default)]
struct Except {
    removed: bool,
    steps: Vec<(ExceptStep, Except)>,
}

/// Why a selection could not be made; the message is then not sent to that sink, and that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProjectError {
    /// The body is no JSON object, or beyond the limits of what is read.
    #[error("the body cannot be read as a JSON object, so nothing can be selected from it")]
    Body,
}

/// What [`RouteTable::project`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Projected {
    /// The route sends bodies as they came; the buffer is empty.
    Unchanged,
    /// The buffer holds the new body.
    Rewritten,
}

impl Projection {
    pub(crate) fn compile(
        select: &Select,
        mode: Mode,
        limits: &Limits,
        slots: &mut Slots,
        program: &mut Program,
    ) -> Result<Projection, Vec<Fault>> {
        let except = select.everything_except.as_ref().map(|paths| {
            let mut except = Except::default();
            paths.iter().for_each(|(path, _)| except.add(path));
            except
        });
        let (mut items, mut faults) = (Vec::new(), Vec::new());
        for item in &select.items {
            if let Some(path) = part(&item.value.kind, limits) {
                items.push(Item { name: item.name.clone(), value: ItemValue::Part(path) });
                continue;
            }
            if let ExprKind::Name(name) = &item.value.kind {
                let property = slots.intern(Origins::Property(folded(name)));
                let path = paths::parse(name, limits.body_path_names_max).ok();
                items.push(Item { name: item.name.clone(), value: ItemValue::Named(property, path) });
                continue;
            }
            match check_value(&item.value, mode, limits, slots) {
                Ok(node) => {
                    let value = ItemValue::Computed(program.emit_route(&node));
                    items.push(Item { name: item.name.clone(), value });
                }
                Err(more) => faults.extend(more),
            }
        }
        if faults.is_empty() { Ok(Projection { except, items }) } else { Err(faults) }
    }

    fn replaces(&self, member: &Member<'_>) -> bool {
        self.items.iter().any(|item| member.is_key(&item.name))
    }
}

/// A plain body path is copied as it is, objects and arrays too.
fn part(value: &ExprKind, limits: &Limits) -> Option<Vec<Step>> {
    let (ExprKind::Dollar(name) | ExprKind::Escaped(name)) = value else { return None };
    let path = name.get(..6).filter(|prefix| prefix.eq_ignore_ascii_case("$body."))?;
    paths::parse(&name[path.len()..], limits.body_path_names_max).ok()
}

impl Except {
    fn add(&mut self, path: &[ExceptStep]) {
        let Some((first, rest)) = path.split_first() else {
            self.removed = true;
            return;
        };
        let at = self.steps.iter().position(|(step, _)| step == first).unwrap_or_else(|| {
            self.steps.push((first.clone(), Except::default()));
            self.steps.len() - 1
        });
        self.steps[at].1.add(rest);
    }
}

impl RouteTable {
    /// Writes what `route` sends of `message` into `out`, which is cleared first.
    ///
    /// Errors: a body that is no JSON object; then nothing may be sent, because what the route hides is in there.
    /// Cost: about two passes over the body, and one more for each part that is selected by a plain path.
    /// Source: `router/docs/routes.md` §7.
    pub fn project(
        &self,
        route: RouteId,
        message: &Message<'_>,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<Projected, ProjectError> {
        out.clear();
        let Some(projection) = self.projection(route) else { return Ok(Projected::Unchanged) };
        let body = self.fill(message, true, scratch);
        // A binary body is read by conditions, but a selection writes JSON from JSON.
        let text = match body {
            Body::AsItCame(text) => text,
            Body::Decoded => scratch.decoded.as_str(),
            _ => return Err(ProjectError::Body),
        };
        let mut machine = Machine {
            program: &self.program,
            message,
            body: text,
            encoding: None,
            missing: Value::Undefined,
            filled: &scratch.filled,
            stack: &mut scratch.stack,
        };
        out.push(b'{');
        if let Some(except) = &projection.except {
            copy_root(text, except, projection, out);
        }
        for item in &projection.items {
            write_item(item, text, &mut machine, out);
        }
        out.push(b'}');
        Ok(Projected::Rewritten)
    }
}

fn write_item(item: &Item, body: &str, machine: &mut Machine<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    separate(out);
    write_text(&item.name, out);
    out.push(b':');
    let written = match &item.value {
        ItemValue::Part(path) => write_part(body, path, out),
        ItemValue::Named(property, path) => {
            let value = machine.slot(*property, false);
            let property = write_value(value, machine, out);
            property.or_else(|| path.as_ref().and_then(|path| write_part(body, path, out)))
        }
        ItemValue::Computed(code) => {
            let value = machine.run(code);
            write_value(value, machine, out)
        }
    };
    // What is undefined is left out, like a field that is not there.
    if written.is_none() {
        out.truncate(start);
    }
}

fn write_part(body: &str, path: &[Step], out: &mut Vec<u8>) -> Option<()> {
    out.extend_from_slice(find(body, path)?.as_bytes());
    Some(())
}

fn write_value(value: Value, machine: &Machine<'_>, out: &mut Vec<u8>) -> Option<()> {
    match value {
        Value::Missing | Value::Undefined => return None,
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(value) => out.extend_from_slice(if value { b"true" } else { b"false" }),
        Value::Number(number) if number.is_finite() => {
            write!(out, "{number}").expect("writing to a Vec cannot fail");
        }
        Value::Number(_) => return None,
        Value::Text(text) => write_text(machine.text(text), out),
    }
    Some(())
}

/// A JSON string (RFC 8259 §7).
pub(crate) fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c == '"' || c == '\\' || c < ' ') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        match rest.as_bytes()[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            byte => write!(out, "\\u{byte:04x}").expect("writing to a Vec cannot fail"),
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest.as_bytes());
    out.push(b'"');
}

fn separate(out: &mut Vec<u8>) {
    if !matches!(out.last(), Some(b'{' | b'[')) {
        out.push(b',');
    }
}

/// Copies the members of the root that are neither excepted nor replaced by an item.
fn copy_root(body: &str, except: &Except, projection: &Projection, out: &mut Vec<u8>) {
    let mut walker = Walker::new(body);
    let excepts = [except];
    walker.members(|walker, member| match member {
        member if projection.replaces(&member) => {
            walker.value();
        }
        member => copy_member(walker, &member, &excepts, out),
    });
}

/// Recursion is bounded by `Limits::body_depth_max`: the body has been scanned.
fn copy_member(walker: &mut Walker<'_>, member: &Member<'_>, excepts: &[&Except], out: &mut Vec<u8>) {
    // `$body.a.x` and `$body.*.y` can both apply below `a`.
    let below: Vec<&Except> = excepts
        .iter()
        .flat_map(|except| &except.steps)
        .filter(|(step, _)| match (step, member) {
            (ExceptStep::Key(wanted), member) => member.is_key(wanted),
            (ExceptStep::AnyKey, Member::Key(_)) | (ExceptStep::AnyIndex, Member::Index(_)) => true,
            (ExceptStep::Index(wanted), Member::Index(index)) => wanted == index,
            _ => false,
        })
        .map(|(_, except)| except)
        .collect();
    if below.iter().any(|except| except.removed) {
        walker.value();
        return;
    }
    separate(out);
    if let Member::Key(raw) = member {
        out.push(b'"');
        out.extend_from_slice(raw.as_bytes());
        out.extend_from_slice(b"\":");
    }
    let bracket = walker.peek();
    if below.is_empty() || !matches!(bracket, b'{' | b'[') {
        out.extend_from_slice(walker.value().as_bytes());
        return;
    }
    out.push(bracket);
    walker.members(|walker, member| copy_member(walker, &member, &below, out));
    out.push(if bracket == b'{' { b'}' } else { b']' });
}

#[cfg(test)]
mod tests;
