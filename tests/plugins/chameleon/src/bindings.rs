//! What wit-bindgen makes of `wit/`.
#![allow(
    unsafe_code,
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]

wit_bindgen::generate!({
    path: "../../../wit",
    world: "plugin",
});

#[cfg(target_family = "wasm")]
export!(Chameleon with_types_in self);
#[cfg(target_family = "wasm")]
use crate::Chameleon;
