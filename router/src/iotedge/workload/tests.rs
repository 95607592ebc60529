//! The client against a Workload API that answers what a test tells it to, over a Unix socket and over TCP.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use base64ct::{Base64, Encoding as _};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{Patience, Workload, WorkloadUri, rfc3339, version_for};

/// What was asked, and what is answered to that; the last answer stays.
#[derive(Clone, Default)]
struct Api {
    asked: Arc<Mutex<Vec<(Method, String, Value)>>>,
    answers: Arc<Mutex<Vec<(u16, String)>>>,
}

impl Api {
    fn answering(answers: &[(u16, Value)]) -> Api {
        let api = Api::default();
        *api.answers.lock().unwrap() =
            answers.iter().map(|(status, body)| (*status, body.to_string())).collect();
        api
    }

    fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }

    fn asked(&self) -> Vec<(Method, String, Value)> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Serves on a Unix socket in `folder`.
    fn on_socket(&self, folder: &tempfile::TempDir) -> WorkloadUri {
        let path = folder.path().join("workload.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let router = self.router();
        tokio::spawn(async move { axum::serve(listener, router).await });
        WorkloadUri::parse(&format!("unix://{}", path.display())).unwrap()
    }
}

async fn answer(State(api): State<Api>, method: Method, uri: Uri, body: Bytes) -> (StatusCode, String) {
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    api.asked.lock().unwrap().push((method, uri.to_string(), body));
    let mut answers = api.answers.lock().unwrap();
    let (status, body) = if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() };
    (StatusCode::from_u16(status).unwrap(), body)
}

fn at_second(second: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(second).unwrap()
}

fn impatient() -> Patience {
    Patience { attempt: Duration::from_secs(5), retries: 3, pause: Duration::ZERO, pause_max: Duration::ZERO }
}

fn workload(at: WorkloadUri) -> Workload {
    Workload::new(at, "2020-07-07", "$edgeHub", "637 1", impatient())
}

#[tokio::test]
async fn every_call_is_what_the_runtime_expects() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::answering(&[
        (
            201,
            json!({ "privateKey": { "type": "key", "bytes": "KEY" }, "certificate": "CHAIN", "expiration": "x" }),
        ),
        (200, json!({ "certificate": "BUNDLE" })),
        (200, json!({ "certificate": "MANIFEST" })),
        (200, json!({ "digest": Base64::encode_string(b"digest") })),
        (200, json!({ "ciphertext": Base64::encode_string(b"cipher") })),
        (200, json!({ "plaintext": Base64::encode_string(b"plain") })),
    ]);
    let workload = workload(api.on_socket(&folder));
    let until = at_second(1_803_802_150);
    let certificate = workload.server_certificate("gw.local", until).await.unwrap();
    assert_eq!((certificate.chain.as_str(), certificate.key.as_str()), ("CHAIN", "KEY"));
    assert!(!format!("{certificate:?}").contains("KEY"));
    assert_eq!(workload.trust_bundle().await.unwrap(), "BUNDLE");
    assert_eq!(workload.manifest_trust_bundle().await.unwrap().as_deref(), Some("MANIFEST"));
    assert_eq!(workload.sign(b"text").await.unwrap(), b"digest");
    assert_eq!(workload.encrypt(b"plain", b"iv").await.unwrap(), b"cipher");
    assert_eq!(workload.decrypt(b"cipher", b"iv").await.unwrap(), b"plain");
    let module = "/modules/%24edgeHub/genid/637%201";
    let at = |path: &str| format!("{path}?api-version=2020-07-07");
    let (text, plain, iv, cipher) = (
        Base64::encode_string(b"text"),
        Base64::encode_string(b"plain"),
        Base64::encode_string(b"iv"),
        Base64::encode_string(b"cipher"),
    );
    assert_eq!(
        api.asked(),
        [
            (
                Method::POST,
                at(&format!("{module}/certificate/server")),
                json!({ "commonName": "gw.local", "expiration": "2027-02-28T08:09:10Z" }),
            ),
            (Method::GET, at("/trust-bundle"), Value::Null),
            (Method::GET, at("/manifest-trust-bundle"), Value::Null),
            (
                Method::POST,
                at(&format!("{module}/sign")),
                json!({ "keyId": "primary", "algo": "HMACSHA256", "data": text }),
            ),
            (
                Method::POST,
                at(&format!("{module}/encrypt")),
                json!({ "plaintext": plain, "initializationVector": iv }),
            ),
            (
                Method::POST,
                at(&format!("{module}/decrypt")),
                json!({ "ciphertext": cipher, "initializationVector": iv }),
            ),
        ]
    );
}

#[tokio::test]
async fn it_speaks_over_tcp_too() {
    let api = Api::answering(&[(200, json!({ "certificate": "BUNDLE" }))]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = WorkloadUri::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let router = api.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    assert_eq!(workload(at).trust_bundle().await.unwrap(), "BUNDLE");
}

#[tokio::test]
async fn what_may_pass_is_tried_again_and_what_is_refused_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let busy = || (503, json!({ "message": "busy" }));
    let api = Api::answering(&[busy(), busy(), busy(), (200, json!({ "certificate": "BUNDLE" }))]);
    let at = api.on_socket(&folder);
    assert_eq!(workload(at).trust_bundle().await.unwrap(), "BUNDLE");
    assert_eq!(api.asked().len(), 4);

    for (answers, attempts, expected) in [
        (vec![busy()], 4, "it answers 503 Service Unavailable: busy"),
        (vec![(403, json!({ "message": "no such\u{7} module" }))], 1, "403 Forbidden: no such module"),
        (vec![(200, json!({ "digest": "%" }))], 1, "its answer cannot be read"),
        (vec![(200, json!({ "other": 1 }))], 1, "its answer cannot be read: line 1"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let api = Api::answering(&answers);
        let error = workload(api.on_socket(&folder)).sign(b"text").await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("workload.sock does not sign"), "{error}");
        assert_eq!(api.asked().len(), attempts, "{expected}");
    }
}

#[tokio::test]
async fn nobody_at_the_socket_is_said_with_what_to_do() {
    let at = WorkloadUri::parse("unix:///nowhere/workload.sock").unwrap();
    let error = workload(at).sign(b"text").await.unwrap_err().to_string();
    assert!(
        error.contains("unix:///nowhere/workload.sock") && error.contains("its socket mounted"),
        "{error}"
    );
}

#[tokio::test]
async fn who_hears_and_says_nothing_is_left_after_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("workload.sock");
    let _silent = tokio::net::UnixListener::bind(&path).unwrap();
    let at = WorkloadUri::parse(&format!("unix://{}", path.display())).unwrap();
    let patience = Patience { attempt: Duration::from_millis(20), retries: 1, ..impatient() };
    let error = Workload::new(at, "2020-07-07", "m", "1", patience).sign(b"text").await.unwrap_err();
    assert!(error.to_string().contains("no answer within"), "{error}");
}

#[tokio::test]
async fn a_key_that_stays_in_the_runtime_is_no_use_here() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::answering(&[(
        201,
        json!({ "privateKey": { "type": "ref", "ref": "handle" }, "certificate": "C", "expiration": "x" }),
    )]);
    let until = at_second(1_803_802_150);
    let error = workload(api.on_socket(&folder)).server_certificate("gw", until).await.unwrap_err();
    assert!(error.to_string().contains("of the type \"ref\""), "{error}");
}

#[tokio::test]
async fn a_manifest_bundle_may_be_missing() {
    for answer in [(404, json!({ "message": "none" })), (200, json!({ "certificate": " \n" }))] {
        let folder = tempfile::tempdir().unwrap();
        let api = Api::answering(&[answer]);
        assert_eq!(workload(api.on_socket(&folder)).manifest_trust_bundle().await.unwrap(), None);
        assert_eq!(api.asked().len(), 1);
    }
    let folder = tempfile::tempdir().unwrap();
    let api = Api::answering(&[(500, json!({}))]);
    let old = Workload::new(api.on_socket(&folder), "2019-01-30", "m", "1", impatient());
    assert_eq!(old.manifest_trust_bundle().await.unwrap(), None);
    assert!(api.asked().is_empty(), "an older version has no such call");
}

#[test]
fn the_older_version_of_both_is_spoken() {
    for (theirs, expected) in [
        (None, Some("2020-07-07")),
        (Some("2018-06-28"), Some("2018-06-28")),
        (Some("2019-01-30"), Some("2019-01-30")),
        (Some("2019-10-22"), Some("2019-01-30")),
        (Some("2020-07-07"), Some("2020-07-07")),
        (Some("2021-12-07"), Some("2020-07-07")),
        (Some("2018-01-01"), None),
        (Some("latest"), None),
        (Some(""), None),
    ] {
        assert_eq!(version_for(theirs), expected, "{theirs:?}");
    }
}

#[test]
fn addresses_are_read_as_they_are_written() {
    let unix = |path: &str| Some(WorkloadUri::Unix(path.into()));
    let http = |host: &str, port| Some(WorkloadUri::Http { host: host.to_owned(), port });
    for (text, expected) in [
        ("unix:///var/run/iotedge/workload.sock", unix("/var/run/iotedge/workload.sock")),
        ("http://127.0.0.1:15581", http("127.0.0.1", 15581)),
        ("http://host:15581/", http("host", 15581)),
        ("http://[::1]:80", http("::1", 80)),
        ("http://host", http("host", 80)),
        ("unix://relative.sock", None),
        ("https://host:1", None),
        ("http://", None),
        ("/var/run/workload.sock", None),
        ("", None),
    ] {
        assert_eq!(WorkloadUri::parse(text), expected, "{text}");
    }
    for text in ["unix:///a/b.sock", "http://127.0.0.1:15581", "http://[::1]:80"] {
        assert_eq!(WorkloadUri::parse(text).map(|uri| uri.to_string()).as_deref(), Some(text));
    }
}

#[test]
fn dates_are_written_as_the_runtime_reads_them() {
    let here = time::UtcOffset::from_hms(1, 0, 0).unwrap();
    assert_eq!(rfc3339(at_second(1_767_319_445).to_offset(here)), "2026-01-02T02:04:05Z");
}
