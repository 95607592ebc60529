//! The published SDKs of Azure IoT, unmodified, with the doubles of what they talk to: hub and Workload API.
//!
//! Knows: how a scenario of `tests/it/azure` is told where everything is. An SDK has no option for the port: it takes 8883
//! and 443. So every cloud has an address of the loopback network of its own, which is also its name.
//! In: a scenario. Out: nothing, or its log. Always: what is missing on the machine fails, it never skips.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use iothub::workload::{Module, Workload};
use iothub::{Authentication, Authority, Config, Hub, Identity};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::places::own_address;
use crate::process::Process;
use crate::proxy::Proxy;
use crate::wait::within;

/// Longest time that a scenario takes; each of its own waits is shorter.
const SCENARIO: Duration = Duration::from_secs(60);
/// The gateway of every test.
pub const GATEWAY: &str = "gw1";
/// Its module.
pub const MODULE: &str = "filter";
/// The device with keys below it.
pub const DEVICE: &str = "d1";
/// The device with a certificate below it.
pub const CERTIFIED: &str = "x1";

/// Hub, Workload API, a gateway with a module and two devices below it.
pub struct Cloud {
    /// The hub.
    pub hub: Hub,
    /// What the module asks.
    pub workload: Workload,
    gateway: Option<Fixed>,
    home: TempDir,
}

/// An address on which a gateway can be reached at the ports that an SDK knows.
struct Fixed {
    address: IpAddr,
    mqtt: Proxy,
    https: Proxy,
}

/// An address of the loopback network at which nobody has both ports yet.
#[track_caller]
pub fn free_address() -> IpAddr {
    for _ in 0..1_000 {
        let address = own_address();
        let taken = [8_883, 443].map(|port| TcpListener::bind((address, port)));
        match &taken[1] {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => panic!(
                "an SDK connects to port 443, which this user may not have: run as root, or set \
                 net.ipv4.ip_unprivileged_port_start to 443"
            ),
            _ if taken.iter().all(Result::is_ok) => return address,
            _ => {}
        }
    }
    panic!("no address of the loopback network has ports 8883 and 443 free");
}

impl Cloud {
    /// Clients connect to the hub itself.
    #[track_caller]
    pub fn start() -> Cloud {
        let home = tempfile::tempdir().expect("a directory for the test");
        let hub = Hub::start(Config::at(free_address())).unwrap_or_else(|error| panic!("{error}"));
        let workload = Workload::start(&home.path().join("workload.sock")).expect("a Workload API");
        // The module trusts what its daemon trusts; here it talks to the hub itself.
        workload.trust(&hub.ca_pem());
        let devices = Authority::new("Devices");
        hub.trust(&devices.pem());
        let certificate = devices.client(CERTIFIED);
        write(&home.path().join("x1.cert.pem"), &certificate.certificate);
        write(&home.path().join("x1.key.pem"), &certificate.key);
        write(&home.path().join("ca.pem"), &format!("{}{}", hub.ca_pem(), workload.ca_pem()));
        let self_signed = Authentication::SelfSigned {
            primary_thumbprint: certificate.thumbprint(),
            secondary_thumbprint: String::new(),
        };
        for identity in [
            Identity::gateway(GATEWAY),
            Identity::module(GATEWAY, "$edgeHub"),
            Identity::module(GATEWAY, MODULE),
            Identity::device(DEVICE).below(GATEWAY),
            Identity::device(CERTIFIED).below(GATEWAY).with(self_signed),
        ] {
            hub.put(identity).expect("an identity that fits");
        }
        for module in [MODULE, "$edgeHub"] {
            let identity = hub.identity(&format!("{GATEWAY}/{module}")).expect("it was just made");
            let [primary, secondary] = identity.keys()[..] else { panic!("{module} has keys") };
            let keys = [primary.to_owned(), secondary.to_owned()];
            workload.put(Module {
                module_id: module.into(),
                generation_id: identity.generation_id.clone(),
                keys,
            });
        }
        Cloud { hub, workload, gateway: None, home }
    }

    /// From now on clients connect to a gateway, which listens at these addresses (MQTT and HTTPS over TLS).
    #[track_caller]
    pub fn put_gateway(&mut self, mqtt: SocketAddr, https: SocketAddr) -> IpAddr {
        let address = free_address();
        self.put_gateway_at(address, mqtt, https);
        address
    }

    /// The same, at an address of [`free_address`] that the gateway's certificate is for.
    #[track_caller]
    pub fn put_gateway_at(&mut self, address: IpAddr, mqtt: SocketAddr, https: SocketAddr) {
        let place = |port, target| Proxy::at((address, port).into(), target);
        self.gateway = Some(Fixed { address, mqtt: place(8_883, mqtt), https: place(443, https) });
    }

    /// The environment of a module, as the daemon of a gateway sets it.
    pub fn environment(&self, module: &str) -> Vec<(&'static str, String)> {
        let identity = self.hub.identity(&format!("{GATEWAY}/{module}")).expect("a module of ours");
        let host = self.hub.host().to_owned();
        let gateway = self.gateway.as_ref().map_or_else(|| host.clone(), |it| it.address.to_string());
        vec![
            ("IOTEDGE_WORKLOADURI", self.workload.unix_uri()),
            ("IOTEDGE_APIVERSION", "2020-07-07".into()),
            ("IOTEDGE_AUTHSCHEME", "sasToken".into()),
            ("IOTEDGE_DEVICEID", GATEWAY.into()),
            ("IOTEDGE_MODULEID", module.into()),
            ("IOTEDGE_MODULEGENERATIONID", identity.generation_id),
            ("IOTEDGE_IOTHUBHOSTNAME", host),
            ("IOTEDGE_GATEWAYHOSTNAME", gateway),
        ]
    }

    /// A directory that lives as long as the cloud; `ca.pem` in it holds both authorities.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    fn kick_file(&self) -> PathBuf {
        self.home.path().join("kick")
    }

    fn config(&self) -> Value {
        let path = |name: &str| self.home.path().join(name);
        let device = self.hub.identity(DEVICE).expect("it is there");
        let environment: serde_json::Map<_, _> = self
            .environment(MODULE)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect();
        json!({
            "hub": self.hub.host(),
            "gateway": self.gateway.as_ref().map(|it| it.address.to_string()),
            "ca": path("ca.pem"),
            "control": format!("http://{}", self.hub.control_address()),
            "kick": self.kick_file(),
            "device": {"id": DEVICE, "key": device.key()},
            "certified": {"id": CERTIFIED, "cert": path("x1.cert.pem"), "key": path("x1.key.pem")},
            "module": {"id": format!("{GATEWAY}/{MODULE}"), "environment": environment},
        })
    }

    /// Plays a scenario of `tests/it/azure/python/scenarios.py`; it must end well and in time.
    #[track_caller]
    pub fn python(&self, scenario: &str) {
        let python = installed("MILLRACE_AZURE_PYTHON", "azure-python/bin/python");
        let mut command = Command::new(python);
        command.arg("-B").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/it/azure/python/scenarios.py"));
        self.play("python", command, scenario);
    }

    /// Plays a scenario of `tests/it/azure/node/scenarios.js`; it must end well and in time.
    #[track_caller]
    pub fn node(&self, scenario: &str) {
        let modules = installed("MILLRACE_AZURE_NODE", "azure-node/node_modules");
        let mut command = Command::new("node");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/it/azure/node/scenarios.js"));
        command.env("MILLRACE_NODE_MODULES", modules.parent().unwrap_or(&modules));
        self.play("node", command, scenario);
    }

    #[track_caller]
    fn play(&self, name: &str, mut command: Command, scenario: &str) {
        command.arg(self.config().to_string()).arg(scenario);
        let mut process = Process::start(name, &mut command, &self.home.path().join(format!("{name}.log")));
        let ended = within(SCENARIO, || {
            self.kick_if_asked();
            process.has_ended()
        });
        let events = || self.hub.events().iter().map(|it| format!("  {it:?}")).collect::<Vec<_>>().join("\n");
        let status = ended.unwrap_or_else(|| {
            panic!(
                "{scenario} takes more than {} s\n{}\nthe hub saw\n{}",
                SCENARIO.as_secs(),
                process.log(),
                events()
            )
        });
        assert!(status.success(), "{scenario}: {status}\n{}\nthe hub saw\n{}", process.log(), events());
        let wrong = self.workload.violations();
        assert!(wrong.is_empty(), "{scenario}: the Workload API refused {wrong:?}");
    }

    /// A scenario asks for the end of all connections to the gateway by making a file.
    fn kick_if_asked(&self) {
        let Some(gateway) = &self.gateway else { return };
        if !self.kick_file().exists() {
            return;
        }
        for proxy in [&gateway.mqtt, &gateway.https] {
            proxy.cut();
            proxy.mend();
        }
        std::fs::remove_file(self.kick_file()).expect("it was just there");
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file");
}

/// What `make setup-test` installs: where the environment says, or in the cache.
#[track_caller]
fn installed(variable: &str, below: &str) -> PathBuf {
    let found = std::env::var_os(variable).map(PathBuf::from).or_else(|| {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        Some(cache.join("millrace").join(below))
    });
    let found = found.filter(|path| path.exists());
    found.unwrap_or_else(|| panic!("the SDKs of Azure IoT are not there: run `make setup-test`"))
}
