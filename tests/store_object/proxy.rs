//! A proxy that fails as it is told: between rr and a real server, one request a connection.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a client may go on sending that was answered.
const LINGER: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub enum Fault {
    /// The answer ends after so many bytes of its body.
    Drop(usize),
    /// The connection breaks after so many bytes of what rr sends.
    DropUpload(usize),
    /// The request arrives and is done; its answer never comes.
    LoseAnswer,
    /// This is the answer, and the server does not see the request.
    Instead(&'static str),
    /// The head of the answer has this in place of that.
    Head(String, String),
    /// So many bytes a second of the body.
    Slow(usize),
}

#[derive(Debug, Default)]
struct State {
    /// What happens to requests whose first line has the word, and to how many of them.
    faults: Vec<(&'static str, usize, Fault)>,
    /// First lines, in order.
    seen: Vec<String>,
    /// Everything before the bodies, in small letters.
    heads: String,
}

#[derive(Debug, Clone)]
pub struct Proxy {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    pub fn start(upstream: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let proxy = Proxy { port, state };
        let of_thread = proxy.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let proxy = of_thread.clone();
                // Whatever breaks here is what is to be tried out.
                std::thread::spawn(move || proxy.serve(client, upstream));
            }
        });
        proxy
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The next `times` requests whose first line has `word` fail so.
    pub fn fail(&self, word: &'static str, times: usize, fault: Fault) {
        self.state.lock().unwrap().faults.push((word, times, fault));
    }

    /// How many requests had the word in their first lines, since it was asked last.
    pub fn count(&self, word: &str) -> usize {
        let mut state = self.state.lock().unwrap();
        let found = state.seen.iter().filter(|line| line.contains(word)).count();
        state.seen.clear();
        state.faults.clear();
        found
    }

    /// Whether a request had this header.
    pub fn saw(&self, header: &str) -> bool {
        self.state.lock().unwrap().heads.contains(&format!("\n{header}\r\n"))
    }

    /// Whether a head had this, in small letters, anywhere.
    pub fn saw_in_head(&self, words: &str) -> bool {
        self.state.lock().unwrap().heads.contains(words)
    }

    fn next(&self, head: &str) -> Option<Fault> {
        let line = head.lines().next()?;
        let mut state = self.state.lock().unwrap();
        state.seen.push(line.to_owned());
        state.heads += &head.to_ascii_lowercase();
        let found =
            state.faults.iter_mut().find(|(word, times, _)| *times > 0 && line.contains(word))?;
        found.1 -= 1;
        Some(found.2.clone())
    }

    fn serve(&self, mut client: TcpStream, upstream: u16) -> Option<()> {
        let head = head(&mut client)?;
        let fault = self.next(&head);
        if let Some(Fault::Instead(answer)) = fault {
            client.write_all(answer.as_bytes()).ok()?;
            // Closed with a body unread, the connection would be reset, and the answer may be lost.
            client.shutdown(Shutdown::Write).ok()?;
            client.set_read_timeout(Some(LINGER)).ok()?;
            return std::io::copy(&mut client, &mut std::io::sink()).ok().map(drop);
        }
        let mut server = TcpStream::connect(("127.0.0.1", upstream)).ok()?;
        let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        server.write_all(head.as_bytes()).ok()?;
        let limit = match fault {
            Some(Fault::DropUpload(limit)) => limit,
            _ => usize::MAX,
        };
        let both = (client.try_clone().ok()?, server.try_clone().ok()?);
        std::thread::spawn(move || upload(both.0, both.1, limit));
        answer(&mut client, &mut server, fault)
    }
}

fn answer(client: &mut TcpStream, server: &mut TcpStream, fault: Option<Fault>) -> Option<()> {
    let mut said = head(server)?;
    if said.starts_with("HTTP/1.1 100") {
        client.write_all(said.as_bytes()).ok()?;
        said = head(server)?;
    }
    let (mut left, mut pause, mut step) = (usize::MAX, Duration::ZERO, 64 << 10);
    match fault {
        Some(Fault::LoseAnswer) => {
            return client.shutdown(Shutdown::Both).ok();
        }
        Some(Fault::Drop(after)) => left = after,
        Some(Fault::Head(from, to)) => said = said.replace(&from, &to),
        Some(Fault::Slow(bytes)) => {
            (step, pause) = (bytes / 20, Duration::from_millis(50));
        }
        _ => {}
    }
    client.write_all(said.as_bytes()).ok()?;
    let mut buffer = vec![0; step];
    while left > 0 {
        let got = server.read(&mut buffer).ok().filter(|got| *got > 0)?.min(left);
        client.write_all(&buffer[..got]).ok()?;
        left -= got;
        std::thread::sleep(pause);
    }
    client.shutdown(Shutdown::Both).ok()
}

fn upload(mut client: TcpStream, mut server: TcpStream, limit: usize) -> Option<()> {
    let (mut left, mut buffer) = (limit, vec![0; 64 << 10]);
    while left > 0 {
        let got = client.read(&mut buffer).ok().filter(|got| *got > 0)?.min(left);
        server.write_all(&buffer[..got]).ok()?;
        left -= got;
    }
    server.shutdown(Shutdown::Both).ok()?;
    client.shutdown(Shutdown::Both).ok()
}

/// Up to the empty line.
fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).ok()
}
