//! `millrace identity`: makes, shows and changes the identities of a gateway that has no IoT Hub.
//!
//! In: an identity file, what to do. Out: the file, replaced as a whole, readable by its owner alone; connection strings
//! on standard output, where asked for. A running router takes the change over by itself within seconds.

use std::io::{self, Write};

use hub::HubId;
use hub::identity::Identity;

use super::{Exit, IdentityArgs, IdentityCommand};
use crate::iotedge::local::{LocalError, LocalFile, Method, connection_string};

/// Most identities of a file that this command writes; a router may take fewer (`limits.identities_max`).
const IDENTITIES_MAX: usize = 1_000_000;

/// Does what `args` ask. Fails only if the writers fail; what is wrong is written to `err`, and the file stays as it was.
pub fn identity(args: &IdentityArgs, out: &mut impl Write, err: &mut impl Write) -> io::Result<Exit> {
    match act(args, out)? {
        Ok(()) => Ok(Exit::Done),
        Err(fault) => {
            writeln!(err, "millrace identity: {}: {fault}", args.file.display())?;
            Ok(Exit::BadConfig)
        }
    }
}

fn act(args: &IdentityArgs, out: &mut impl Write) -> io::Result<Result<(), LocalError>> {
    let id = match &args.command {
        IdentityCommand::List => None,
        IdentityCommand::Create { id, .. }
        | IdentityCommand::Show { id, .. }
        | IdentityCommand::Token { id, .. }
        | IdentityCommand::Rotate { id }
        | IdentityCommand::Enable { id }
        | IdentityCommand::Disable { id }
        | IdentityCommand::Delete { id } => match HubId::parse(id) {
            Ok(parsed) => Some(parsed),
            Err(error) => return Ok(Err(LocalError::Id(id.clone(), error))),
        },
    };
    let file = LocalFile::read(&args.file, IDENTITIES_MAX);
    let id = match id {
        None => {
            return match file {
                Ok(file) => list(&file, out).map(Ok),
                Err(error) => Ok(Err(error)),
            };
        }
        Some(id) => id,
    };
    match change(args, &id, file) {
        Err(fault) => Ok(Err(fault)),
        Ok(Done::Shown(text)) => writeln!(out, "{text}").map(Ok),
        Ok(Done::Changed(what)) => writeln!(out, "{}: {id} {what}", args.file.display()).map(Ok),
    }
}

enum Done {
    Shown(String),
    Changed(&'static str),
}

fn change(args: &IdentityArgs, id: &HubId, file: Result<LocalFile, LocalError>) -> Result<Done, LocalError> {
    let mut file = match (file, &args.command) {
        (Ok(file), _) => file,
        // The first one is the gateway.
        (Err(LocalError::Io(error)), IdentityCommand::Create { edge: true, .. })
            if error.kind() == io::ErrorKind::NotFound =>
        {
            LocalFile::new(id)?.write(&args.file)?;
            return Ok(Done::Changed("created; it is the gateway of this file"));
        }
        (Err(LocalError::Io(error)), IdentityCommand::Create { .. })
            if error.kind() == io::ErrorKind::NotFound =>
        {
            return Err(LocalError::Format(
                "there is none yet; create the gateway itself first, with --edge".to_owned(),
            ));
        }
        (Err(error), _) => return Err(error),
    };
    let what = match &args.command {
        IdentityCommand::List => return Ok(Done::Shown(String::new())),
        IdentityCommand::Show { host, .. } => {
            let identity = file.find(id)?;
            let text = connection_string(identity, host);
            return Ok(Done::Shown(text.unwrap_or_else(|| format!("{id} cannot authenticate"))));
        }
        IdentityCommand::Token { host, minutes, .. } => {
            let identity = file.find(id)?;
            let expires = crate::iotedge::now_secs() + u64::from(*minutes) * 60;
            let key = identity.auth.keys().first().map(|key| (*key).to_owned());
            let token = key.and_then(|key| hub::sas::token_with_key(host, id, &key, expires));
            return token.map(Done::Shown).ok_or(LocalError::NoKeys(id.clone(), identity.auth.label()));
        }
        IdentityCommand::Create { edge, thumbprint, authority, parent, .. } => {
            let method = match (thumbprint.as_slice(), authority) {
                ([], false) => Method::Keys,
                ([], true) => Method::Authority,
                (thumbprints, _) => Method::Thumbprints(thumbprints.to_vec()),
            };
            let parent = parent.as_deref().map(|parent| {
                HubId::device(parent).map_err(|error| LocalError::Id(parent.to_owned(), error))
            });
            file.create(id, method, *edge, parent.transpose()?.as_ref())?;
            "created"
        }
        IdentityCommand::Rotate { .. } => {
            file.rotate(id)?;
            "has a new primary key; the old one is its secondary"
        }
        IdentityCommand::Enable { .. } => {
            file.enable(id, true)?;
            "enabled"
        }
        IdentityCommand::Disable { .. } => {
            file.enable(id, false)?;
            "disabled"
        }
        IdentityCommand::Delete { .. } => {
            file.delete(id)?;
            "deleted"
        }
    };
    file.write(&args.file)?;
    Ok(Done::Changed(what))
}

/// A line for each: id, how it authenticates, what else there is to say. No key.
fn list(file: &LocalFile, out: &mut impl Write) -> io::Result<()> {
    let width = file.identities.iter().map(|identity| identity.id.as_str().len()).max().unwrap_or_default();
    for Identity { id, auth, enabled, is_edge, .. } in &file.identities {
        let mut words = vec![auth.label()];
        if *is_edge {
            words.push("edge");
        }
        if *id == file.gateway {
            words.push("gateway");
        }
        if !enabled {
            words.push("disabled");
        }
        writeln!(out, "{:width$}  {}", id.as_str(), words.join(" "))?;
    }
    Ok(())
}
