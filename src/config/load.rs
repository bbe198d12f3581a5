//! Reading `rr.toml` and its drop-ins, and remembering where each value came from.
//!
//! `/etc/rr/rr.toml` comes first, then `/etc/rr/rr.d/*.toml` by name; a later file wins key by key.
//! What the command line or the environment says wins over all files.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use toml::{Table, Value};

use super::{Config, TargetUrl};

/// The file that is read when none is named, and the directory of its drop-ins.
pub const FILE: &str = "/etc/rr/rr.toml";
pub const DROP_INS: &str = "/etc/rr/rr.d";

/// A configuration and the origin of each of its values.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    pub config: Config,
    /// Dotted key -> the file (or `--option`) that set it. What is missing has its default.
    pub origin: BTreeMap<String, String>,
    /// What the admin should know of the files.
    pub warnings: Vec<String>,
}

/// Reads `file`, or [`FILE`] with its drop-ins; no file at all is fine then.
pub fn load(file: Option<&Path>) -> Result<Loaded> {
    let reading = |path: &Path| format!("reading the configuration {}", path.display());
    let (mut texts, mut open) = (Vec::new(), Vec::new());
    for path in files(file)? {
        let text = std::fs::read_to_string(&path).with_context(|| reading(&path))?;
        let mode = path.metadata().with_context(|| reading(&path))?.permissions().mode();
        if mode & 0o004 != 0 {
            open.push(texts.len());
        }
        texts.push((path.display().to_string(), text));
    }
    let mut loaded = merge(&texts)?;
    let open = open.into_iter().map(|index| &texts[index]);
    loaded.warnings = open.filter_map(|(name, text)| told_to_everybody(name, text)).collect();
    Ok(loaded)
}

/// What is wrong with a file that everybody can read, if it holds a secret.
fn told_to_everybody(name: &str, text: &str) -> Option<String> {
    let options = toml::from_str::<Config>(text).ok()?.target_options;
    let secret = options.login.has_secret() || options.read_login.has_secret();
    secret.then(|| {
        format!("{name} holds a password or a secret key, and every user of this machine can read it: chmod 600 {name}")
    })
}

fn files(file: Option<&Path>) -> Result<Vec<PathBuf>> {
    if let Some(file) = file {
        return Ok(vec![file.to_owned()]);
    }
    let mut found: Vec<PathBuf> =
        Some(PathBuf::from(FILE)).into_iter().filter(|p| p.exists()).collect();
    let mut drop_ins = Vec::new();
    match std::fs::read_dir(DROP_INS) {
        Ok(entries) => {
            for entry in entries {
                let path = entry.with_context(|| format!("reading {DROP_INS}"))?.path();
                if path.extension().is_some_and(|e| e == "toml") {
                    drop_ins.push(path);
                }
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("reading {DROP_INS}")),
    }
    drop_ins.sort();
    found.append(&mut drop_ins);
    Ok(found)
}

/// Merges the texts of files, in order, each with its name.
fn merge(texts: &[(String, String)]) -> Result<Loaded> {
    let mut merged = Table::new();
    let mut origin = BTreeMap::new();
    for (name, text) in texts {
        // Each file alone must be a sound configuration: the message has its line then.
        if let Err(error) = toml::from_str::<Config>(text) {
            bail!(
                "{name}: {}hint: `rr config init` prints every setting with its meaning",
                without_secrets(&error, text)
            );
        }
        let table: Table = toml::from_str(text).with_context(|| format!("parsing {name}"))?;
        overlay(&mut merged, table, "", name, &mut origin);
    }
    let config: Config =
        Value::Table(merged).try_into().context("joining the configuration files")?;
    config.validate(&origin)?;
    Ok(Loaded { config, origin, warnings: Vec::new() })
}

/// What is wrong in the file, with the line as it is; but not a line that holds a secret.
fn without_secrets(error: &toml::de::Error, text: &str) -> String {
    let start = error.span().map_or(0, |span| span.start).min(text.len());
    let number = text.as_bytes()[..start].iter().filter(|b| **b == b'\n').count();
    let line = text.lines().nth(number).unwrap_or_default();
    let (line, message) = (line.to_lowercase(), error.message());
    let has = |text: &str| ["password", "secret"].iter().any(|word| text.contains(word));
    if has(&line) || has(&message.to_lowercase()) {
        // It names a value of another kind than was expected.
        let message = match message.split_once(": string \"") {
            Some((what, value)) => {
                let wanted = value.rfind("\", expected ").map_or("", |at| &value[at + 1..]);
                format!("{what}{wanted}")
            }
            None => message.to_owned(),
        };
        return format!("line {}, which is not shown: {message}\n", number + 1);
    }
    with_sections(&error.to_string())
}

/// What serde calls a struct is a section of the file.
fn with_sections(text: &str) -> String {
    let mut parts = text.split("expected struct ");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out += "expected a section with settings of its own";
        out += part.trim_start_matches(char::is_alphanumeric);
    }
    out
}

/// All settings, uncommented: the example has each of them after `#:`.
fn every_setting() -> String {
    let uncommented = |line: &str| match line.strip_prefix("#:") {
        Some(setting) => Some(format!("{}\n", setting.trim_start())),
        None => line.starts_with('[').then(|| format!("{line}\n")),
    };
    include_str!("../../etc/rr.toml").lines().filter_map(uncommented).collect()
}

fn overlay(
    base: &mut Table,
    over: Table,
    prefix: &str,
    name: &str,
    origin: &mut BTreeMap<String, String>,
) {
    for (key, value) in over {
        let dotted = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => {
                overlay(below, above, &dotted, name, origin);
            }
            (_, Value::Table(above)) => {
                let mut below = Table::new();
                overlay(&mut below, above, &dotted, name, origin);
                base.insert(key, Value::Table(below));
            }
            (_, value) => {
                origin.insert(dotted, name.to_owned());
                base.insert(key, value);
            }
        }
    }
}

/// A setting that is in force.
#[derive(Debug, Serialize)]
pub struct Setting {
    pub key: String,
    pub value: Value,
    /// The file, or what else set it.
    pub from: String,
}

impl Loaded {
    /// An option of the command line (or its environment variable) wins over all files.
    pub fn set_target(&mut self, url: Option<&str>, option: &str) {
        if let Some(url) = url {
            self.forget_login_for(url);
            self.config.target = Some(url.to_owned());
            self.origin.insert("target".into(), option.into());
        }
    }

    /// A password is for the server that was configured with it, and no other gets it. Of an S3
    /// login nothing secret is sent, and its server is configured by itself.
    fn forget_login_for(&mut self, url: &str) {
        let server = |text: &str| match text.parse() {
            Ok(TargetUrl::Http { tls, host, .. }) => Some((tls, host)),
            _ => None,
        };
        let options = &mut self.config.target_options;
        let has_login = !options.login.is_empty() || !options.read_login.is_empty();
        let (Some(configured), Some(named)) = (&self.config.target, server(url)) else { return };
        if !has_login || server(configured) == Some(named) {
            return;
        }
        (options.login, options.read_login) = Default::default();
        self.warnings.push(format!(
            "the configured login is for {configured} and is not sent to {url}: for another server, give --config a file with its target and login"
        ));
    }

    pub fn set_node(&mut self, node: Option<&str>, option: &str) {
        if let Some(node) = node {
            self.config.node = Some(node.to_owned());
            self.origin.insert("node".into(), option.into());
        }
    }

    /// Every setting, its value and where it comes from. What is not set is not there.
    pub fn settings(&self) -> Result<Vec<Setting>> {
        let table = Table::try_from(&self.config).context("writing the configuration as TOML")?;
        let mut found = Vec::new();
        flatten(&table, "", &self.origin, &mut found);
        if self.config.node.is_none()
            && let Ok(node) = self.config.node_name()
        {
            let from = "the host name".to_owned();
            found.insert(0, Setting { key: "node".to_owned(), value: Value::String(node), from });
        }
        Ok(found)
    }

    /// Every setting as `key = value`, each with where it comes from, and those that are not set.
    pub fn render(&self) -> Result<String> {
        let settings = self.settings()?;
        let every: Table = toml::from_str(&every_setting()).context("reading the example")?;
        let mut known = Vec::new();
        flatten(&every, "", &BTreeMap::new(), &mut known);
        known.retain(|known| settings.iter().all(|setting| setting.key != known.key));
        let (first, last): (Vec<_>, Vec<_>) = known
            .into_iter()
            .map(|unset| (format!("# {} is not set", unset.key), String::new()))
            .partition(|(line, _)| !line.contains('.'));
        let set = settings.into_iter().map(|s| (format!("{} = {}", s.key, s.value), s.from));
        let lines: Vec<_> = first.into_iter().chain(set).chain(last).collect();
        let width = lines.iter().map(|(left, _)| left.len().min(48)).max().unwrap_or(0);
        Ok(lines
            .into_iter()
            .map(|(left, from)| match from.as_str() {
                "" => format!("{left}\n"),
                from => format!("{left:width$}  # {from}\n"),
            })
            .collect())
    }
}

fn flatten(
    table: &Table,
    prefix: &str,
    origin: &BTreeMap<String, String>,
    found: &mut Vec<Setting>,
) {
    for (key, value) in table {
        let dotted = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        if let Value::Table(inner) = value {
            flatten(inner, &dotted, origin, found);
            continue;
        }
        let from = origin.get(&dotted).map_or("default", String::as_str).to_owned();
        found.push(Setting { key: dotted, value: value.clone(), from });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(files: &[(&str, &str)]) -> Vec<(String, String)> {
        files.iter().map(|(n, t)| ((*n).to_owned(), (*t).to_owned())).collect()
    }

    #[test]
    fn later_files_win_key_by_key_and_origins_are_kept() {
        let loaded = merge(&texts(&[
            ("rr.toml", "target = 'nfs://a/b'\n[backup]\nlevel = 3\nkeep_last = 2\n"),
            ("rr.d/20.toml", "[backup]\nlevel = 5\n"),
        ]))
        .unwrap();
        assert_eq!(loaded.config.target.as_deref(), Some("nfs://a/b"));
        assert_eq!((loaded.config.backup.level, loaded.config.backup.keep_last), (5, 2));
        assert_eq!(loaded.origin["backup.level"], "rr.d/20.toml");
        assert_eq!(loaded.origin["backup.keep_last"], "rr.toml");
        let shown = loaded.render().unwrap();
        let level = shown.lines().find(|l| l.starts_with("backup.level = 5")).unwrap();
        assert!(level.ends_with("# rr.d/20.toml"), "{shown}");
        let threads = shown.lines().find(|l| l.starts_with("backup.threads = 0")).unwrap();
        assert!(threads.ends_with("# default"), "{shown}");
    }

    #[test]
    fn a_parameter_that_boot_loaders_would_change_is_refused() {
        for word in ["memmap=64M$0x10000000", "dyndbg=\"file a +p\"", "a\\b", "#x"] {
            let text = format!("[rescue]\ncmdline = '''quiet {word}'''\n");
            let error = format!("{:#}", merge(&texts(&[("rr.toml", &text)])).unwrap_err());
            let first = word.split(' ').next().unwrap();
            assert!(error.starts_with("rescue.cmdline in rr.toml: "), "{error}");
            assert!(error.contains(first), "{error}");
        }
        let text = "[rescue]\ncmdline = 'a.b=c,d memmap=64M@1 x#y'\n";
        merge(&texts(&[("rr.toml", text)])).unwrap();
    }

    #[test]
    fn a_typo_is_named_with_file_and_line() {
        let error = merge(&texts(&[("rr.d/9.toml", "[backup]\nlevle = 3\n")])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("rr.d/9.toml") && text.contains("line 2"), "{text}");
        assert!(text.contains("levle"), "{text}");
    }

    #[test]
    fn a_value_in_the_place_of_a_section_is_said_to_be_one() {
        let error = merge(&texts(&[("rr.toml", "backup = 1\n")])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("`1`, expected a section with settings of its own\n"), "{text}");
        assert!(!text.contains("BackupConfig"), "{text}");
    }

    #[test]
    fn a_line_with_a_secret_is_not_said_back() {
        for line in ["secret_key = sesame", "password = \"sesame", "secret_key = 'sesame' x"] {
            let text = format!("[target_options.login]\n{line}\n");
            let error = format!("{:#}", merge(&texts(&[("f.toml", &text)])).unwrap_err());
            assert!(error.contains("f.toml: line 2") && !error.contains("sesame"), "{error}");
        }
        for key in
            ["'AGE-SECRET-KEY-1SESAME'", "'AGE-SECRET-KEY-1SESAME", "'age-secret-key-1sesame'"]
        {
            for value in [format!("[{key}]"), key.to_owned(), format!("[\n[{key}]]")] {
                let text = format!("[backup]\nluks_header_recipients = {value}\n");
                let error = format!("{:#}", merge(&texts(&[("f.toml", &text)])).unwrap_err());
                assert!(!error.to_lowercase().contains("1sesame"), "{error}");
            }
        }
        let text = "[backup]\nluks_header_recipients = 'AGE-SECRET-KEY-1SESAME'\n";
        let error = format!("{:#}", merge(&texts(&[("f.toml", text)])).unwrap_err());
        assert!(error.contains("line 2") && error.contains(", expected a sequence"), "{error}");
        let text = "[target_options.login]\nuser = 'u'\npassword = 'sesame'\n";
        let shown = merge(&texts(&[("f.toml", text)])).unwrap().render().unwrap();
        assert!(
            shown.contains("password = \"(not shown)\"") && !shown.contains("sesame"),
            "{shown}"
        );
    }

    #[test]
    fn a_secret_that_everybody_can_read_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rr.toml");
        let secret = "[target_options.read_login]\nuser = 'u'\npassword = 'sesame'\n";
        for (text, mode, told) in [
            (secret, 0o644, true),
            (secret, 0o604, true),
            (secret, 0o640, false),
            ("target = 'https://h/x'\n[target_options.login]\n", 0o644, false),
            ("[target_options.login]\naccess_key = 'a'\nsecret_key = 'b'\n", 0o644, true),
        ] {
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let warnings = load(Some(&file)).unwrap().warnings;
            assert_eq!(!warnings.is_empty(), told, "{mode:o} {text}");
            let hint = format!("chmod 600 {}", file.display());
            assert!(warnings.iter().all(|w| w.contains(&hint) && !w.contains("sesame")));
        }
    }

    #[test]
    fn a_login_is_for_the_configured_server_alone() {
        let text = "target = 'https://h/x'\n[target_options.login]\nuser = 'u'\npassword = 'p'\n";
        for (url, kept) in [
            ("https://h/y", true),
            ("file:///x", true),
            ("https://other/x", false),
            ("https://h:444/x", false),
            ("http://h/x", false),
        ] {
            let mut loaded = merge(&texts(&[("f.toml", text)])).unwrap();
            loaded.set_target(Some(url), "--target");
            assert_eq!(loaded.config.target_options.login.user.is_some(), kept, "{url}");
            assert_eq!(loaded.config.target_options.login.password.is_some(), kept, "{url}");
            assert_eq!(loaded.warnings.is_empty(), kept, "{url}");
        }
    }

    #[test]
    fn values_out_of_range_say_where_they_were_set() {
        for (bad, what) in [
            ("[backup]\nlevel = 99\n", "backup.level"),
            ("target = 'ftp://x/y'\n", "target"),
            ("node = 'a/b'\n", "node"),
            ("[backup]\nexclude = ['[']\n", "backup.exclude"),
            ("[backup]\nkeep_last = 0\n", "backup.keep_last"),
            ("[rescue]\nfiles = ['storcli']\n", "rescue.files"),
            ("[backup]\nluks_header_recipients = ['me']\n", "backup.luks_header_recipients"),
        ] {
            let text = format!("{:#}", merge(&texts(&[("f.toml", bad)])).unwrap_err());
            assert!(text.contains(what) && text.contains("f.toml"), "{text}");
        }
    }

    #[test]
    fn the_commented_example_is_the_default_configuration() {
        let example = include_str!("../../etc/rr.toml");
        assert_eq!(merge(&texts(&[("rr.toml", example)])).unwrap().config, Config::default());
        // With every setting uncommented it must still parse: no stale key, and none missing.
        let loaded = merge(&texts(&[("rr.toml", &every_setting())])).unwrap();
        let all = Table::try_from(&loaded.config).unwrap();
        let mut lines = Vec::new();
        flatten(&all, "", &loaded.origin, &mut lines);
        let undocumented: Vec<_> = lines.iter().filter(|s| s.from == "default").collect();
        assert!(undocumented.is_empty(), "not in etc/rr.toml: {undocumented:?}");
    }
}
