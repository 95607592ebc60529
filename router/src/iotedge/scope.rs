//! The device scope as IoT Hub, or the parent gateway, serves it over REST (`reference/edgehub.md` §5.6).
//!
//! In: whose scope, which identity. Out: identities, or why there are none. Page by page, into child gateways breadth
//! first. Bound: [`PAGE_BYTES_MAX`] for a page, `identities_max` for all, [`hub::tree::DEPTH_MAX`] levels, time for each
//! request. Never: what is known already; `directory` keeps that.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use hub::HubId;
use hub::identity::{Identity, ScopePage};
use hub::tree::DEPTH_MAX;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio_rustls::TlsConnector;

use super::exchange::{Answer, ExchangeError, Request, exchange};
use super::judge::EDGE_HUB;
use super::signer::{SignError, Tokens};
use super::{escaped, now_secs};

/// Longest page of a scope.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// Devices and modules of one page, as edgeHub asks for them.
const PAGE_IDENTITIES: usize = 10;
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Attempts for one page of a whole scope, and the pause before the second one.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

const NESTED_VERSION: &str = "2020-06-30-preview";
const FLAT_VERSION: &str = "2018-08-30-preview";

/// Why the scope cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScopeError {
    /// Nobody there.
    #[error("{0} does not take connections: {1}")]
    Connect(String, String),
    /// Not whom we trust.
    #[error("TLS with {0} fails: {1}")]
    Tls(String, String),
    /// No answer.
    #[error("{0} does not answer: {1}")]
    Exchange(String, ExchangeError),
    /// No token.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// A refusal.
    #[error("{0} answers {1}")]
    Status(String, StatusCode),
    /// Not a scope.
    #[error("what {0} answers cannot be read: {1}")]
    Answer(String, String),
    /// Not a header or host.
    #[error("{0} is no host to ask")]
    Host(String),
}

impl ScopeError {
    /// Whether the answer is that what was asked for is not below us by that chain (and not that something went wrong).
    pub(super) fn is_refusal(&self) -> bool {
        let refused =
            [StatusCode::BAD_REQUEST, StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND];
        matches!(self, ScopeError::Status(_, status) if refused.contains(status))
    }
}

/// Where the scope is read.
#[derive(Debug)]
pub(crate) struct Scope {
    /// Host, and port if it is not 443.
    host: String,
    device: HubId,
    module: HubId,
    is_nested: bool,
    tokens: Tokens,
    tls: Arc<ClientConfig>,
    identities_max: usize,
}

/// The roots that the other end may have its certificate from: the system's, and those of the bundle (PEM).
pub(crate) fn trusting(bundle: &str) -> ClientConfig {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(bundle.as_bytes()).flatten());
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider speaks both versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

impl Scope {
    /// The scope of `device`, read by its `module` at `host` (`NAME` or `NAME:PORT`).
    pub(crate) fn new(
        host: &str,
        (device, module): (HubId, HubId),
        is_nested: bool,
        tokens: Tokens,
        tls: ClientConfig,
        identities_max: usize,
    ) -> Scope {
        Scope { host: host.to_owned(), device, module, is_nested, tokens, tls: Arc::new(tls), identities_max }
    }

    /// Everybody below this gateway, itself included. More than `identities_max` are left out and said.
    pub(crate) async fn all(&self) -> Result<Vec<Identity>, ScopeError> {
        let mut found: Vec<Identity> = Vec::new();
        // Edge devices whose scope is still to be read, with the chain up to us.
        let mut edges = VecDeque::from([(self.device.clone(), self.device.to_string(), 0)]);
        while let Some((edge, chain, depth)) = edges.pop_front() {
            for identity in self.of_edge(&chain).await? {
                if found.len() >= self.identities_max {
                    tracing::error!(
                        identities_max = self.identities_max,
                        "the device scope has more identities than limits.identities_max; the rest is not known"
                    );
                    return Ok(found);
                }
                let is_child = identity.is_edge && identity.id != edge && identity.id != self.device;
                if self.is_nested && is_child && depth + 1 < DEPTH_MAX {
                    edges.push_back((identity.id.clone(), format!("{};{chain}", identity.id), depth + 1));
                }
                if !found.iter().any(|known| known.id == identity.id) {
                    found.push(identity);
                }
            }
        }
        Ok(found)
    }

    /// Whether our own scope is read to us now, its first page.
    pub(crate) async fn knows_us(&self) -> bool {
        self.page(self.device.as_str(), None).await.is_ok()
    }

    /// All pages of one edge device's scope.
    async fn of_edge(&self, chain: &str) -> Result<Vec<Identity>, ScopeError> {
        let mut found = Vec::new();
        let mut next: Option<String> = None;
        // Twice as many as could be needed: a server that links in a circle is not followed for ever.
        for _ in 0..2 * self.identities_max.div_ceil(PAGE_IDENTITIES) + 2 {
            let page = self.page(chain, next.as_deref()).await?;
            self.collect(&page, &mut found)?;
            next = page.continuation_link.filter(|link| !link.is_empty());
            if next.is_none() {
                return Ok(found);
            }
        }
        Err(ScopeError::Answer(self.host.clone(), "its pages have no end".to_owned()))
    }

    async fn page(&self, chain: &str, next: Option<&str>) -> Result<ScopePage, ScopeError> {
        let request = || {
            if self.is_nested {
                let mut body = json!({ "pageSize": PAGE_IDENTITIES, "authChain": chain });
                if let Some(next) = next {
                    body["continuationLink"] = next.into();
                }
                let path = self.path("devicesAndModulesInTargetDeviceScope", NESTED_VERSION, "");
                return (Method::POST, path, Some(body));
            }
            let path = match next.and_then(|next| next.parse::<axum::http::Uri>().ok()) {
                // The link is a whole address; only what is behind the host counts, we ask nobody else.
                Some(link) => link.path_and_query().map(ToString::to_string).unwrap_or_default(),
                None => {
                    let query = format!("deviceCount={PAGE_IDENTITIES}&continuationToken=&");
                    self.path("devicesAndModulesInDeviceScope", FLAT_VERSION, &query)
                }
            };
            (Method::GET, path, None)
        };
        let mut attempt = 1;
        loop {
            let (method, path, body) = request();
            match self.ask(method, path, body).await {
                Err(error) if attempt < ATTEMPTS && !error.is_refusal() => {
                    tracing::debug!(%error, attempt, "the device scope is asked for again");
                    tokio::time::sleep(PAUSE * attempt).await;
                    attempt += 1;
                }
                answer => return self.read(&answer?),
            }
        }
    }

    /// One identity, and for a module its device. `chain`: from it up to us.
    pub(crate) async fn one(&self, id: &HubId, chain: &str) -> Result<Vec<Identity>, ScopeError> {
        let (method, path, body) = if self.is_nested {
            let mut body = json!({ "targetDeviceId": id.device_id(), "authChain": chain });
            if let Some(module) = id.module_id() {
                body["targetModuleId"] = module.into();
            }
            (Method::POST, self.path("getDeviceAndModuleOnBehalfOf", NESTED_VERSION, ""), Some(body))
        } else {
            let mut query = format!("targetDeviceId={}&", escaped(id.device_id()));
            if let Some(module) = id.module_id() {
                query.push_str(&format!("targetModuleId={}&", escaped(module)));
            }
            (Method::GET, self.path("deviceAndModuleInDeviceScope", FLAT_VERSION, &query), None)
        };
        let answer = self.ask(method, path, body).await?;
        let mut found = Vec::new();
        self.collect(&self.read(&answer)?, &mut found)?;
        Ok(found)
    }

    fn path(&self, call: &str, version: &str, query: &str) -> String {
        let (device, module) = (escaped(self.device.device_id()), escaped(EDGE_HUB));
        format!("/devices/{device}/modules/{module}/{call}?{query}api-version={version}")
    }

    fn read(&self, answer: &Answer) -> Result<ScopePage, ScopeError> {
        // Not the text: it holds keys.
        serde_json::from_slice(&answer.body).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            ScopeError::Answer(self.host.clone(), place)
        })
    }

    fn collect(&self, page: &ScopePage, found: &mut Vec<Identity>) -> Result<(), ScopeError> {
        let devices =
            page.devices.iter().map(|device| (Identity::try_from(device), device.device_id.clone()));
        let modules = page
            .modules
            .iter()
            .map(|module| (Identity::try_from(module), format!("{}/{}", module.device_id, module.module_id)));
        for (identity, name) in devices.chain(modules) {
            match identity {
                Ok(identity) => found.push(identity),
                // It cannot connect over MQTT anywhere; the others can.
                Err(problem) => tracing::warn!(identity = name, %problem, "an identity is left out"),
            }
        }
        Ok(())
    }

    /// Asks anything of the other end, as this gateway's module.
    async fn ask(
        &self,
        method: Method,
        path: String,
        body: Option<serde_json::Value>,
    ) -> Result<Answer, ScopeError> {
        let answer = self.forward(
            method,
            path,
            HeaderMap::new(),
            body.map(|body| body.to_string()).unwrap_or_default(),
        );
        let answer = answer.await?;
        if answer.status.is_success() {
            Ok(answer)
        } else {
            Err(ScopeError::Status(self.host.clone(), answer.status))
        }
    }

    /// Asks on behalf of somebody below, whatever the answer is.
    pub(crate) async fn pass_on(
        &self,
        method: Method,
        call: &str,
        headers: HeaderMap,
        body: String,
    ) -> Result<Answer, ScopeError> {
        self.forward(method, self.path(call, NESTED_VERSION, ""), headers, body).await
    }

    /// The same, whatever the answer is.
    async fn forward(
        &self,
        method: Method,
        path: String,
        mut headers: HeaderMap,
        body: String,
    ) -> Result<Answer, ScopeError> {
        let token = self.tokens.token(now_secs()).await?;
        let token = HeaderValue::from_str(&token).map_err(|_| ScopeError::Host(self.module.to_string()))?;
        headers.insert(header::AUTHORIZATION, token);
        let (name, port) = split_host(&self.host).ok_or_else(|| ScopeError::Host(self.host.clone()))?;
        let connect = |problem: String| ScopeError::Connect(self.host.clone(), problem);
        let slow = || format!("no answer within {} s", PATIENCE.as_secs());
        let tcp = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect((name, port)))
            .await
            .map_err(|_| connect(slow()))?
            .map_err(|error| connect(error.to_string()))?;
        let server =
            ServerName::try_from(name.to_owned()).map_err(|_| ScopeError::Host(self.host.clone()))?;
        let tls = |problem: String| ScopeError::Tls(self.host.clone(), problem);
        let handshake = TlsConnector::from(Arc::clone(&self.tls)).connect(server, tcp);
        let stream = tokio::time::timeout(PATIENCE, handshake)
            .await
            .map_err(|_| tls(slow()))?
            .map_err(|error| tls(error.to_string()))?;
        let request = Request { method, host: self.host.clone(), path, headers, body: body.into_bytes() };
        exchange(stream, request, PAGE_BYTES_MAX, PATIENCE)
            .await
            .map_err(|error| ScopeError::Exchange(self.host.clone(), error))
    }
}

/// `NAME` or `NAME:PORT`.
fn split_host(host: &str) -> Option<(&str, u16)> {
    match host.rsplit_once(':') {
        None => Some((host, 443)),
        Some((name, port)) => Some((name, port.parse().ok()?)),
    }
}
