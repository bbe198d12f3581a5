//! The server that a scenario's backup goes to. All are on the host, where a guest with a user
//! network reaches them at 10.0.2.2.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::lab;
use crate::matrix::Target;
use crate::nfs;
use crate::servers::{self, ACCESS_KEY, Authority, BUCKET, NGINX_DAV, SECRET_KEY};

/// Who may write, and who may only read.
pub const WRITER: (&str, &str) = (servers::USER, servers::PASSWORD);
pub const READER: (&str, &str) = ("rescue", "poppy");

#[derive(Debug)]
pub enum Peer {
    Nfs(nfs::Server),
    /// nginx with WebDAV and TLS, by an authority that nobody else knows.
    Https {
        server: servers::Server,
        dir: PathBuf,
    },
    /// A server of S3 that checks who signs.
    S3(servers::Server),
}

impl Peer {
    /// None where the target is a disk.
    pub fn start(target: Target, dir: &Path) -> Result<Option<Peer>> {
        Ok(Some(match target {
            Target::File | Target::Usb | Target::Iso => return Ok(None),
            Target::Nfs(version) => Peer::Nfs(nfs::Server::start(&dir.join("nfs"), version)?),
            Target::Http => {
                let dir = dir.join("http");
                lab::make_dir(&dir)?;
                Peer::Https { server: start_https(&dir)?, dir }
            }
            Target::S3 => {
                let dir = dir.join("s3");
                lab::make_dir(&dir)?;
                Peer::S3(servers::s3s(&dir))
            }
        }))
    }

    /// The one that a day may stop and start.
    pub fn nfs(&mut self) -> Option<&mut nfs::Server> {
        match self {
            Peer::Nfs(server) => Some(server),
            _ => None,
        }
    }

    /// The lines of `rr.toml` that make this the target.
    pub fn rr_toml(&self) -> String {
        match self {
            Peer::Nfs(server) => server.rr_toml(),
            Peer::Https { server, .. } => {
                let login =
                    |(user, password)| format!("user = \"{user}\"\npassword = \"{password}\"\n");
                format!(
                    "target = \"https://10.0.2.2:{}/backups\"\n\
                     [target_options]\nca_file = \"/etc/rr/ca.pem\"\n\
                     [target_options.login]\n{}[target_options.read_login]\n{}",
                    server.port,
                    login(WRITER),
                    login(READER)
                )
            }
            Peer::S3(server) => {
                let keys = format!("access_key = \"{ACCESS_KEY}\"\nsecret_key = \"{SECRET_KEY}\"");
                // This server knows one pair of keys only.
                format!(
                    "target = \"s3://{BUCKET}/backups\"\n\
                     [target_options]\nendpoint = \"http://10.0.2.2:{}\"\n\
                     [target_options.login]\n{keys}\n[target_options.read_login]\n{keys}\n",
                    server.port
                )
            }
        }
    }

    /// What the node needs beside `rr.toml` in `/etc/rr`.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Peer::Https { dir, .. } => vec![dir.join("ca.pem")],
            _ => Vec::new(),
        }
    }

    /// Where the trees of all nodes are.
    pub fn trees(&self) -> PathBuf {
        match self {
            Peer::Nfs(server) => server.export.clone(),
            Peer::Https { server, .. } => server.files.join("backups"),
            Peer::S3(server) => server.files.join(BUCKET).join("backups"),
        }
    }

    /// Fails unless it was `user` who asked since this was called last, and nobody else.
    pub fn was_asked_by(&self, user: &str) -> Result<()> {
        let Peer::Https { dir, .. } = self else { return Ok(()) };
        let file = dir.join("access.log");
        let log = lab::read(&file)?;
        lab::write(&file, "")?;
        ensure!(!log.is_empty(), "nobody asked the server");
        for line in log.lines() {
            let mut words = line.split(' ');
            let name = words.next().context("a line without a user")?;
            // A backup rehearses the recovery, which only reads.
            let reads = words.nth(1).is_some_and(|m| ["GET", "HEAD", "PROPFIND"].contains(&m));
            let is_rehearsal = name == READER.0 && reads;
            ensure!(
                name == user || is_rehearsal,
                "{name} asked the server, who should be {user}: {line}"
            );
        }
        Ok(())
    }
}

fn start_https(dir: &Path) -> Result<servers::Server> {
    let authority = Authority::make(dir);
    let (certificate, key) = authority.sign("server", 30);
    let line = |(user, password): (&str, &str)| format!("{user}:{{PLAIN}}{password}\n");
    let (writer, reader) = (line(WRITER), line(READER));
    lab::write(&dir.join("all"), format!("{writer}{reader}"))?;
    lab::write(&dir.join("writers"), writer)?;
    let lines = format!(
        "ssl_certificate {}; ssl_certificate_key {};\n\
         location / {{ {NGINX_DAV} auth_basic rr; auth_basic_user_file DIR/all;\n\
         limit_except GET PROPFIND OPTIONS {{ auth_basic rr; auth_basic_user_file DIR/writers; }} }}",
        certificate.display(),
        key.display()
    );
    let port = servers::free_port();
    Ok(servers::nginx(dir, port, &format!("127.0.0.1:{port} ssl"), &lines))
}
