//! Running commands inside a guest.
//!
//! The guest runs a small shell loop on the virtio-serial port `rr.lab`. A request is one line,
//! `<number> <command in base64>`; the answer is the command's output as lines of base64 and then
//! `END <number> <exit code>`. A guest that does not listen yet gets the request when it does.

use std::io::ErrorKind::{TimedOut, WouldBlock};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::pulse::Pulse;

/// How often it is looked whether the machine still runs, while it is silent.
const LOOK: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Agent {
    stream: BufReader<UnixStream>,
    number: u32,
    pulse: Pulse,
}

/// What a command in the guest left: standard output and standard error in one.
#[derive(Debug)]
pub struct Answer {
    pub code: i32,
    pub output: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output).into_owned()
    }
}

impl Agent {
    /// `pulse` is that of the process behind the socket.
    pub fn connect(path: &Path, pulse: Pulse) -> Result<Agent> {
        let stream = UnixStream::connect(path)
            .with_context(|| format!("connecting to {}", path.display()))?;
        stream.set_read_timeout(Some(LOOK))?;
        Ok(Agent { stream: BufReader::new(stream), number: 0, pulse })
    }

    /// Runs a shell command, whatever its exit code.
    pub fn run(&mut self, command: &str, timeout: Duration) -> Result<Answer> {
        self.number += 1;
        let line = format!("{} {}\n", self.number, base64(command.as_bytes()));
        self.stream.get_mut().write_all(line.as_bytes())?;
        self.answer(timeout).with_context(|| format!("running in the guest: {command}"))
    }

    /// The output of a shell command that must succeed.
    pub fn check(&mut self, command: &str, timeout: Duration) -> Result<String> {
        let answer = self.run(command, timeout)?;
        if answer.code != 0 {
            bail!("in the guest: {command} failed ({})\n{}", answer.code, answer.text());
        }
        Ok(answer.text())
    }

    fn answer(&mut self, timeout: Duration) -> Result<Answer> {
        let deadline = Instant::now() + timeout;
        let mut output = Vec::new();
        loop {
            let line = self.line(deadline)?;
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                // An older number is the late answer to a request that was given up.
                (Some("END"), Some(number), Some(code)) => {
                    if number == self.number.to_string() {
                        return Ok(Answer { code: code.parse()?, output });
                    }
                    output.clear();
                }
                (Some(data), None, None) => output.extend(unbase64(data)?),
                _ => bail!("the guest said {line:?}"),
            }
        }
    }

    fn line(&mut self, deadline: Instant) -> Result<String> {
        let began = Instant::now();
        let mut line = Vec::new();
        loop {
            // What came before a timeout stays in `line`.
            match self.stream.read_until(b'\n', &mut line) {
                Ok(_) if line.ends_with(b"\n") => return Ok(String::from_utf8(line)?),
                Ok(_) => bail!("the guest is gone"),
                Err(error) if matches!(error.kind(), WouldBlock | TimedOut) => {
                    self.pulse.check()?;
                    if Instant::now() > deadline {
                        bail!("no answer within {} s", began.elapsed().as_secs());
                    }
                }
                Err(error) => return Err(error).context("waiting for the answer"),
            }
        }
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 as in RFC 4648.
fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let digit = (bits >> (18 - 6 * i)) as usize & 63;
            text.push(if i <= chunk.len() { char::from(ALPHABET[digit]) } else { '=' });
        }
    }
    text
}

fn unbase64(text: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut held) = (0u32, 0);
    for byte in text.bytes().filter(|b| *b != b'=') {
        let digit = ALPHABET
            .iter()
            .position(|letter| *letter == byte)
            .ok_or_else(|| anyhow!("{text:?} is not base64"))?;
        bits = bits << 6 | u32::try_from(digit)?;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
            assert_eq!(unbase64(coded).unwrap(), plain.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unbase64(&base64(&all)).unwrap(), all);
        assert!(unbase64("a b").is_err());
    }

    #[test]
    fn an_answer_to_a_request_that_was_given_up_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let guest = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            assert_eq!(lines.next().unwrap().unwrap(), format!("1 {}", base64(b"echo hi")));
            stream.write_all(b"b2xk\nEND 0 0\naGkK\nEND 1 3\n").unwrap();
        });
        let mut agent = Agent::connect(&path, Pulse::of(std::process::id())).unwrap();
        let answer = agent.run("echo hi", Duration::from_secs(5)).unwrap();
        assert_eq!((answer.code, answer.text().as_str()), (3, "hi\n"));
        guest.join().unwrap();
    }
}
