//! Lines for the host's log, for whoever debugs a plugin. At most 64 lines of 4 KiB in one call. Natively they go to
//! standard error.

use crate::bindings::transom::plugin::host;

/// Something that only matters while a plugin is being written.
pub fn debug(message: impl AsRef<str>) {
    write(host::Level::Debug, message.as_ref());
}

/// Something worth knowing.
pub fn info(message: impl AsRef<str>) {
    write(host::Level::Info, message.as_ref());
}

/// Something that somebody should look at.
pub fn warn(message: impl AsRef<str>) {
    write(host::Level::Warn, message.as_ref());
}

/// Something that went wrong.
pub fn error(message: impl AsRef<str>) {
    write(host::Level::Error, message.as_ref());
}

#[cfg(target_family = "wasm")]
fn write(level: host::Level, message: &str) {
    host::log(level, message);
}

#[cfg(not(target_family = "wasm"))]
fn write(level: host::Level, message: &str) {
    eprintln!("{level:?}: {message}");
}
