//! Every variable, one by one: it writes what the table says, or does nothing for a reason that is said.

use super::{Fate, Form, Mapped, VARIABLES, find, map, page, span_secs};

fn mapped(name: &str, value: &str) -> Mapped {
    map(&[(name.to_owned(), value.to_owned())])
}

#[test]
fn every_variable_writes_its_key_or_says_why_not() {
    for variable in VARIABLES {
        let name = variable.name.replace('*', "some");
        let (value, expected): (&str, &[(&str, &str)]) = match variable.fate {
            Fate::Ignored(reason) => {
                let mapped = mapped(&name, "1");
                assert_eq!(mapped.ignored, [(name, reason.to_owned())]);
                assert!(mapped.values.is_empty() && mapped.faults.is_empty());
                continue;
            }
            Fate::Key("routes.*", _) => ("FROM /* INTO X", &[("routes.*", "some\nfrom /* into x")]),
            Fate::Key(key, Form::Same) => ("text", &[(key, "text")]),
            Fate::Key(key, Form::Boolean) => ("False", &[(key, "false")]),
            Fate::Key(key, Form::Port) => ("4433", &[(key, "[::]:4433")]),
            Fate::Key(key, Form::Enabled) => ("FALSE", &[(key, "")]),
            Fate::Key(key, Form::SpanMillis) => ("1.00:00:01", &[(key, "86401000")]),
            Fate::Key(key, Form::Folder) => {
                ("/iotedge/s/", &[(key, "/iotedge/s/millrace"), ("edge.old_storage", "/iotedge/s/")])
            }
            Fate::Key(key, Form::LogLevel) => ("Warning", &[(key, "warn")]),
            Fate::Key(_, Form::TlsVersions) => (
                "tls1.3",
                &[("listener.tls.tls_version_min", "1.3"), ("listener.wss.tls_version_min", "1.3")],
            ),
            Fate::Key(_, Form::UpstreamProtocol) => ("Amqp", &[]),
            Fate::Key(_, Form::Proxy) => continue, // see `port_443_is_said_by_several_variables`
            Fate::Key(key, Form::ConfigSource) => ("Local", &[(key, "file")]),
            Fate::Key(key, Form::AuthenticationMode) => ("CloudAndScope", &[(key, "cloud-and-scope")]),
        };
        for name in [name.clone(), name.to_uppercase(), name.replace("__", ":")] {
            let mapped = mapped(&name, value);
            let values: Vec<_> =
                mapped.values.iter().map(|(key, value, _)| (*key, value.to_lowercase())).collect();
            let expected: Vec<_> = expected.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
            assert_eq!(values, expected, "{name}");
            assert!(mapped.faults.is_empty() && mapped.ignored.is_empty(), "{name}");
        }
    }
}

#[test]
fn port_443_is_said_by_several_variables() {
    let upstream = |env: &[(&str, &str)]| {
        let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mapped = map(&env);
        assert!(mapped.faults.is_empty());
        let values = mapped.values.into_iter().filter(|(key, ..)| key.starts_with("uplink."));
        let values: Vec<_> = values.map(|(key, value, _)| format!("{key}={value}")).collect();
        (values, mapped.ignored.len())
    };
    let hub = ("IOTEDGE_IOTHUBHOSTNAME", "hub.example");
    let proxy = ("Https_Proxy", "http://proxy.example:3128");
    let kind = || "uplink.upstream.kind=iothub".to_owned();
    let url = |host: &str| format!("uplink.upstream.url=wss://{host}");
    assert_eq!(upstream(&[hub, ("UpstreamProtocol", "Mqtt"), proxy]), (vec![], 1));
    assert_eq!(upstream(&[hub, ("UpstreamProtocol", "mqttws")]), (vec![url("hub.example"), kind()], 0));
    let parent = ("IOTEDGE_GATEWAYHOSTNAME", "parent.example");
    let way = "uplink.upstream.proxy=http://proxy.example:3128".to_owned();
    assert_eq!(
        upstream(&[hub, parent, ("UpstreamProtocol", "AmqpWs"), proxy]),
        (vec![way, url("parent.example"), kind()], 0)
    );
    let string = "HostName=hub.example;DeviceId=gw1;ModuleId=$edgeHub;SharedAccessKey=a2V5";
    let string = ("IotHubConnectionString", string);
    assert_eq!(upstream(&[string, ("UpstreamProtocol", "MqttWs")]), (vec![url("hub.example"), kind()], 0));
    assert_eq!(upstream(&[("UpstreamProtocol", "MqttWs")]), (vec![], 0));
}

#[test]
fn each_name_stands_in_the_table_once() {
    let mut names: Vec<_> = VARIABLES.iter().map(|variable| variable.name.to_lowercase()).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    assert!(find("PATH").is_none() && find("routes__").is_none());
}

/// What edgeHub documents, by name.
const DOCUMENTED: &str = "
IOTEDGE_WORKLOADURI IOTEDGE_APIVERSION IOTEDGE_MODULEID IOTEDGE_MODULEGENERATIONID IOTEDGE_DEVICEID
IOTEDGE_IOTHUBHOSTNAME IOTEDGE_GATEWAYHOSTNAME EDGEDEVICEHOSTNAME IotHubConnectionString
EdgeHubDevServerCertificateFile EdgeHubDevServerPrivateKeyFile EdgeHubDevTrustBundleFile
EdgeModuleHubServerCertificateFile EdgeModuleHubServerCAChainCertificateFile
AmqpSettings__Enabled MqttSettings__Enabled HttpSettings__Enabled AmqpSettings__Port AmqpSettings__Scheme
AmqpSettings__DelayedBatchingEnabled HttpSettings__Port HttpSettings__metrics_port MqttSettings__UsePooledBuffers
MqttSettings__MaxPendingInboundAcknowledgements MqttSettings__MaxInboundMessageSize
MqttSettings__ConnectArrivalTimeout MqttSettings__MaxKeepAliveTimeout MqttSettings__ThreadCount
MqttSettings__ListenBacklogSize MqttSettings__EventLoopCount MqttSettings__DefaultPublishToClientQoS
MqttSettings__RetainPropertyName MqttSettings__DupPropertyName MqttSettings__QoSPropertyName
MqttSettings__AbortOnOutOfOrderPubAck mqttTopicNameConversion__InboundTemplates__0
mqttTopicNameConversion__OutboundTemplates__C2D AuthenticationMode ClientCertAuthEnabled ApiProxyModuleId CacheTokens
TrackDeviceState NestedEdgeEnabled DeviceScopeCacheRefreshRateSecs DeviceScopeCacheRefreshDelaySecs SslProtocols
ServerCertificateRenewAfterInMs MaxCheckCertExpiryInMs ConfigSource ConfigRefreshFrequencySecs routes__r1
storeAndForward__timeToLiveSecs storeAndForwardEnabled StorageFolder BackupFolder UsePersistentStorage
EnableNonPersistentStorageBackup OptimizeForPerformance RocksDB_MaxOpenFiles RocksDB_MaxTotalWalSize
RocksDB_MaxManifestFileSize Storage_LogLevel EncryptTwinStore CheckEntireQueueOnCleanup MessageCleanupIntervalSecs
MessageAckTimeoutSecs MaxConnectedClients MaxUpstreamBatchSize UpstreamFanOutFactor UpstreamProtocol
IotHubConnectionPoolSize UseServerHeartbeat Https_Proxy CloudConnectionIdleTimeoutSecs
CloseCloudConnectionOnIdleTimeout CloseCloudConnectionOnDeviceDisconnect CloudOperationTimeoutSecs
CloudConnectionHangingTimeoutSecs ConnectivityCheckFrequencySecs MinTwinSyncPeriodSecs
ReportedPropertiesSyncFrequencySecs TwinManagerVersion ModuleRequestThrottleTimeout RuntimeLogLevel
EnableRoutingLogging EnableSdkDebugLogs Metrics__Listener__MetricsEnabled Metrics__Listener__MetricsHistogramMaxAge
Metrics__Listener__Host Metrics__Listener__Port Metrics__Listener__Suffix ShutdownWaitPeriod protocolTimeoutInSecs
experimentalFeatures__enabled experimentalFeatures__disableCloudSubscriptions
experimentalFeatures__disableConnectivityCheck EDGEHUBUSER_ID MqttEventsProcessorThreadCount";

#[test]
fn no_documented_variable_is_missing() {
    for name in DOCUMENTED.split_whitespace() {
        assert!(find(name).is_some(), "{name}");
    }
}

#[test]
fn what_cannot_be_understood_is_a_mistake_with_what_is_allowed() {
    for (name, value, allowed) in [
        ("HttpSettings__Port", "https", "a port"),
        ("HttpSettings__Port", "70000", "a port"),
        ("MqttSettings__Enabled", "yes", "true or false"),
        ("ClientCertAuthEnabled", "1", "true or false"),
        ("MqttSettings__ConnectArrivalTimeout", "60", "hh:mm:ss"),
        ("RuntimeLogLevel", "loud", "verbose, debug"),
        ("SslProtocols", "ssl3", "tls1.2 and tls1.3"),
        ("AuthenticationMode", "None", "Scope, CloudAndScope"),
    ] {
        let mapped = mapped(name, value);
        let [(found, shown, said)] = &mapped.faults[..] else { panic!("{name}: {mapped:?}") };
        assert_eq!((found.as_str(), shown.as_str()), (name, value));
        assert!(said.contains(allowed) && mapped.values.is_empty(), "{said}");
    }
}

#[test]
fn a_mode_that_knows_nobody_by_itself_is_said_and_taken_as_the_next_one() {
    let mapped = mapped("AuthenticationMode", "Cloud");
    assert_eq!(mapped.values[0].1, "cloud-and-scope");
    assert!(mapped.ignored[0].1.contains("CloudAndScope here"), "{mapped:?}");
}

#[test]
fn a_head_that_is_off_has_no_port() {
    let env = [("HttpSettings__Enabled", "false"), ("HttpSettings__Port", "4433")];
    let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let values = map(&env).values;
    assert_eq!(values, [("listener.wss.bind", String::new(), "HttpSettings__Enabled".to_owned())]);
}

#[test]
fn nothing_is_nothing() {
    assert_eq!(mapped("IOTEDGE_GATEWAYHOSTNAME", ""), Mapped::default());
    assert_eq!(mapped("HOME", "/root"), Mapped::default());
    assert_eq!(mapped("MqttSettings__Enabled", "true"), Mapped::default());
}

#[test]
fn times_are_read_as_dotnet_writes_them() {
    for (text, expected) in [
        ("00:01:00", Some(60)),
        ("1:2", Some(3_720)),
        ("10.00:00:00", Some(864_000)),
        ("00:00:01.5", Some(1)),
        ("1.00:00:00.25", Some(86_400)),
        ("24:00:00", None),
        ("00:61:00", None),
        ("5", None),
        ("", None),
        ("-00:01:00", None),
        ("a:b:c", None),
    ] {
        assert_eq!(span_secs(text), expected, "{text}");
    }
}

#[test]
fn the_page_is_that_of_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/edgehub-environment.md");
    if std::env::var_os("MILLRACE_BLESS").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let problem =
        "router/docs/edgehub-environment.md is out of date: run this test once with MILLRACE_BLESS=1";
    assert!(found == page(), "{problem}");
}
