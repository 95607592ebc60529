//! Who may connect: user name, client identifier, signature or certificate, gateway chain. Every rule has its sentence.
//!
//! In: a CONNECT, the client's certificates, the state. Out: who it is and until when, or a return code and why.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use wire::Connect;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::identity::{Authentication, Identity};
use crate::sas::Token;
use crate::state::State;
use crate::tls;
use crate::username::Username;

/// Return codes of 3.1.1.
const IDENTIFIER_REJECTED: u8 = 2;
const NOT_AUTHORIZED: u8 = 5;

/// A client that may come in.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    pub(crate) name: Username,
    /// When its token ends; a certificate has no such time.
    pub(crate) until: Option<SystemTime>,
}

/// Why it may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: u8,
    pub(crate) why: String,
}

fn refused<T>(code: u8, why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { code, why: why.into() })
}

/// Judges a CONNECT.
pub(crate) fn admit(
    state: &State,
    host: &str,
    connect: &Connect,
    chain: &[CertificateDer<'_>],
) -> Result<Admitted, Refused> {
    let name = connect.user_name.as_deref().unwrap_or_default();
    let name = match Username::parse(name) {
        Ok(name) => name,
        Err(why) => return refused(NOT_AUTHORIZED, why),
    };
    if !name.host.eq_ignore_ascii_case(host) {
        return refused(
            NOT_AUTHORIZED,
            format!("the user name is for the host {}, this is {host}", name.host),
        );
    }
    if connect.client_id != name.client_id() {
        let why = format!(
            "the client identifier is {:?}, the user name says {:?}",
            connect.client_id,
            name.client_id()
        );
        return refused(IDENTIFIER_REJECTED, why);
    }
    let Some(identity) = state.registry.find(&connect.client_id) else {
        return refused(NOT_AUTHORIZED, format!("there is no identity {}", connect.client_id));
    };
    if !state.registry.is_enabled(identity) {
        return refused(NOT_AUTHORIZED, format!("{} is disabled", identity.id()));
    }
    let now = state.wall_clock();
    let password = connect.password.as_deref().unwrap_or_default();
    let until = if name.auth_chain.len() > 1 {
        Some(by_gateway(state, host, identity, &name.auth_chain, password, now)?)
    } else if !password.is_empty() {
        Some(by_token(state, host, identity, password, now)?)
    } else {
        by_certificate(state, identity, chain, now)?;
        None
    };
    Ok(Admitted { name, until })
}

fn by_token(
    state: &State,
    host: &str,
    identity: &Identity,
    password: &[u8],
    now: SystemTime,
) -> Result<SystemTime, Refused> {
    let id = identity.id();
    let text = String::from_utf8_lossy(password);
    let token = Token::parse(&text).or_else(|why| refused(NOT_AUTHORIZED, format!("{id}: {why}")))?;
    let Authentication::Sas { .. } = identity.authentication else {
        return refused(NOT_AUTHORIZED, format!("{id} has no keys, but came with a token"));
    };
    // A device may speak for its modules.
    let device = state.registry.find(&identity.device_id);
    let own = token.is_for(host, &identity.device_id, identity.module_id.as_deref());
    let keys = if own {
        identity.keys()
    } else if token.is_for(host, &identity.device_id, None) {
        device.map(Identity::keys).unwrap_or_default()
    } else {
        return refused(NOT_AUTHORIZED, format!("{id}: the token is for {}", token.resource));
    };
    check(&token, &keys, &id, now)
}

/// A gateway that opens a connection for somebody below it, with its own token.
fn by_gateway(
    state: &State,
    host: &str,
    target: &Identity,
    chain: &[String],
    password: &[u8],
    now: SystemTime,
) -> Result<SystemTime, Refused> {
    let id = target.id();
    if let Err(why) = state.registry.check_chain(&id, chain) {
        return refused(NOT_AUTHORIZED, why);
    }
    let actor = chain.last().map(String::as_str).unwrap_or_default();
    let Some(hub) = state.registry.find(&format!("{actor}/$edgeHub")) else {
        return refused(NOT_AUTHORIZED, format!("{actor} has no $edgeHub, which must sign for {id}"));
    };
    if !state.registry.is_enabled(hub) {
        return refused(NOT_AUTHORIZED, format!("{} is disabled", hub.id()));
    }
    let text = String::from_utf8_lossy(password);
    let token = Token::parse(&text).or_else(|why| refused(NOT_AUTHORIZED, format!("{id}: {why}")))?;
    if !token.is_for(host, actor, Some("$edgeHub")) {
        let why = format!("{id} on behalf: the token is for {}, not for {}", token.resource, hub.id());
        return refused(NOT_AUTHORIZED, why);
    }
    check(&token, &hub.keys(), &hub.id(), now)
}

/// Signature and expiry; the audience has been looked at.
pub(crate) fn check(
    token: &Token,
    keys: &[&str],
    whose: &str,
    now: SystemTime,
) -> Result<SystemTime, Refused> {
    if !token.is_signed_by(keys) {
        return refused(NOT_AUTHORIZED, format!("the signature is not by a key of {whose}"));
    }
    if token.is_expired(now) {
        return refused(NOT_AUTHORIZED, format!("the token of {whose} ended at {}", token.expiry));
    }
    Ok(UNIX_EPOCH + Duration::from_secs(token.expiry))
}

fn by_certificate(
    state: &State,
    identity: &Identity,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(), Refused> {
    let id = identity.id();
    let Some(leaf) = chain.first() else {
        return refused(NOT_AUTHORIZED, format!("{id} has neither a token nor a certificate"));
    };
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else {
        return refused(NOT_AUTHORIZED, format!("{id}: the certificate cannot be read"));
    };
    let seconds = i64::try_from(crate::sas::seconds(now)).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    if validity.not_before.timestamp() > seconds || validity.not_after.timestamp() < seconds {
        return refused(NOT_AUTHORIZED, format!("{id}: the certificate is not valid now"));
    }
    match &identity.authentication {
        Authentication::Sas { .. } => {
            refused(NOT_AUTHORIZED, format!("{id} has keys, but came without a token"))
        }
        Authentication::SelfSigned { primary_thumbprint, secondary_thumbprint } => {
            let known = [primary_thumbprint, secondary_thumbprint];
            let algorithms = [&ring::digest::SHA256, &ring::digest::SHA1_FOR_LEGACY_USE_ONLY];
            let shown = algorithms.map(|algorithm| crate::authority::thumbprint(algorithm, leaf));
            let fits = shown.iter().any(|it| known.iter().any(|known| known.eq_ignore_ascii_case(it)));
            if fits {
                Ok(())
            } else {
                refused(NOT_AUTHORIZED, format!("{id}: another certificate than the known ones"))
            }
        }
        Authentication::CertificateAuthority => {
            let mut names = parsed.subject().iter_common_name();
            let common_name = names.next().and_then(|it| it.as_str().ok()).unwrap_or_default();
            if common_name != identity.device_id {
                return refused(NOT_AUTHORIZED, format!("{id}: the certificate is that of {common_name:?}"));
            }
            tls::leads_to(chain, &state.authorities, now)
                .or_else(|why| refused(NOT_AUTHORIZED, format!("{id}: {why}")))
        }
    }
}
