//! Binding the address and the socket, before anything else starts: a busy port ends the agent at once.

use std::{
    fs, io,
    net::TcpListener,
    os::unix::{
        fs::{FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use axum_server::tls_rustls::RustlsConfig;

use super::{access::Access, tls};
use crate::{config::ApiConfig, error::AgentError};

/// Mode of the Unix socket: the agent's user and group.
const SOCKET_MODE: u32 = 0o660;

/// What is bound and not served yet.
#[derive(Debug)]
pub struct Listeners {
    pub(super) tcp: TcpListener,
    pub(super) unix: UnixListener,
    pub(super) socket: SocketFile,
    pub(super) control: Control,
    pub(super) max_connections: usize,
}

/// What of the API a new configuration changes while it runs.
#[derive(Clone, Debug)]
pub struct Control {
    pub(super) access: Arc<Access>,
    pub(super) tls: Option<RustlsConfig>,
}

impl Control {
    /// Takes other rules and reads the certificates again. On an error everything stays as it was.
    pub fn reload(&self, config: &ApiConfig) -> Result<(), AgentError> {
        let tls = tls::server(config)?;
        match (&self.tls, tls) {
            (Some(running), Some(new)) => running.reload_from_config(new),
            (None, None) => {}
            _ => {
                return Err(AgentError::other(
                    "TLS cannot be switched on or off while the agent runs",
                    "restart the agent",
                ));
            }
        }
        self.access.replace(config);
        Ok(())
    }
}

impl Listeners {
    /// Binds both. A socket file nobody listens on is replaced.
    pub fn bind(config: &ApiConfig) -> Result<Listeners, AgentError> {
        let tls = tls::server(config)?;
        let busy = |error| refused(config.listen.to_string(), error);
        let tcp = TcpListener::bind(config.listen).map_err(busy)?;
        tcp.set_nonblocking(true).map_err(busy)?;
        // Port 0 asks for any: what was given is what a browser's `Origin` will name.
        let address = tcp.local_addr().map_err(busy)?;
        let path = config.socket.as_path();
        let busy = |error| refused(path.display().to_string(), error);
        let unix = bind_socket(path).map_err(busy)?;
        let socket = SocketFile::of(path).map_err(busy)?;
        Ok(Listeners {
            tcp,
            unix,
            socket,
            control: Control {
                access: Arc::new(Access::new(config, address.port())),
                tls: tls.map(RustlsConfig::from_config),
            },
            max_connections: config.max_connections,
        })
    }

    /// What a new configuration can change later.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Address of the API: the one asked for, with the real port.
    pub fn address(&self) -> io::Result<std::net::SocketAddr> {
        self.tcp.local_addr()
    }
}

/// Not being allowed to listen is another thing than someone else listening.
fn refused(address: String, error: io::Error) -> AgentError {
    if error.kind() == io::ErrorKind::PermissionDenied {
        return AgentError::NoPrivilege {
            action: format!("listening on {address}"),
            error: error.to_string(),
        };
    }
    AgentError::AddressInUse { address, error }
}

fn bind_socket(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket is in its place",
            ));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another agent listens on it",
            ));
        }
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The file of the socket, known by its inode: the file of a later agent is not ours to remove.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        let file = fs::symlink_metadata(path)?;
        Ok(SocketFile {
            path: path.to_owned(),
            inode: (file.dev(), file.ino()),
        })
    }

    pub(super) fn remove(&self) {
        let ours = |file: &fs::Metadata| (file.dev(), file.ino()) == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(|file| ours(&file))
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the socket file could not be removed");
        }
    }
}
