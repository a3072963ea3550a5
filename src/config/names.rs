//! Names that are derived where they are not given, and checked where they are.

use crate::backend::{self, PodLabel, valid_name};
use crate::exit::Refusal;
use std::ffi::OsStr;
use std::path::Path;

/// Commands that say nothing about the work: many locks would share one name by accident.
const INTERPRETERS: [&str; 42] = [
    "sh", "ash", "bash", "busybox", "csh", "dash", "fish", "ksh", "pwsh", "rbash", "tcsh", "zsh", "bun", "deno",
    "dotnet", "env", "gosu", "java", "julia", "lua", "make", "nice", "node", "nodejs", "nohup", "npm", "npx", "perl",
    "php", "pypy", "python", "rscript", "ruby", "setpriv", "setsid", "stdbuf", "su-exec", "sudo", "tclsh", "time",
    "timeout", "uv",
];

pub(super) fn name_of(command: &OsStr) -> Result<String, Refusal> {
    let base = Path::new(command).file_name().unwrap_or(command).to_string_lossy().into_owned();
    let plain = base.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-').to_ascii_lowercase();
    if INTERPRETERS.contains(&plain.as_str()) {
        return Err(Refusal::new(format!(
            "{base:?} says nothing about the work it does: give the lock a name with --name"
        )));
    }
    valid_name(&base, 253, true)
        .map_err(|why| Refusal::new(format!("{base:?} cannot name the lock, for it {why}; give --name")))?;
    Ok(base)
}

/// `<POD_NAME or host name>_<random>`: unique for every process, so that a restarted one is not mistaken
/// for its predecessor.
pub(super) fn own_identity() -> Result<String, Refusal> {
    let short = |name: String| name.chars().take(200).collect::<String>();
    let pod = std::env::var("POD_NAME").ok().filter(|name| !name.is_empty() && !name.chars().any(char::is_control));
    let host = || nix::unistd::gethostname().map(|host| host.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(format!("{}_{:016x}", short(pod.unwrap_or_else(host)), random()?))
}

/// `KEY=VALUE` on the pod that we are in, as far as we know. Its URL is made of these names.
pub(super) fn pod_label(text: &str, lock: &backend::Type) -> Result<PodLabel, Refusal> {
    let refuse = |why: String| Err(Refusal::new(format!("--pod-label {text:?}: {why}")));
    if lock.is_file() {
        return refuse("--lock file has no pods".into());
    }
    let edge = |c: char| c.is_ascii_alphanumeric();
    let inner = |c: char| edge(c) || "-_.".contains(c);
    let part =
        |part: &str| part.len() <= 63 && part.starts_with(edge) && part.ends_with(edge) && part.chars().all(inner);
    let key = |key: &str| match key.split_once('/') {
        Some((prefix, name)) => valid_name(prefix, 253, true).is_ok() && part(name),
        None => part(key),
    };
    let valid = text.split_once('=').filter(|(name, value)| key(name) && (value.is_empty() || part(value)));
    let Some((key, value)) = valid else {
        return refuse("must be KEY=VALUE as Kubernetes wants it, such as example.com/role=leader".into());
    };
    let given = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let host = || nix::unistd::gethostname().map(|host| host.to_string_lossy().into_owned()).unwrap_or_default();
    let (pod, namespace) = (given("POD_NAME").unwrap_or_else(host), given("POD_NAMESPACE"));
    if let Err(why) = valid_name(&pod, 253, true) {
        return refuse(format!("{pod:?} is no pod's name, for it {why}; set POD_NAME"));
    }
    if let Some(Err(why)) = namespace.as_ref().map(|namespace| valid_name(namespace, 63, false)) {
        return refuse(format!("POD_NAMESPACE {why}"));
    }
    Ok(PodLabel { pod, namespace, key: key.into(), value: value.into() })
}

/// 64 bits from the system.
///
/// # Errors
/// When it has none to give.
pub(super) fn random() -> Result<u64, Refusal> {
    let mut bytes = [0; 8];
    getrandom::getrandom(&mut bytes).map_err(|e| Refusal::new(format!("no random numbers: {e}")))?;
    Ok(u64::from_le_bytes(bytes))
}
