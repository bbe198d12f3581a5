//! An NFS server on the host, for one scenario: NFS-Ganesha, of one version only, on ports of its own.
//! A guest with a user network reaches it at 10.0.2.2.

use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rr::sys::run::Cmd;

use crate::lab;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    V3,
    V4,
}

/// Stopped when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Version 3 registers with it, or does not start. None where the host has one already.
    rpcbind: Option<Child>,
    version: Version,
    dir: PathBuf,
    port: u16,
    mount_port: u16,
    pub export: PathBuf,
}

impl Server {
    /// Serves the directory `export` of `dir` as `/work001`.
    pub fn start(dir: &Path, version: Version) -> Result<Server> {
        let export = dir.join("export");
        lab::make_dir(&export)?;
        lab::make_dir(&dir.join("recovery"))?;
        let (port, mount_port) = (free_port()?, free_port()?);
        let rpcbind = match version {
            Version::V3 => start_rpcbind()?,
            Version::V4 => None,
        };
        lab::write(&dir.join("ganesha.conf"), configuration(dir, version, (port, mount_port)))?;
        let child = spawn(dir)?;
        let dir = dir.to_owned();
        let mut server = Server { child, rpcbind, version, dir, port, mount_port, export };
        server.wait()?;
        Ok(server)
    }

    /// As when its power fails.
    pub fn stop(&mut self) -> Result<()> {
        self.child.kill().context("killing the NFS server")?;
        self.child.wait().context("waiting for the NFS server")?;
        Ok(())
    }

    pub fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.dir)?;
        self.wait()
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if self.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("the NFS server does not answer; see {}/ganesha.log", self.dir.display());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The lines of `rr.toml` that make this the target. A server that is gone is given up after
    /// seconds, since a test waits for it.
    pub fn rr_toml(&self) -> String {
        let Server { port, mount_port, .. } = self;
        let options = match self.version {
            Version::V3 => format!(
                "vers=3,proto=tcp,port={port},mountvers=3,mountproto=tcp,mountport={mount_port}"
            ),
            Version::V4 => format!("port={port}"),
        };
        format!(
            "target = \"nfs://10.0.2.2/work001\"\n\
             target_options = {{ nfs = \"{options}\", patience_seconds = 40 }}\n"
        )
    }
}

fn spawn(dir: &Path) -> Result<Child> {
    let file = |name: &str| dir.join(name);
    Cmd::new("ganesha.nfsd")
        .arg("-F")
        .arg("-f")
        .arg(file("ganesha.conf"))
        .arg("-L")
        .arg(file("ganesha.log"))
        .arg("-p")
        .arg(file("ganesha.pid"))
        .spawn(Stdio::null(), Stdio::null())
}

/// In a network namespace, as nobody has to reach it but the server, through its socket in `/run`.
fn start_rpcbind() -> Result<Option<Child>> {
    const SOCKET: &str = "/run/rpcbind.sock";
    if UnixStream::connect(SOCKET).is_ok() {
        return Ok(None);
    }
    lab::make_dir(Path::new("/run/rpcbind"))?;
    let child = Cmd::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up; exec rpcbind -f"])
        .spawn(Stdio::null(), Stdio::null())?;
    for _ in 0..100 {
        if UnixStream::connect(SOCKET).is_ok() {
            return Ok(Some(child));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    bail!("rpcbind does not answer")
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in [Some(&mut self.child), self.rpcbind.as_mut()].into_iter().flatten() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn configuration(dir: &Path, version: Version, (port, mount_port): (u16, u16)) -> String {
    let protocol = match version {
        Version::V3 => 3,
        Version::V4 => 4,
    };
    format!(
        "NFS_CORE_PARAM {{ Protocols = {protocol}; NFS_Port = {port}; MNT_Port = {mount_port}; Mount_Path_Pseudo = true; Enable_NLM = false; Enable_RQUOTA = false; }}\n\
         NFS_KRB5 {{ Active_krb5 = false; }}\n\
         NFSv4 {{ Graceless = true; RecoveryRoot = \"{}\"; }}\n\
         EXPORT {{ Export_Id = 1; Path = \"{}\"; Pseudo = /work001; Protocols = {protocol}; Access_Type = RW;\n\
                  Squash = No_root_squash; SecType = sys; FSAL {{ Name = VFS; }} }}\n",
        dir.join("recovery").display(),
        dir.join("export").display()
    )
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}
