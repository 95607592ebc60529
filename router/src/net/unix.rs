//! Unix sockets: a file that clients on this machine connect to.
//!
//! In: a path and its permissions. Out: a listener, and the file's life. Never: a file that is no socket, or that some
//! other program answers at, is touched.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

use super::listener::BACKLOG;

/// The file of a Unix socket; it is removed with this, if it is still the same one.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path) == Some(self.inode)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the Unix socket cannot be removed");
        }
    }
}

/// Makes the socket with these permissions; a stale one that nobody answers at makes room.
pub(crate) fn listen(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), String> {
    let clear = |error: std::io::Error| error.to_string();
    make_room(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(clear)?;
    socket.set_nonblocking(true).map_err(clear)?;
    socket.bind(&SockAddr::unix(path).map_err(clear)?).map_err(clear)?;
    let file = SocketFile { path: path.to_owned(), inode: inode(path).ok_or("has vanished")? };
    // Before `listen`: nobody can connect while the permissions are not what they shall be.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(clear)?;
    socket.listen(BACKLOG).map_err(clear)?;
    let listener = UnixListener::from_std(socket.into()).map_err(clear)?;
    Ok((listener, file))
}

fn make_room(path: &Path) -> Result<(), String> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    if !kind.is_socket() {
        return Err("there is something else at this path, which is no socket; it was not touched".to_owned());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| format!("the old socket cannot be removed: {error}"))
        }
        Err(error) => Err(format!("whether somebody answers there cannot be found out: {error}")),
        Ok(_) => Err("another program answers there; stop that one, or choose another path".to_owned()),
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
