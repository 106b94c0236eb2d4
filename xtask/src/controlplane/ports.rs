//! Free ports.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context, Result};

/// The ports of one control plane, all on the loopback address. Nothing else listens anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) api: u16,
    pub(crate) etcd_clients: u16,
    pub(crate) etcd_peers: u16,
}

impl Ports {
    pub(crate) fn find() -> Result<Self> {
        let [api, etcd_clients, etcd_peers] = free()?;
        Ok(Self { api, etcd_clients, etcd_peers })
    }
}

/// `N` different ports that nothing listens on at this moment.
pub(crate) fn free<const N: usize>() -> Result<[u16; N]> {
    // All are held until all are found: the kernel would hand the same one out twice otherwise.
    let mut listeners = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1")?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_different() {
        let mut ports: [u16; 8] = free().unwrap();
        ports.sort_unstable();
        assert!(ports.windows(2).all(|pair| pair[0] != pair[1]), "{ports:?}");
    }

    #[test]
    fn ports_are_free() {
        let can_be_bound = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        // another process may take one in the meantime, but not one of every eight
        assert!((0..20).any(|_| free::<8>().unwrap().into_iter().all(can_be_bound)));
    }
}
