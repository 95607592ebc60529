//! Whether somebody is the identity that it says it is: the rules, without anybody to ask.
//!
//! In: what a CONNECT or an HTTP request shows, the identities known now, the authorities trusted, the time. Out: until
//! when it may stay, or why not and whether newer knowledge could change that. Source: `reference/edgehub.md` §5.4–5.6.
//! Never: a clock, a socket, a lookup. Cost: two HMACs for a token, for a certificate the verification of its chain.

use std::fmt;
use std::sync::Arc;

use hub::HubId;
use hub::connect::UserName;
use hub::identity::{Auth, Identity};
use hub::sas::{CLOCK_SKEW_SECS, SasError, Token, Wanted};
use hub::tree::{ChainError, Tree};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The module that talks for an edge device.
pub(crate) const EDGE_HUB: &str = "$edgeHub";

/// The names of this gateway that a token may be for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts(pub Vec<String>);

/// What somebody shows.
#[derive(Clone)]
pub(crate) struct Claim {
    /// Who it says it is.
    pub name: UserName,
    /// What for.
    pub proof: Proof,
}

/// What proves it.
#[derive(Clone)]
pub(crate) enum Proof {
    /// A token.
    Token(Box<str>),
    /// Certificates, its own first, DER; that it has the key of the first one has been seen.
    Certificates(Arc<[Box<[u8]>]>),
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proof = match self.proof {
            Proof::Token(_) => "token",
            Proof::Certificates(_) => "certificates",
        };
        write!(f, "Claim({}, {proof})", self.name.id)
    }
}

/// Why somebody does not come in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// In CONNECT.
    #[error("the client identifier is not that of the identity in the user name")]
    ClientId,
    /// Neither a token nor a certificate.
    #[error("it shows neither a token nor a certificate")]
    NothingShown,
    /// Not in the scope.
    #[error("{0} is not in the device scope of this gateway")]
    Unknown(HubId),
    /// Or its device.
    #[error("{0} is disabled")]
    Disabled(HubId),
    /// A token for an identity with certificates, or the other way round.
    #[error("{0} does not authenticate in this way")]
    Method(HubId),
    /// The token.
    #[error("{0}")]
    Token(#[from] SasError),
    /// The auth chain.
    #[error("{0}")]
    Chain(#[from] ChainError),
    /// Modules have tokens.
    #[error("a module cannot authenticate by a certificate")]
    ModuleCertificate,
    /// A certificate.
    #[error("the certificate cannot be read")]
    Certificate,
    /// A certificate.
    #[error("the certificate is not valid yet, or not any more")]
    Dates,
    /// A certificate.
    #[error("the certificate's thumbprint is none of the device's")]
    Thumbprint,
    /// A certificate.
    #[error("the certificate's common name is not the device id")]
    CommonName,
    /// A certificate.
    #[error("the certificate does not come from an authority in the trust bundle")]
    Authority,
    /// `edge.client_certs`
    #[error("certificates of clients are not taken here")]
    CertificatesOff,
    /// `edge.api_proxy_module`
    #[error("{0} alone may forward certificates of clients, with its token")]
    Forwarder(HubId),
}

impl Denied {
    /// Whether newer knowledge of the identity could change the answer.
    pub(crate) fn may_be_outdated(&self) -> bool {
        matches!(
            self,
            Denied::Unknown(_)
                | Denied::Disabled(_)
                | Denied::Method(_)
                | Denied::Token(SasError::Signature)
                | Denied::Chain(ChainError::NotBelow)
                | Denied::Thumbprint
        )
    }

    /// For metrics and logs: one word.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Denied::ClientId => "client_id",
            Denied::NothingShown => "nothing_shown",
            Denied::Unknown(_) => "unknown",
            Denied::Disabled(_) => "disabled",
            Denied::Method(_) => "method",
            Denied::Token(error) => error.label(),
            Denied::Chain(_) => "chain",
            Denied::ModuleCertificate | Denied::CertificatesOff => "certificate_not_taken",
            Denied::Certificate => "certificate",
            Denied::Dates => "certificate_dates",
            Denied::Thumbprint => "thumbprint",
            Denied::CommonName => "common_name",
            Denied::Authority => "authority",
            Denied::Forwarder(_) => "forwarder",
        }
    }
}

/// What identities are judged by.
pub(crate) struct Law<'a> {
    /// Who is known.
    pub tree: &'a Tree,
    /// The names of this gateway.
    pub hosts: &'a Hosts,
    /// Authorities of clients' certificates; `None` if there are none.
    pub authorities: Option<&'a dyn ClientCertVerifier>,
    /// Whether certificates are taken.
    pub takes_certificates: bool,
    /// Seconds since 1970.
    pub now: u64,
}

/// Until when somebody may stay, in seconds since 1970, unless what is known of it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Until(pub u64);

impl Law<'_> {
    /// Judges a claim. `Err` says the first thing that does not hold.
    pub(crate) fn judge(&self, claim: &Claim) -> Result<Until, Denied> {
        let id = &claim.name.id;
        match &claim.proof {
            Proof::Token(text) => {
                let token = Token::parse(text)?;
                self.judge_token(claim, id, &token)?;
                Ok(Until(token.expires().saturating_add(CLOCK_SKEW_SECS)))
            }
            Proof::Certificates(_) if !self.takes_certificates => Err(Denied::CertificatesOff),
            Proof::Certificates(chain) => self.judge_certificates(id, chain),
        }
    }

    fn judge_token(&self, claim: &Claim, id: &HubId, token: &Token<'_>) -> Result<(), Denied> {
        if let Some(chain) = claim.name.auth_chain.as_ref().filter(|chain| chain.is_on_behalf()) {
            self.known(id)?;
            // Another edge device stands in for the client; its hub has signed.
            let actor = self.tree.actor_of(chain, id)?;
            let hub = HubId::module(actor.device_id(), EDGE_HUB).map_err(|_| ChainError::Actor)?;
            let identity = self.known(&hub)?;
            return self.verify(token, &hub, identity);
        }
        let identity = self.known(id)?;
        let own = self.verify(token, id, identity);
        match own {
            // A device's key is good for its modules, too.
            Err(error @ (Denied::Token(SasError::Signature) | Denied::Method(_)))
                if id.module_id().is_some() =>
            {
                let device = HubId::device(id.device_id()).map_err(|_| error.clone())?;
                let device = self.tree.find(&device).filter(|device| device.enabled).ok_or(error.clone())?;
                self.verify(token, id, device).map_err(|_| error)
            }
            own => own,
        }
    }

    /// An identity that is in the scope and enabled, and so is its device.
    fn known(&self, id: &HubId) -> Result<&Identity, Denied> {
        let identity = self.tree.find(id).ok_or_else(|| Denied::Unknown(id.clone()))?;
        let device = HubId::device(id.device_id()).ok().and_then(|device| self.tree.find(&device));
        match device.filter(|device| !device.enabled).or(Some(identity).filter(|own| !own.enabled)) {
            Some(disabled) => Err(Denied::Disabled(disabled.id.clone())),
            None => Ok(identity),
        }
    }

    fn verify(&self, token: &Token<'_>, id: &HubId, keys_of: &Identity) -> Result<(), Denied> {
        if !matches!(keys_of.auth, Auth::Sas { .. }) {
            return Err(Denied::Method(keys_of.id.clone()));
        }
        let hosts: Vec<&str> = self.hosts.0.iter().map(String::as_str).collect();
        let wanted = Wanted { id, hosts: &hosts, now: self.now, skew_secs: CLOCK_SKEW_SECS };
        Ok(token.verify(&wanted, &keys_of.auth.keys())?)
    }

    fn judge_certificates(&self, id: &HubId, chain: &[Box<[u8]>]) -> Result<Until, Denied> {
        if id.module_id().is_some() {
            return Err(Denied::ModuleCertificate);
        }
        let (own, others) = chain.split_first().ok_or(Denied::NothingShown)?;
        let identity = self.known(id)?;
        let (_, certificate) = X509Certificate::from_der(own).map_err(|_| Denied::Certificate)?;
        let (from, until) =
            (certificate.validity().not_before.timestamp(), certificate.validity().not_after.timestamp());
        let (from, until) = (from.max(0) as u64, until.max(0) as u64);
        if !(from..=until).contains(&self.now) {
            return Err(Denied::Dates);
        }
        match &identity.auth {
            Auth::Thumbprint { .. } => {
                let thumbprints = thumbprints(own);
                if !identity.auth.has_thumbprint(&[&thumbprints[0], &thumbprints[1]]) {
                    return Err(Denied::Thumbprint);
                }
            }
            Auth::Authority => {
                let mut names = certificate.subject().iter_common_name();
                // With two of them, another reader of the same certificate might take the other one.
                match (names.next().and_then(|name| name.as_str().ok()), names.next()) {
                    (Some(name), None) if name == id.device_id() => {}
                    _ => return Err(Denied::CommonName),
                }
                let authorities = self.authorities.ok_or(Denied::Authority)?;
                let own = CertificateDer::from(&own[..]);
                let others: Vec<_> = others.iter().map(|other| CertificateDer::from(&other[..])).collect();
                let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.now));
                authorities.verify_client_cert(&own, &others, now).map_err(|_| Denied::Authority)?;
            }
            Auth::Sas { .. } | Auth::None => return Err(Denied::Method(id.clone())),
        }
        Ok(Until(until))
    }
}

/// SHA-1 and SHA-256 of a certificate, in hex: what IoT Hub calls thumbprints.
pub(crate) fn thumbprints(certificate: &[u8]) -> [String; 2] {
    use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
    [&SHA1_FOR_LEGACY_USE_ONLY, &SHA256].map(|algorithm| {
        digest(algorithm, certificate).as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
    })
}

#[cfg(test)]
mod tests;
