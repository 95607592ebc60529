//! What child gateways and their daemons ask over HTTPS: the scope below them, and modules in the registry
//! (`reference/edgehub.md` §5.6, §10.1).
//!
//! In: a request whose path names who asks. Out: identities as they are known here, or what the upstream answers, asked with
//! the chain up to us. Always: who asks is authenticated, and the target is below it, before anything is looked at; what names
//! another module than `$edgeHub` is refused and not looked at further.
//! Bounds: [`PAGE_MAX`] identities of one answer; bodies as for every request.

use axum::http::{HeaderMap, Method, StatusCode, header};
use hub::HubId;
use hub::identity::{DeviceDocument, Identity, ModuleDocument, ScopePage};
use hub::tree::AuthChain;
use serde_json::{Value, json};

use super::{Origin, Refused, Reply, Web, bad, decoded, unauthorized};
use crate::iotedge::{EDGE_HUB, Lookup};

/// Identities of one page.
const PAGE_MAX: usize = 100;
/// What a next page is called.
const PAGE: &str = "page-";

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// A child gateway, for something below it.
    OnBehalf {
        /// The gateway.
        actor: String,
        /// Its module; only one may.
        module: String,
        /// What.
        call: Call,
    },
    /// The daemon of a child gateway, about modules of its device.
    Registry {
        /// Its device.
        device: String,
        /// Which module; `None`: all.
        module: Option<String>,
    },
}

/// What a child gateway asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Scope,
    One,
    Put,
    Get,
    List,
    Delete,
}

impl Call {
    const ALL: [Call; 6] = [Call::Scope, Call::One, Call::Put, Call::Get, Call::List, Call::Delete];

    const fn name(self) -> &'static str {
        match self {
            Call::Scope => "devicesAndModulesInTargetDeviceScope",
            Call::One => "getDeviceAndModuleOnBehalfOf",
            Call::Put => "putModuleOnBehalfOf",
            Call::Get => "getModuleOnBehalfOf",
            Call::List => "getModulesOnTargetDevice",
            Call::Delete => "deleteModuleOnBehalfOf",
        }
    }

    fn method(self) -> Method {
        if self == Call::Put { Method::PUT } else { Method::POST }
    }
}

/// What a path asks for; `None`: nothing of this.
pub(super) fn errand(path: &str) -> Option<Result<Errand, String>> {
    let parts: Vec<&str> = path.strip_prefix("/devices/")?.split('/').collect();
    let (device, module, call) = match parts[..] {
        [device, "modules"] => (device, None, None),
        [device, "modules", module] => (device, Some(module), None),
        [device, "modules", module, call] => {
            (device, Some(module), Some(Call::ALL.into_iter().find(|it| it.name() == call)?))
        }
        _ => return None,
    };
    let read = || {
        let (device, module) = (decoded(device)?, module.map(decoded).transpose()?);
        Ok(match (call, module) {
            (Some(call), Some(module)) => Errand::OnBehalf { actor: device, module, call },
            (_, module) => Errand::Registry { device, module },
        })
    };
    Some(read())
}

/// Somebody who asks, and has shown who it is.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) query: &'a str,
    pub(super) headers: &'a HeaderMap,
    pub(super) from: &'a Origin,
}

impl Web {
    /// Before the body is read: who asks, and whether it may.
    pub(super) async fn admit(&self, errand: &Errand, asked: Asked<'_>) -> Result<(), Refused> {
        if !self.nested {
            return Err((StatusCode::NOT_FOUND, "child gateways are not served (edge.nested)".to_owned()));
        }
        let (id, allowed) = match errand {
            Errand::OnBehalf { module, .. } if module != EDGE_HUB => {
                return Err(unauthorized(format!("{module} may not act for others, {EDGE_HUB} may")));
            }
            Errand::OnBehalf { actor, call, .. } => (HubId::module(actor, EDGE_HUB), vec![call.method()]),
            Errand::Registry { device, module: None } => (HubId::device(device), vec![Method::GET]),
            Errand::Registry { device, module: Some(_) } => {
                (HubId::device(device), vec![Method::GET, Method::PUT, Method::DELETE])
            }
        };
        if !allowed.contains(asked.method) {
            return Err((StatusCode::METHOD_NOT_ALLOWED, format!("{allowed:?} may be asked here")));
        }
        if matches!(errand, Errand::Registry { .. }) && !has_version(asked.query) {
            return Err(bad(NO_VERSION));
        }
        let id = id.map_err(|problem| bad(format!("an id in the path: {problem}")))?;
        self.vouch(&id, asked.headers, asked.from).await?;
        let device = HubId::device(id.device_id()).map_err(bad)?;
        let is_child = device != self.device
            && self.directory.tree().find(&device).is_some_and(|found| found.is_edge)
            && self.directory.tree().chain_of(&device).is_some();
        if is_child { Ok(()) } else { Err(unauthorized(format!("{device} is no gateway below this one"))) }
    }

    /// Does what was admitted.
    pub(super) async fn run_errand(
        &self,
        errand: Errand,
        method: &Method,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Reply, Refused> {
        match errand {
            Errand::OnBehalf { actor, call, .. } => {
                let document: Value = serde_json::from_slice(body).map_err(bad)?;
                let chain = self.checked_chain(&document, &actor)?;
                match call {
                    Call::Scope => self.scope_of(&document, chain.target()),
                    Call::One => {
                        self.look_up_one(&document, &chain, &HubId::device(&actor).map_err(bad)?).await
                    }
                    call => {
                        let changed = changed(call, &document, chain.target());
                        let mut document = document;
                        document["authChain"] = format!("{chain};{}", self.device).into();
                        self.pass_on(call, document, headers, changed).await
                    }
                }
            }
            Errand::Registry { device, module } => {
                let device = HubId::device(&device).map_err(bad)?;
                let chain = self.directory.tree().chain_of(&device);
                let chain = chain.ok_or_else(|| unauthorized("not below this gateway"))?.to_string();
                let (call, document) = match (method, module) {
                    (_, None) => (Call::List, json!({ "authChain": chain })),
                    (&Method::PUT, Some(module)) => {
                        let described: Value = serde_json::from_slice(body).map_err(bad)?;
                        let named = [("moduleId", module.as_str()), ("deviceId", device.as_str())];
                        if let Some((key, _)) = named.iter().find(|(key, id)| described[*key] != **id) {
                            return Err(bad(format!("{key} in the body is not that in the path")));
                        }
                        (Call::Put, json!({ "authChain": chain, "module": described }))
                    }
                    (&Method::DELETE, Some(module)) => {
                        (Call::Delete, json!({ "authChain": chain, "moduleId": module }))
                    }
                    (_, Some(module)) => (Call::Get, json!({ "authChain": chain, "targetModuleId": module })),
                };
                let changed = changed(call, &document, &device);
                self.pass_on(call, document, headers, changed).await
            }
        }
    }

    /// The chain in a body: it begins with a target below the gateway that asks, and ends with that.
    fn checked_chain(&self, document: &Value, actor: &str) -> Result<AuthChain, Refused> {
        let text = document["authChain"].as_str().ok_or_else(|| bad("authChain is missing"))?;
        let chain = AuthChain::parse(text).map_err(|problem| bad(format!("authChain: {problem}")))?;
        if chain.actor().as_str() != actor {
            return Err(unauthorized(format!("authChain does not end with {actor}")));
        }
        let actor = HubId::device(actor).map_err(bad)?;
        // A target that is not known yet is looked up later, below a device or a gateway that is.
        if self.directory.tree().may_be_below(&chain, &actor) {
            Ok(chain)
        } else {
            Err(unauthorized(format!("{} is not below {actor}", chain.target())))
        }
    }

    /// A page of the scope of one gateway, from what is known here.
    fn scope_of(&self, document: &Value, target: &HubId) -> Result<Reply, Refused> {
        let size =
            document["pageSize"].as_u64().unwrap_or(PAGE_MAX as u64).clamp(1, PAGE_MAX as u64) as usize;
        let start = match document["continuationLink"].as_str() {
            None | Some("") => 0,
            Some(link) => link
                .strip_prefix(PAGE)
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| bad("continuationLink is none of ours"))?,
        };
        let tree = self.directory.tree();
        let all = tree.scope_of(target);
        let page = all.iter().skip(start).take(size);
        let link = (start + size < all.len()).then(|| format!("{PAGE}{}", start + size));
        described(page.copied(), link)
    }

    /// One identity, as it is upstream where that answers.
    async fn look_up_one(
        &self,
        document: &Value,
        chain: &AuthChain,
        actor: &HubId,
    ) -> Result<Reply, Refused> {
        let device = document["targetDeviceId"].as_str().ok_or_else(|| bad("targetDeviceId is missing"))?;
        let id = HubId::new(device, document["targetModuleId"].as_str()).map_err(bad)?;
        if id != *chain.target() {
            return Err(bad(format!("authChain does not begin with {id}")));
        }
        let looked_up = self.directory.look_up(&id, Some(chain)).await;
        let tree = self.directory.tree();
        // Where it stands may be known only now.
        let Some(found) = tree.find(&id).filter(|_| tree.is_below(&id, actor)) else {
            return Err(match looked_up {
                Lookup::Unreachable => {
                    (StatusCode::SERVICE_UNAVAILABLE, format!("{id} cannot be looked up now"))
                }
                Lookup::Done | Lookup::TooSoon => {
                    (StatusCode::NOT_FOUND, format!("{id} is not in the scope"))
                }
            });
        };
        let device = id.module_id().and_then(|_| tree.find(&HubId::device(id.device_id()).ok()?));
        described(device.into_iter().chain([found]), None)
    }

    /// Asks upstream, and gives its answer back. `changed`: what will be different then.
    async fn pass_on(
        &self,
        call: Call,
        document: Value,
        headers: &HeaderMap,
        changed: Option<HubId>,
    ) -> Result<Reply, Refused> {
        let mut passed = HeaderMap::new();
        if let Some(condition) = headers.get(header::IF_MATCH) {
            passed.insert(header::IF_MATCH, condition.clone());
        }
        let answer = self.directory.pass_on(call.method(), call.name(), passed, document.to_string()).await;
        let answer = answer.map_err(|problem| (StatusCode::SERVICE_UNAVAILABLE, problem))?;
        if let Some(changed) = changed.filter(|_| answer.status.is_success()) {
            let directory = std::sync::Arc::clone(&self.directory);
            tokio::spawn(async move { directory.renew(&[changed]).await });
        }
        Ok(Reply::json(answer.status, answer.body))
    }
}

/// Said with `iothub-errorcode`, as IoT Hub does.
pub(super) const NO_VERSION: &str = "api-version is missing";

fn has_version(query: &str) -> bool {
    query.split('&').any(|pair| pair.strip_prefix("api-version=").is_some_and(|version| !version.is_empty()))
}

/// Which identity a call changes.
fn changed(call: Call, document: &Value, device: &HubId) -> Option<HubId> {
    let module = match call {
        Call::Put => document["module"]["moduleId"].as_str(),
        Call::Delete => document["moduleId"].as_str(),
        _ => None,
    };
    HubId::module(device.device_id(), module?).ok()
}

fn described<'a>(
    identities: impl Iterator<Item = &'a Identity>,
    continuation_link: Option<String>,
) -> Result<Reply, Refused> {
    let all: Vec<&Identity> = identities.collect();
    let page = ScopePage {
        devices: all
            .iter()
            .filter_map(|identity| identity.to_device_document())
            .collect::<Vec<DeviceDocument>>(),
        modules: all
            .iter()
            .filter_map(|identity| identity.to_module_document())
            .collect::<Vec<ModuleDocument>>(),
        continuation_link,
    };
    let body = serde_json::to_vec(&page);
    let body = body.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(Reply::json(StatusCode::OK, body.into()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::iotedge::local::{LocalFile, Method as Way};
    use crate::iotedge::{Directory, Gatekeeper, GatekeeperSetup, Keeper, Source, Vault};

    /// An identity whose place becomes known only by the lookup that a chain has caused.
    #[tokio::test]
    async fn keys_of_a_newcomer_beside_a_child_are_not_served_to_it() {
        let id = |text: &str| HubId::parse(text).expect("an id");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("identities.json");
        let mut file = LocalFile::new(&id("gw1")).expect("a file");
        file.create(&id("gw2"), Way::Keys, true, None).expect("a child");
        file.write(&path).expect("written");
        let vault = std::sync::Arc::new(Vault::open(folder.path(), Keeper::File).await.expect("a vault"));
        let pauses = (Duration::from_secs(60), Duration::from_secs(3_600));
        let source = Source::Local(path.clone());
        let directory = Directory::open(source, id("gw1"), folder.path().to_owned(), vault, 100, pauses);
        let directory = std::sync::Arc::new(directory.expect("a directory"));
        let limits = std::sync::Arc::new(model::Limits::DEFAULT);
        let (gatekeeper, _waiting) = Gatekeeper::new(GatekeeperSetup {
            directory: std::sync::Arc::clone(&directory),
            hosts: Vec::new(),
            takes_certificates: false,
            forwarder: id("gw1/IoTEdgeAPIProxy"),
            clients_max: None,
            lookup_timeout: Duration::from_secs(5),
            failures_free: 5,
            limits: &limits,
            mailboxes: Vec::new(),
            visitors: None,
            cards: None,
        });
        let (desk, _questions, _arrivals) = crate::services::desk();
        let web = Web {
            gatekeeper,
            directory,
            device: id("gw1"),
            nested: true,
            desk,
            limits,
            numbers: Default::default(),
        };
        file.create(&id("new"), Way::Keys, false, None).expect("a device beside the child");
        file.create(&id("below"), Way::Keys, false, Some(&id("gw2"))).expect("one below it");
        file.write(&path).expect("written");
        for (device, wanted) in [("new", StatusCode::NOT_FOUND), ("below", StatusCode::OK)] {
            let errand = Errand::OnBehalf { actor: "gw2".into(), module: EDGE_HUB.into(), call: Call::One };
            let body = json!({"targetDeviceId": device, "authChain": format!("{device};gw2")}).to_string();
            let done = web.run_errand(errand, &Method::POST, &HeaderMap::new(), body.as_bytes()).await;
            let status = done.map_or_else(|(status, _)| status, |reply| reply.status);
            assert_eq!(status, wanted, "{device}");
        }
    }

    #[test]
    fn a_path_says_what_a_child_asks() {
        let hub = |call| {
            let (actor, module) = ("gw2".to_owned(), EDGE_HUB.to_owned());
            Some(Ok(Errand::OnBehalf { actor, module, call }))
        };
        let registry = |module: Option<&str>| {
            Some(Ok(Errand::Registry { device: "gw2".to_owned(), module: module.map(str::to_owned) }))
        };
        for (path, expected) in [
            ("/devices/gw2/modules/$edgeHub/devicesAndModulesInTargetDeviceScope", hub(Call::Scope)),
            ("/devices/gw2/modules/%24edgeHub/getDeviceAndModuleOnBehalfOf", hub(Call::One)),
            ("/devices/gw2/modules/%24edgeHub/putModuleOnBehalfOf", hub(Call::Put)),
            ("/devices/gw2/modules/%24edgeHub/deleteModuleOnBehalfOf", hub(Call::Delete)),
            ("/devices/gw2/modules/%24edgeHub/other", None),
            ("/devices/gw2/modules", registry(None)),
            ("/devices/gw2/modules/filter", registry(Some("filter"))),
            ("/devices/gw2", None),
            ("/twins/gw2/methods", None),
        ] {
            assert_eq!(errand(path), expected, "{path}");
        }
        assert!(errand("/devices/%FF/modules").is_some_and(|read| read.is_err()));
        assert!(has_version("a=b&api-version=2020-06-30-preview") && !has_version("api-version=&x=y"));
    }
}
