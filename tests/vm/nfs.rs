//! An NFS server on the host, for one scenario: NFS-Ganesha, version 4 only, on a port of its own.
//! A guest with a user network reaches it at 10.0.2.2.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rr::sys::run::Cmd;

use crate::lab;

/// Stopped when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    port: u16,
    pub export: PathBuf,
}

impl Server {
    /// Serves the directory `export` of `dir` as `/work001`.
    pub fn start(dir: &Path) -> Result<Server> {
        let export = dir.join("export");
        lab::make_dir(&export)?;
        lab::make_dir(&dir.join("recovery"))?;
        let port = free_port()?;
        let config = dir.join("ganesha.conf");
        lab::write(&config, configuration(dir, &export, port))?;
        let log = dir.join("ganesha.log");
        let child = Cmd::new("ganesha.nfsd")
            .arg("-F")
            .arg("-f")
            .arg(&config)
            .arg("-L")
            .arg(&log)
            .arg("-p")
            .arg(dir.join("ganesha.pid"))
            .spawn(Stdio::null(), Stdio::null())?;
        let mut server = Server { child, port, export };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if server.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("the NFS server does not answer; see {}", log.display());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    /// The lines of `rr.toml` that make this the target.
    pub fn rr_toml(&self) -> String {
        let port = self.port;
        format!(
            "target = \"nfs://10.0.2.2/work001\"\ntarget_options.nfs = \"vers=4.2,port={port}\"\n"
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn configuration(dir: &Path, export: &Path, port: u16) -> String {
    format!(
        "NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = {port}; Enable_NLM = false; Enable_RQUOTA = false; }}\n\
         NFS_KRB5 {{ Active_krb5 = false; }}\n\
         NFSv4 {{ Graceless = true; RecoveryRoot = \"{}\"; }}\n\
         EXPORT {{ Export_Id = 1; Path = \"{}\"; Pseudo = /work001; Access_Type = RW;\n\
                  Squash = No_root_squash; SecType = sys; FSAL {{ Name = VFS; }} }}\n",
        dir.join("recovery").display(),
        export.display()
    )
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}
