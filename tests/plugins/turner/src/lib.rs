//! An engine that turns text around, and misbehaves on demand, for the host's tests.
#![allow(clippy::panic, reason = "failing is what it is for")]

mod bindings;

use bindings::exports::transom::plugin::runner::{Guest, Problem};
use bindings::transom::plugin::host;

#[cfg_attr(not(target_family = "wasm"), allow(dead_code, reason = "exported from the component only"))]
struct Turner;

impl Guest for Turner {
    fn run(input: Vec<u8>) -> Result<Vec<u8>, Problem> {
        std::panic::set_hook(Box::new(|panic| host::log(host::Level::Error, &panic.to_string())));
        match input.as_slice() {
            b"fail" => Err(Problem { reason: "NotTurnable".into(), message: "it does not turn".into() }),
            b"panic" => panic!("wants a panic"),
            b"loop" => {
                let mut number = 0u64;
                loop {
                    number = std::hint::black_box(number.wrapping_add(1));
                }
            }
            b"allocate" => Ok(vec![1; 300 << 20]),
            b"oversize" => Ok(vec![b'x'; 18 << 20]),
            text => Ok(text.iter().rev().copied().collect()),
        }
    }
}
