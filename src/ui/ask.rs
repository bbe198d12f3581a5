//! Questions to the admin. There is no answer that destroys anything unless it was typed in full.

use std::io::{BufRead, Write};

use anyhow::{Context, Result};

/// One line from standard input; None at its end.
pub fn line(prompt: &str) -> Result<Option<String>> {
    line_from(&mut std::io::stdin().lock(), &mut std::io::stderr().lock(), prompt)
}

/// Whether the admin typed `yes`. Anything else, an empty line and the end of input mean no.
pub fn confirm(prompt: &str) -> Result<bool> {
    let answer = line(&format!("{prompt} Type yes to go on, anything else to stop: "))?;
    Ok(is_yes(answer.as_deref()))
}

/// A line that is not shown while it is typed; None at the end of the input.
pub fn hidden(prompt: &str) -> Result<Option<String>> {
    let stdin = std::io::stdin();
    // What is no terminal shows nothing.
    let shown = nix::sys::termios::tcgetattr(&stdin).ok();
    let set = |termios: &nix::sys::termios::Termios| {
        use nix::sys::termios::{SetArg, tcsetattr};
        tcsetattr(&stdin, SetArg::TCSAFLUSH, termios).context("setting up the terminal")
    };
    if let Some(shown) = &shown {
        let mut hidden = shown.clone();
        hidden.local_flags.remove(nix::sys::termios::LocalFlags::ECHO);
        set(&hidden)?;
    }
    let answer = line(prompt);
    if let Some(shown) = &shown {
        eprintln!();
        set(shown)?;
    }
    answer
}

fn is_yes(answer: Option<&str>) -> bool {
    answer.is_some_and(|text| text.trim().eq_ignore_ascii_case("yes"))
}

fn line_from(
    input: &mut dyn BufRead,
    output: &mut dyn Write,
    prompt: &str,
) -> Result<Option<String>> {
    super::wrote();
    write!(output, "{prompt}").and_then(|()| output.flush()).context("asking a question")?;
    let mut bytes = Vec::new();
    input.read_until(b'\n', &mut bytes).context("reading the answer")?;
    if bytes.is_empty() {
        let _ = writeln!(output);
        return Ok(None);
    }
    Ok(Some(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_typed_yes_is_a_yes() {
        for (typed, yes) in [
            ("yes\n", true),
            ("YES\r\n", true),
            (" yes \n", true),
            ("yes", true),
            ("", false),
            ("\n", false),
            ("y\n", false),
            ("yes please\n", false),
            ("no\n", false),
            ("\u{1b}[Ayes\n", false),
        ] {
            let mut shown = Vec::new();
            let answer = line_from(&mut typed.as_bytes(), &mut shown, "Sure?").unwrap();
            assert_eq!(is_yes(answer.as_deref()), yes, "{typed:?}");
            assert!(shown.starts_with(b"Sure?"));
        }
    }
}
