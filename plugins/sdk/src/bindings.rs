//! What wit-bindgen makes of `wit/`: the only place of the SDK that knows WIT types, and the only one with `unsafe`. Each
//! webhook is a world of its own, because the exports of a world go together; wit-component unites what is used.
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

pub mod admission;
pub mod conversion;

wit_bindgen::generate!({
    path: "../../wit",
    world: "plugin",
    additional_derives: [PartialEq, Clone],
    export_macro_name: "export_plugin",
    pub_export_macro: true,
});
