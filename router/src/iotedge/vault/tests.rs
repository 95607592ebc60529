//! What is sealed opens again, and nothing else does.

use std::os::unix::fs::PermissionsExt as _;

use super::{Keeper, NotOurs, Vault};

async fn vault(folder: &tempfile::TempDir) -> Vault {
    Vault::open(folder.path(), Keeper::File).await.unwrap()
}

#[tokio::test]
async fn what_was_sealed_opens_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let sealed = vault(&folder).await.seal("twin/d1", b"{\"secret\":1}").unwrap();
    assert!(!sealed.windows(6).any(|window| window == b"secret"));
    assert_eq!(vault(&folder).await.open_sealed("twin/d1", &sealed).unwrap(), b"{\"secret\":1}");
    let mode = std::fs::metadata(folder.path().join("vault.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_sealed_value_opens_under_its_name_unchanged_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let vault = vault(&folder).await;
    let sealed = vault.seal("a", b"plain").unwrap();
    assert_ne!(sealed, vault.seal("a", b"plain").unwrap(), "equal values are not seen to be equal");
    assert_eq!(vault.open_sealed("b", &sealed), Err(NotOurs));
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert_eq!(vault.open_sealed("a", &changed), Err(NotOurs), "byte {at}");
        assert_eq!(vault.open_sealed("a", &sealed[..at]), Err(NotOurs));
    }
    let other = tempfile::tempdir().unwrap();
    assert_eq!(self::vault(&other).await.open_sealed("a", &sealed), Err(NotOurs));
}

#[tokio::test]
async fn a_key_file_that_is_none_stops_with_a_sentence() {
    for text in [
        "",
        "{}",
        r#"{"keeper":"file","key":"AAAA"}"#,
        r#"{"keeper":"runtime","key":"AAAA","vector":"AA=="}"#,
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("vault.key"), text).unwrap();
        let error = Vault::open(folder.path(), Keeper::File).await.unwrap_err().to_string();
        assert!(error.contains("vault.key") && error.contains("move it away"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let error = Vault::open(&folder.path().join("none"), Keeper::File).await.unwrap_err().to_string();
    assert!(error.contains("No such file"), "{error}");
}
