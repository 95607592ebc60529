//! What is known, where it came from, and what becomes of it when nobody answers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hub::HubId;

use super::{Directory, DirectoryError, Lookup, Source};
use crate::iotedge::local::{LocalFile, Method};
use crate::iotedge::vault::{Keeper, Vault};

fn id(text: &str) -> HubId {
    HubId::parse(text).unwrap()
}

async fn open(folder: &Path, source: Source) -> Result<Directory, DirectoryError> {
    let vault = Arc::new(Vault::open(folder, Keeper::File).await.unwrap());
    let pauses = (Duration::from_secs(60), Duration::from_secs(3_600));
    Directory::open(source, id("gw1"), folder.to_owned(), vault, 100, pauses)
}

#[tokio::test]
async fn a_local_file_is_followed_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identities.json");
    let mut file = LocalFile::new(&id("gw1")).unwrap();
    file.create(&id("d1"), Method::Keys, false, None).unwrap();
    file.write(&path).unwrap();
    let directory = open(folder.path(), Source::Local(path.clone())).await.unwrap();
    let mut news = directory.news();
    assert!(directory.tree().find(&id("d1")).is_some());

    file.create(&id("d2"), Method::Keys, false, None).unwrap();
    file.write(&path).unwrap();
    // A client that is faster than the watch makes us look.
    assert_eq!(directory.look_up(&id("d2"), None).await, Lookup::Done);
    assert!(directory.tree().find(&id("d2")).is_some());
    assert!(news.has_changed().unwrap());
    news.mark_unchanged();

    std::fs::write(&path, "{").unwrap();
    directory.look_up(&id("d3"), None).await;
    assert_eq!(directory.tree().len(), 4);
    LocalFile::new(&id("gw9")).unwrap().write(&path).unwrap();
    directory.look_up(&id("d3"), None).await;
    assert_eq!((directory.tree().len(), directory.refreshes()), (4, (1, 2)));
    assert!(!news.has_changed().unwrap());
}

#[tokio::test]
async fn a_local_file_must_be_good_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identities.json");
    let error = open(folder.path(), Source::Local(path.clone())).await.unwrap_err().to_string();
    assert!(error.contains("edge.identities") && error.contains("No such file"), "{error}");
    LocalFile::new(&id("gw9")).unwrap().write(&path).unwrap();
    let error = open(folder.path(), Source::Local(path)).await.unwrap_err().to_string();
    assert!(error.contains("gw1 is no edge device in this file"), "{error}");
}
