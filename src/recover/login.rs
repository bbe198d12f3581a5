//! What the target is read with, where the rescue image has no login for it.

use anyhow::{Result, ensure};

use crate::config::{Login, TargetOptions, TargetUrl};
use crate::store::object::credentials;
use crate::sys::secret::Secret;
use crate::ui::ask;

/// Asks for the login if the target wants one and none is known.
///
/// # Errors
/// Nobody is there to be asked; nothing was touched.
pub fn complete(
    url: &TargetUrl,
    options: TargetOptions,
    asks: bool,
    auto: bool,
) -> Result<TargetOptions> {
    if !is_asked_for(url, &options, asks)? {
        return Ok(options);
    }
    let s3 = matches!(url, TargetUrl::S3 { .. });
    ensure!(
        !auto,
        "{url} wants a login, and nobody is asked in an automatic recovery: nothing was touched\n\
         hint: rr recover asks for it; for automatic recoveries [target_options.read_login] in \
         rr.toml puts one into the rescue image"
    );
    let (first, second) = if s3 { ("Access key", "Secret key") } else { ("User", "Password") };
    let name = ask::line(&format!("{first} for {url}: "))?.unwrap_or_default();
    ensure!(!name.is_empty(), "stopped, since no login was given: nothing was changed");
    let secret = Secret::new(ask::hidden(&format!("{second}: "))?.unwrap_or_default())?;
    let login = if s3 {
        Login { access_key: Some(name), secret_key: Some(secret), ..Login::default() }
    } else {
        Login { user: Some(name), password: Some(secret), ..Login::default() }
    };
    Ok(TargetOptions { login, ..options })
}

/// Whether a recovery asks for the login of a target that wants one.
pub fn is_asked_for(url: &TargetUrl, options: &TargetOptions, wants: bool) -> Result<bool> {
    let s3 = matches!(url, TargetUrl::S3 { .. });
    Ok(wants && options.login.is_empty() && !(s3 && credentials::are_given(options)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_automatic_recovery_without_a_login_stops_with_the_way_out() {
        let url: TargetUrl = "https://server/backups".parse().unwrap();
        let none = TargetOptions::default;
        let error = complete(&url, none(), true, true).unwrap_err().to_string();
        for part in ["nothing was touched", "\nhint: ", "read_login"] {
            assert!(error.contains(part), "{error}");
        }
        // One that is in the image is used, and one that is not wanted is not asked for.
        let mut has = none();
        has.login = toml::from_str("user = 'u'\npassword = 'p'").unwrap();
        assert_eq!(complete(&url, has.clone(), true, true).unwrap(), has);
        assert_eq!(complete(&url, none(), false, true).unwrap(), none());
    }
}
