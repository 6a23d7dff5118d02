//! Who we are to the server: what flags change about a kubeconfig's user, and what is refused.

use kube::config::{AuthInfo, ExecInteractiveMode};

use super::kubeconfig::given;
use crate::cli::connection::ConnectionFlags;
use crate::environment::Environment;
use crate::error::Failure;

/// Why these credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A certificate without its key.
    #[error(
        "client-key-data or client-key must be specified for {name} to use the clientCert authentication method."
    )]
    NoKey {
        /// The user.
        name: String,
    },
    /// A token and a password.
    #[error(
        "more than one authentication method found for {name}; found [token basicAuth], only one is allowed"
    )]
    TwoMethods {
        /// The user.
        name: String,
    },
    /// Facts about somebody who is not named.
    #[error("requesting uid, groups or user-extra for {name} without impersonating a user")]
    NobodyImpersonated {
        /// The user.
        name: String,
    },
    /// The token's file cannot be read.
    #[error("cannot read token file {path:?}")]
    TokenFile {
        /// The file.
        path: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A plugin that wants to ask somebody, and nobody is there.
    #[error(
        "exec plugin {command:?} cannot run: its interactiveMode is Always and standard input is not a terminal"
    )]
    InteractivePlugin {
        /// The plugin.
        command: String,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(&error)
    }
}

/// Puts the flags over the user of the kubeconfig. An explicit token beats every other way to authenticate.
pub(super) fn overlay(user: &mut AuthInfo, flags: &ConnectionFlags) {
    if let Some(path) = given(flags.client_certificate.as_ref()) {
        user.client_certificate = Some(path);
        user.client_certificate_data = None;
    }
    if let Some(path) = given(flags.client_key.as_ref()) {
        user.client_key = Some(path);
        user.client_key_data = None;
    }
    if let Some(token) = given(flags.token.as_ref()) {
        user.token = Some(token.into());
        user.token_file = None;
        user.exec = None;
        user.auth_provider = None;
    }
    if let Some(name) = given(flags.username.as_ref()) {
        user.username = Some(name);
        if given(flags.token.as_ref()).is_none() {
            user.token = None;
            user.token_file = None;
        }
    }
    if let Some(password) = given(flags.password.as_ref()) {
        user.password = Some(password.into());
    }
    overlay_impersonation(user, flags);
}

fn overlay_impersonation(user: &mut AuthInfo, flags: &ConnectionFlags) {
    if let Some(name) = given(flags.impersonate.as_ref()) {
        user.impersonate = Some(name);
    }
    if let Some(uid) = given(flags.impersonate_uid.as_ref()) {
        user.impersonate_uid = Some(uid);
    }
    if !flags.impersonate_groups.is_empty() {
        user.impersonate_groups = Some(flags.impersonate_groups.clone());
    }
    let extra = flags
        .impersonate_user_extra
        .iter()
        .filter_map(|entry| entry.split_once('='));
    for (key, value) in extra {
        let all = user.impersonate_user_extra.get_or_insert_default();
        all.entry(key.to_owned())
            .or_default()
            .push(value.to_owned());
    }
}

/// Refuses combinations that kubectl refuses; `name` is the user's name in the kubeconfig.
///
/// # Errors
/// The combination, in kubectl's words.
pub(super) fn check(user: &AuthInfo, name: &str) -> Result<(), Error> {
    let filled = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let certificate = filled(&user.client_certificate) || filled(&user.client_certificate_data);
    let key = filled(&user.client_key) || user.client_key_data.is_some();
    if certificate && !key {
        return Err(Error::NoKey {
            name: name.to_owned(),
        });
    }
    if (user.token.is_some() || filled(&user.token_file)) && filled(&user.username) {
        return Err(Error::TwoMethods {
            name: name.to_owned(),
        });
    }
    let impersonates_more = filled(&user.impersonate_uid)
        || user
            .impersonate_groups
            .as_ref()
            .is_some_and(|groups| !groups.is_empty())
        || user
            .impersonate_user_extra
            .as_ref()
            .is_some_and(|extra| !extra.is_empty());
    if impersonates_more && !filled(&user.impersonate) {
        return Err(Error::NobodyImpersonated {
            name: name.to_owned(),
        });
    }
    Ok(())
}

/// Nothing secret goes over a connection without TLS; impersonation is no secret and stays.
pub(super) fn forget(user: &mut AuthInfo) {
    *user = AuthInfo {
        impersonate: user.impersonate.take(),
        impersonate_uid: user.impersonate_uid.take(),
        impersonate_groups: user.impersonate_groups.take(),
        impersonate_user_extra: user.impersonate_user_extra.take(),
        ..AuthInfo::default()
    };
}

/// Reads the token ourselves: the client would send a trailing newline, which no header may hold.
pub(super) fn read_token(user: &mut AuthInfo) -> Result<(), Error> {
    let Some(path) = user.token_file.take().filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let read = std::fs::read_to_string(&path);
    let token = read.map_err(|source| Error::TokenFile { path, source })?;
    user.token = Some(token.trim().to_owned().into());
    Ok(())
}

/// An exec plugin must not read a stdin that is not a terminal: a manifest may be coming from there.
pub(super) fn tame_exec_plugin(
    user: &mut AuthInfo,
    environment: &Environment,
) -> Result<(), Error> {
    let Some(exec) = user
        .exec
        .as_mut()
        .filter(|_| !environment.stdin_is_terminal)
    else {
        return Ok(());
    };
    if exec.interactive_mode == Some(ExecInteractiveMode::Always) {
        let command = exec.command.clone().unwrap_or_default();
        return Err(Error::InteractivePlugin { command });
    }
    exec.interactive_mode = Some(ExecInteractiveMode::Never);
    Ok(())
}
