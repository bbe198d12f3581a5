//! Reading and writing `layout.toml`.

use anyhow::{Context, Result, bail};

use super::{Layout, VERSION};

/// Parses `layout.toml` of any version up to [`VERSION`].
pub fn parse(text: &str) -> Result<Layout> {
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let found: Versioned = toml::from_str(text).context("looking for the version of the layout")?;
    if found.version == 0 || found.version > VERSION {
        bail!(
            "the layout has version {}, this rr knows 1 to {VERSION}: use the rr that wrote it, or a newer one",
            found.version
        );
    }
    toml::from_str(text).context("parsing the layout")
}

/// The text of `layout.toml`.
pub fn render(layout: &Layout) -> Result<String> {
    toml::to_string_pretty(layout).context("writing the layout as TOML")
}
