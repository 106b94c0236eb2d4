use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// The system gives ports from 32768 on to whoever connects to somewhere (`net.ipv4.ip_local_port_range`).
const FIRST: u16 = 8_192;
const COUNT: u32 = 11_000;

/// A port of 127.0.0.1 that nobody uses now, and that nobody gets by chance before it is used, or while the server that had
/// it is away: the system does not give it out, and no other test of this process has it.
///
/// # Panics
///
/// When all are in use.
#[must_use]
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // another process begins elsewhere
    let start = std::process::id().wrapping_mul(97);
    let port = |_| {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        FIRST + u16::try_from(offset).expect("at most COUNT")
    };
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    (0..COUNT).map(port).find(is_free).expect("one of them is free")
}
